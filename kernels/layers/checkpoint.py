"""Sources of weights: a folder of safetensors, a dictionary, or a random generator."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.ways_in import json_object

Range = tuple[int, int]


LARGEST = 65504.0  # of float16: with weights beyond it sums overflow, and a run says nothing


class Misfit(Exception):  # noqa: N818
    """A tensor that is not there, or not as described; collected by a ``Shard``."""


class Source(Protocol):
    """Something that holds tensors by name."""

    def has(self, name: str) -> bool:
        """Return True if there is such a tensor."""
        ...

    def read(self, name: str, shape: tuple[int, ...], dim: int, ranges: Sequence[Range]) -> Tensor:
        """The given ranges of a tensor along ``dim``, one after the other.

        Raises :class:`Misfit` unless the whole tensor has ``shape``.
        """
        ...


def _fitting(name: str, got: Sequence[int], wanted: tuple[int, ...]) -> None:
    if tuple(got) != wanted:
        msg = f"{name} is {list(got)}, expected {list(wanted)}"
        raise Misfit(msg)


class Tensors:
    """Tensors already in memory, such as a ``state_dict``."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def has(self, name: str) -> bool:
        """Return True if there is such a tensor."""
        return name in self.tensors

    def read(self, name: str, shape: tuple[int, ...], dim: int, ranges: Sequence[Range]) -> Tensor:
        """A copy of the ranges."""
        if name not in self.tensors:
            msg = f"{name} is missing"
            raise Misfit(msg)
        whole = self.tensors[name].detach()
        _fitting(name, whole.shape, shape)
        return torch.cat([whole.narrow(dim, a, b - a) for a, b in ranges], dim)


class RandomTensors:
    """Any tensor asked for, drawn from its name: a network of a given shape, without a download.

    Weights have standard deviation ``scale``; those of norms, whose names hold "norm", lie around
    ``norm``. A shard is drawn on its own, so ranks do not hold parts of one network.
    """

    def __init__(
        self, *, scale: float = 0.02, norm: float = 1.0, device: torch.device | str = "cpu"
    ) -> None:
        self.scale = scale
        self.norm = norm
        self.device = torch.device(device)

    def has(self, name: str) -> bool:
        """Always, save for the optional table of an EAGLE-3 head's token ids."""
        return name != "d2t"

    def read(self, name: str, shape: tuple[int, ...], dim: int, ranges: Sequence[Range]) -> Tensor:
        """Normal numbers, the same for the same name and ranges."""
        size = list(shape)
        size[dim] = sum(b - a for a, b in ranges)
        if self.device.type == "meta":
            return torch.empty(size, device=self.device)
        seed = crc32(f"{name} {ranges}".encode())
        draw = torch.Generator(self.device).manual_seed(seed)
        drawn = torch.randn(size, generator=draw, device=self.device).mul_(self.scale)
        return drawn.add_(self.norm) if "norm" in name else drawn


class SafetensorsFolder:
    """A checkpoint folder as Hugging Face lays it out; nothing is unpickled."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._open: dict[Path, Any] = {}
        self._files = self._index()

    def config(self) -> dict[str, Any]:
        """The parsed ``config.json``."""
        return json_object(self.path / "config.json")

    def has(self, name: str) -> bool:
        """Return True if there is such a tensor."""
        return name in self._files

    def read(self, name: str, shape: tuple[int, ...], dim: int, ranges: Sequence[Range]) -> Tensor:
        """Only the bytes of the ranges."""
        if name not in self._files:
            msg = f"{name} is missing"
            raise Misfit(msg)
        try:
            part = self._handle(self._files[name]).get_slice(name)
        except SafetensorError as error:
            msg = f"{self._files[name]}: {name} cannot be read: {error}"
            raise Misfit(msg) from error
        _fitting(name, part.get_shape(), shape)
        lead = (slice(None),) * dim
        cuts: list[Tensor] = [part[(*lead, slice(a, b))] for a, b in ranges]
        whole = torch.cat(cuts, dim)
        if whole.is_floating_point() and whole.element_size() > 1 and whole.numel():
            low, high = whole.aminmax()
            if not (low >= -LARGEST and high <= LARGEST):  # as with NaN
                msg = f"{name} has values that are not finite, or above {LARGEST:g}"
                raise Misfit(msg)
        return whole

    def _index(self) -> dict[str, Path]:
        index = self.path / "model.safetensors.index.json"
        if index.is_file():
            listed = json_object(index).get("weight_map", {})
            if not isinstance(listed, dict) or not all(isinstance(f, str) for f in listed.values()):
                msg = f"{index}: its weight_map must have the file of each tensor"
                raise UsageError(msg)
            return {name: self.path / file for name, file in listed.items()}
        files = sorted(self.path.glob("*.safetensors"))
        if not files:
            pickled = any(self.path.glob("*.bin")) or any(self.path.glob("*.pt"))
            why = "pickled weights are not read; convert them" if pickled else "is it a checkpoint?"
            msg = f"{self.path}: no *.safetensors in it: {why}"
            raise UsageError(msg)
        return {name: file for file in files for name in self._handle(file).keys()}  # noqa: SIM118

    def _handle(self, file: Path) -> Any:
        if file not in self._open:
            if not file.is_file():
                msg = f"{file}: it is no file; name a folder with the weights"
                raise UsageError(msg)
            try:
                self._open[file] = safe_open(file, framework="pt", device="cpu")
            except (OSError, SafetensorError) as error:
                msg = f"{file}: cannot be read as safetensors: {error}"
                raise UsageError(msg) from error
        return self._open[file]
