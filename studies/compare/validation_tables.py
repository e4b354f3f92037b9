"""A validation in plain tables: for the terminal, and for the accuracy page."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from dflash_sim.calibrate.fit.errors import (
    error_table,
    in_order,
    ranked_right,
    speedups,
    summed,
)
from dflash_sim.calibrate.fit.held_out import Outcome, Validation
from dflash_sim.studies.show.figures import percent, signed
from dflash_sim.studies.show.frame_table import as_table, written
from dflash_sim.studies.show.plain_table import Table

FACTORS = ("left out", "method", "concurrency", "model", "block", "data set")
PEERS = (
    ("aiconfigurator, raw", "27.2 %", "103 of theirs, all builds"),
    ("aiconfigurator, one fitted constant", "11.6 %", "103 of theirs, all builds"),
)
STATS = ("rows", "MAPE", "bias", "p95", "inside 90 %")


def tables(validation: Validation, *, worst: int = 10) -> list[Table]:
    """Return everything a reader needs to judge the predictions."""
    errors = error_table(validation.outcomes)
    return [
        summary(errors),
        *(by(errors, factor) for factor in FACTORS if errors[factor].nunique() > 1),
        gains(errors),
        ranking(errors),
        peers(errors),
        rows(validation.worst(worst), f"the {min(worst, len(errors))} rows furthest off"),
    ]


def summary(errors: pd.DataFrame) -> Table:
    """All rows, plain ones and speculative ones."""
    kinds = errors["speculative"].map({False: "plain decoding", True: "speculative"})
    each = pd.concat([errors.assign(what="all"), errors.assign(what=kinds)])
    found = summed(each.sort_values("what", kind="stable"), ["what"])
    return as_table("held-out rows", written(found), ("what", *STATS))


def by(errors: pd.DataFrame, factor: str) -> Table:
    """The rows at each level of a factor."""
    found = summed(in_order(errors, factor), [factor])
    return as_table(f"by {factor}", written(found), (factor, *STATS))


def gains(errors: pd.DataFrame) -> Table:
    """Speed-ups over plain decoding of the same prompts: two held-out rows each."""
    keys = ["method", "concurrency"]
    found = summed(speedups(errors).sort_values(keys, kind="stable"), keys)
    head = ("method", "c", "rows", "MAPE", "bias")
    table = as_table(
        "speed-up over plain decoding", written(found.rename(columns={"concurrency": "c"})), head
    )
    return table if table.rows else replace(table, rows=(("-",) * len(head),))


def ranking(errors: pd.DataFrame) -> Table:
    """Pairs of configurations put in the observed order."""
    right, pairs = ranked_right(errors)
    share = percent(right / pairs) if pairs else "-"
    return Table(
        "pairs ranked right", ("by", "right", "pairs", "share"),
        (("predicted throughput", str(right), str(pairs), share),),
    )  # fmt: skip


def peers(errors: pd.DataFrame) -> Table:
    """Our plain decoding on B200 beside what is published of others on such rows."""
    plain = errors[~errors["speculative"] & (errors["GPU"] == "b200")]
    mape = percent(plain["error"].abs().mean())
    ours = [(f"ours, {len(plain)} rows", mape, "these rows")] if len(plain) else []
    return Table("plain decoding beside peers", ("who", "MAPE", "rows"), (*ours, *PEERS))


def rows(outcomes: Sequence[Outcome], title: str) -> Table:
    """One line per row [token/s]."""
    lines = [
        (
            o.row.name,
            f"{o.observed:.1f}",
            f"{o.predicted:.1f}",
            f"{o.low:.0f} to {o.high:.0f}",
            signed(o.error),
            "yes" if o.inside else "no",
        )
        for o in outcomes
    ]
    head = ("row", "observed", "predicted", "90 % interval", "error", "inside")
    return Table(title, head, tuple(lines))


def as_rows(validation: Validation) -> list[dict[str, object]]:
    """Outcomes as flat rows, for JSON lines and CSV."""
    return [
        {
            "row": o.row.observation.row,
            "name": o.row.name,
            "source": o.row.observation.source,
            **{name.replace(" ", "_"): level for name, level in o.factors.items()},
            "observed": round(o.observed, 3),
            "predicted": round(o.predicted, 3),
            "ci90": [round(o.low, 3), round(o.high, 3)],
            "error": round(o.error, 6),
            "inside": o.inside,
        }
        for o in validation.outcomes
    ]
