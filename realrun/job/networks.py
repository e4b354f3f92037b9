"""Networks and the places of their weights, checked before anything starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dflash_sim.kernels.layers.checkpoint import (
    RandomTensors,
    Range,
    SafetensorsFolder,
    Source,
)
from dflash_sim.profiles.ways_in import json_object


@dataclass(frozen=True)
class Network:
    """A network to be run.

    Parameters
    ----------
    config
        Its parsed ``config.json``.
    name
        For messages and rows.
    path
        A Hugging Face folder with its weights, opened by every worker for itself.
    source
        Where its weights are, if not in a folder.
    note
        What a reader of its figures must know; empty if nothing.
    generation
        Its parsed ``generation_config.json``; chat models name the end of a turn there alone.
    """

    config: Mapping[str, Any]
    name: str
    path: Path | None = None
    source: Source | None = None
    note: str = ""
    generation: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def folder(cls, path: Path | str) -> "Network":
        """A network in a Hugging Face folder."""
        folder = Path(path)
        own = folder / "generation_config.json"
        generation = json_object(own) if own.exists() else {}
        return cls(
            json_object(folder / "config.json"), folder.name, path=folder, generation=generation
        )

    @classmethod
    def random(cls, config: Mapping[str, Any], name: str) -> "Network":
        """A network of a given shape without weights of its own, for times only."""
        return cls(config, name)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer, of both configs together, as SGLang has it."""
        own = {**self.config, **(self.config.get("text_config") or {})}
        named = [said.get("eos_token_id") for said in (own, self.generation)]
        each = [one if isinstance(one, list) else [one] for one in named]
        return frozenset(token for tokens in each for token in tokens if token is not None)

    def weights(self, device: torch.device | str) -> Source:
        """Return where to read the weights from, in this process."""
        if self.source is not None:
            return self.source
        if self.path is not None:
            return SafetensorsFolder(self.path)
        return RandomTensors(device=device)

    def outline(self) -> Source:
        """The names and shapes of the weights, without their values."""
        if self.path is not None:
            return Outline(SafetensorsFolder(self.path))
        return self.weights("cpu") if self.source is not None else RandomTensors(device="meta")


class Outline:
    """A folder of which only the headers are read: tensors on the ``meta`` device."""

    def __init__(self, folder: SafetensorsFolder) -> None:
        self.folder = folder

    def has(self, name: str) -> bool:
        """Return True if there is such a tensor."""
        return self.folder.has(name)

    def read(self, name: str, shape: tuple[int, ...], dim: int, ranges: Sequence[Range]) -> Tensor:
        """A tensor of the right size without values; of the file, nothing but the type."""
        none = self.folder.read(name, shape, 0, [(0, 0)])
        size = list(shape)
        size[dim] = sum(b - a for a, b in ranges)
        return torch.empty(size, dtype=none.dtype, device="meta")
