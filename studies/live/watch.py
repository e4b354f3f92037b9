"""``calibrate live --watch``: a running server beside its prediction, window by window."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from dflash_sim.calibrate.compare.causes import CAUSES
from dflash_sim.calibrate.compare.compare import Comparison, compare
from dflash_sim.calibrate.live.client import ServerError
from dflash_sim.calibrate.live.target import Target, gauge, scrape
from dflash_sim.calibrate.live.window import window
from dflash_sim.profiles.errors import UsageError
from dflash_sim.studies.live.question import Terms, read_rows, same_of
from dflash_sim.studies.show.figures import number, signed

# A cause that moves the speed by less is no drift: beside a speed outside its interval, and inside.
_NAMED, _NAMED_INSIDE = 0.03, 0.1
_MOST = 3  # causes in a line each
_ROUNDS = 50  # answers of a client that is predicted, so that beginning and end count little


def watch(
    terms: Terms,
    target: Target,
    *,
    every_s: float,
    tell: Callable[[str], None],
    windows: int | None = None,
) -> None:
    """Compare until interrupted, or for so many windows.

    Raises
    ------
    ServerError
        The server has no metrics, or is gone.
    """
    if not target.counts:
        msg = f"{target.url} has no SGLang metrics to watch; start it with --enable-metrics."
        raise ServerError(msg)

    same = same_of(terms, target)

    async def go() -> None:
        async with terms.connect() as client:
            before, at = await scrape(client), client.clock()
            left = windows
            while left is None or left > 0:
                await asyncio.sleep(every_s)
                after, now = await scrape(client), client.clock()
                if before is not None and after is not None:
                    queued = gauge(after, "num_queue_reqs") or 0.0
                    try:
                        found = window(before, after, now - at)
                    except UsageError as error:  # it was started again: the next window is whole
                        tell(str(error))
                    else:
                        for line in lines(terms, same, found, queued=int(queued)):
                            tell(line)
                before, at = after, now
                left = None if left is None else left - 1

    terms.run(go())


def lines(
    terms: Terms,
    same: Mapping[str, Any],
    found: tuple[dict[str, Any], dict[str, float]] | None,
    *,
    queued: int = 0,
) -> Iterator[str]:
    """What a window is like beside its prediction, and what drifts."""
    if found is None:
        yield "no request was answered"
        return
    row, stages = found
    read = read_rows(terms, [{**row, **same}])
    if not read.observations:
        yield f"not compared: {read.refused[0][1]}"
        return
    seen = read.observations[0]
    # The traffic went on before and after: it had no end, at which ever fewer requests run.
    fields = {**seen.fields, "num_prompts": _ROUNDS * row["max_concurrency"]}
    seen = replace(seen, fields=fields, metrics={**seen.metrics, **stages})
    yield from said(compare(seen, own_acceptance=False), queued=queued)


def said(found: Comparison, *, queued: int) -> Iterator[str]:
    """A line, and one more for each cause of a drift."""
    if found.error is not None:
        yield f"not predicted: {found.error}"
        return
    speed = found.metric("output_throughput")
    if speed is None:
        return
    drifts = not speed.inside
    waiting = f", {queued} queued" if queued else ""
    yield (
        f"{found.scenario.conc} in flight{waiting}: {number(speed.observed)} tok/s, predicted "
        f"{number(speed.predicted)} ({signed(speed.rel_err)}), "
        f"{'outside' if drifts else 'inside'} its 90 % interval"
    )
    causes = found.diagnosis.causes if found.diagnosis else ()
    least = _NAMED if drifts else _NAMED_INSIDE
    large = sorted((c for c in causes if abs(c.share) >= least), key=lambda c: -abs(c.share))
    for cause in large[:_MOST]:
        yield f"  drifts: {CAUSES[cause.name]} {signed(cause.share)} ({cause.evidence})"
