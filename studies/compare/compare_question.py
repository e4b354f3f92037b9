"""The question behind ``compare``: which rows of the files, and how far off is too far."""

from collections.abc import Callable, Mapping, Sequence

from dflash_sim.calibrate.compare.compare import Comparison, compare, is_benchmark, joined
from dflash_sim.calibrate.fit.unstated import marked
from dflash_sim.calibrate.observations.observation import ALIASES, Observation, ReadReport
from dflash_sim.calibrate.observations.row_filter import parse_filter
from dflash_sim.profiles.errors import UsageError


def chosen(
    read: ReadReport, on: str | None, *, allow_partial: bool
) -> tuple[list[Observation], list[str]]:
    """Select the rows to compare, and say in remarks what became of them.

    Rows that only measured acceptance or the scheduler stay beside the benchmarks selected.

    Raises
    ------
    UsageError
        No row is left; or some are refused, without ``allow_partial``.
    """
    selected = parse_filter(on) if on else None
    rows, remarks = list(read.observations), []
    if not rows:
        why = f" The first: {': '.join(read.refused[0]).rstrip('.')}." if read.refused else ""
        msg = f"nothing to compare: {read.counts}.{why}"
        raise UsageError(msg)
    if read.refused and not allow_partial:
        msg = f"{read.counts}; give --allow-partial to compare those that can be used."
        raise UsageError(msg)
    if selected is not None:
        benchmarks = [row for row in rows if is_benchmark(row)] or rows
        kept = [row for row in benchmarks if selected(row)]
        if not kept:
            msg = f"--on '{on}' selects none of {len(benchmarks)} rows."
            raise UsageError(msg)
        remarks.append(f"{len(kept)} of {len(benchmarks)} rows selected")
        rows = kept + [row for row in rows if row not in benchmarks]
    rows, more = joined(rows)
    return rows, [*remarks, *more]


def unneeded(read: ReadReport, assumed: Mapping[str, str]) -> list[str]:
    """Return the assumptions that every row states itself."""
    needed = {name for row in read.observations for name in row.assumed}
    return [name for name in assumed if read.observations and ALIASES.get(name, name) not in needed]


def answers(
    rows: Sequence[Observation],
    *,
    simulator: str,
    with_causes: bool,
    with_interval: bool,
    on_row: Callable[[int], None] | None = None,
) -> list[Comparison]:
    """Compare every row with its prediction; ``on_row`` is called with the number of each.

    A row that names no release of the engine may be of any: its interval is as wide as that.
    """
    found = []
    for row in marked(rows)[0]:
        made = compare(
            row, simulator=simulator, with_causes=with_causes, with_interval=with_interval
        )
        found.append(made)
        if on_row is not None:
            on_row(len(found))
    return found


def too_far(found: Sequence[Comparison], percent: float) -> str | None:
    """Say which throughputs are off by more than allowed, or have no prediction; None if none is.

    Parameters
    ----------
    percent
        The error that is allowed, either way [%].
    """
    errors = {
        c.observation.row: m.rel_err
        for c in found
        if (m := c.metric("output_throughput")) is not None
    }
    off = [f"{row} by {100 * e:+.1f} %" for row, e in errors.items() if 100 * abs(e) > percent]
    off += [f"{c.observation.row} has no prediction" for c in found if c.error is not None]
    if off:
        return f"off by more than {percent:g} %: {'; '.join(off)}"
    return None if errors else "--fail-above: no row has a throughput to compare"
