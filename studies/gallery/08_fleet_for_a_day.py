"""A fleet of 400B-class servers for a day of requests: how many GPUs, and at what price?

A day that sleeps and works: two requests a second at the quiet hour, twelve at noon, bursts of a
few minutes, lengths of a chat. The busiest five minutes are planned for, at 90 % confidence;
then the same fleet is asked about the busiest five minutes of every hour, what its tokens cost
over the whole day, and what it would cost to follow the load.

    python studies/gallery/08_fleet_for_a_day.py [--write]
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.readers.request_traces import Trace
from dflash_sim.profiles.units import HOUR_S, MEGA, MS
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.plan.candidate import solve
from dflash_sim.studies.plan.demand import led_in, of_trace
from dflash_sim.studies.plan.judge import Judge, Question
from dflash_sim.studies.plan.objective import Slo
from dflash_sim.studies.plan.page import candidate_rows, sources
from dflash_sim.studies.plan.search import Plan, plan
from dflash_sim.studies.plan.verdict import roles, warnings
from dflash_sim.studies.published import exhibit as ex
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.plain_table import Table

MODEL = "qwen3.5-397b-a17b"
HOURS = range(24)
DAY_S, WINDOW_S = len(HOURS) * HOUR_S, 300.0
LEAD_S = 60.0  # before the window, which fill the fleet: an answer takes seconds
QUIET, NOON = 2.0, 12.0  # requests a second
BURST, BURST_S = 1.3, 240.0  # how much more, for how long
MEAN_IN, MEAN_OUT, LONGEST = 1200, 400, 4096  # tokens; no prompt is longer than four answers
SLO = Slo(ttft_s=2.0, tpot_s=0.02, percentile=95)
SERVERS = tuple(
    {"gpu": gpu, "tp": tp, "method": method, "block": block}
    for gpu, tp in (("b200", 8), ("h200", 8), ("b300", 8))
    for method, block in (("none", None), ("dflash", 8), ("dflash", 16))
)
HEAD = ("gpu", "tp", "method", "block", "servers", "GPUs", "USD/h", "USD/M tokens")


def rate(at_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Requests a second at a time of the day, without bursts."""
    return QUIET + (NOON - QUIET) * (1 - np.cos(2 * np.pi * at_s / DAY_S)) / 2


def day(seed: int = 0) -> Trace:
    """Arrivals by thinning a Poisson stream; log-normal lengths."""
    rng = np.random.default_rng(seed)
    top = NOON * BURST
    at = np.sort(rng.uniform(0, DAY_S, rng.poisson(top * DAY_S)))
    bursts = rng.uniform(0, DAY_S, 24)
    near = np.any([np.abs(at - burst) < BURST_S / 2 for burst in bursts], axis=0)
    at = at[rng.uniform(0, top, len(at)) < rate(at) * np.where(near, BURST, 1)]
    isl = np.ceil(rng.lognormal(np.log(MEAN_IN) - 0.5, 1.0, len(at))).astype(np.int64)
    osl = np.ceil(rng.lognormal(np.log(MEAN_OUT) - 0.32, 0.8, len(at))).astype(np.int64)
    return Trace("day", "made up", at, np.minimum(isl, 4 * LONGEST), np.minimum(osl, LONGEST))


def hour(trace: Trace, start: int) -> Trace:
    """What arrives in an hour."""
    assert trace.arrival_s is not None
    rows = slice(*np.searchsorted(trace.arrival_s, [start * HOUR_S, (start + 1) * HOUR_S]))
    at = trace.arrival_s[rows]
    return Trace(f"{start}:00", trace.form, at - at[0], trace.isl[rows], trace.osl[rows])


def question(trace: Trace, servers: Sequence[dict[str, object]] = SERVERS) -> Question:
    """The cheapest and the smallest fleets for the busiest five minutes of a part of the day."""
    trace, lead = led_in(trace, WINDOW_S, lead_s=LEAD_S)
    fields = {"model": MODEL, "isl": int(trace.isl.max()), "osl": LONGEST, "rate": 1.0, "runs": 1}
    points = tuple(Scenario.parse(**fields, **server) for server in servers)
    return Question(points, of_trace(trace, points[0], capped=False, lead=lead), SLO)


