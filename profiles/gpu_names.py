"""GPU names as ``nvidia-smi``, ``rocm-smi`` and people write them -> what a sheet may be called.

``NVIDIA GeForce RTX 5090``, ``rtx5090`` and ``5090`` are one GPU; ``H100 PCIe`` and ``RTX 5090 D``
are others than the H100 and the RTX 5090, and no word of theirs is dropped.
"""

import re
from dataclasses import dataclass

_MAKERS = {"nvidia", "amd", "geforce", "tesla", "instinct", "radeon", "gpu", "corporation", "tm"}
# Words about the same chip. PCIe, NVL, Laptop and counts are not among them: other machines.
_SAME_CHIP = re.compile(
    r"sxm\d?|hbm\d?e?|oam|blackwell|hopper|server|edition|gpu|ac|\d+(?:gb?|gib)|accelerator"
)
_SIZE_GB = re.compile(r"(?<![\d.])(\d+) ?G(?:i?B)?\b", re.IGNORECASE)
_MIG = re.compile(r"\bmig\b|\dg\.\d+gb", re.IGNORECASE)


@dataclass(frozen=True)
class GpuName:
    """A name taken apart.

    Parameters
    ----------
    keys
        What a sheet may be called, the whole name first, then with less of what may be left out.
    sizes_gb
        Sizes of memory that it names [GB].
    """

    keys: tuple[str, ...]
    sizes_gb: tuple[float, ...]


def parsed(text: str) -> GpuName:
    """Take a name apart; a slice of a GPU is no GPU, and has no keys."""
    plain = re.sub(r"\([^)]*\)|[®™]", " ", text).lower()
    if _MIG.search(plain):
        return GpuName((), ())
    words = [w for w in re.split(r"[\s_/\-]+", plain) if w and w not in _MAKERS]
    keys = []
    while words:
        keys.append("".join(words))
        if not _SAME_CHIP.fullmatch(words.pop()):
            break
    return GpuName(tuple(keys), tuple(map(float, _SIZE_GB.findall(plain))))


def key_of(name: str) -> str:
    """The key of a sheet's name or alias."""
    return next(iter(parsed(name).keys), name.lower())
