"""Published times inside a cycle: its phases, its kernels, and kernels on their own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import Dirs, read_csv, roots
from dflash_sim.profiles.sheets import UNITS
from dflash_sim.profiles.typed_table import read_row

PHASES_FILE, KERNELS_FILE = "published/phases.csv", "published/kernels.csv"


@dataclass(frozen=True)
class PhasePoint:
    """One phase of one traced cycle.

    Parameters
    ----------
    target_attention, draft_attention
        Attention backends of the server; empty where the source does not say.
    conc
        Requests in the held batch.
    ctx
        Tokens cached per request in the middle of the trace.
    phase
        ``draft_forward``, ``draft_head``, ``verify_forward``, ``verify_head``, ``gdn_commit``,
        ``kv_injection``, ``accept_eager``, ``gaps_in_graphs``, ``host_gap``; ``draft`` and
        ``verify`` with their heads and gaps; ``cycle_traced``, ``cycle_untraced``.
    seconds
        Its time in one cycle [s].
    """

    source_id: str
    model: str
    drafter: str
    method: str
    block: int
    gpu: str
    target_attention: str
    draft_attention: str
    conc: int
    ctx: int
    phase: str
    seconds: float

    @property
    def cycle(self) -> tuple[str, int, int]:
        """Return the traced cycle that it is part of: source, block, requests."""
        return self.source_id, self.block, self.conc


@dataclass(frozen=True)
class KernelPoint:
    """A kernel's time: all its launches in one traced cycle, or one launch on its own.

    Parameters
    ----------
    per
        ``cycle`` or ``launch``.
    block, conc, ctx
        Query rows per request, requests, and cached tokens per request; None where the time does
        not depend on them.
    rows
        Token rows that one launch on its own computes; None in a cycle.
    seconds
        Time [s].
    """

    source_id: str
    per: str
    block: int | None
    conc: int | None
    ctx: int | None
    rows: int | None
    kernel: str
    seconds: float


_Point = TypeVar("_Point", PhasePoint, KernelPoint)


def load_phases(profiles_dirs: Dirs = ()) -> tuple[PhasePoint, ...]:
    """Published phases of cycles, the user's rows first."""
    return tuple(_rows(PhasePoint, PHASES_FILE, profiles_dirs))


def load_kernels(profiles_dirs: Dirs = ()) -> tuple[KernelPoint, ...]:
    """Published times of kernels, the user's rows first."""
    return tuple(_rows(KernelPoint, KERNELS_FILE, profiles_dirs))


def _rows(record: type[_Point], file: str, profiles_dirs: Dirs) -> Iterator[_Point]:
    """Rows of a table as ``record``, from every folder that has one."""
    for path in (root / file for root in roots(profiles_dirs)):
        for number, row in enumerate(read_csv(path), start=2):
            seconds = repr(_seconds(row, path, number))
            yield read_row(record, {**row, "seconds": seconds}, f"{path}, line {number}")


def _seconds(row: dict[str, str], path: Path, number: int) -> float:
    try:
        seconds = float(row["value"]) * UNITS[row["unit"]]
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{path}, line {number}: {error!r}; expected a value and a unit of time"
        raise UsageError(msg) from error
    if not 0 < seconds < float("inf"):
        msg = f"{path}, line {number}: value is {row['value']}; expected a positive time"
        raise UsageError(msg)
    return seconds
