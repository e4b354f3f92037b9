"""Answers of one table side by side: by how much one is ahead of another, and how sure that is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dflash_sim.simulator.intervals import Side, ratio_interval
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.row import NO_TABLES, Row

# What clients ask, or is taken to be so: no choice that could be ahead of another.
_LOADS = ("dataset_name", "content", "thinking", "isl", "osl", "range_ratio", "max_new_tokens",
    "num_prompts", "request_rate", "burstiness", "max_concurrency", "temperature", "top_p", "top_k",
    "acceptance", "calibration", "seed", "replications")  # fmt: skip
_SHOWN = 6


@dataclass(frozen=True)
class Gain:
    """The best of the answers to one load over the next best.

    Parameters
    ----------
    gain
        Of the throughput, less one [1].
    ci90
        Its 90 % interval, with both of one draw of what is uncertain.
    """

    one: str
    other: str
    load: str
    gain: float
    ci90: tuple[float, float]

    @property
    def said(self) -> str:
        """Such as ``block 16 over 8 at conc 8: +5 %, 90 % -3 % to +14 %, within error``."""
        low, high = self.ci90
        at = f" at {self.load}" if self.load else ""
        doubt = ", within error" if low < 0 < high else ""
        return (
            f"{self.one} over {self.other}{at}: {100 * self.gain:+.0f} %, "
            f"90 % {100 * low:+.0f} to {100 * high:+.0f}{doubt}"
        )


def gains(
    rows: Sequence[Row], results: Sequence[Result | None], asked: Mapping[str, str]
) -> list[str]:
    """What is ahead at each load of a table, as far as there is more than one answer to it.

    Parameters
    ----------
    asked
        Fields that vary between rows, and their headings.
    """
    found = list(_gains(rows, results, asked))
    shown = [gain.said for gain in found[:_SHOWN]]
    more = len(found) - len(shown)
    return shown if more < 1 else [*shown, f"and at {more} more loads"]


def _gains(
    rows: Sequence[Row], results: Sequence[Result | None], asked: Mapping[str, str]
) -> Iterator[Gain]:
    loads = [n for n in asked if n in _LOADS]
    choices = [n for n in asked if n not in _LOADS]
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if results[i] is not None:
            groups.setdefault(words(row, {n: asked[n] for n in loads}), []).append(i)
    for load, members in groups.items():
        by_speed = sorted(members, key=lambda i: -_tok_s(results[i]))
        if len(by_speed) > 1 and choices:
            i, j = by_speed[:2]
            one, other = results[i], results[j]
            if one is None or other is None or one.sensitivity is None or other.sensitivity is None:
                continue
            sides = (Side(r.setup, r.sensitivity, r.per_run) for r in (one, other) if r.sensitivity)
            low, high = ratio_interval(*sides)
            differ = {n: asked[n] for n in choices if rows[i][n] != rows[j][n]}
            mine, theirs = (words(rows[k], differ) for k in (i, j))
            yield Gain(mine, theirs, load, _tok_s(one) / _tok_s(other) - 1, (low - 1, high - 1))


def estimated(rows: Sequence[Row]) -> str:
    """Say which GPUs of rows are roofline estimates; nothing where none is."""
    kinds = dict.fromkeys(str(row["gpu"]) for row in rows if is_roofline(row))
    named = ", ".join(kinds)
    return (
        f"{named}: roofline estimates, without operator times, are the less sure" if kinds else ""
    )


def is_roofline(row: Row) -> bool:
    """Return True if there are no operator times behind a row."""
    return row["profile_hash"] == NO_TABLES


def words(row: Row, heads: Mapping[str, str]) -> str:
    """Fields of a row with their headings, such as ``block 8, conc 64``."""
    cells = [(head, row[n]) for n, head in heads.items() if row[n] is not None]
    return ", ".join(
        f"{head} {x:g}" if isinstance(x, float) else f"{head} {x}" for head, x in cells
    )


def _tok_s(result: Result | None) -> float:
    return result.values["output_throughput"] if result is not None else 0.0
