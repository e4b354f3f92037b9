"""How a checkpoint is quantised, module by module."""

from dataclasses import dataclass

from dflash_sim.profiles.precision import Formats


@dataclass(frozen=True)
class Quantized:
    """The quantisation that a checkpoint's own files declare.

    Parameters
    ----------
    name
        As SGLang's ``--quantization`` calls it, such as ``fp8`` or ``modelopt_fp4``.
    formats
        Modules whose weights are quantised, each with its number format.
    kv_cache
        Format of keys and values that the checkpoint asks for; None if it does not say.
    """

    name: str
    formats: Formats
    kv_cache: str | None = None
