"""How many drafts should be verified? DSpark on DeepSeek-V4-Pro was measured with fixed counts and
with a confidence scheduler. Does the simulator rank them, and predict its gain, as measured?

The published step cost is of another model, so its shape is carried over; what was fitted, and what
was not, is said below. Prefill is free here: nothing is published of it.

    python studies/gallery/10_dspark_frontier.py [--write]
"""

from collections.abc import Iterator

import numpy as np

from dflash_sim.profiles.dspark_published import ADAPTIVE, load_dspark
from dflash_sim.studies.published import dspark_frontier as dspark
from dflash_sim.studies.published import exhibit as ex
from dflash_sim.studies.published.dspark_frontier import (
    BEFORE,
    CONC,
    DRAFTS,
    MOST,
    PUBLISHED,
    Prices,
)
from dflash_sim.studies.show.plain_table import Table

VARIANTS = (
    ("one factor, the table's stairs", 1, True),
    ("one factor, smooth", 1, False),
    ("two factors, the table's stairs", 2, True),
    ("two factors, smooth", 2, False),
)
HOLDS = 128  # requests up to which the measured scheduler was ahead of every fixed arm
SKILL = 0.5  # correlation from which on a trend is called predicted


def percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def share(part: float) -> str:
    return f"{100 * part:.2g} %"


def cost() -> str:
    """What was carried over."""
    curve, prices = dspark.smooth_cost(), dspark.fitted(factors=2)
    return (
        "The step cost of V4-Flash (TP 4) within its graphs is a smooth curve to "
        f"{share(curve.rms)} rms: {1e3 * curve.fixed_s:.2f} ms, experts up to "
        f"{1e3 * curve.experts_s:.2f} ms as tokens reach them ({share(curve.each)} each), and "
        f"{1e6 * curve.token_s:.1f} us per token. V4-Pro (TP 8) streams more weights and computes "
        f"more per token: two factors, {prices.streaming:.2f} and {prices.computing:.2f}, fitted "
        "on the six speeds without speculation. Drafts take the first. Accept lengths are the "
        "drafter's on coding prompts (InferenceX): other prompts than those of the frontier. Every "
        "speculative cell is held out. Fewer drafts than five the drafter was not made for: those "
        "arms were measured for their cost."
    )


def arms(found: dict[dspark.Arm, float]) -> Table:
    """Simulated over measured throughput."""
    measured = load_dspark().frontier[PUBLISHED]
    head = ("c", *(f"{d} drafts" for d in DRAFTS), ADAPTIVE, "best measured", "best simulated")
    rows = []
    for c in CONC:
        off = [percent(found[d, c] / measured[d, c].output_tok_s) for d in (*DRAFTS, ADAPTIVE)]
        best = max(DRAFTS, key=lambda d: measured[d, c].output_tok_s)
        ours = max(DRAFTS, key=lambda d: found[d, c])
        rows.append((str(c), *off, best, ours))
    return Table("simulated over measured tok/s", head, tuple(rows))


def ranking(found: dict[dspark.Arm, float]) -> Iterator[ex.Part]:
    """Which pairs of fixed arms are ranked as measured."""
    measured = load_dspark().frontier[PUBLISHED]
    pairs = dspark.pairs(measured, found)
    missed = [p for p in pairs if not p.agrees]
    drafting = [p for p in pairs if dspark.PLAIN not in (p.first, p.second)]
    yield (
        f"{len(pairs)} pairs of fixed arms at one concurrency differ by more than "
        f"{share(dspark.CLEAR)}; {len(pairs) - len(missed)} are ranked as measured. Of the "
        f"{len(drafting)} that both draft: {sum(p.agrees for p in drafting)}."
    )
    head = ("c", "drafts", "against", "measured", "simulated")
    rows = tuple(
        (str(p.conc), p.first, p.second, percent(p.measured), percent(p.simulated)) for p in missed
    )
    yield Table("pairs ranked otherwise", head, rows)


