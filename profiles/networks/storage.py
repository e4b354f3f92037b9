"""How the weights of a checkpoint are stored, by its config."""

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.networks.fields import Fields
from dflash_sim.profiles.networks.quantized import Quantized

DTYPES = ("bfloat16", "float16")


def check_dtype(f: Fields, *, experts_may_be_mxfp4: bool) -> Quantized | None:
    """Refuse storage that is not priced; return how the checkpoint is quantised, if it is."""
    key = f.first("dtype", "torch_dtype")
    dtype = f.text(key, default=DTYPES[0])
    if dtype not in DTYPES:
        f.reject(key, f"one of {', '.join(DTYPES)}")
    allowed = [*DTYPES, "mxfp4 experts (gpt-oss)"]
    quantization = f.nested(f.first("quantization_config", "compression_config"))
    if not quantization.config:
        return None
    method = quantization.text(quantization.first("quant_method", "quant_algo"), default="unnamed")
    if method == "mxfp4" and experts_may_be_mxfp4:
        return Quantized(method, (("experts", method),))
    msg = f"config of {f.name}: quantization {method!r} is not modelled; have: {', '.join(allowed)}"
    raise UsageError(msg)
