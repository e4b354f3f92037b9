"""Number formats: how many bytes a value takes, and which formats a server computes in."""

import re
from dataclasses import dataclass

from dflash_sim.profiles.errors import unknown

BITS = {
    "float32": 32.0,
    "bfloat16": 16.0,
    "float16": 16.0,
    "fp8": 8.0,
    "fp8_block": 8.0 + 32 / 128**2,  # 128 x 128 values share one float32 scale
    "mxfp8": 8.25,
    "nvfp4": 4.5,  # 16 four-bit values share one eight-bit scale
    "w4a16_nvfp4": 4.5,
    "mxfp4": 4.25,  # OCP Microscaling 1.0: 32 four-bit values share one eight-bit scale
    "int4": 4.0 + 20 / 128,  # 128 values share a 16-bit scale and a four-bit zero
    "int4_g64": 4.0 + 20 / 64,
    "int4_g32": 4.0 + 16 / 32,  # symmetric, as compressed-tensors writes it
    "int8": 8.0,
    "w8a16": 8.0 + 16 / 128,
}


# Parts of a network whose weights may have a format of their own, in Hugging Face's words:
# ``gdn_gates`` are in_proj_a and in_proj_b, ``other`` norms, convolutions and biases.
MODULES = (
    "attention",
    "gdn",
    "gdn_gates",
    "mlp",
    "experts",
    "shared_expert",
    "router",
    "lm_head",
    "embed",
    "mtp",
    "drafter",
    "vision",
    "other",
)
Formats = tuple[tuple[str, str], ...]  # module and number format of its weights

# Formats of a recurrent state: SGLang's --mamba-ssm-dtype, the default first.
STATE_DTYPES = ("float32", "bfloat16", "float16")


def bytes_of(dtype: str) -> float:
    """Bytes that one value takes, its share of a scale included."""
    if dtype not in BITS:
        raise unknown(kind="number format", value=dtype, allowed=BITS)
    return BITS[dtype] / 8


@dataclass(frozen=True, slots=True)
class Precision:
    """The formats of one server, by what is stored in them.

    Parameters
    ----------
    weights
        Format of every weight whose module has none of its own.
    activations
        Between kernels, in collectives, and in what is multiplied with the weights.
    kv_cache
        Keys and values of softmax attention, the drafter's too.
    state
        Recurrent states of gated delta networks; their convolution windows are activations.
    modules
        Formats of the weights of modules that differ, such as the experts of gpt-oss.
    """

    weights: str = "bfloat16"
    activations: str = "bfloat16"
    kv_cache: str = "bfloat16"
    state: str = "float32"
    modules: Formats = ()

    def of(self, module: str) -> "Precision":
        """The formats inside one module, whose weights may have their own."""
        return Precision(self.form(module), self.activations, self.kv_cache, self.state)

    def form(self, module: str) -> str:
        """The format of the weights of one module, a name of :data:`MODULES`.

        ``attention.o_proj`` has the format of ``attention`` where it has none of its own.
        """
        own = dict(self.modules)
        return own.get(module) or own.get(module.partition(".")[0], self.weights)

    @property
    def matmul(self) -> str:
        """The format that tensor cores multiply in: the wider of weights and activations."""
        return max(self.weights, self.activations, key=bytes_of)


BF16 = Precision()
# What a scenario calls its precision. The only one so far whose kernels were all timed.
PRECISIONS = {"bfloat16": BF16}

# How people mark a quantised checkpoint in its name, such as Qwen3-8B-FP8 or model.Q4_K_M.gguf.
_QUANTISED = re.compile(
    r"(?:^|[-_.])(fp8|mxfp8|nvfp4|mxfp4|fp4|awq|gptq|gguf|int[48]|w\d+a\d+\w*|q\d_\w+|bnb|[48]bits?"
    r"|quark|quantized)(?=$|[-_.])",
    re.IGNORECASE,
)


def quantised_name(name: str) -> tuple[str, str] | None:
    """The format that a checkpoint's name says it is quantised to, and the name without it.

    Examples
    --------
    >>> quantised_name("Qwen/Qwen3-8B-FP8")
    ('FP8', 'Qwen/Qwen3-8B')
    >>> quantised_name("Qwen/Qwen3-8B") is None
    True
    """
    last = name.rstrip("/").rpartition("/")[2]
    found = _QUANTISED.search(last)
    if found is None or found.start() == 0:
        return None
    bare = name.rstrip("/")
    return found[1].upper(), bare[: len(bare) - len(last) + found.start()]
