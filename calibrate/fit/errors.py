"""Errors of predictions as one pandas table: grouped, summed up and put in order.

pandas takes longer to load than a prediction takes; nothing on the way to one imports this.
"""

from collections.abc import Iterable, Sequence
from math import isfinite, nan

import pandas as pd

from dflash_sim.calibrate.fit.held_out import Outcome

MIN_GAP = 0.03  # observed throughputs closer than this are not ranked: repeated runs scatter


def error_table(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """Return one line per outcome.

    It has its place (``row``), its ``name`` and its factors (``method``, ``concurrency``, ...);
    ``observed``, ``predicted``, ``low`` and ``high`` [token/s]; the relative ``error``, which is
    positive where the prediction is too fast [1]; whether the interval holds what was observed
    (``inside``); the ``accept_length`` [token]; and whether it is ``speculative``. Lines of one
    ``question`` differ in method, block and engine mode alone.
    """
    lines = [
        {
            "row": o.row.observation.row,
            "name": o.row.name,
            **o.factors,
            "observed": o.observed,
            "predicted": o.predicted,
            "low": o.low,
            "high": o.high,
            "error": o.error,
            "inside": float(o.inside) if isfinite(o.low) else nan,
            "accept_length": o.accept_length,
            "speculative": o.row.scenario.speculation.speculative,
            "question": o.row.question,
        }
        for o in outcomes
    ]
    return pd.DataFrame(lines)


def summed(errors: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the errors of each group, one line each, in order of first appearance.

    ``bias``, ``least`` and ``most`` are of the errors themselves; ``MAPE``, ``median`` and ``p95``
    (the 95th percentile) are of their absolute values [1]. ``inside 90 %`` is the share of rows
    that lie inside their 90 % interval, where there are intervals.
    """
    found = errors.assign(size=errors["error"].abs())
    groups = found.groupby(list(by), sort=False, dropna=False)
    stats = {
        "rows": groups["error"].size(),
        "MAPE": groups["size"].mean(),
        "bias": groups["error"].mean(),
        "median": groups["size"].median(),
        "p95": groups["size"].quantile(0.95),
        "least": groups["error"].min(),
        "most": groups["error"].max(),
    }
    if "inside" in found:
        stats["inside 90 %"] = groups["inside"].mean()
    return pd.DataFrame(stats).reset_index()


def in_order(errors: pd.DataFrame, factor: str) -> pd.DataFrame:
    """Return the lines sorted by one factor: numbers by size, then words by letter."""

    def place(level: str) -> tuple[int, str]:
        return (len(level) if level.isdigit() else 99, level)

    rank = {level: i for i, level in enumerate(sorted(set(errors[factor]), key=place))}
    return errors.sort_values(factor, key=lambda levels: levels.map(rank), kind="stable")


def speedups(errors: pd.DataFrame) -> pd.DataFrame:
    """Return the drafting lines that have a plain one of the same ``question``, over that one.

    Lines name their ``question``, whether they are ``speculative``, and ``observed`` and
    ``predicted`` throughput; both are speed-ups then, and ``error`` is the relative error of those
    [1].
    """
    drafts = errors["speculative"]
    plain = errors[~drafts].drop_duplicates("question", keep="last").set_index("question")
    drafted = errors[drafts & errors["question"].isin(plain.index)]
    observed, predicted = (
        drafted[what] / drafted["question"].map(plain[what]) for what in ("observed", "predicted")
    )
    return drafted.assign(observed=observed, predicted=predicted, error=predicted / observed - 1)


def ranked_right(errors: pd.DataFrame, by: str = "predicted") -> tuple[int, int]:
    """Return how many pairs of configurations are put in the observed order, and all pairs.

    A pair shares its ``question``, and its observed throughputs differ by more than ``MIN_GAP``.

    Parameters
    ----------
    by
        The column that should be larger where more was observed.
    """
    pairs = errors.merge(errors, on="question", suffixes=("", " of the slower"))
    pairs = pairs[pairs["observed"] > (1 + MIN_GAP) * pairs["observed of the slower"]]
    return int((pairs[by] > pairs[f"{by} of the slower"]).sum()), len(pairs)
