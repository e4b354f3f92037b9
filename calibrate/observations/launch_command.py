"""A real SGLang launch command -> scenario fields.

The flags are those of ``python -m sglang.launch_server``; a launch command does not say which GPU,
data set or concurrency, so those stay as they are.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from dflash_sim.profiles.errors import DflashSimError, UsageError, unknown
from dflash_sim.profiles.load import find_sheet, load_model
from dflash_sim.simulator.cost.cycle import Method
from dflash_sim.simulator.cost.methods import PLAIN, algorithms, for_any_target
from dflash_sim.simulator.scenario import ONLY_SPECULATION

EXAMPLE = (
    "python -m sglang.launch_server --model-path Qwen/Qwen3.5-397B-A17B --tp-size 8 "
    "--speculative-algorithm DFLASH"
)


@dataclass(frozen=True)
class LaunchScenario:
    """The scenario that a launch command describes.

    Parameters
    ----------
    fields
        Scenario fields it sets.
    unknown
        Flags that nothing here models.
    """

    fields: dict[str, Any]
    unknown: tuple[str, ...]


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[1-9]\d{0,8}", text) else None


def _fraction(text: str) -> float | None:
    with suppress(ValueError):
        return value if 0 < (value := float(text)) < 1 else None
    return None


def _ratio(text: str) -> float | None:
    with suppress(ValueError):
        return value if 0 < (value := float(text)) < inf else None
    return None


_WHAT: Mapping[Callable[[str], Any], str] = {
    _integer: "a whole number above 0",
    _fraction: "a number between 0 and 1",
    _ratio: "a number above 0",
}
_FIELDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "--model-path": ("model", str),
    "--model": ("model", str),
    "--tp-size": ("tp", _integer),
    "--tp": ("tp", _integer),
    "--tensor-parallel-size": ("tp", _integer),
    "--speculative-algorithm": ("algorithm", str),
    "--speculative-draft-model-path": ("draft_model", str),
    "--speculative-draft-model": ("draft_model", str),
    "--speculative-num-steps": ("steps", _integer),
    "--speculative-num-draft-tokens": ("draft_tokens", _integer),
    "--speculative-dflash-block-size": ("block", _integer),
    "--speculative-draft-window-size": ("window", _integer),
    "--attention-backend": ("attention_backend", str),
    "--max-running-requests": ("max_running_requests", _integer),
    "--mem-fraction-static": ("mem_fraction_static", _fraction),
    "--chunked-prefill-size": ("chunked_prefill_size", _integer),
    "--cuda-graph-max-bs": ("cuda_graph_max_bs", _integer),
    "--cuda-graph-max-bs-decode": ("cuda_graph_max_bs", _integer),
    "--page-size": ("page_size", _integer),
    "--mamba-ssm-dtype": ("mamba_ssm_dtype", str),
    "--mamba-radix-cache-strategy": ("mamba_radix_cache_strategy", str),
    "--mamba-scheduler-strategy": ("mamba_radix_cache_strategy", str),
    "--mamba-full-memory-ratio": ("mamba_full_memory_ratio", _ratio),
    "--max-mamba-cache-size": ("max_mamba_cache_size", _integer),
    "--linear-attn-decode-backend": ("linear_attn_decode_backend", str),
}
# Only one value of these is simulated; another would change the answer silently.
_ONLY: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("--dp-size", "--dp", "--data-parallel-size"), ("1",)),
    **dict.fromkeys(("--pp-size", "--pp", "--pipeline-parallel-size"), ("1",)),
    **dict.fromkeys(("--ep-size", "--ep", "--expert-parallel-size"), ("1",)),
    "--nnodes": ("1",),
    "--speculative-eagle-topk": ("1",),
    "--dtype": ("auto", "bfloat16", "half", "float16"),
    "--kv-cache-dtype": ("auto", "bfloat16", "bf16"),
    "--quantization": ("unquant", "mxfp4"),
}
_SWITCHES: Mapping[str, tuple[str, Any]] = {
    "--disable-overlap-schedule": ("engine_mode", "v2-sync"),
    "--disable-radix-cache": ("radix_cache", False),
    "--disable-cuda-graph": ("cuda_graph_max_bs", 0),
}
# About serving rather than speed: nothing to model, nothing to warn about.
_SERVING = frozenset({
    "--host", "--port", "--api-key", "--served-model-name", "--trust-remote-code", "--log-level",
    "--log-requests", "--tokenizer-path", "--tokenizer-mode", "--chat-template", "--random-seed",
    "--reasoning-parser", "--tool-call-parser", "--enable-metrics", "--watchdog-timeout",
    "--download-dir", "--load-format", "--revision", "--node-rank", "--dist-init-addr",
    "--base-gpu-id", "--device", "--skip-server-warmup", "--speculative-draft-model-revision",
})  # fmt: skip
_SHELL = frozenset({"&", "&&", ";", "|", ">", ">>", "2>&1", "2>", "&>"})


def scenario_from_launch(text: str) -> LaunchScenario:
    """The scenario fields of a launch command.

    Parameters
    ----------
    text
        As typed in a shell: environment assignments, continued lines and ``--flag=value`` are fine.

    Raises
    ------
    UsageError
        It is not a launch command, a value is malformed, or it asks for what is not simulated.
    """
    try:
        words = shlex.split(re.sub(r"\\\s*\n", " ", text))
    except ValueError as error:
        msg = f"--from-launch: {str(error).lower()} in the command; close it."
        raise UsageError(msg) from None
    environment, arguments = _split(words)
    parsed = _Parsed()
    for flag, value in _pairs(arguments):
        parsed.take(flag, value)
    parsed.simulated_acceptance(environment)
    return LaunchScenario(parsed.scenario(), tuple(dict.fromkeys(parsed.unknown)))


def _split(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Environment assignments before the launcher, and the arguments behind it."""
    for i, word in enumerate(words):
        module = word == "-m" and words[i + 1 : i + 2] == ["sglang.launch_server"]
        served = Path(word).name == "sglang" and words[i + 1 : i + 2] == ["serve"]
        if module or served:
            assigned = (w.partition("=") for w in words[:i] if re.match(r"[A-Z_][A-Z0-9_]*=", w))
            return {name: value for name, _, value in assigned}, words[i + 2 :]
    shown = " ".join(words[:4]) or "nothing"
    msg = f"--from-launch '{shown}' is not an SGLang launch command; such as: {EXAMPLE}."
    raise UsageError(msg)


