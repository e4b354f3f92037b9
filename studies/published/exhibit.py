"""An exhibit of the gallery: a question, its tables, and sentences made of their numbers.

A script of ``studies/gallery`` yields tables and sentences; here they become its ``.out``. Nothing
that a sentence says is written down: it is computed, so that it stays true when the model changes.
"""

import argparse
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from math import exp, log
from pathlib import Path
from typing import Any, TypeAlias

from dflash_sim.simulator.intervals import intervals
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.show.figures import shares
from dflash_sim.studies.show.plain_table import Table, text_of
from dflash_sim.studies.show.terminal import deliver

Part: TypeAlias = Table | str

WIDTH = 98  # of a sentence [character]
NOTHING = "-"
Span = tuple[float, float]


def show(script: str, question: str | None, story: Callable[[], Iterable[Part]]) -> None:
    """Print the exhibit of ``script``, or write it beside the script with ``--write``.

    Parameters
    ----------
    question
        The docstring of the script; its first paragraph opens the exhibit.
    story
        Yields the parts in the order in which they are read.
    """
    asked = (question or "").partition("\n\n")[0]
    parser = argparse.ArgumentParser(description=asked)
    parser.add_argument("--write", action="store_true", help="update the .out beside the script")
    args = parser.parse_args()
    text = as_text([asked, *story()])
    deliver(text, Path(script).with_suffix(".out") if args.write else None)


def as_text(parts: Iterable[Part]) -> str:
    """Tables as they are, sentences wrapped, with empty lines between."""
    found = [
        text_of([part]).rstrip("\n") if isinstance(part, Table) else wrapped(part) for part in parts
    ]
    return "\n\n".join(found) + "\n"


def wrapped(text: str) -> str:
    """A paragraph in lines of ``WIDTH``; a number stays with its unit."""
    lines = textwrap.wrap(
        text.replace(" %", "\0%").replace(" ms", "\0ms").replace(" x", "\0x"),
        WIDTH,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace("\0", " ")


def predicted(*, interval: bool = True, baseline: bool = False, **fields: Any) -> Result:
    """One run of a scenario; with intervals, and plain decoding, as asked."""
    scenario = Scenario.parse(**({"runs": 1} | fields))
    return predict(scenario, with_interval=interval, with_baseline=baseline)


def tok_s(result: Result) -> float:
    """Its throughput [token/s]."""
    return result.values["output_throughput"]


def error(result: Result) -> float | None:
    """Predicted over published, minus one [1]."""
    point = result.published
    return tok_s(result) / point.output_tok_s - 1 if point else None


def ratio(result: Result, other: Result) -> float:
    """The throughput of one over that of the other [1]."""
    return tok_s(result) / tok_s(other)


def ratio_span(result: Result, other: Result) -> Span:
    """The 90 % interval of that: what both are uncertain of together cancels."""
    assert result.sensitivity is not None
    return intervals(
        result.setup,
        result.sensitivity,
        result.per_run,
        plain=other.sensitivity,
        plain_runs=other.per_run,
    )["speedup"]


def published_ratio(result: Result, other: Result) -> float | None:
    """Return the ratio of the published rows, where there are both."""
    one, two = result.published, other.published
    return one.output_tok_s / two.output_tok_s if one and two else None


def crossings(gain: Mapping[int, float]) -> list[str]:
    """Say where a ratio passes 1 between two concurrencies, on a log scale."""
    found = []
    for a, b in pairwise(gain):
        before, after = log(gain[a]), log(gain[b])
        if (before > 0) != (after > 0):
            at = exp(log(a) + before / (before - after) * log(b / a))
            found.append(f"{at:.0f} (between {a} and {b})")
    return found


def times(value: float | None) -> str:
    """A factor as text."""
    return NOTHING if value is None else f"{value:.2f}"


def span(ends: Span, digits: int = 2) -> str:
    """An interval as text."""
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def signed(share: float | None) -> str:
    """An error in percent, with its sign."""
    return NOTHING if share is None else f"{100 * share:+.1f} %"


def share(part: float) -> str:
    """A share in whole percent."""
    return f"{100 * part:.0f} %"


def listed(words: Sequence[object]) -> str:
    """``a, b and c``."""
    *most, last = [str(word) for word in words] or ["none"]
    return f"{', '.join(most)} and {last}" if most else last


def rests_on(results: Sequence[Result]) -> str:
    """Say what the answers rest on, and how far they are from what is published."""
    kinds = results[0].evidence
    mean = {k: sum(r.evidence[k] for r in results) / len(results) for k in kinds}
    said = [f"Rests on: {shares(mean)} of the simulated time."]
    lengths: dict[str, dict[str, None]] = {}
    for r in results:
        if r.expectation:
            source = "as given" if r.scenario.acceptance else r.expectation.source
            lengths.setdefault(source, {})[f"{r.setup.model.name} {r.scenario.method}"] = None
    if lengths:
        each = "; ".join(f"{listed([*who])} {source}" for source, who in lengths.items())
        said.append(f"Accept lengths: {each}.")
    errors = [e for r in results if (e := error(r)) is not None]
    if not errors:
        return " ".join([*said, "Nothing published is among these scenarios."])
    fitted = sum(bool(r.published_fitted) for r in results if r.published)
    off = sum(map(abs, errors)) / len(errors)
    said.append(
        f"{len(errors)} of the predictions have a published row, {fitted} of which the shipped "
        f"constants were fitted on; the mean absolute error there is {100 * off:.1f} %. Errors on "
        "rows that were left out: docs/explanation/accuracy.md."
    )
    return " ".join(said)
