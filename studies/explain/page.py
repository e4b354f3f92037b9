"""An explanation as a page of terminal text."""

from collections.abc import Iterator, Sequence
from math import log
from typing import TypeAlias

from rich.console import Group, RenderableType
from rich.text import Text

from dflash_sim.profiles.units import GIGA, MS, TERA
from dflash_sim.simulator.cost.parts import EVIDENCE
from dflash_sim.studies.explain.break_even import BreakEven, jumps
from dflash_sim.studies.explain.burden import Burden, growth
from dflash_sim.studies.explain.explain import Explanation
from dflash_sim.studies.explain.phase import stage_table
from dflash_sim.studies.explain.step_anatomy import OpTime
from dflash_sim.studies.show.figures import number, percent, shares
from dflash_sim.studies.show.narrow_table import FittedTable
from dflash_sim.studies.show.styles import STRONG
from dflash_sim.studies.show.titles import phase_title, title

_BAR_CELLS = 20
_LEAST_SHARE = 0.01  # of the step: smaller ops are summed up
_MOST_ELASTICITIES = 12
_MOST_PARTS = 4


def explanation_page(e: Explanation) -> RenderableType:
    """The page: why this speed-up, the step, its ops, what it hangs on, where it breaks even."""
    parts: list[RenderableType] = [Text(title(e.result), style=STRONG), Text(), _headline(e)]
    if e.rungs:
        parts += [Text(), _heading(_why(e)), _waterfall(e)]
    parts += [Text(), _heading(_step_title(e)), _phases(e)]
    parts += [Text(), _heading("Its ops, and how near they come to the ceilings"), _ops(e)]
    if any(max(op.memory_share, op.compute_share) > 1 for op in _large(e)):
        parts.append(Text("over 100 %: caches hold part of the bytes counted", style="dim"))
    parts += [Text(), _heading(_host_title(e)), stage_table(e.stages, e.step.requests)]
    parts += [Text(), _heading("What the answer hangs on"), _elasticities(e)]
    if e.break_even is not None:
        parts += [Text(), _heading("Where it breaks even"), *_break_even(e, e.break_even)]
    parts += [Text(), _heading("What it rests on"), _grounds(e)]
    parts += [Text(f"warning: {w}", style="yellow") for w in e.result.warnings]
    parts.append(Text(f"sources: {shares(e.result.evidence)}"))
    return Group(*parts)


Cells: TypeAlias = tuple[tuple[str, ...], list[list[str]]]  # heads, and rows of text


def tables(e: Explanation) -> dict[str, Cells]:
    """The tables of the page as text, by name, without their bars."""
    made = {"ops": _ops(e), "elasticities": _elasticities(e), "grounds": _grounds(e)}
    if e.rungs:
        made["waterfall"] = _waterfall(e)
    out = {}
    for name, table in made.items():
        kept = [i for i, head in enumerate(table.heads) if head]
        heads = tuple(table.heads[i] for i in kept)
        out[name] = heads, [[str(row[i]) for i in kept] for row in table.rows]
    return out


def verdict_words(e: Explanation) -> list[str]:
    """Say in sentences what the cycle costs, which blocks pay, and what to distrust of that."""
    out = [f"That is {e.speedup:.2f} times plain decoding."] if e.speedup else []
    if e.break_even is not None:
        out += [_range_words(e.break_even), *jumps(e.break_even)]
    return out


def _heading(text: str) -> Text:
    return Text(text, style=STRONG)


def _headline(e: Explanation) -> Text:
    r = e.result
    line = Text(f"{number(r.values['output_throughput'])} tok/s", style="bold green")
    if "output_throughput" in r.intervals:
        low, high = map(number, r.intervals["output_throughput"])
        line.append(f"   90 % interval {low} to {high}", style="not bold default")
    if r.baseline is not None:
        plain = number(r.baseline.values["output_throughput"])
        line.append(f"; plain decoding gives {plain}", style="not bold default")
    return line