def span(usd: dict[str, float]) -> str:
    """From the lowest price to the highest."""
    ends = [number(x) for x in usd.values()]
    return " to ".join(dict.fromkeys((*ends[:1], *ends[-1:]))) or ex.NOTHING


def best(found: Plan, trace: Trace) -> Table:
    """The best fleets, what they keep, and what their tokens cost: at the peak, and all day."""
    rows, mtok = [], float(trace.osl.sum()) / MEGA
    for role, f in roles(found):
        all_day = {e: usd * len(HOURS) / mtok for e, usd in f.usd_per_hour.items()}
        usd = span(f.usd_per_mtok_out), span(all_day)
        sure = f.sure.quantile_s
        times = (number(sure["ttft"] / MS), number(sure["tpot"] / MS))
        more = f.room
        rows.append((role, f.title, str(f.gpus), *usd, *times, more, f.binds))
    usd_heads = ("USD/M at the peak", "USD/M all day")
    head = ("best at", "fleet", "GPUs", *usd_heads, "TTFT", "TPOT", "headroom", "binds")
    return Table("the busiest five minutes", head, tuple(rows))


def by_hour(trace: Trace, found: Plan) -> Iterator[ex.Part]:
    """The fewest servers of the same kind through the day."""
    fleet = found.cheapest or found.fewest
    server = SERVERS[fleet.index]
    rows, needed, peak = [], [], Judge(question(trace, [server]))
    for start in HOURS:
        judge = peak.of(question(hour(trace, start), [server]).demand)
        servers = solve(judge, 0, fleet.replicas, fleet.replicas).replicas or fleet.replicas
        now = judge.kept(judge.serve(0, fleet.replicas)).quantile_s
        times = (number(now["ttft"] / MS), number(now["tpot"] / MS))
        rows.append(
            (f"{start}:00", number(judge.question.demand.judged / WINDOW_S), str(servers), *times)
        )
        needed.append(servers)
    head = ("hour", "requests/s", "servers needed", "TTFT of all, ms", "TPOT of all, ms")
    yield Table(f"the busiest five minutes of each hour on {fleet.title}", head, tuple(rows))
    saved = 1 - float(np.mean(needed)) / fleet.replicas
    per_day = {end: usd * DAY_S / HOUR_S for end, usd in fleet.usd_per_hour.items()}
    yield (
        f"{fleet.replicas} servers through the day are "
        f"{number(per_day['low'])} to {number(per_day['high'])} USD a day. Following the load by "
        f"the hour would need {np.mean(needed):.1f} on average: {ex.share(saved)} less, if servers "
        "came and went at once."
    )


def story() -> Iterator[ex.Part]:
    trace = day()
    found = plan(question(trace))
    peak = found.question.demand
    yield (
        f"{len(trace):,} requests in the day; the busiest five minutes have {peak.judged:,}, "
        f"{number(peak.judged / WINDOW_S)} a second, with {peak.mean_isl:,.0f} tokens in and "
        f"{peak.mean_osl:,.0f} out on average. Wanted: {SLO}."
    )
    yield best(found, trace)
    rows = [(*row[:4], *row[5:8], row[9]) for row in candidate_rows(found)]
    yield Table("every server that was tried", HEAD, tuple(rows))
    yield (
        ">=: given up there, as no better than the best by GPUs or at any price. "
        "TTFT and TPOT above are those that 95 % do not exceed, at 90 % confidence, in ms. USD are "
        "per million output tokens, from the lowest to the highest price: at the peak as if it "
        "never ended, all day for the tokens of the day from the same fleet, which mostly waits. "
        "The table of servers is of the peak, at typical prices."
    )
    yield from by_hour(trace, found)
    for line in warnings(found):
        yield f"Warning: {line}."
    lengths = dict.fromkeys(f.acceptance for f in found.fleets.values() if f.acceptance)
    yield f"The fleets' {sources(found)}. Accept lengths: {ex.listed([*lengths])}."


if __name__ == "__main__":
    ex.show(__file__, __doc__, story)