def _pairs(arguments: list[str]) -> Iterator[tuple[str, str | None]]:
    """Flags with their values; one that is known to be a switch takes none."""
    rest = iter(arguments)
    held: list[str] = []
    while True:
        word = held.pop() if held else next(rest, None)
        if word is None or word in _SHELL:
            return
        if not word.startswith("-"):
            msg = f"--from-launch: '{word}' belongs to no flag; a flag starts with --."
            raise UsageError(msg)
        flag, given, value = word.partition("=")
        flag = flag.replace("_", "-")
        if given:
            yield flag, value
            continue
        ahead = None if flag in _SWITCHES else next(rest, None)
        if ahead is not None and (ahead.startswith("--") or ahead in _SHELL):
            held.append(ahead)
            ahead = None
        yield flag, ahead


@dataclass
class _Parsed:
    """Flags seen so far, by scenario field; as with argparse, the last one wins."""

    found: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def take(self, flag: str, value: str | None) -> None:
        if flag in _SWITCHES:
            name, setting = _SWITCHES[flag]
            self.found[name] = setting
        elif flag in _FIELDS:
            name, read = _FIELDS[flag]
            if not value:
                msg = f"--from-launch: {flag} has no value; write one behind it, or drop it."
                raise UsageError(msg)
            self.found[name] = read(value)
            if self.found[name] is None:
                msg = f"--from-launch: {flag} {value} is not {_WHAT[read]}; change it or drop it."
                raise UsageError(msg)
            self.flags[name] = flag
        elif flag in _ONLY:
            if value not in _ONLY[flag]:
                msg = (
                    f"--from-launch: {flag} {value or '(no value)'} is not simulated; "
                    f"allowed: {', '.join(_ONLY[flag])}. Change it or leave it out."
                )
                raise UsageError(msg)
        elif flag not in _SERVING:
            self.unknown.append(flag)

    def simulated_acceptance(self, environment: Mapping[str, str]) -> None:
        """``SGLANG_SIMULATE_ACC_LEN`` forces the accept length of a real server, and ours."""
        length = environment.get("SGLANG_SIMULATE_ACC_LEN", "-1")
        if not length.startswith("-"):
            how = environment.get("SGLANG_SIMULATE_ACC_METHOD", "match-expected")
            self.found["acceptance"] = f"sglang-simulated:{length},{how}"

    def scenario(self) -> dict[str, Any]:
        """Fields under the scenario's names; without an algorithm it is plain decoding."""
        out = dict(self.found)
        if "model" in out:
            out["model"] = _shipped("models", out["model"], ".json")
        method = self._method(out.pop("algorithm", None), out.get("model"))
        out["method"] = method.name
        width = out.pop("draft_tokens", None)
        if not method.speculative:
            drafting = {*ONLY_SPECULATION, "draft_tokens"}
            self.unknown += [self.flags[name] for name in self.flags if name in drafting]
            return {name: value for name, value in out.items() if name not in drafting}
        if method.sequential:
            self._drop(out, "block")
            out["steps"] = self._same("steps", out.get("steps"), width and width - 1)
        else:
            out["block"] = self._same("block", out.get("block"), width)
        # DFLASH sets the steps to 1; MTP reads its layer from the target.
        self._drop(out, *(n for n in ("steps", "window", "draft_model") if n not in method.takes))
        if "draft_model" in out:
            out["draft_model"] = _shipped("drafters", out["draft_model"], ".json")
        return {name: value for name, value in out.items() if value is not None}

    def _method(self, algorithm: str | None, model: str | None) -> Method:
        if algorithm is None:
            return PLAIN
        known = algorithms()
        method = known.get(algorithm.upper())
        if method is None:
            kind = "--speculative-algorithm"
            raise unknown(kind, algorithm, known)
        if method.network == "mtp-layer" and model is not None and not _has_mtp(model):
            others = ", ".join(sorted(m.algorithm for m in for_any_target() if m.algorithm))
            msg = (
                f"--from-launch: --speculative-algorithm {algorithm} needs a native MTP layer, "
                f"which {model} lacks; allowed for it: {others}."
            )
            raise UsageError(msg)
        return method

    def _drop(self, out: dict[str, Any], *names: str) -> None:
        for name in names:
            if out.pop(name, None) is not None:
                self.unknown.append(self.flags[name])

    def _same(self, name: str, given: int | None, implied: int | None) -> int | None:
        """A width given directly and as a number of draft tokens must be the same."""
        if given and implied and given != implied:
            msg = (
                f"--from-launch: {self.flags[name]} {given} contradicts "
                f"{self.flags['draft_tokens']}, which makes it {implied} (k steps verify k+1 "
                "tokens); drop one of them."
            )
            raise UsageError(msg)
        return given or implied


def _has_mtp(model: str) -> bool:
    try:
        return load_model(model).mtp_layer is not None
    except DflashSimError:
        return True  # the scenario reports the model in its own words


def _shipped(folder: str, path: str, suffix: str) -> str:
    """A checkpoint folder of the server, not on this disk, is known by its last part."""
    local = Path(path).expanduser()
    if path[:1] in "/.~" and not local.exists() and find_sheet(folder, local.name, suffix):
        return local.name
    return path
