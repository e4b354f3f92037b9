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
    out = _flags(rest)
    if "--model-path" not in out:
        return ""
    return shlex.join(["sglang", "serve", *out])


def _flags(words: Sequence[str]) -> list[str]:
    out: list[str] = []
    for i, word in enumerate(words):
        typed, equals, value = word.partition("=")
        typed = "-tp" if typed == "-tp" else typed.replace("_", "-")
        if not equals:
            value = words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("-") else ""
        if typed == "--speculative-config":
            out += _speculation(value)
        elif (flag := OF_VLLM.get(typed)) in _ASKED and flag is not None:
            out += [flag] if flag.startswith("--disable") else [flag, value]
    return out


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
