"""Number formats of a server: which of its tensors are stored and multiplied in which."""

import re
from dataclasses import dataclass

from dflash_sim.profiles.formats import PLAIN, bytes_of, format_of, kernels_on

__all__ = [
    "BF16",
    "MODULES",
    "PRECISIONS",
    "STATE_DTYPES",
    "Formats",
    "Precision",
    "bytes_of",
    "called",
    "on_gpu",
    "quantised_name",
]

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
NETWORKS = ("mtp", "drafter")  # modules with modules of their own
Formats = tuple[tuple[str, str], ...]  # module and number format of its weights

# Formats of a recurrent state: SGLang's --mamba-ssm-dtype, the default first.
STATE_DTYPES = ("float32", "bfloat16", "float16")


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
        Keys and values of softmax attention.
    state
        Recurrent states of gated delta networks; their convolution windows are activations.
    modules
        Formats of the weights of modules that differ, such as the experts of gpt-oss.
    draft_kv_cache
        Keys and values of a drafter, where it does not keep them as the target does.
    """

    weights: str = "bfloat16"
    activations: str = "bfloat16"
    kv_cache: str = "bfloat16"
    state: str = "float32"
    modules: Formats = ()
    draft_kv_cache: str | None = None

    def of(self, module: str) -> "Precision":
        """The formats inside one module, whose weights may have their own.

        SGLang quantises no router, head, norm or fc of a network that drafts.
        """
        kv_cache = self.draft_kv_cache if module == "drafter" else None
        kept = ("router", "lm_head", "other") if module in NETWORKS else ()
        return Precision(
            self.form(module),
            self.activations,
            kv_cache or self.kv_cache,
            self.state,
            tuple((part, self.activations) for part in kept),
        )

    def form(self, module: str) -> str:
        """The format of the weights of one module, a name of :data:`MODULES`.

        ``attention.o_proj`` has the format of ``attention`` where it has none of its own.
        """
        own = dict(self.modules)
        return own.get(module) or own.get(module.partition(".")[0], self.weights)

    @property
    def matmul(self) -> str:
        """The format that tensor cores multiply the weights in."""
        return format_of(self.weights).products

    def quantised(self, *, mtp: bool) -> tuple[str, ...]:
        """Formats other than bf16, each once, such as ``nvfp4`` and ``kv-fp8``; no drafter's.

        Those of the MTP layer count only where it runs.
        """
        idle = ("drafter",) if mtp else NETWORKS
        weights = {self.weights, *(form for module, form in self.modules if module not in idle)}
        return tuple(sorted(weights - {PLAIN}) + [f"kv-{x}" for x in {self.kv_cache} - {PLAIN}])


def on_gpu(modules: Formats, *, arch: str, gpu: str) -> Formats:
    """The formats whose kernels a GPU runs ``modules`` with.

    Raises
    ------
    InfeasibleError
        It has none for one of them.
    """
    return tuple((m, kernels_on(form, arch=arch, gpu=gpu)) for m, form in modules)


BF16 = Precision()
PRECISIONS = {PLAIN: BF16}  # what a scenario may call the format that it computes in

# How people mark a quantised checkpoint in its name, such as Qwen3-8B-FP8 or model.Q4_K_M.gguf.
_QUANTISED = re.compile(
    r"(?:^|[-_.])(fp8|mxfp8|nvfp4(?:a16)?|mxfp4|fp4|awq|gptq|gguf|int[48]|w\d+a\d+\w*|q\d_\w+"
    r"|bnb|[48]bits?|quark|quantized|auto-?round|exl[23]|hqq|mlx)(?=$|[-_.])",
    re.IGNORECASE,
)


_IN_GENERAL = "quantized"


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
    said = found[1]
    if said.lower() == _IN_GENERAL and (more := _QUANTISED.search(last, found.end() - 1)):
        said = more[1]  # quantized.w8a8
    return said.upper(), bare[: len(bare) - len(last) + found.start()]


# What checkpoints for a method are usually called after their model.
_CALLED = {
    "awq": "awq",
    "gptq": "gptq-int4",
    "w4a16": "w4a16",
    "modelopt_fp4": "nvfp4",
    "modelopt_fp8": "fp8",
    "w8a8_int8": "w8a8",
    "w4a16_nvfp4": "nvfp4a16",
}


def called(model: str, quantization: str) -> str | None:
    """What the checkpoint of ``model`` for one of SGLang's methods is called, as people call it.

    >>> called("qwen3-8b", "awq_marlin")
    'qwen3-8b-awq'
    """
    suffix = _CALLED.get(quantization.removesuffix("_marlin"))
    return f"{model}-{suffix}" if suffix else None