def _why(e: Explanation) -> str:
    faster = "for one request" if e.result.scenario.rate else "in all"
    return f"From plain decoding to this: {e.speedup:.2f} x {faster}"


def _unit(e: Explanation) -> str:
    return "tok/s each" if e.result.scenario.rate else "tok/s"


def _waterfall(e: Explanation) -> FittedTable:
    heads = ("change", _unit(e), "factor", "", "why")
    table = FittedTable(heads, frozenset(("change", "", "why")), spare=("",), folded="why")
    low = min(r.speed_tok_s for r in e.rungs)
    span = log(max(r.speed_tok_s for r in e.rungs) / low) or 1.0
    before = e.rungs[0].speed_tok_s
    for r in e.rungs:
        start, end = (
            round(_BAR_CELLS * log(x / low) / span) for x in sorted((before, r.speed_tok_s))
        )
        up = r.factor >= 1
        bar = Text(" " * start + ("█" if up else "░") * (end - start), "green" if up else "red")
        factor = "" if r is e.rungs[0] else f"x {r.factor:.3f}"
        table.add(r.name, number(r.speed_tok_s), factor, bar, Text(r.why, style="dim"))
        before = r.speed_tok_s
    table.add("all together", "", Text(f"x {e.speedup:.3f}", style=STRONG))
    return table


def _step_title(e: Explanation) -> str:
    s = e.step
    size = f"{s.requests} request" + ("s" if s.requests > 1 else "")
    return f"A step of {size} at {s.ctx:,.0f} cached tokens each: {number(s.seconds / MS)} ms"


def _phases(e: Explanation) -> FittedTable:
    heads = ("phase", "ms", "share", "in collectives", *EVIDENCE)
    table = FittedTable(heads, frozenset(("phase",)), spare=("in collectives", *EVIDENCE[::-1]))
    for p in e.step.phases:
        by = [percent(x / p.seconds) if x else "" for x in p.by_evidence]
        comm = number(p.comm_s / MS) if p.comm_s else ""
        share = percent(p.seconds / e.step.seconds)
        name = phase_title(p.name, e.result.setup)
        table.add(name, number(p.seconds / MS), share, comm, *by)
    return table


def _host_title(e: Explanation) -> str:
    exposed = number(e.result.values["host_exposed_ms"])
    return f"What the host does in such a step; the GPU waits for {exposed} ms of it"


def _ops(e: Explanation) -> FittedTable:
    heads = ("op", "in", "times", "ms", "share", "GB", "TFLOP", "bound by", "memory", "compute",
        "link", "rests on")  # fmt: skip
    words = frozenset(("op", "in", "bound by", "rests on"))
    table = FittedTable(heads, words, spare=("times", "TFLOP", "GB", "link", "rests on", "compute"))
    shown = _large(e)
    for op in sorted(shown, key=lambda op: -op.seconds):
        table.add(
            op.op, phase_title(op.phase, e.result.setup), *_figures(op, e.step.seconds), op.evidence
        )
    rest = sum(op.seconds for op in e.step.ops) - sum(op.seconds for op in shown)
    others = f"{len(e.step.ops) - len(shown)} others"
    table.add(others, "", "", number(rest / MS), percent(rest / e.step.seconds))
    return table


def _large(e: Explanation) -> list[OpTime]:
    return [op for op in e.step.ops if op.seconds >= _LEAST_SHARE * e.step.seconds]


def _figures(op: OpTime, step_s: float) -> Iterator[str]:
    yield str(op.launches) if op.launches else ""
    yield number(op.seconds / MS)
    yield percent(op.seconds / step_s)
    yield number(op.nbytes / GIGA) if op.nbytes else ""
    yield number(op.flops / TERA) if op.flops else ""
    yield op.bound
    for share in (op.memory_share, op.compute_share, op.link_share):
        yield f"{100 * share:.0f} %" if share else ""