def gains(found: dict[dspark.Arm, float]) -> list[tuple[int, float, float]]:
    """Requests, and the confidence scheduler over the best fixed arm: measured, simulated."""
    measured = load_dspark().frontier[PUBLISHED]
    rows = []
    for c in CONC:
        was = max(measured[d, c].output_tok_s for d in DRAFTS)
        now = max(found[d, c] for d in DRAFTS)
        rows.append((c, measured[ADAPTIVE, c].output_tok_s / was, found[ADAPTIVE, c] / now))
    return rows


def adaptive(rows: list[tuple[int, float, float]]) -> Iterator[ex.Part]:
    """Show if the gain of the scheduler is predicted."""
    lines = tuple((str(c), percent(was), percent(now)) for c, was, now in rows)
    yield Table("adaptive over the best fixed arm", ("c", "measured", "simulated"), lines)
    requests, measured, simulated = zip(*rows, strict=True)
    alike = float(np.corrcoef(measured, simulated)[0, 1])
    most = [requests[int(np.argmax(each))] for each in (measured, simulated)]
    behind = [f"{c} ({percent(now)})" for c, _, now in rows if c <= HOLDS and now < 1]
    yield (
        f"Measured the gain is largest at {most[0]} requests and {percent(measured[-1])} at "
        f"{requests[-1]}; simulated it is largest at {most[1]} ({percent(max(simulated))}). The "
        f"correlation of the two over concurrency is {alike:+.1f}: "
        + ("the gain is predicted in part." if alike > SKILL else "no skill in predicting it.")
        + f' "No worse than the best fixed arm up to {HOLDS} requests", which was measured, fails '
        f"in the simulation at {ex.listed(behind)}. What holds is the ranking of fixed arms."
    )


def variants() -> Table:
    """Ways to carry the cost over."""
    measured, law = load_dspark().frontier[PUBLISHED], dspark.drafter()
    rows = []
    for name, factors, stairs in VARIANTS:
        prices = dspark.fitted(factors=factors, stairs=stairs)
        found = {(d, c): dspark.steady(prices, law, (d, c)) for d in DRAFTS for c in CONC}
        pairs = dspark.pairs(measured, found)
        right = sum(p.agrees for p in pairs)
        each = f"{prices.streaming:.2f}, {prices.computing:.2f}"
        rows.append((name, each, str(right), str(len(pairs))))
    return Table("ways to carry the cost over", ("cost", "factors", "right", "pairs"), tuple(rows))


def cliff(prices: Prices) -> str:
    """What leaving the graphs does, in the revision that was measured with smaller ones."""
    measured, law = load_dspark().frontier[BEFORE], dspark.drafter()
    most = max(CONC)
    fixed = str(MOST)
    found = dspark.frontier(prices, law, drafts=("0", fixed, ADAPTIVE), conc=(most,))
    was = measured[fixed, most].output_tok_s / measured["0", most].output_tok_s
    kept = measured[ADAPTIVE, most].output_tok_s / measured["0", most].output_tok_s
    return (
        "Before, graphs ended at 1,024 tokens and larger steps cost five times as much. At "
        f"{most} requests {fixed} drafts were then {percent(was)} against no speculation, and are "
        f"{percent(found[fixed, most] / found['0', most])} with the table's cliff; the scheduler, "
        f"which stays below it, was {percent(kept)} and is "
        f"{percent(found[ADAPTIVE, most] / found['0', most])}."
    )


def story() -> Iterator[ex.Part]:
    """The parts in order."""
    found = dspark.frontier(dspark.fitted(factors=2), dspark.drafter())
    yield cost()
    yield arms(found)
    yield from ranking(found)
    yield from adaptive(gains(found))
    yield (
        "Confidences come from a model of a head (profiles/policies.toml), not from the drafter's; "
        "successive ones are independent, so that at one request a budget sized from the past "
        "knows nothing of the draft it is for. Which cost, which accept lengths and that survival "
        "is smoothed were chosen with these rows in sight; here are all ways to carry the cost "
        "over, in a steady state without ramp and drain."
    )
    yield variants()
    yield cliff(dspark.fitted(factors=2, cliff=True))
    yield "It rests on VLLM_ADAPTIVE and INFERENCEX_GOLDEN_AL (profiles/published/sources.csv)."


if __name__ == "__main__":
    ex.show(__file__, __doc__, story)
