"""Launches of other engines: refused by name, with what SGLang's own would be."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from dflash_sim.profiles.errors import UsageError

_ENGINES = (
    (r"\bvllm\s+serve\b|\bvllm\.entrypoints\.|\bvllm/vllm-openai", "vLLM"),
    (r"\btrtllm-serve\b|\btensorrt_llm\b|\btrtllm-bench\b", "TensorRT-LLM"),
    (r"\bsgl_jax\.launch_server\b", "SGLang-JAX"),
    (r"\bllama-server\b|\bllama\.cpp\b", "llama.cpp"),
    (r"\btext-generation-launcher\b|\btext-generation-inference\b", "TGI"),
    (r"\blmdeploy\s+serve\b", "LMDeploy"),
    (r"\bollama\s+(?:run|serve)\b", "Ollama"),
    (r"\bmlx_lm\.server\b|\bmlx-openai-server\b", "MLX"),
    (r"\bpython[\d.]*\s+-m\s+atom\.", "ATOM"),
)
# Flags of vLLM whose meaning is that of one of SGLang's.
OF_VLLM: Mapping[str, str] = {
    "--model": "--model-path",
    "--tensor-parallel-size": "--tp-size",
    "-tp": "--tp-size",
    "--max-num-seqs": "--max-running-requests",
    "--max-num-batched-tokens": "--chunked-prefill-size",
    "--max-model-len": "--context-length",
    "--gpu-memory-utilization": "--mem-fraction-static",
    "--quantization": "--quantization",
    "-q": "--quantization",
    "--kv-cache-dtype": "--kv-cache-dtype",
    "--block-size": "--page-size",
    "--enforce-eager": "--disable-cuda-graph",
    "--no-enable-prefix-caching": "--disable-radix-cache",
    "--speculative-config": "--speculative-algorithm",
    "--hf-overrides": "--json-model-override-args",
    "--max-seq-len-to-capture": "--context-length",
    "--pipeline-parallel-size": "--pp-size",
    "--enable-expert-parallel": "--ep-size",
    "--swap-space": "--cpu-offload-gb",
}
# Of vLLM, with short names: what changes speed and has no counterpart that is simulated.
_UNASKED = {"--data-parallel-size", "-dp", "--pipeline-parallel-size", "-pp", "-ep",
            "--enable-expert-parallel", "--decode-context-parallel-size", "-dcp",
            "--cpu-offload-gb", "--enable-lora", "--kv-transfer-config",
            "--speculative-model"}  # fmt: skip
_AMOUNTS = {"--cpu-offload-gb"}  # of which 1 is not as good as none
_SPECULATION = ("--speculative-config", "--spec-config", "-sc")
_ASKED = {"--model-path", "--tp-size", "--max-running-requests", "--quantization",
          "--kv-cache-dtype", "--disable-cuda-graph", "--disable-radix-cache"}  # fmt: skip
# How vLLM's methods end -> SGLang's algorithm, whether it takes a drafter, and steps.
_ALGORITHMS = (
    ("mtp", "NEXTN", False, True),
    ("eagle3", "EAGLE3", True, True),
    ("dflash", "DFLASH", True, False),
    ("dspark", "DSPARK", True, False),
)


def refuse_other_engine(text: str) -> None:
    """Refuse a text that launches another engine.

    Raises
    ------
    UsageError
        It does; of vLLM's command the message has SGLang's counterpart.
    """
    for pattern, name in _ENGINES:
        if found := re.search(pattern, text):
            counterpart = _of_vllm(text[found.start() :]) if name == "vLLM" else ""
            instead = counterpart or "such as sglang serve MODEL --tp 8"
            msg = (
                f"--from-launch: this launches {name}; what is simulated is SGLang. "
                f"Give its command: {instead}."
            )
            raise UsageError(msg)


def _of_vllm(text: str) -> str:
    """SGLang's command for a server of the same model and settings; empty if none can be read."""
    text = re.sub(r"\\\s*\n", " ", text).split("\n")[0]
    words: list[str] = []
    for line in (text.strip(), text.strip().strip("'\"`")):
        with suppress(ValueError):
            words = words or shlex.split(line, comments=True)
    words = [word for word in words if word not in (">", "2>&1", "&")]
    at = next((i for i, w in enumerate(words) if w == "serve" or w.endswith("api_server")), None)
    if at is None:
        at = next((i for i, w in enumerate(words) if "vllm-openai" in w), len(words))
    rest = words[at + 1 :]
    if rest and not rest[0].startswith("-"):
        rest[:1] = ["--model", rest[0]]
    out, left = _flags(rest)
    if "--model-path" not in out:
        return ""
    without = f", which goes without {', '.join(left)}" if left else ""
    return shlex.join(["sglang", "serve", *out]) + without


def _flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags of SGLang, and those of vLLM that are left out."""
    out: list[str] = []
    left: list[str] = []
    dotted: dict[str, Any] = {}
    for i, word in enumerate(words):
        typed, equals, value = word.partition("=")
        typed = typed if typed[:2] != "--" else typed.replace("_", "-")
        if not equals:
            value = words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("-") else ""
        name, _, key = typed.partition(".")
        if name in _SPECULATION:
            if key:
                dotted[key.replace("-", "_")] = int(value) if value.isdecimal() else value
                continue
            found = _speculation(value)
            out += found
            left += [] if found else [typed]
        elif (flag := OF_VLLM.get(typed)) in _ASKED and flag is not None:
            out += [flag] if flag.startswith("--disable") else [flag, value]
        elif typed in _UNASKED and value not in (("0",) if typed in _AMOUNTS else ("0", "1")):
            left.append(f"{typed} {value}".strip())
    found = _speculation(json.dumps(dotted))
    return out + found, left + ([] if found or not dotted else [_SPECULATION[0]])


def _speculation(text: str) -> list[str]:
    config: Any = None
    with suppress(ValueError, RecursionError):
        config = json.loads(text)
    if not isinstance(config, Mapping):
        return []
    method = str(config.get("method", ""))
    drafts = config.get("num_speculative_tokens")
    for ending, algorithm, takes_drafter, takes_steps in _ALGORITHMS:
        if not method.endswith(ending) or not isinstance(drafts, int):
            continue
        words = ["--speculative-algorithm", algorithm]
        if takes_drafter and isinstance(config.get("model"), str):
            words += ["--speculative-draft-model-path", config["model"]]
        if takes_steps:
            words += ["--speculative-num-steps", str(drafts), "--speculative-eagle-topk", "1"]
        return [*words, "--speculative-num-draft-tokens", str(drafts + 1)]
    return []
