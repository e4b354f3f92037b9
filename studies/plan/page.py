"""A plan as a page of terminal text, and as data."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from dflash_sim.profiles.units import HOUR_S, MEGA, MS
from dflash_sim.simulator.caveats import unconfirmed
from dflash_sim.simulator.defaults import CONTEXT
from dflash_sim.studies.plan.candidate import Solved, Survey
from dflash_sim.studies.plan.close_look import Fleet
from dflash_sim.studies.plan.objective import WORDS
from dflash_sim.studies.plan.search import ENDS, Plan
from dflash_sim.studies.show.figures import number, percent, shares
from dflash_sim.studies.show.narrow_table import FittedTable
from dflash_sim.studies.show.styles import LABEL, STRONG

_SETTLED = 10  # mean answers that a rate should last
_SHOWN = 12  # candidates in the table; the others are counted
_INDENT = 13


class PlanPage:
    """The answer first, then what it rests on, then the candidates."""

    def __init__(self, found: Plan) -> None:
        self.found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        q = self.found.question
        model = self.found.fewest.setup.model.name
        yield Text(f"{model} · {q.demand.name}", style=STRONG)
        yield Text(f"{q.slo}; {q.router} router", style=STRONG)
        yield Text()
        for role, fleet in roles(self.found):
            yield from _fleet(role, fleet, self.found)
            yield Text()
        yield _candidates(self.found)
        for line in footnotes(self.found):
            yield Text(line, style="dim")
        for line in warnings(self.found):
            yield Text(f"warning: {line}", style="yellow")
        yield Text(sources(self.found))


def roles(found: Plan) -> list[tuple[str, Fleet]]:
    """The best fleets, each once, with what they are best at."""
    words = {"gpus": "Fewest GPUs"} | {end: f"Cheapest at {end} prices" for end in ENDS}
    by_fleet: dict[int, list[str]] = {}
    for objective, index in found.best.items():
        by_fleet.setdefault(index, []).append(objective)
    out = []
    for index, objectives in by_fleet.items():
        ends = [o for o in objectives if o in ENDS]
        role = words["gpus"] if "gpus" in objectives else ""
        if len(ends) == len([e for e in ENDS if e in found.best]) and ends:
            role = f"{role} and cheapest" if role else "Cheapest"
        elif ends:
            at = f"cheapest at {' and '.join(ends)} prices"
            role = f"{role}, {at}" if role else at.capitalize()
        out.append((role, found.fleets[index]))
    return out


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
        rows.append((label, ", ".join(f"{number(p)} ({e})" for e, p in prices.items()) or "-"))
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
            f"{number(fleet.expected.goodput)} requests/s keep every limit "
            f"({percent(fleet.expected.all_limits)}); {number(fleet.sure.goodput)} at {sure}",
        ),
        ("Headroom", f"{fleet.room} more requests at {sure}".replace("more more", "more")),
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


def percent_of(share: float) -> str:
    """A probability in percent, without decimals that say nothing."""
    return f"{100 * share:.4g} %"


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


def _candidates(found: Plan) -> RenderableType:
    table = FittedTable(
        heads=("gpu", "tp", "method", "block", "cap", "servers", "GPUs", "USD/h", "USD/M tokens"),
        words=frozenset({"gpu", "method"}),
        spare=("cap",),
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
        size = (r.replicas if r.replicas is not None else r.failed + 1) * s.tp
        return r.replicas is None, size, s.usd("typical", size) or 0.0, s.index

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
        if r.replicas is None:
            least = r.failed + 1
            rows.append((*setup, f">= {least:,}", f">= {least * s.tp:,}", "-", "-"))
            continue
        usd = s.usd("typical", r.replicas)
        money = ("-", "-") if usd is None else (number(usd), number(usd / rate))
        rows.append((*setup, f"{r.replicas:,}", f"{r.replicas * s.tp:,}", *money))
    return rows


def footnotes(found: Plan) -> list[str]:
    """Say how to read the table, and what is not in it."""
    out = [
        "USD at typical prices; >=: given up there, no better than the best by GPUs or any price"
    ]
    reasons = list(dict.fromkeys(str(s.error) for s in found.surveys if s.error is not None))
    count = sum(s.error is not None for s in found.surveys)
    if reasons:
        out.append(f"{count} left out, such as: {reasons[0]}")
    out += [f"assumed: {note}" for note in found.question.demand.notes]
    return out


def warnings(found: Plan) -> list[str]:
    """Say what to distrust, each once."""
    out = list(found.question.notes)
    for _, fleet in roles(found):
        setup = fleet.setup
        new = unconfirmed(setup.server, setup.calibration)
        elsewhere = ("unconfirmed", CONTEXT)  # of a trace, each request has its own lengths
        out += [w for w in setup.warnings if not w.startswith(elsewhere)]
        if new:
            named = ", ".join(name for _, name in new)
            out.append(f"no measurement on {named} has confirmed: {fleet.title}")
        if fleet.setup.tables is None:
            out.append(f"no operator times for {fleet.setup.device.name}: a roofline estimate")
        span_s, answer_s = found.question.demand.span_s, fleet.sure.mean_e2e_s
        if found.question.demand.steady and span_s < _SETTLED * answer_s:
            out.append(
                f"{number(span_s)} s are judged and an answer takes {number(answer_s)} s on "
                "average: too short to see a queue grow; give a longer --duration"
            )
    priced = {s.index for s in found.surveys if s.price and s.price.typical is not None}
    unpriced = [s.index for s in found.surveys if s.error is None and s.index not in priced]
    gpus = dict.fromkeys(found.question.candidates[i].gpu for i in unpriced)
    if gpus:
        out.append(f"no typical price is known of {', '.join(gpus)}: not among the cheapest")
    return list(dict.fromkeys(out))


def sources(found: Plan) -> str:
    """Say what the best fleets rest on, on average."""
    each = [fleet.evidence for fleet in found.fleets.values()]
    return f"sources: {shares({k: sum(e[k] for e in each) / len(each) for k in each[0]})}"