def _elasticities(e: Explanation) -> FittedTable:
    heads = ("1 % more of", "is", "changes speed by", "its error", "moves it", "it is")
    table = FittedTable(
        heads, frozenset((heads[0], "it is")), spare=("it is", "its error", "is", "moves it")
    )
    for x in e.elasticities[:_MOST_ELASTICITIES]:
        unit = "" if x.unit == "1" else f" {x.unit}"
        error = f"+-{100 * x.rel_err:.0f} %" if x.rel_err else ""
        effect = f"+-{100 * x.effect:.1f} %" if x.effect else ""
        name = x.name.replace("_", " ")
        table.add(name, f"{x.value:.4g}{unit}", f"{x.elasticity:+.3f} %", error, effect, x.evidence)
    more = len(e.elasticities) - _MOST_ELASTICITIES
    if more > 0:
        table.add(f"{more} others, less")
    return table


def _break_even(e: Explanation, even: BreakEven) -> Iterator[RenderableType]:
    block = e.result.setup.block
    law = e.result.expectation
    assert law is not None
    expected = law.acceptance.survival().mean_accept_length
    if even.accept_length is None:
        yield Text(f"Not even {block} tokens a step would match plain decoding at block {block}.")
    elif even.accept_length == 1:
        yield Text(f"Accepting no draft at all would match plain decoding at block {block}.")
    else:
        words = f"{even.accept_length:.2f} tokens a step equal plain decoding at block {block}"
        yield Text(f"{words}; {expected:.2f} are expected.")
    if e.burdens:
        yield Text(burden_words(e.burdens))
    yield Text(_range_words(even))
    for line in jumps(even):
        yield Text(line, style="yellow")
    table = FittedTable(("block", "accept length", _unit(e), "x plain"), frozenset())
    for b in even.blocks:
        cells = (str(b.block), f"{b.accept_length:.2f}", number(b.speed_tok_s), f"{b.speedup:.2f}")
        table.add(*(Text(cell, style=STRONG if b is even.best else "") for cell in cells))
    yield table


def burden_words(burdens: Sequence[Burden]) -> str:
    """Say how many plain steps a cycle takes, which parts make it so, and which part grows."""
    here = burdens[-1]
    added = here.cycle_s - here.plain_s
    parts = [p for p in here.heaviest[:_MOST_PARTS] if here.parts[p] > _LEAST_SHARE * here.plain_s]
    named = ", ".join(f"{part} {number(here.parts[part] / MS)}" for part in parts)
    size = "1 request" if here.requests == 1 else f"{here.requests} requests"
    said = f"A cycle of {size} takes {here.steps:.2f} plain steps: {number(added / MS)} ms more"
    said += f" ({named})." if named else "."
    if len(burdens) > 1:
        part, steps = growth(burdens[0], here)
        if steps > _LEAST_SHARE:
            said += f" With 1 request it takes {burdens[0].steps:.2f}; what grows most is {part}"
            said += f", by {steps:.2f}."
    return said


def _range_words(even: BreakEven) -> str:
    low, high = even.smallest_block, even.largest_block
    if low is None or high is None:
        return "No block beats plain decoding here."
    asked = f"blocks {low} to {high} beat" if high > low else f"block {low} beats"
    whole = low == even.blocks[0].block and high == even.blocks[-1].block
    every = "All " if whole and high > low else "Only " if not whole else ""
    words = f"{every}{asked} plain decoding"
    return f"{words[0].upper()}{words[1:]}; block {even.best.block} is the fastest (first run)."


def _grounds(e: Explanation) -> FittedTable:
    heads = ("part", "evidence", "source")
    table = FittedTable(heads, frozenset(heads), spare=("evidence",), folded="source")
    for g in e.grounds:
        table.add(g.part.replace("_", " "), g.evidence, Text(g.source, style="dim"))
    return table
