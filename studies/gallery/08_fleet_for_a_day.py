"""A fleet of 400B-class servers for a day of requests: how many GPUs, and at what price?

A day that sleeps and works: two requests a second at the quiet hour, twelve at noon, bursts of a
few minutes, lengths of a chat. The busiest five minutes are planned for, at 90 % confidence;
then the same fleet is asked about the rest of the day, and what it would cost to follow the load.

    python studies/gallery/08_fleet_for_a_day.py [--write]
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.read_traces import Trace
from dflash_sim.profiles.units import HOUR_S, MS
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies import exhibit as ex
from dflash_sim.studies.demand import busiest, of_trace
from dflash_sim.studies.judge import Judge, Question
from dflash_sim.studies.plan import Plan, plan
from dflash_sim.studies.plan_page import candidate_rows, roles, sources, warnings
from dflash_sim.studies.plan_search import solve
from dflash_sim.studies.present import number
from dflash_sim.studies.slo import Slo
from dflash_sim.studies.texttable import Table

MODEL = "qwen3.5-397b-a17b"
DAY_S, WINDOW_S = 24 * HOUR_S, 300.0
QUIET, NOON = 2.0, 12.0  # requests a second
BURST, BURST_S = 1.3, 240.0  # how much more, for how long
MEAN_IN, MEAN_OUT, LONGEST = 1200, 400, 4096  # tokens; no prompt is longer than four answers
SLO = Slo(ttft_s=2.0, tpot_s=0.02, percentile=95)
HOURS = (0, 4, 8, 12, 20)
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
    """Five minutes from a full hour on."""
    assert trace.arrival_s is not None
    rows = slice(*np.searchsorted(trace.arrival_s, [start * HOUR_S, start * HOUR_S + WINDOW_S]))
    at = trace.arrival_s[rows]
    return Trace(f"{start}:00", trace.form, at - at[0], trace.isl[rows], trace.osl[rows])


def question(trace: Trace, servers: Sequence[dict[str, object]] = SERVERS) -> Question:
    """The cheapest and the smallest fleets for a stretch of the day."""
    fields = {"model": MODEL, "isl": int(trace.isl.max()), "osl": LONGEST, "rate": 1.0, "runs": 1}
    points = tuple(Scenario.parse(**fields, **server) for server in servers)
    return Question(points, of_trace(trace, points[0], capped=False), SLO)


def best(found: Plan) -> Table:
    """The best fleets and what they keep."""
    rows = []
    for role, f in roles(found):
        ends = [number(usd) for usd in f.usd_per_mtok_out.values()]
        usd = " to ".join(dict.fromkeys((*ends[:1], *ends[-1:]))) or ex.NOTHING
        sure = f.sure.quantile_s
        times = (number(sure["ttft"] / MS), number(sure["tpot"] / MS))
        more = f.room
        rows.append((role, f.title, str(f.gpus), usd, *times, more, f.binds))
    head = ("best at", "fleet", "GPUs", "USD/M tokens", "TTFT", "TPOT", "headroom", "binds")
    return Table("the busiest five minutes", head, tuple(rows))


def by_hour(trace: Trace, found: Plan) -> Iterator[ex.Part]:
    """The fewest servers of the same kind through the day."""
    fleet = found.cheapest or found.fewest
    server = SERVERS[fleet.index]
    rows, needed = [], []
    for start in HOURS:
        part = hour(trace, start)
        judge = Judge(question(part, [server]))
        servers = solve(judge, 0, fleet.replicas, fleet.replicas).replicas or fleet.replicas
        now = judge.kept(judge.serve(0, fleet.replicas)).quantile_s
        times = (number(now["ttft"] / MS), number(now["tpot"] / MS))
        rows.append((part.name, number(len(part) / WINDOW_S), str(servers), *times))
        needed.append(servers)
    head = ("hour", "requests/s", "servers needed", "TTFT of all, ms", "TPOT of all, ms")
    yield Table(f"the day on {fleet.title}", head, tuple(rows))
    saved = 1 - float(np.mean(needed)) / fleet.replicas
    per_day = {end: usd * DAY_S / HOUR_S for end, usd in fleet.usd_per_hour.items()}
    yield (
        f"{fleet.replicas} servers through the day are "
        f"{number(per_day['low'])} to {number(per_day['high'])} USD a day. Following the load by "
        f"the hour would need {np.mean(needed):.1f} on average of these hours: {ex.share(saved)} "
        "less, if servers came and went at once."
    )


def story() -> Iterator[ex.Part]:
    trace = day()
    peak = busiest(trace, WINDOW_S)
    found = plan(question(peak))
    yield (
        f"{len(trace):,} requests in the day; the busiest five minutes have {len(peak):,}, "
        f"{number(len(peak) / WINDOW_S)} a second, with {peak.isl.mean():,.0f} tokens in and "
        f"{peak.osl.mean():,.0f} out on average. Wanted: {SLO}."
    )
    yield best(found)
    rows = [(*row[:4], *row[5:]) for row in candidate_rows(found)]
    yield Table("every server that was tried", HEAD, tuple(rows))
    yield (
        ">=: given up there, as no better than the best by GPUs or at any price. "
        "TTFT and TPOT above are those that 95 % do not exceed, at 90 % confidence, in ms."
    )
    yield from by_hour(trace, found)
    for line in warnings(found):
        yield f"Warning: {line}."
    lengths = dict.fromkeys(f.acceptance for f in found.fleets.values() if f.acceptance)
    yield f"The fleets' {sources(found)}. Accept lengths: {ex.listed([*lengths])}."


if __name__ == "__main__":
    ex.show(__file__, __doc__, story)
