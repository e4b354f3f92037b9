"""What a validation shows, as plain tables: for the terminal, and for the accuracy page."""

from collections.abc import Sequence

from dflash_sim.calibrate.fit.held_out import (
    Outcome,
    Stats,
    Validation,
    by_factor,
    ranked_right,
    stats,
)
from dflash_sim.studies.show.figures import percent, signed
from dflash_sim.studies.show.plain_table import Table

FACTORS = ("left out", "method", "concurrency", "model", "block", "data set")
PEERS = (
    ("aiconfigurator, raw", "27.2 %", "103 of theirs, all builds"),
    ("aiconfigurator, one fitted constant", "11.6 %", "103 of theirs, all builds"),
)
_STATS = ("rows", "MAPE", "bias", "p95", "inside 90 %")


def cells(s: Stats) -> tuple[str, ...]:
    """Statistics as cells, in the order of the heads."""
    return str(s.n), percent(s.mape), signed(s.bias), percent(s.p95), percent(s.coverage)


def tables(validation: Validation, *, worst: int = 10) -> list[Table]:
    """Everything a reader needs to judge the predictions."""
    found = validation.outcomes
    return [
        summary(found),
        *(table for factor in FACTORS if len((table := by(found, factor)).rows) > 1),
        speedups(found),
        ranking(found),
        peers(found),
        rows(validation.worst(worst), f"the {min(worst, len(found))} rows furthest off"),
    ]


def summary(outcomes: Sequence[Outcome]) -> Table:
    """All rows, plain ones and speculative ones."""
    plain = [o for o in outcomes if o.row.scenario.method == "none"]
    drafted = [o for o in outcomes if o.row.scenario.method != "none"]
    groups = {"all": outcomes, "plain decoding": plain, "speculative": drafted}
    lines = [(name, *cells(stats(group))) for name, group in groups.items() if group]
    return Table("held-out rows", ("what", *_STATS), tuple(lines))


def by(outcomes: Sequence[Outcome], factor: str) -> Table:
    """The rows at each level of a factor."""
    groups = by_factor(outcomes, factor)
    lines = [(level, *cells(stats(group))) for level, group in groups.items()]
    return Table(f"by {factor}", (factor, *_STATS), tuple(lines))


def speedups(outcomes: Sequence[Outcome]) -> Table:
    """Speed-ups over plain decoding of the same prompts: two held-out rows each."""
    plain = {_prompts(o): o for o in outcomes if o.row.scenario.method == "none"}
    errors: dict[tuple[str, str], list[float]] = {}
    for o in outcomes:
        twin = plain.get(_prompts(o))
        if twin is not None and twin is not o and o.row.scenario.method != "none":
            key = (o.row.scenario.method, o.factors["concurrency"])
            errors.setdefault(key, []).append((1 + o.error) / (1 + twin.error) - 1)
    lines = [
        (*key, str(len(e)), percent(sum(map(abs, e)) / len(e)), signed(sum(e) / len(e)))
        for key, e in sorted(errors.items())
    ]
    head = ("method", "c", "rows", "MAPE", "bias")
    return Table("speed-up over plain decoding", head, tuple(lines or [("-",) * len(head)]))


def _prompts(o: Outcome) -> tuple[object, ...]:
    s = o.row.scenario
    what = (s.dataset, s.isl, s.osl, s.thinking, s.max_new_tokens)
    return (s.model, s.gpu, s.tp, s.conc, s.rate, s.generation, *what)


def ranking(outcomes: Sequence[Outcome]) -> Table:
    """Pairs of configurations put in the observed order."""
    right, pairs = ranked_right(outcomes)
    share = percent(right / pairs) if pairs else "-"
    return Table(
        "pairs ranked right", ("by", "right", "pairs", "share"),
        (("predicted throughput", str(right), str(pairs), share),),
    )  # fmt: skip


def peers(outcomes: Sequence[Outcome]) -> Table:
    """Our plain decoding on B200 beside what is published of others on such rows."""
    plain = [
        o for o in outcomes if o.row.scenario.method == "none" and o.row.scenario.gpu == "b200"
    ]
    ours = [(f"ours, {len(plain)} rows", percent(stats(plain).mape), "these rows")] if plain else []
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
