"""Acceptance of mixed traffic: every request has the law of its part, in the shares given."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.requests.laws import Acceptance, Commits, dtype_of
from dflash_sim.simulator.requests.survival import Survival

_FORM = "Write it as humaneval:0.3,mt-bench:0.7."
_FORM_OF_ACCEPTANCE = "Write it as mix:0.3=al:6;0.7=al:3.5."
_ROUNDING = 1e-6  # by how much shares that were rounded may miss 1


@dataclass(frozen=True, eq=False)
class MixedAcceptance:
    """Requests of several kinds, each with a law of its own.

    Requests differ, the cycles of one do not: the law of a request is that of its part, and the
    survival, each request counted once, is the mean of the parts' survivals.

    Parameters
    ----------
    parts : the laws, all at one verify width
    shares : of requests, adding up to 1 [1]
    labels : of the parts, for reports
    """

    parts: tuple[Acceptance, ...]
    shares: tuple[float, ...]
    labels: tuple[str, ...] = field(default=())
    shared_batch_draw: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for part in self.parts:
            if part.shared_batch_draw:
                msg = f"{part.name} is drawn once for a whole batch: it cannot be a part of a mix"
                raise UsageError(msg)
        check_shares(self.labels or [p.name for p in self.parts], self.shares)

    @property
    def block(self) -> int:
        """Verify width [token]."""
        return self.parts[0].block

    @property
    def name(self) -> str:
        each = zip(self.shares, self.labels or [p.name for p in self.parts], strict=True)
        return "mix of " + ", ".join(f"{share:.3g} {label}" for share, label in each)

    def survival(self) -> Survival:
        mean = sum(
            share * part.survival().s for share, part in zip(self.shares, self.parts, strict=True)
        )
        return Survival(np.asarray(np.minimum.accumulate(np.clip(mean, 0, 1)), dtype=float))

    def deal(self, rng: np.random.Generator, requests: int) -> npt.NDArray[np.int64]:
        """Draw which part each request is of, where the workload does not say."""
        return rng.choice(len(self.shares), size=requests, p=np.array(self.shares)).astype(np.int64)

    def draw(self, rng: np.random.Generator, *, requests: int, cycles: int) -> Commits:
        of = self.deal(rng, requests)
        commits = np.ones((requests, cycles), dtype=dtype_of(self.block))
        for i, (part, stream) in enumerate(
            zip(self.parts, _streams(rng, len(self.parts)), strict=True)
        ):
            mine = np.flatnonzero(of == i)
            commits[mine] = part.draw(stream, requests=mine.size, cycles=cycles)
        return commits


def _streams(rng: np.random.Generator, n: int) -> list[np.random.Generator]:
    """Return ``n`` streams that depend on where ``rng`` is, and not on what was spawned of it."""
    seeds = rng.integers(np.iinfo(np.int64).max, size=n).tolist()
    return [np.random.default_rng(seed) for seed in seeds]


def parse_shares(text: str) -> list[tuple[str, float]]:
    """Names and shares of ``humaneval:0.3,mt-bench:0.7``; a name alone is all of it.

    Raises
    ------
    UsageError
        A share is missing, is no number or below 0, a name comes twice, or they do not add up to 1.
    """
    pairs = [part.strip().rpartition(":") for part in text.split(",")]
    if len(pairs) == 1 and not pairs[0][1]:
        return [(text.strip(), 1.0)]
    found = []
    for name, colon, share in pairs:
        if not colon or not name.strip():
            msg = f"mixture '{text}': '{name or share}' has no share. {_FORM}"
            raise UsageError(msg)
        try:
            value = float(share)
        except ValueError:
            msg = f"mixture '{text}': the share '{share}' of {name} is not a number. {_FORM}"
            raise UsageError(msg) from None
        found.append((name.strip(), value))
    check_shares([name for name, _ in found], [share for _, share in found], text)
    return [(name, share) for name, share in found if share > 0]


def check_shares(names: Sequence[str], shares: Sequence[float], text: str = "") -> None:
    """Refuse shares that are no parts of a whole.

    Raises
    ------
    UsageError
        One line that names the share.
    """
    what = f"mixture '{text}'" if text else "acceptance 'mix:'"
    form = _FORM if text else _FORM_OF_ACCEPTANCE
    for name, share in zip(names, shares, strict=True):
        if not 0 <= share <= 1:
            msg = f"{what}: the share {share:g} of {name} is outside [0, 1]. {form}"
            raise UsageError(msg)
    if len(set(names)) < len(names):
        twice = next(n for n in names if list(names).count(n) > 1)
        msg = f"{what}: {twice} comes twice; add its shares up. {form}"
        raise UsageError(msg)
    total = math.fsum(shares)
    if abs(total - 1) > _ROUNDING:
        msg = f"{what}: the shares add up to {total:g}, not 1. {form}"
        raise UsageError(msg)
