"""What is seen, to take away: a command, a call, a launch, and a page of its own."""

import shlex
from collections.abc import Callable
from contextlib import suppress

from dflash_sim.studies.show.chart_style import Chart
from dflash_sim.studies.show.figures import number, shares
from dflash_sim.studies.show.html_report import Report
from dflash_sim.ui.answer import Answer, Reasons
from dflash_sim.ui.bars import accepted, cost, cycle, memory, waterfall
from dflash_sim.ui.curves import frontier, gains
from dflash_sim.ui.kept import HEADS, kept_lines
from dflash_sim.ui.state import NAMES, PRICE, TRUTHS, State
from dflash_sim.ui.view import View

_CAPTIONS: tuple[tuple[str, Callable[[Answer], Chart], str], ...] = (
    ("One step", cycle, "Phases of a step [ms], and the host's work that it hides."),
    ("Memory", memory, "Memory of one GPU [GB]."),
    ("Cost", cost, "USD per million output tokens; whiskers: cheapest and dearest rent."),
    ("Accepted drafts", accepted, "Share of the verify steps by how many drafts they accept."),
)


def command(state: State) -> str:
    """Return the ``dflash-sim`` command of a state."""
    words = ["dflash-sim", "predict"]
    for gpu, usd in state.keywords().get(PRICE, {}).items():
        words += ["--price", f"{gpu}={usd:g}"]
    for name, text in _ordered(state):
        if name == PRICE:
            continue
        flag = "--" + name.replace("_", "-")
        if name in TRUTHS:
            words.append(flag if text == "true" else flag.replace("--", "--no-", 1))
        else:
            words += [flag, text]
    return shlex.join(words)


def call(state: State) -> str:
    """Return the Python call of a state."""
    keywords = state.but().keywords()
    named = ", ".join(f"{n}={_literal(keywords[n])}" for n, _ in _ordered(state) if n in keywords)
    return f"import dflash_sim as ds\n\nds.predict({named})"


def _literal(value: object) -> str:
    for kind in (int, float):
        with suppress(ValueError):
            return repr(kind(str(value)))
    return repr(value)


def launch(view: View) -> str:
    """Return the launch command of the server, on one line for each flag."""
    if view.best is None:
        return "(no such server)"
    return view.best.launch.replace(" --", " \\\n  --")


def report(view: View) -> str:
    """Return what is seen as an HTML page that holds all it needs."""
    best = view.best
    if best is None:
        found = Report("No answer", view.refusal.why if view.refusal else "Nothing is known yet.")
        return found.html()
    row = best.row
    found = Report(best.title, _lead(best))
    if view.beside:
        found.section("Beside each other")
        lines = [[line["name"] or "this", *line["cells"]] for line in kept_lines(view)]
        whole = [line for line in lines if len(line) == len(HEADS) + 1]
        found.table(("", *HEADS), whole, "The answer, and those that were kept beside it.")
    found.section("Speed")
    found.figure(frontier(view), "Throughput against the speed that each user sees, by load.")
    if view.speculative:
        found.figure(gains(view), "Times plain decoding, by load and width.")
    for title, draw, caption in _CAPTIONS:
        if title == "Cost" and not row["usd_per_mtok_out"]:
            continue
        if title == "Accepted drafts" and not row["accept_histogram"]:
            continue
        found.section(title)
        found.figure(draw(best), caption)
    if isinstance(view.why, Reasons) and view.why.rungs:
        found.section("Why")
        found.figure(waterfall(view.why), "From plain decoding to the answer.")
    found.section("How to ask for it again")
    found.text(f"`{command(view.state)}`")
    found.text(f"`{best.launch}`")
    found.facts({**dict(_ordered(view.state)), "sources": shares(row["source_share"])})
    for warning in best.warnings:
        found.text(f"Warning: {warning}")
    return found.html()


def _lead(best: Answer) -> str:
    row = best.row
    spans = row.get("output_throughput_ci90")
    span = f" (90 % interval {number(spans[0])} to {number(spans[1])})" if spans else ""
    plain = row.get("speedup")
    beside = f", {plain:.2f} x plain decoding" if plain else ""
    return f"{number(row['output_throughput'])} tokens a second{span}{beside}."


def _ordered(state: State) -> list[tuple[str, str]]:
    return [(n, state.fields[n]) for n in NAMES if n in state.fields]
