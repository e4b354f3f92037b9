"""One cell of an experiment: so many clients that ask again and again, measured as a row."""

import asyncio
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from dflash_sim.calibrate.live.client import Client, ServerError, Timed
from dflash_sim.calibrate.live.target import Target, accept_length, busy, scrape
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.readers.sglang_bench_serving import STEPS
from dflash_sim.calibrate.readers.sglang_metrics import Snapshot, read_prometheus
from dflash_sim.profiles.units import MS

TURNS = 6  # answers that each client waits for, at least
ENOUGH_TOKENS = 6144  # of a cell: fewer leave its accept length to chance
_WARM_TOKENS = 8
_FIRST_ID, _LAST_ID = 1000, 30000  # tokens that every vocabulary has, and that are no special ones
_PATIENCE_S, _LOOK_S = 10.0, 0.1  # to wait for a server to come to rest, and between two looks


@dataclass(frozen=True, order=True)
class Cell:
    """What is asked at once: ``conc`` requests in flight of ``isl`` and ``osl`` tokens."""

    conc: int
    isl: int
    osl: int

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers that are in flight."""
        return self.conc * (self.isl + self.osl)

    @property
    def requests(self) -> int:
        """Answers that are measured."""
        return max(TURNS * self.conc, ceil(ENOUGH_TOKENS / self.osl))

    @property
    def asked(self) -> int:
        """Answers that are asked for, warm-up included."""
        return self.requests + self.conc

    def __str__(self) -> str:
        return f"{self.conc} in flight, {self.isl} in, {self.osl} out"


def prompts(isl: int, seed: Sequence[int], vocab: int | None = None) -> Iterator[list[int]]:
    """Prompts of random tokens: none begins as another does, so no cache helps.

    Of a small vocabulary the middle is taken.
    """
    rng = np.random.default_rng([isl, *seed])
    first, last = _FIRST_ID, _LAST_ID
    if vocab is not None and vocab < _LAST_ID:
        first, last = vocab // 8, max(vocab // 8 + 1, 3 * vocab // 4)
    while True:
        yield rng.integers(first, last, isl).tolist()


async def measure(
    client: Client,
    target: Target,
    cell: Cell,
    *,
    seed: int,
    on_answer: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure a cell; returns a row as ``bench_serving`` writes it.

    Raises
    ------
    ServerError
        The server refuses, breaks off, or works for others too.
    """
    draw = prompts(cell.isl, (cell.conc, cell.osl, seed), target.vocab)
    await _closed(client, target, cell, cell.conc, _WARM_TOKENS, draw, on_answer)
    before = await at_rest(client, target)
    answers = await _closed(client, target, cell, cell.requests, cell.osl, draw, on_answer)
    after = await at_rest(client, target)
    if not any(a.gaps_s for a in answers):
        msg = f"{target.url} sends answers whole, it or a proxy before it: a token cannot be timed."
        raise ServerError(msg)
    row = _row(cell, answers)
    if before is not None and after is not None:
        counted = read_prometheus(before, after, Names()).metrics
        _refuse_others(target, counted, answers)
        if steps := counted.get("verify_steps"):
            row |= {STEPS: steps, "accept_length": row["total_output_tokens"] / steps}
    elif (length := await accept_length(client)) is not None:
        row["accept_length"] = length
    return row


async def at_rest(client: Client, target: Target) -> Snapshot | None:
    """Its metrics once nothing runs; None if it has none.

    Raises
    ------
    ServerError
        Something runs all the time.
    """
    if not target.counts:
        return None
    until = client.clock() + _PATIENCE_S
    while (found := await scrape(client)) is not None and busy(found):
        if client.clock() > until:
            msg = (
                f"{target.url} is loaded: {busy(found)} requests of others run or wait; measure "
                "it when it is idle."
            )
            raise ServerError(msg)
        await asyncio.sleep(_LOOK_S)
    return found


def _refuse_others(target: Target, counted: Mapping[str, float], answers: Sequence[Timed]) -> None:
    others = counted.get("total_output_tokens", 0.0) - sum(a.tokens for a in answers)
    more = counted.get("completed", 0.0) - len(answers)
    if more >= 1 or others > max(a.tokens for a in answers):
        msg = (
            f"{target.url} is loaded: others had {max(1, round(more))} answers while it was "
            "measured; measure it when it is idle."
        )
        raise ServerError(msg)


async def _closed(
    client: Client,
    target: Target,
    cell: Cell,
    count: int,
    tokens: int,
    draw: Iterator[list[int]],
    on_answer: Callable[[], None],
) -> list[Timed]:
    """Answers of clients that ask again as soon as they are answered."""
    waiting = [next(draw) for _ in range(count)]
    answers: list[Timed] = []

    async def one() -> None:
        while waiting:
            answers.append(await client.answer(target.model, waiting.pop(), tokens))
            on_answer()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(cell.conc, count)):
                group.create_task(one())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return answers


def _row(cell: Cell, answers: Sequence[Timed]) -> dict[str, Any]:
    begin, end = min(a.sent_s for a in answers), max(a.end_s for a in answers)
    inward, out = sum(a.prompt_tokens for a in answers), sum(a.tokens for a in answers)
    wall, lived = end - begin, [a.end_s - a.sent_s for a in answers]
    row: dict[str, Any] = {
        "backend": "sglang-oai",
        "dataset_name": "random-ids",
        "random_input_len": cell.isl,
        "random_output_len": cell.osl,
        "random_range_ratio": 1.0,
        "max_concurrency": cell.conc,
        "num_prompts": len(answers),
        "completed": len(answers),
        "duration": wall,
        "total_input_tokens": inward,
        "total_output_tokens": out,
        "request_throughput": len(answers) / wall,
        "input_throughput": inward / wall,
        "output_throughput": out / wall,
        "total_throughput": (inward + out) / wall,
        "concurrency": sum(lived) / wall,
    }
    for name, values in {
        "e2e_latency": lived,
        "ttft": [a.first_s - a.sent_s for a in answers],
        "tpot": [a.tpot_s for a in answers],
        "itl": [gap for a in answers for gap in a.gaps_s],
    }.items():
        row |= {
            f"mean_{name}_ms": statistics.fmean(values) / MS,
            f"median_{name}_ms": statistics.median(values) / MS,
            f"p99_{name}_ms": float(np.quantile(values, 0.99)) / MS,
        }
    return row


__all__ = ["Cell", "ServerError", "at_rest", "measure", "prompts"]
