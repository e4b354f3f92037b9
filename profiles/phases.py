"""Published times inside a cycle: its phases, its kernels, and kernels on their own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import Dirs, roots
from dflash_sim.profiles.sheets import UNITS
from dflash_sim.profiles.ways_in import TABLE, UnreadableError, csv_table, read_text

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


def load_phases(profiles_dirs: Dirs = ()) -> tuple[PhasePoint, ...]:
    """Published phases of cycles, the user's rows first."""
    return tuple(
        PhasePoint(
            source_id=row["source_id"],
            model=row["model"],
            drafter=row["drafter"],
            method=row["method"],
            block=int(row["block"]),
            gpu=row["gpu"],
            target_attention=row["target_attention"],
            draft_attention=row["draft_attention"],
            conc=int(row["conc"]),
            ctx=int(row["ctx"]),
            phase=row["phase"],
            seconds=seconds,
        )
        for row, seconds in _rows(PHASES_FILE, profiles_dirs)
    )


def load_kernels(profiles_dirs: Dirs = ()) -> tuple[KernelPoint, ...]:
    """Published times of kernels, the user's rows first."""
    return tuple(
        KernelPoint(
            source_id=row["source_id"],
            per=row["per"],
            block=_count(row["block"]),
            conc=_count(row["conc"]),
            ctx=_count(row["ctx"]),
            rows=_count(row["rows"]),
            kernel=row["kernel"],
            seconds=seconds,
        )
        for row, seconds in _rows(KERNELS_FILE, profiles_dirs)
    )


def _rows(file: str, profiles_dirs: Dirs) -> Iterator[tuple[dict[str, str], float]]:
    """Rows of a table with their ``value`` in seconds, from every folder that has one."""
    for path in (root / file for root in roots(profiles_dirs)):
        if path.is_file():
            try:
                table = csv_table(read_text(path, TABLE))
            except UnreadableError as error:
                msg = f"cannot read {path}: {error}"
                raise UsageError(msg) from error
            for number, row in enumerate(table, start=2):
                yield row, _seconds(row, path, number)


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


def _count(cell: str) -> int | None:
    return int(cell) if cell else None
