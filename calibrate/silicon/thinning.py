"""Fewer columns than were measured, and how far interpolation misses the ones left out."""

from collections.abc import Collection, Iterable, Mapping

from dflash_sim.calibrate.silicon.gemm_curve import Miss
from dflash_sim.calibrate.silicon.table import Key, Times
from dflash_sim.profiles.times.interpolation import Line, Sheet

Pair = tuple[float, float]


def thinned(times: Times, sizes: Collection[int]) -> Times:
    """Keep the wanted sizes of every row; a row without any of them goes."""
    kept = {
        key: {size: row[size] for size in sorted(row) if size in sizes}
        for key, row in times.items()
    }
    return {key: row for key, row in kept.items() if row}


def thinning_miss(times: Times, kept: Times, *, power: bool = False) -> Miss:
    """Predict every size left out between two that were kept, along its row."""
    return Miss.of(
        pair for key, row in kept.items() for pair in _between(row, times[key], power=power)
    )


def _between(kept: Mapping[int, float], row: Mapping[int, float], *, power: bool) -> Iterable[Pair]:
    sizes = sorted(kept)
    line = Line(sizes, [kept[size] for size in sizes], power=power)
    return (
        (line.at(size)[0], seconds)
        for size, seconds in sorted(row.items())
        if size not in kept and sizes[0] < size < sizes[-1]
    )


def sheet_miss(times: Times, kept: Times, *, power: bool = False) -> Miss:
    """Predict every time left out, inside the range of those kept, across the last key and along.

    Parameters
    ----------
    times, kept : rows by a key whose last part is a size too, such as a batch
    """
    sheets = {name: Sheet(_lines(rows, power=power)) for name, rows in _grouped(kept).items()}
    pairs = []
    for (*name, across), row in sorted(times.items(), key=str):
        sheet = sheets.get(tuple(name))
        for along, seconds in sorted(row.items()):
            if sheet is not None and along not in kept.get((*name, across), {}):
                found, inside = sheet.at(across, along)
                pairs += [(found, seconds)] if inside else []
    return Miss.of(pairs)


def thinned_phases(
    times: Times,
    family: str,
    *,
    across: Mapping[str, Collection[int]],
    along: Mapping[str, Collection[int]],
    power: Collection[str] = (),
) -> tuple[Times, dict[str, Miss]]:
    """Thin rows whose first key is a phase; return those kept, and the misses by phase.

    Parameters
    ----------
    family : what the misses are called, before the phase
    across, along : the last keys and the sizes to keep, by phase
    power : phases whose lines are straight in logarithms
    """
    kept: Times = {}
    misses = {}
    for phase, wanted in across.items():
        every = {key: row for key, row in times.items() if key[0] == phase}
        few = {key: row for key, row in every.items() if key[-1] in wanted}
        few = thinned(few, along[phase])
        misses[f"{family}.{phase}"] = sheet_miss(every, few, power=phase in power)
        kept |= few
    return kept, misses


def _grouped(times: Times) -> dict[Key, dict[int, dict[int, float]]]:
    found: dict[Key, dict[int, dict[int, float]]] = {}
    for (*name, across), row in times.items():
        found.setdefault(tuple(name), {})[across] = row
    return found


def _lines(rows: Mapping[int, Mapping[int, float]], *, power: bool) -> dict[float, Line]:
    return {
        across: Line(sorted(row), [row[x] for x in sorted(row)], power=power)
        for across, row in rows.items()
    }
