"""One result in some ten lines: how fast, compared with what, and what holds it back."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from rich.console import Group, RenderableType
from rich.text import Text

from dflash_sim.profiles.sheets import PriceRange
from dflash_sim.simulator.caveats import asked_at_once, held_at_once, in_flight
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.row import to_row
from dflash_sim.studies.predict.answer_lines import Line, labelled, prompts, speed, step_bar
from dflash_sim.studies.predict.lift import lifted, told
from dflash_sim.studies.show.figures import number, percent, shares
from dflash_sim.studies.show.styles import STRONG
from dflash_sim.studies.show.titles import title

_BAR_CELLS = 60
_ALIKE = 0.03  # means of requests and of steps, as a share


def brief(result: Result, *, price: PriceRange | None = None) -> RenderableType:
    """The short page of one result; ``present`` is the full one.

    Parameters
    ----------
    price
        What the asker pays for a GPU; without it nothing is said of cost.
    """
    v = result.values
    lines = [*speed(result), ("Published", Text(_published(result)))]
    first, then = number(v["mean_ttft_ms"]), number(v["mean_tpot_ms"])
    lines.append(("Latency", f"TTFT {first} ms, TPOT {then} ms (means)"))
    if price is not None:
        lines.append(("Cost", _cost(result, price)))
    if result.scenario.cache_hit is not None:
        lines += prompts(result)
    if "accept_length" in v:
        lines.append(("Accept length", accept_length(v)))
    lines += [*_step(result), ("Batch", _batch(result))]
    remarks = told(result, lifted(result))
    warnings = [Text(f"warning: {w}", style="yellow") for w in remarks]
    sources = Text(f"sources: {shares(result.evidence)}")
    return Group(Text(title(result), style=STRONG), labelled(lines), *warnings, sources)


def accept_length(values: Mapping[str, float]) -> str:
    """Say the mean over requests, and that over cycles where requests differ much."""
    own, cycle = values["accept_length"], values["accept_length_cycle"]
    if abs(cycle / own - 1) <= _ALIKE:
        return f"{own:.2f} tokens per verify step"
    return f"{own:.2f} tokens per verify step as a mean over requests, {cycle:.2f} over all steps"


def _cost(result: Result, price: PriceRange) -> str:
    """Return what a million tokens cost at the asker's price, and what plain decoding costs."""
    both = [r for r in (result, result.baseline) if r is not None]
    rows = [to_row(r, price=price)["usd_per_mtok_out"] for r in both]
    usd = [number(row["typical"]) for row in rows if isinstance(row, dict)]
    beside = f"; plain decoding costs {usd[1]}" if len(usd) > 1 else ""
    return f"{usd[0]} USD per million output tokens at {price.typical:g} USD/h for a GPU{beside}"


def _published(result: Result) -> str:
    """Return the published throughput and our error, or that there is none."""
    point, error = result.published, result.published_error
    if point is None or error is None:
        return "no published point for this scenario"
    where = f" at {host}" if (host := urlsplit(point.url).hostname) else ""
    use = "used" if result.published_fitted else "not used"
    side = "above" if error >= 0 else "below"
    measured = f"{number(point.output_tok_s)} tok/s{where} ({use} for fitting)"
    return f"{measured}; we are {percent(abs(error))} {side}"


def _step(result: Result) -> list[Line]:
    bar, legend = step_bar(result, _BAR_CELLS)
    milliseconds = f"{number(result.values['step_ms'])} ms "
    return [("Step", Text(milliseconds).append_text(bar)), ("", legend)]


def _batch(result: Result) -> str:
    """Say how many requests run together, and whether the load or the server limits them."""
    memory, conc = result.setup.memory, in_flight(result.scenario)
    cap = memory.max_running_requests
    running = f"{result.values['mean_batch']:.1f} requests"
    holds = held_at_once(result.values, memory.kv_tokens)
    held = f"{memory.kv_tokens:,} tokens of keys and values hold {holds:,} of this length"
    if holds < min(cap, asked_at_once(result.scenario, result.values)):
        return f"{running}, limited by memory: {held}"
    if conc is None and holds < cap:
        return f"{running}; {held}"
    if conc is None:
        return f"{running}; at most {cap:,} ({memory.cap_cause})"
    if conc != result.scenario.conc and conc <= cap:
        return f"{running}, limited by the {conc:,} requests that there are"
    if conc > cap:
        return f"{running}; at most {cap:,} of the {conc:,} at once ({memory.cap_cause})"
    return f"{running}, limited by the {conc:,} in flight (cap {cap:,}: {memory.cap_cause})"
