"""A plan as a page of terminal text, and as data."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from dflash_sim.profiles.units import HOUR_S, MEGA, MS
from dflash_sim.studies.ask.prices import HOURS_A_MONTH, paid
from dflash_sim.studies.plan.candidate import Solved, Survey
from dflash_sim.studies.plan.close_look import Fleet
from dflash_sim.studies.plan.objective import WORDS
from dflash_sim.studies.plan.search import Plan
from dflash_sim.studies.plan.verdict import percent_of, remarks, roles, verdict
from dflash_sim.studies.show.figures import number, percent, shares
from dflash_sim.studies.show.launch import launch_command
from dflash_sim.studies.show.narrow_table import FittedTable
from dflash_sim.studies.show.styles import LABEL, STRONG

_SHOWN = 12  # candidates in the table; the others are counted
_INDENT = 13


class PlanPage:
    """The answer first, then what it rests on, then the candidates."""

    def __init__(self, found: Plan) -> None:
        self.found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        q = self.found.question
        model = self.found.fewest.setup.model.name
        count = f", {q.demand.judged:,} requests" if q.demand.as_given else ""
        yield Text(f"{model} · {q.demand.name}{count}", style=STRONG)
        yield Text(f"{q.slo}; {q.router} router", style=STRONG)
        yield Text()
        for line in verdict(self.found):
            yield Text(line, style="bold green")
        yield Text()
        for role, fleet in roles(self.found):
            yield from _fleet(role, fleet, self.found)
            yield Text()
        if self.found.hours:
            yield _day(self.found)
            yield Text()
        yield _candidates(self.found)
        for line in footnotes(self.found):
            yield Text(line, style="dim")
        for line in remarks(self.found):
            yield Text(f"note: {line}", style="yellow")
        yield Text(sources(self.found))
        yield Text()
        yield Text("Each server is launched by", style=LABEL)
        yield Text(launch_command(self.found.fewest.setup))


def _fleet(role: str, fleet: Fleet, found: Plan) -> Iterator[RenderableType]:
    q = found.question
    yield Text.assemble((f"{role}: ", STRONG), (fleet.title, "bold green"))
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(style=LABEL, min_width=_INDENT, no_wrap=True)
    grid.add_column(overflow="fold")
    for label, content in facts(fleet, found):
        grid.add_row(Text(f" {label}"), content)
    yield grid
    table = FittedTable(heads=(" Latency [ms]", *_latency_heads(q)), words=frozenset())
    for row in latency_rows(fleet, found):
        table.add(f"  {row[0]}", *row[1:])
    yield table


def facts(fleet: Fleet, found: Plan) -> list[tuple[str, str]]:
    """Return what is said about a fleet, label by label."""
    q = found.question
    runs = len(q.demand.runs)
    sure = percent_of(q.confidence)
    each = "the run" if runs == 1 else f"each of {runs} runs"
    rows = [("GPUs", f"{fleet.gpus:,}")]
    for label, prices in (("USD/h", fleet.usd_per_hour), ("USD/M tokens", fleet.usd_per_mtok_out)):
        told = ", ".join(f"{number(p)} ({e})" for e, p in prices.items()) or "-"
        if fleet.setup.device.name in q.prices:
            told = f"{number(prices['typical'])}, at the price that is given"
        rows.append((label, told))
    rows += [
        (
            "Confidence",
            f"met at {sure} in {each}, with all times {fleet.slow:.3f} x the predicted "
            f"(one sd of their log is {fleet.spread:.3f}), first tokens "
            f"{fleet.first_factor:.2f} x later still; "
            f"up to {fleet.patience:.2f} x it still is ({percent_of(min(fleet.confidence, 0.999))}"
            f"{' or more' if fleet.confidence > 0.999 else ''})",
        ),
        (
            "Goodput",
            f"{number(fleet.expected.goodput)} of {_came(fleet, found)} keep every limit "
            f"({percent(fleet.expected.all_limits)}); {number(fleet.sure.goodput)} at {sure}",
        ),
        ("Headroom", f"{fleet.room} more requests at {sure}".replace("more more", "more")),
        (
            "Utilisation",
            f"{'at most ' if fleet.unbroken else ''}{percent(1 / fleet.headroom)} of the requests "
            f"that it takes at {sure}; GPUs at work {percent(fleet.load.busy)} of the time",
        ),
        ("Binds", fleet.binds),
    ]
    m = fleet.setup.memory
    if fleet.cache_hit_rate or q.demand.finds:
        isl, share = q.demand.mean_isl, fleet.cache_hit_rate
        rows.append(("Prompts", f"{number(isl)} tokens on average, {percent(share)} of them found "
            f"in the prefix cache and {number(isl * (1 - share))} computed"))  # fmt: skip
    if fleet.acceptance:
        rows.append(("Acceptance", fleet.acceptance))
    rows.append(("Server", f"{m.max_running_requests:,} requests ({m.cap_cause}), "
        f"{m.kv_tokens:,} tokens; {fleet.load.mean_batch:.1f} at once on average"))  # fmt: skip
    return rows


def _came(fleet: Fleet, found: Plan) -> str:
    """The requests that are judged, which at a rate are drawn, and not just as many as asked."""
    drawn = ""
    if found.question.demand.steady:
        drawn = f" (drawn by chance at {number(found.question.demand.asked_rate)} on average)"
    return f"the {number(fleet.expected.came)} requests/s that came{drawn}"


def _latency_heads(q: Any) -> tuple[str, ...]:
    p = f"p{q.slo.percentile:g}"
    return ("limit", f"{p} predicted", f"{p} at {percent_of(q.confidence)}", "within")


def latency_rows(fleet: Fleet, found: Plan) -> list[tuple[str, ...]]:
    """Each latency: its limit, its percentile as predicted and slowed, and who keeps it."""
    slo = found.question.slo
    rows = []
    for name, word in WORDS.items():
        limit = slo.limits_s.get(name)
        rows.append(
            (
                word,
                "-" if limit is None else f"{limit / MS:,.6g}",
                *(number(k.quantile_s[name] / MS) for k in (fleet.expected, fleet.sure)),
                "-" if limit is None else percent(fleet.sure.share[name]),
            )
        )
    return rows


def _day(found: Plan) -> RenderableType:
    table = FittedTable(heads=HOUR_HEADS, words=frozenset({HOUR_HEADS[0]}))
    for row in hour_rows(found):
        table.add(*row)
    return table


HOUR_HEADS = ("hours", "requests/s", "servers needed", "GPUs needed", "GPUs at work")


def hour_rows(found: Plan) -> list[tuple[str, ...]]:
    """Cells of each stretch of the day: what it needs, and how busy the whole fleet is."""
    peak, tp = found.question.demand.asked_rate, found.fewest.setup.tp
    return [
        (
            hour.said,
            f"{peak * hour.share:.4g}",
            f"{hour.replicas:,}",
            f"{hour.replicas * tp:,}",
            percent(hour.busy),
        )
        for hour in found.hours
    ]


HEADS = ("gpu", "tp", "method", "block", "cap", "servers", "GPUs", "USD/h", "USD/month",
    "USD/M tokens")  # fmt: skip


def _candidates(found: Plan) -> RenderableType:
    table = FittedTable(
        heads=HEADS, words=frozenset({"gpu", "method"}), spare=("cap", "USD/h", "block")
    )
    shown = candidate_rows(found)
    for row in shown[:_SHOWN]:
        table.add(*row)
    parts: list[RenderableType] = [table]
    if len(shown) > _SHOWN:
        parts.append(Text(f"and {len(shown) - _SHOWN} more", style="dim"))
    return Group(*parts)


def ordered(found: Plan) -> list[tuple[Survey, Solved]]:
    """Candidates that were searched: found ones by GPUs, then those that are larger."""
    surveys = {s.index: s for s in found.surveys}
    pairs = [(surveys[s.index], s) for s in found.solved]

    def place(pair: tuple[Survey, Solved]) -> tuple[Any, ...]:
        s, r = pair
        if s.index in found.alone:
            return True, float("inf"), found.alone[s.index].excess, s.index
        size = (r.replicas if r.replicas is not None else r.failed + 1) * s.tp
        room = found.headroom[s.index].good if s.index in found.headroom else 0.0
        return r.replicas is None, size, s.usd("typical", size) or 0.0, -room, s.index

    return sorted(pairs, key=place)


def candidate_rows(found: Plan) -> list[tuple[str, ...]]:
    """Cells of each candidate; what was given up says how large it would be at least."""
    rate = found.fewest.output_tok_s * HOUR_S / MEGA
    rows: list[tuple[str, ...]] = []
    for s, r in ordered(found):
        c = found.question.candidates[s.index]
        setup = (
            c.gpu,
            str(s.tp),
            c.method,
            str(c.block or "-"),
            str(c.max_running_requests or "-"),
        )
        if s.index in found.alone:
            rows.append((*setup, "none do", "-", "-", "-", "-"))
            continue
        if r.replicas is None:
            least = r.failed + 1
            rows.append((*setup, f">= {least:,}", f">= {least * s.tp:,}", "-", "-", "-"))
            continue
        usd = s.usd("typical", r.replicas)
        money = ("-", "-", "-")
        if usd is not None:
            money = number(usd), number(usd * HOURS_A_MONTH), number(usd / rate)
        rows.append((*setup, f"{r.replicas:,}", f"{r.replicas * s.tp:,}", *money))
    return rows


def footnotes(found: Plan) -> list[str]:
    """Say how to read the table, and what is not in it."""
    given = paid(found.question.prices)
    sure = percent_of(found.question.confidence)
    out = [f"USD at typical prices{given and f', {given}'}; every fleet at {sure}"]
    if found.question.by_hour:
        out[0] += "; a million tokens at the day's mean rate"
    rows = candidate_rows(found)
    if any(row[5].startswith(">=") for row in rows):
        out[0] += f"; >=: more than {found.question.max_gpus:,} GPUs, or not among the first"
    if found.alone:
        near = min(found.alone.values(), key=lambda n: n.excess)
        out.append(
            f"none do: too slow for the limits with one request at a time, such as {near.title}, "
            f"{near.latency} {number(near.quantile_s / MS)} ms"
        )
    reasons = list(dict.fromkeys(str(s.error) for s in found.surveys if s.error is not None))
    count = sum(s.error is not None for s in found.surveys)
    if reasons:
        out.append(f"{count} left out, such as: {reasons[0]}")
    out += [f"assumed: {note}" for note in found.question.demand.notes]
    return out


def sources(found: Plan) -> str:
    """Say what the best fleets rest on, on average."""
    each = [fleet.evidence for fleet in found.fleets.values()]
    return f"sources: {shares({k: sum(e[k] for e in each) / len(each) for k in each[0]})}"
