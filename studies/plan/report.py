"""A plan as one HTML page: the fleets, how a server behaves, what it costs, what it rests on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_sim.profiles.units import HOUR_S, MEGA
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.ask.prices import paid, priced
from dflash_sim.studies.plan.choice import server_title
from dflash_sim.studies.plan.close_look import Fleet
from dflash_sim.studies.plan.judge import held
from dflash_sim.studies.plan.page import (
    HEADS,
    HOUR_HEADS,
    candidate_rows,
    facts,
    footnotes,
    hour_rows,
    latency_rows,
    ordered,
)
from dflash_sim.studies.plan.search import ENDS, Plan
from dflash_sim.studies.plan.verdict import percent_of, remarks, roles, savings, verdict
from dflash_sim.studies.show.chart_style import Axis, go
from dflash_sim.studies.show.chart_style import plain as plain_text
from dflash_sim.studies.show.charts import Bar, Curve, bars, lines, not_drawn
from dflash_sim.studies.show.figures import number, shares
from dflash_sim.studies.show.html_report import Report
from dflash_sim.studies.show.launch import launch_command
from dflash_sim.studies.show.palette import SERIES, Palette
from dflash_sim.studies.show.titles import effective

_STEPS_OF_RATE = 12
_MTOK = "USD per million output tokens"


@dataclass(frozen=True)
class Behaviour:
    """One kind of server in closed loops of more and more requests.

    Parameters
    ----------
    index
        Of the candidate; None where it is none.
    """

    index: int | None
    title: str
    scenario: Scenario
    results: tuple[Result, ...]

    @property
    def conc(self) -> list[int]:
        return [r.scenario.conc or 1 for r in self.results]

    @property
    def tok_s(self) -> list[float]:
        return [r.values["output_throughput"] for r in self.results]

    @property
    def per_gpu(self) -> list[float]:
        return [r.values["output_throughput"] / r.setup.num_gpus for r in self.results]

    @property
    def per_user(self) -> list[float]:
        return [1e3 / r.values["mean_tpot_ms"] for r in self.results]


def write_report(path: Path, found: Plan) -> None:
    """Write the page."""
    q = found.question
    model = found.fewest.setup.model.name
    plain, others = _behaviours(found)
    drawn = others[:SERIES]
    grey = [*(b.title for b in plain), *_plain_compared(found)]
    palette = Palette((b.title for b in drawn), plain=grey)
    report = Report(f"A fleet for {model}", "\n\n".join(verdict(found)), palette)
    report.facts(
        {
            "Demand": f"{q.demand.name}: {q.demand.judged:,} requests, "
            f"{number(q.demand.rate)} a second, {q.demand.mean_isl:,.0f} tokens in and "
            f"{q.demand.mean_osl:,.0f} out on average",
            "Objective": str(q.slo),
            "Confidence": percent_of(q.confidence),
            "Router": q.router,
        }
    )
    _fleets(report, found)
    _saves(report, found)
    _day(report, found)
    more = not_drawn(len(others) - len(drawn))
    _pareto(report, [*plain, *drawn], found, more)
    _speedups(report, plain, drawn, more)
    _accepted(report, drawn)
    _costs(report, found, drawn)
    _candidates(report, found, [*plain, *drawn])
    _evidence(report, found, others or plain)
    report.write(path)


def _fleets(report: Report, found: Plan) -> None:
    sure = percent_of(found.question.confidence)
    report.section(
        "The best fleets",
        "Every request of the demand is simulated on every server behind the router. The objective "
        f"is judged with all times as long as they are at the {sure} quantile of what is "
        "uncertain of the prediction, and first tokens as late as at that quantile of theirs.",
    )
    p = f"p{found.question.slo.percentile:g}"
    for role, fleet in roles(found):
        report.text(f"{role}: {fleet.title}.")
        report.facts(dict(facts(fleet, found)))
        head = ("latency", "limit, ms", f"{p} predicted, ms", f"{p} at {sure}, ms", "keep it")
        rows = [_filled(row) for row in latency_rows(fleet, found)]
        report.table(head, rows, f"{role}: latencies.")


def _saves(report: Report, found: Plan) -> None:
    """Monthly rent of the two fleets that are set side by side, each pair a pair of bars."""
    shown = [d for d in found.differences if d.saved_usd_month is not None]
    if not shown:
        return
    report.section("What it saves", "\n\n".join(savings(found)))
    rows = []
    for d in shown:
        for i, usd, size in zip((d.one, d.other), d.usd_month, d.gpus, strict=True):
            name = server_title(resolve(found.question.candidates[i]))
            least = "at least " if d.at_least and i == d.other else ""
            rows.append(Bar(name=name, value=usd or 0.0, group=name, note=f"{least}{size:,} GPUs"))
    own = paid(found.question.prices)
    axis = Axis(f"rent at typical prices{own and f', {own}'}", "USD/month")
    sure = percent_of(found.question.confidence)
    report.figure(
        bars(rows, axis=axis, palette=report.palette),
        f"Monthly rent, each fleet sized for {sure} confidence of its own.",
    )


def _plain_compared(found: Plan) -> Iterator[str]:
    """Plain decoding that is set beside another fleet, also on a GPU of which nothing is drawn."""
    for i in {place: None for d in found.differences for place in (d.one, d.other)}:
        candidate = found.question.candidates[i]
        if not candidate.speculation.speculative:
            yield server_title(resolve(candidate))


def _day(report: Report, found: Plan) -> None:
    if not found.hours:
        return
    report.section("Through the day", "The fleet is sized for the busiest hour.")
    rows = [_filled(row) for row in hour_rows(found)]
    report.table(HOUR_HEADS, rows, "Hours of the day with one load, the busiest first.")


def _behaviours(found: Plan) -> tuple[list[Behaviour], list[Behaviour]]:
    """Plain decoding and speculation on the server of the fewest GPUs, and the other winners."""
    q = found.question
    first = q.candidates[found.best["gpus"]]
    fleet = found.fewest
    kinds = {i: q.candidates[i] for i in found.fleets}
    for s in found.surveys:
        c = q.candidates[s.index]
        alike = (c.gpu, s.tp, c.max_running_requests)
        if s.error is None and alike == (first.gpu, fleet.setup.tp, first.max_running_requests):
            kinds.setdefault(s.index, c)
    same = [_behaviour(i, c, found) for i, c in kinds.items()]
    if all(c.speculation.speculative for c in kinds.values()):
        same.append(_behaviour(None, first.without_speculation(), found))
    same.sort(key=lambda b: (b.results[0].setup.tp, b.scenario.method, b.results[0].setup.block))
    plain = [b for b in same if not b.scenario.speculation.speculative]
    return plain, [b for b in same if b.scenario.speculation.speculative]


def _behaviour(index: int | None, scenario: Scenario, found: Plan) -> Behaviour:
    setup = resolve(scenario)
    cap, conc, sizes = setup.limits.max_running_requests, 1, []
    while conc <= min(cap, 2**7):
        sizes.append(conc)
        conc *= 2
    results = []
    for size in sizes:
        one = held(setup.scenario, found.question.demand, size)
        results.append(predict(one, with_baseline=False, with_interval=False))
    return Behaviour(index, server_title(setup), scenario, tuple(results))


def _pareto(report: Report, shown: Sequence[Behaviour], found: Plan, more: str) -> None:
    report.section(
        "Throughput against interactivity",
        "One server in a closed loop of 1, 2, 4 and more requests, as predicted; the numbers say "
        "how many. Up is more tokens for a GPU, to the right is faster for each user.",
    )
    curves = [
        Curve(
            name=b.title,
            x=b.per_user,
            y=b.per_gpu,
            notes=[f"{c} in flight" for c in b.conc],
            labels=[f"{c:,}" for c in b.conc],
        )
        for b in shown
    ]
    limit = found.question.slo.tpot_s
    x = Axis("interactivity", "tok/s/user")
    figure = lines(curves, x=x, y=Axis("output throughput", "tok/s/GPU"), palette=report.palette)
    if limit is not None:
        figure.add_vline(x=1 / limit, line={"color": "var(--axis)", "dash": "dot", "width": 1})
    told = "" if limit is None else " The dotted line is the limit on TPOT."
    report.figure(figure, f"Throughput per GPU against tokens per second of a user.{told}{more}")


def _speedups(
    report: Report, plain: Sequence[Behaviour], others: Sequence[Behaviour], more: str
) -> None:
    curves = []
    for b in others:
        base = next((p for p in plain if _same_server(p, b)), None)
        if base is None:
            continue
        at = dict(zip(base.conc, base.tok_s, strict=True))
        both = [(c, t / at[c]) for c, t in zip(b.conc, b.tok_s, strict=True) if c in at]
        curves.append(
            Curve(name=b.title, x=[float(c) for c, _ in both], y=[gain for _, gain in both])
        )
    if curves:
        report.section("Speed-up", "Over plain decoding on the same server.")
        x, y = Axis("requests in flight", log=True), Axis("speed-up", "x")
        figure = lines(curves, x=x, y=y, palette=report.palette)
        report.figure(figure, f"Speed-up against concurrency.{more}")


def _same_server(a: Behaviour, b: Behaviour) -> bool:
    one, two = a.results[0].setup, b.results[0].setup
    return (one.device.name, one.tp) == (two.device.name, two.tp)


def _accepted(report: Report, others: Sequence[Behaviour]) -> None:
    by_method: dict[tuple[str, int], Behaviour] = {}
    for b in others:
        by_method.setdefault((b.scenario.method, b.results[-1].setup.block), b)
    if not by_method:
        return
    figure, said = go.Figure(), []
    for b in by_method.values():
        r, name = b.results[-1], b.title
        total = sum(r.accept_histogram) or 1
        figure.add_bar(
            x=list(range(len(r.accept_histogram))),
            y=[100 * n / total for n in r.accept_histogram],
            name=plain_text(name),
            meta=name,
            marker={"color": report.palette[name].colour, "line": {"width": 0}},
            hovertemplate=f"{plain_text(name)}: %{{y:.1f}} % accept %{{x}}<extra></extra>",
        )
        if r.expectation is not None:
            length = r.values["accept_length"]
            said.append(f"{name}: {length:.2f} tokens a step, {r.expectation.source}.")
    x, y = Axis("drafts accepted in a step"), Axis("verify steps", "%")
    figure.update_layout(xaxis=x.layout(dtick=1), yaxis=y.layout(), barmode="group")
    report.section("Accepted drafts", "\n\n".join(dict.fromkeys(said)))
    report.figure(figure, "How many drafts a step accepts.")


def _costs(report: Report, found: Plan, others: Sequence[Behaviour]) -> None:
    priced = [f for _, f in roles(found) if f.usd_per_hour]
    if not priced:
        return
    report.section(
        "Cost",
        "Bands run from the lowest to the highest price that was found, lines are typical prices "
        "(the lowest where no typical one is known).",
    )
    curves = [_cost_by_rate(f, found) for f in priced]
    x, y = Axis("arrivals", "requests/s"), Axis(_MTOK, "USD")
    ends = "price range"
    report.figure(
        lines(curves, x=x, y=y, palette=report.palette, interval=ends),
        "Cost of output tokens as the same fleets take more requests, up to their headroom at the "
        "stated confidence.",
    )
    winners = {f.setup.scenario.hash: f for f in priced}
    closed = [
        _cost_by_user(b, found) for b in others if resolve(b.scenario).scenario.hash in winners
    ]
    if closed:
        x = Axis("interactivity", "tok/s/user")
        figure = lines(closed, x=x, y=y, palette=report.palette, interval=ends)
        report.figure(figure, "Cost of output tokens of a full server against speed for each user.")


def _cost_by_rate(f: Fleet, found: Plan) -> Curve:
    now, tokens = found.question.demand.rate, found.question.demand.mean_osl
    top = now * f.headroom
    rates = [top * (k + 1) / _STEPS_OF_RATE for k in range(1, _STEPS_OF_RATE)]
    usd = f.usd_per_hour
    each = {e: [p / (r * tokens * HOUR_S / MEGA) for r in rates] for e, p in usd.items()}
    return _banded(f.title, rates, each, usd, group=server_title(f.setup))


def _cost_by_user(b: Behaviour, found: Plan) -> Curve:
    setup = b.results[0].setup
    price = priced(setup.device, found.question.prices).price
    ends = {e: getattr(price, e) for e in ENDS}
    usd = {e: p * setup.num_gpus for e, p in ends.items() if p is not None}
    each = {e: [p / (t * HOUR_S / MEGA) for t in b.tok_s] for e, p in usd.items()}
    notes = [f"{c} in flight" for c in b.conc]
    return _banded(b.title, b.per_user, each, usd, notes)


def _banded(
    name: str,
    x: Sequence[float],
    each: dict[str, list[float]],
    usd: dict[str, float],
    notes: Sequence[str] = (),
    group: str = "",
) -> Curve:
    middle = "typical" if "typical" in usd else next(iter(usd))
    band: dict[str, Any] = {}
    if "low" in each and "high" in each:
        band = {"low": each["low"], "high": each["high"]}
    return Curve(name=name, x=x, y=each[middle], notes=notes, group=group, **band)


def _candidates(report: Report, found: Plan, drawn: Sequence[Behaviour]) -> None:
    report.section("Every candidate", "\n\n".join(footnotes(found)))
    rows = [_filled(row) for row in candidate_rows(found)]
    titles = {b.index: b.title for b in drawn}
    things = [titles.get(s.index) for s, _ in ordered(found)]
    report.table(HEADS, rows, "Fewest servers that meet the objective.", things=things)


def _filled(row: Sequence[str]) -> list[str | None]:
    """Empty cells as a report has them."""
    return [None if cell == "-" else cell for cell in row]


def _evidence(report: Report, found: Plan, shown: Sequence[Behaviour]) -> None:
    report.section("Scenario and evidence", "\n\n".join(f"Note: {w}." for w in remarks(found)))
    index = found.best["gpus"]
    scenario = found.question.candidates[index]
    mine = next((b for b in shown if b.scenario == scenario), shown[0])
    result = mine.results[-1]
    report.facts(dict(_scenario(result, found)))


def _scenario(result: Result, found: Plan) -> Iterator[tuple[str, str]]:
    """Describe the server of the fewest GPUs, and what its times rest on."""
    skipped = {"conc", "rate", "runs", "num_prompts", "isl", "osl", "dataset", "burstiness"}
    for name, value in effective(result).items():
        if value is not None and name not in skipped:
            yield name, f"{value:.4g}" if isinstance(value, float) else str(value)
    yield "launch", f"`{launch_command(found.fewest.setup)}`"
    yield "sources", shares(result.evidence)
    prices = dict.fromkeys(f.setup.device.name for f in found.fleets.values())
    for fleet in found.fleets.values():
        name = fleet.setup.device.name
        if prices.pop(name, 0) is None:
            yield f"prices of {name}", fleet.setup.device.price.source
