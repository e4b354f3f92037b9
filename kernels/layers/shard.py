"""Weights by their Hugging Face names: one rank's part of each, cut as SGLang cuts them.

A :class:`Shard` is asked for tensors by name and full shape and reads just this rank's part. It
notes what is missing or misshapen instead of stopping, and :meth:`Shard.check` names it all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dflash_sim.kernels.layers.checkpoint import Misfit, Range, Source
from dflash_sim.kernels.rank import Rank
from dflash_sim.profiles.errors import UsageError

FLOATS = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
INTEGERS = {torch.int64, torch.int32}
SHOWN = 8


class Shard:
    """One rank's part of a checkpoint.

    Parameters
    ----------
    source
        Where the tensors are.
    rank
        Which part of how many; what every tensor is converted to, and where.
    prefixes, anchor
        The first prefix under which ``anchor`` exists goes in front of every name.
    """

    def __init__(
        self, source: Source, rank: Rank, prefixes: Sequence[str] = ("",), anchor: str = ""
    ) -> None:
        self.source = source
        self.rank = rank
        self.prefix = next((p for p in prefixes if source.has(p + anchor)), prefixes[0])
        self.problems: list[str] = []

    def under(self, prefix: str) -> "Shard":
        """Return the same shard with ``prefix`` added to names; problems go to the same list."""
        below = Shard(self.source, self.rank, (self.prefix + prefix,))
        below.problems = self.problems
        return below

    def root(self) -> "Shard":
        """Return the same shard with no prefix; problems go to the same list."""
        top = Shard(self.source, self.rank)
        top.problems = self.problems
        return top

    def has(self, name: str) -> bool:
        """Return True if the checkpoint holds ``name`` under this prefix."""
        return self.source.has(self.prefix + name)

    def ranges(
        self,
        name: str,
        shape: tuple[int, ...],
        dim: int,
        ranges: Sequence[Range],
        *,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Given ranges of ``name`` along ``dim``; zeros, and a note, if it does not fit."""
        wanted = dtype or self.rank.dtype
        try:
            part = self.source.read(self.prefix + name, shape, dim, ranges)
        except Misfit as problem:
            self.problems.append(str(problem))
            size = [sum(b - a for a, b in ranges) if i == dim else n for i, n in enumerate(shape)]
            return torch.zeros(size, dtype=wanted, device=self.rank.device)
        if part.dtype not in (FLOATS if wanted.is_floating_point else INTEGERS):
            self.problems.append(
                f"{self.prefix}{name} is {part.dtype}; quantized weights are not read"
            )
        return part.to(device=self.rank.device, dtype=wanted)

    def ids(self, name: str, *shape: int) -> Tensor:
        """All of ``name``, a table of token ids, as int64."""
        return self.whole(name, *shape, dtype=torch.int64)

    def whole(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """All of ``name``: what every rank holds."""
        return self.ranges(name, shape, 0, [(0, shape[0])], dtype=dtype)

    def split(
        self, name: str, *shape: int, dim: int = 0, dtype: torch.dtype | None = None
    ) -> Tensor:
        """This rank's equal part of ``name`` along ``dim``."""
        return self.ranges(name, shape, dim, [self.part(shape[dim])], dtype=dtype)

    def part(self, size: int, *, start: int = 0) -> Range:
        """This rank's equal part of ``size`` things that begin at ``start``."""
        if size % self.rank.tp:
            self.problems.append(f"{self.prefix}*: {size} does not divide over tp={self.rank.tp}")
        each, index = size // self.rank.tp, self.rank.comm.rank
        return start + index * each, start + (index + 1) * each

    def kv_part(self, heads: int, head_dim: int) -> Range:
        """This rank's rows of a key or value projection; heads are copied when they run out."""
        if heads >= self.rank.tp:
            return self.part(heads * head_dim)
        first = self.rank.comm.rank * heads // self.rank.tp
        return first * head_dim, (first + 1) * head_dim

    def check(self) -> None:
        """Raise an error that names every tensor that was missing or did not fit."""
        if not self.problems:
            return
        shown, more = self.problems[:SHOWN], len(self.problems) - SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        msg = f"checkpoint does not hold this network: {'; '.join(shown)}{rest}"
        raise UsageError(msg)
