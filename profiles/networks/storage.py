"""How the values of a checkpoint are stored, by its config."""

from dflash_sim.profiles.networks.fields import Fields

DTYPES = ("bfloat16", "float16")


def check_dtype(f: Fields) -> None:
    """Refuse values whose format is not priced."""
    key = f.first("dtype", "torch_dtype")
    if f.text(key, default=DTYPES[0]) not in DTYPES:
        f.reject(key, f"one of {', '.join(DTYPES)}")


def refuse_quantised(f: Fields) -> None:
    """Refuse a drafter whose config says that it is quantised: its formats are not read."""
    key = f.first("quantization_config", "compression_config")
    if f.config.get(key):
        f.reject(key, f"a drafter in one of {', '.join(DTYPES)}")
