"""What the end of a checkpoint's name usually means: who quantised it, to what, of which bits."""

import re

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.quantization.untimed import INSTEAD, not_priced

OLD_NAMES = {"neuralmagic": "redhatai"}
# Schemes of what a suffix means, the first that fits it; of experts where a model has some.
_CONVENTIONS = (
    (r"FP8[-_]DYNAMIC", "fp8-channel", "fp8-channel"),
    (r"FP8[-_]BLOCK", "fp8-block-groups", "fp8-block-groups"),
    (r"MXFP8", "mxfp8", "mxfp8"),
    (r"FP8|W8A8[-_]FP8", "fp8-block", "fp8-block"),
    (r"NVFP4A16", "nvfp4-w4a16", "nvfp4-w4a16"),
    (r"NVFP4|FP4", "nvfp4", "nvfp4-experts"),
    (r"W8A16\w*", "w8a16", "w8a16"),
    (r"W8A8\w*|INT8", "w8a8", "w8a8"),
    (r"AWQ", "awq", "awq"),
    (r"GPTQ|INT4|4BITS?|W4A16\w*|AUTO-?ROUND", "gptq-int4", "gptq-int4"),
)
_OF_EIGHT = {"awq": "awq-int8", "gptq-int4": "gptq-int8"}  # the same methods, of eight bits
# What FP8 means in names of those who do not publish blocks.
_FP8_OF = {
    "nvidia": "fp8-tensor",
    "redhatai": "fp8-static",
    "meta-llama": "fp8-channel",
}
_IN_WORDS = {
    "fp8-static": "FP8 with one scale for each tensor, as RedHatAI publishes it",
    "fp8-channel": "FP8 with a scale for each channel and token",
    "mxfp8": "MXFP8",
    "fp8-block": "FP8 in blocks of 128 x 128, as Qwen and DeepSeek publish it",
    "fp8-block-groups": "FP8 in blocks of 128 x 128",
    "fp8-tensor": "FP8 with one scale for each tensor and an FP8 KV cache, as NVIDIA publishes it",
    "nvfp4": "NVFP4 in every linear layer and an FP8 KV cache",
    "nvfp4-experts": "NVFP4 in the routed experts and an FP8 KV cache, as NVIDIA publishes it",
    "nvfp4-w4a16": "NVFP4 weights under bf16 activations",
    "awq": "AWQ in groups of 128",
    "awq-int8": "AWQ of eight bits in groups of 128",
    "gptq-int8": "GPTQ of eight bits in groups of 128",
    "gptq-int4": "four-bit integers in groups of 128",
    "w8a16": "INT8 weights under bf16 activations",
    "w8a8": "INT8 weights and activations",
}
_INTEGERS = re.compile(r"INT-?(\d)|(\d)-?BITS?|(\d)B|W(\d)(?:A16\w*|G\d+)?")
_FLOATS = re.compile(r"(?:NV|MX)?FP[48](?:A16)?")
_METHODS = re.compile(r"AWQ|GPTQ|AUTO-?ROUND")
_FOLDER = "give the folder of its config.json, which says it module by module."


def scheme_of(name: str, suffix: str, *, experts: bool) -> tuple[str, str] | None:
    """The scheme of ``checkpoints.toml`` that a suffix usually means, and that in words.

    Parameters
    ----------
    name, suffix
        A checkpoint's, and the part of it that follows the name of its model.
    experts
        True if the model has routed experts.

    Raises
    ------
    UsageError
        It says several formats, or one that is known and not priced; None if it says no known one.
    """
    text = suffix.upper()
    owner = name.lower().partition("/")[0]
    eight = _refuse_others(name, text, owner)
    for pattern, dense, moe in _CONVENTIONS:
        if re.match(rf"(?:{pattern})(?![A-Z0-9])", text):
            scheme = moe if experts else dense
            if scheme == "fp8-block":
                scheme = _FP8_OF.get(OLD_NAMES.get(owner, owner), scheme)
            if eight:
                scheme = _OF_EIGHT.get(scheme, scheme)
            return scheme, _IN_WORDS[scheme]
    return None


def _refuse_others(name: str, text: str, owner: str) -> bool:
    """Refuse a suffix of several formats, or of bits without kernels; True for eight-bit ones."""
    integers = {n for found in _words(_INTEGERS, text) for n in found.groups() if n}
    floats = {found[0] for found in _words(_FLOATS, text)}
    if len(floats) > 1:
        floats.discard("FP4")  # what NVFP4 and MXFP4 are for short
    method = next((found[0] for found in _words(_METHODS, text)), None)
    if owner == "amd" and floats:
        raise _not_priced(name, "quark")
    if integers == {"4"} and floats == {"FP8"} and method is None:
        raise _not_priced(name, "w4afp8")
    several = len(integers) > 1 or len(floats) > 1 or bool(floats and (method or integers))
    if several or re.search("MIX", text):
        msg = f"'{name}' mixes formats, by its name, and not how: {_FOLDER}"
        raise UsageError(msg)
    if odd := integers - {"4", "8"}:
        msg = (
            f"'{name}' has integers of {min(odd)} bits, by its name, whose kernels are in no "
            f"table; {INSTEAD}."
        )
        raise UsageError(msg)
    return "8" in integers


def _words(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    return list(re.finditer(rf"(?<![A-Z0-9])(?:{pattern.pattern})(?![A-Z0-9])", text))


def _not_priced(name: str, method: str) -> UsageError:
    return UsageError(f"'{name}' is {not_priced(method)}, by its name; {INSTEAD}.")
