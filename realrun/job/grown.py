"""Drafters of a shipped pair that were not trained: its DFlash drafter with parts made up.

DFlash2's convolutions change almost nothing and its selector adds little to the logits, so that it
drafts about as DFlash does; so does Domino, whose recurrent head adds as little. DSpark's Markov
head knows which byte follows which in the pair's prompts; its block was trained to draft tokens at
their own places and not those after them, so that few of its drafts are right. Everything is drawn
from names, the same on every rank and every time.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from dflash_sim.kernels.layers.checkpoint import Misfit, Range, SafetensorsFolder, Tensors
from dflash_sim.profiles.ways_in import parse_json, read_text
from dflash_sim.realrun.job.networks import Network
from dflash_sim.realrun.job.prompts import read_prompts

GROWN = ("dflash2", "dspark", "domino")  # folders of a pair that hold a config alone
TRAINED = "dflash"
SMALL = 0.001  # standard deviation of what was not trained
NOTE = (
    "{name} of this pair was not trained: it is the DFlash drafter with parts made up, for tokens "
    "and times and not for its accept length"
)


def grown(pair: Path, name: str) -> Network:
    """The drafter ``name`` of a shipped pair."""
    config: Mapping[str, Any] = parse_json(read_text(pair / name / "config.json"))
    return Network(config, name, source=Grown(pair), note=NOTE.format(name=name))


class Grown:
    """The weights of a pair's DFlash drafter, and made-up ones for the parts that it has not.

    Parameters
    ----------
    pair
        The folder of the pair; workers open it for themselves.
    """

    def __init__(self, pair: Path) -> None:
        self.pair = pair

    def __getstate__(self) -> dict[str, Any]:
        """Only the folder travels between processes."""
        return {"pair": self.pair}

    @cached_property
    def trained(self) -> SafetensorsFolder:
        """The weights of the DFlash drafter."""
        return SafetensorsFolder(self.pair / TRAINED)

    def has(self, name: str) -> bool:
        """Return True for tensors of the drafter and of the parts that are made up."""
        return self.trained.has(name) or any(part in name for part in PARTS)

    def read(self, name: str, shape: tuple[int, ...], dim: int, ranges: Sequence[Range]) -> Tensor:
        """The given ranges along ``dim``."""
        if self.trained.has(name):
            return self.trained.read(name, shape, dim, ranges)
        if not self.has(name):
            msg = f"{name} is missing"
            raise Misfit(msg)
        return Tensors({name: self._made(name, shape)}).read(name, shape, dim, ranges)

    def _made(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if "markov_head" in name:
            before, after = self._following(*shape)
            return before if "markov_w1" in name else after
        draw = torch.Generator().manual_seed(crc32(name.encode()))
        made = torch.randn(prod(shape), generator=draw).view(shape) * SMALL
        if name.endswith("base_kernel"):
            made[:, 0] += 1  # of each row, its own
        return made

    def _following(self, vocab: int, rank: int) -> tuple[Tensor, Tensor]:
        """Two tables whose product says how much likelier a token is after another."""
        seen = torch.full((vocab, vocab), 1 / vocab, dtype=torch.float64)
        for text in read_prompts(self.pair / "prompts.jsonl", vocab):
            for before, after in pairwise(text):
                seen[before, after] += 1
        alone = seen.sum(0) / seen.sum()
        more = (seen / seen.sum(1, keepdim=True) / alone).log()
        left, size, right = torch.linalg.svd(more)
        scale = size[:rank].sqrt()
        return (left[:, :rank] * scale).float(), (right[:rank].T * scale).float()


PARTS = (
    "attention_conv.",
    "mlp_conv.",
    "candidate_selector.",
    "markov_head.",
    "prefix_gru.",
    "embed_proj.",
)
