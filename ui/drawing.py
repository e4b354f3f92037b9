"""A view as what the browser draws: specs of figures, words, and what can be copied."""

from collections.abc import Mapping, Sequence
from typing import Any

from dflash_sim.studies.show.figures import number
from dflash_sim.ui.answer import WHOLE, Answer, Reasons, Refusal
from dflash_sim.ui.bars import accepted, cost, cycle, memory, waterfall
from dflash_sim.ui.copies import call, command, launch
from dflash_sim.ui.curves import frontier, gains
from dflash_sim.ui.kept import at_once_words, kept_lines
from dflash_sim.ui.remedies import remedies
from dflash_sim.ui.view import View

_HUNDRED = 100
_AVERAGE = "{:.2f} tokens over all steps, with the bonus; dotted: mean drafts"
_HANGS, _LEAST = 4, 0.001  # quantities that are told, and the least effect of one [1]


def drawing(view: View, *, unfinished: bool) -> dict[str, Any]:
    """Return all that changes on the page, as JSON.

    Parameters
    ----------
    unfinished
        True while answers are still to come.
    """
    best = view.best
    found: dict[str, Any] = {
        "query": view.state.query,
        "quality": best.quality if best else None,
        "unfinished": unfinished,
        "copies": {
            "command": command(view.state),
            "call": call(view.state),
            "launch": launch(view),
        },
        "notes": [*view.state.dropped],
        "refusal": None,
        "why": _why(view.why),
        "figures": {},
        "words": {},
        "lines": kept_lines(view),
    }
    if view.refusal is not None and best is None:
        ways = [{"words": r.words, "query": r.query} for r in remedies(view.state)]
        found["refusal"] = {"why": view.refusal.why, "remedies": ways}
    if best is not None:
        found["figures"] = _figures(view, best)
        found["words"] = _words(view, best)
        found["notes"] += best.warnings
    return found


def _figures(view: View, best: Answer) -> dict[str, Any]:
    figures = {
        "frontier": frontier(view),
        "cycle": cycle(best),
        "memory": memory(best),
    }
    if view.speculative:
        figures["gains"] = gains(view)
    if best.row["usd_per_mtok_out"]:
        figures["cost"] = cost(best)
    if best.row["accept_histogram"]:
        figures["accepted"] = accepted(best)
    if isinstance(view.why, Reasons) and view.why.rungs:
        figures["waterfall"] = waterfall(view.why)
    return {name: figure.spec() for name, figure in figures.items()}


def _words(view: View, best: Answer) -> dict[str, str]:
    row = best.row
    plain = _plain_row(view, best)
    gain = row.get("speedup")
    if gain is None and plain is not None:
        gain = row["output_throughput"] / plain["output_throughput"]
    said = {
        "title": best.title,
        "tile-throughput": f"{number(row['output_throughput'])} tok/s",
        "span-throughput": _interval(row.get("output_throughput_ci90"), best),
        "tile-speedup": "" if gain is None else f"{gain:.2f} x",
        "span-speedup": _interval(row.get("speedup_ci90"), best, digits=2),
        "tile-tpot": f"{row['mean_tpot_ms']:.2f} ms",
        "span-tpot": _interval(row.get("mean_tpot_ms_ci90"), best, digits=2),
        "tile-ttft": f"{number(row['mean_ttft_ms'])} ms",
        "span-ttft": _interval(row.get("mean_ttft_ms_ci90"), best),
        "about-memory": at_once_words(best),
        "about-cycle": f"{number(row['step_ms'])} ms with {row['mean_batch']:.1f} requests in it",
    }
    cycle = row["accept_length_cycle"]
    said["about-accepted"] = _AVERAGE.format(cycle) if cycle else ""
    usd = row["usd_per_mtok_out"]
    ranged = usd and usd["low"] != usd["high"]
    about = "whiskers: the cheapest and the dearest rent" if ranged else "at the price you pay"
    said["about-cost"] = about if usd else ""
    said["tile-cost"] = f"${usd['typical']:.2f}" if usd else ""
    beside = plain["usd_per_mtok_out"]["typical"] if usd and plain and view.speculative else None
    said["span-cost"] = f"plain decoding ${beside:.2f}" if beside else ""
    length = row["accept_length"]
    said["tile-accept"] = f"{length:.2f}" if length else ""
    said["span-accept"] = _interval(row.get("accept_length_ci90"), best, digits=2) if length else ""
    return said


def _plain_row(view: View, best: Answer) -> Any:
    if best.plain is not None or not view.speculative:
        return best.plain
    there = view.plain.get(view.state.load)
    return None if there is None else there.row


def _interval(ends: Any, best: Answer, *, digits: int | None = None) -> str:
    if not ends:
        return "" if best.quality == WHOLE else "a short run"
    low, high = (number(e) if digits is None else f"{e:.{digits}f}" for e in ends)
    return f"90 %: {low} to {high}"


def _why(found: Reasons | Refusal | None) -> dict[str, Any] | None:
    if found is None:
        return None
    if isinstance(found, Refusal):
        return {"words": found.why, "hangs": []}
    if not found.rungs:
        return {"words": "Plain decoding: there is no speed-up to explain.", "hangs": []}
    return {
        "words": "Each bar is one change of the server; the factors multiply to the speed-up.",
        "hangs": [_hang(each) for each in _strongest(found.elasticities)],
    }


def _strongest(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What moves the answer most by its own error, and visibly."""
    seen = [each for each in found if abs(each["effect"]) >= _LEAST]
    return sorted(seen, key=lambda each: -abs(each["effect"]))[:_HANGS]


def _hang(elasticity: Any) -> str:
    return f"{elasticity['name']}: its error moves the answer by {_percent(elasticity['effect'])}"


def _percent(share: float) -> str:
    return f"{_HUNDRED * abs(share):.1f} %"
