"""The question behind ``calibrate live``: which cells, measured how long, fitted to what."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.fit import Fit
from dflash_sim.calibrate.fit.parallel_answers import Evaluator
from dflash_sim.calibrate.fit.prior import Prior, prior_of
from dflash_sim.calibrate.fit.rows import Row
from dflash_sim.calibrate.live.acceptance import matched
from dflash_sim.calibrate.live.client import Client, ServerError
from dflash_sim.calibrate.live.design import Choice, Design, choose_cells
from dflash_sim.calibrate.live.experiment import Cell, at_rest, measure
from dflash_sim.calibrate.live.target import Target, busy, look, scrape
from dflash_sim.calibrate.observations.observation import ReadReport
from dflash_sim.calibrate.readers.read import read_observations
from dflash_sim.jobs.scratch import scratch_folder
from dflash_sim.jobs.stopping import asked_to_stop, ended_by
from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.units import MS
from dflash_sim.simulator.slopes import METRICS
from dflash_sim.studies.compare.fit_question import FEWEST, Chosen, choose, run_fit
from dflash_sim.studies.compare.validate_question import assumptions
from dflash_sim.studies.live.kept import Kept

Floats = npt.NDArray[np.float64]

CONCURRENCIES = (1, 2, 4, 8, 16, 32)
LENGTHS = ((256, 256), (2048, 256), (8192, 128))  # tokens in and out: decoding, between, prefills
SHOWN = ("output_throughput", "mean_tpot_ms", "mean_ttft_ms")
_TAGGED = ("gpu", "model", "method", "block", "steps", "tp", "engine_mode")
_ENDS_A_VALUE = frozenset(" \t\r\n,;=")  # of a tag
_ROUND_S = 0.5  # of a cell, beside its answers: scrapes, connections


def to_its_end(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it as :func:`asyncio.run` does; a signal that asks to end cancels it, wherever it is."""

    async def main() -> Any:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        with ended_by(partial(loop.call_soon_threadsafe, task.cancel)):
            return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        if asked_to_stop():
            raise KeyboardInterrupt from None
        raise


@dataclass(frozen=True)
class Terms:
    """How a server is asked, and how much.

    Parameters
    ----------
    connect
        Makes a client; each is used once.
    assume
        ``KEY=VALUE`` words for what the server does not tell.
    run
        Runs a coroutine to its end.
    """

    connect: Callable[[], Client]
    rows: Path
    minutes: float = 3.0
    max_requests: int = 3000
    assume: Sequence[str] = ()
    engine: str | None = None
    prior: str = "shipped"
    jobs: int = 1
    run: Callable[[Coroutine[Any, Any, Any]], Any] = to_its_end

    def calibrated(self, file: Path) -> "Terms":
        """The same, predicted with a calibration of that server."""
        return replace(self, assume=(*self.assume, f"calibration={file}"))

    @property
    def tag(self) -> str:
        """What is assumed, as a row carries it."""
        said = assumptions(self.assume)
        return " ".join(f"{name}={said[name]}" for name in _TAGGED if name in said)


@dataclass(frozen=True)
class Plan:
    """Cells to measure, and what each takes.

    Parameters
    ----------
    cost_s
        By cell, as predicted.
    choice
        What they are worth.
    """

    cells: tuple[Cell, ...]
    cost_s: tuple[float, ...]
    choice: Choice


@dataclass(frozen=True)
class Outcome:
    """What was learned.

    Parameters
    ----------
    before, after
        By row of the fit and metric of ``SHOWN``: predicted over measured, less one [1].
    """

    chosen: Chosen
    fit: Fit
    before: Floats
    after: Floats


def find(terms: Terms, *, idle: bool = True) -> Target:
    """Look at the server.

    Parameters
    ----------
    idle
        True if it must be.

    Raises
    ------
    UsageError, ServerError
        Its GPU is not said; it is no OpenAI server, or loaded.
    """

    async def ask() -> Target:
        async with terms.connect() as client:
            target = await look(client)
            found = await scrape(client) if target.counts and idle else None
            if found is not None and busy(found):
                msg = (
                    f"{target.url} is loaded: {busy(found)} requests run or wait; measure it when "
                    "it is idle."
                )
                raise ServerError(msg)
            return target

    target: Target = terms.run(ask())
    if "gpu" not in assumptions(terms.assume):
        msg = f"{target.url} does not say which GPU it runs on; give --assume gpu=b200, or another."
        raise UsageError(msg)
    return target


def same_of(terms: Terms, target: Target) -> dict[str, Any]:
    """What every row says of its server."""
    tag = terms.tag
    if not target.info and "model=" not in tag:
        if set(target.model) & _ENDS_A_VALUE:
            msg = f"{target.url} calls its model '{target.model}'; say which with --assume model=."
            raise UsageError(msg)
        tag = f"{tag} model={target.model}"
    return {"server_info": dict(target.info), "tag": tag}


def kept_of(terms: Terms, target: Target) -> Kept:
    """The rows that are measured already."""
    return Kept(terms.rows, same_of(terms, target))


def plan(terms: Terms, target: Target, kept: Kept) -> Plan:
    """Choose the cells that tell most for their time.

    Raises
    ------
    UsageError
        The server is not one that can be simulated; or there is no time for the fewest cells.
    """
    most = target.most_tokens or max(sum(pair) for pair in LENGTHS)
    cells = [
        Cell(conc, isl, osl) for isl, osl in LENGTHS if isl + osl <= most for conc in CONCURRENCIES
    ]
    if not cells:
        msg = (
            f"{target.url} takes {most} tokens a request at most, and the shortest measured ones "
            f"have {sum(LENGTHS[0])}: serve it with a larger context length."
        )
        raise UsageError(msg)
    chosen, cells = _as_rows(terms, kept, sorted({*cells, *kept.cells}))
    prior, answers, slopes = _foreseen(chosen, terms.jobs)
    speed = np.exp(answers[:, METRICS.index("output_throughput")])
    first = np.exp(answers[:, METRICS.index("mean_ttft_ms")])
    cost = [
        _ROUND_S + 2 * t + cell.requests * cell.osl / s
        for cell, s, t in zip(cells, speed.tolist(), first.tolist(), strict=True)
    ]
    choice = choose_cells(
        Design(chosen.rows, prior, slopes),
        cost,
        [cell.asked for cell in cells],
        seconds=terms.minutes * 60,
        most_requests=terms.max_requests,
        fewest=FEWEST,
        done=[i for i, cell in enumerate(cells) if cell in kept.cells],
    )
    if len(choice.order) + len(kept.rows) < FEWEST:
        cheap = sorted(cost)[:FEWEST]
        msg = (
            f"{FEWEST} cells are the least, and take about {sum(cheap) / 60:.1f} minutes and "
            f"{sum(sorted(cell.asked for cell in cells)[:FEWEST])} requests here: raise --minutes "
            f"{terms.minutes:g} or --max-requests {terms.max_requests}."
        )
        raise UsageError(msg)
    order = choice.order
    return Plan(tuple(cells[i] for i in order), tuple(cost[i] for i in order), choice)


def _as_rows(terms: Terms, kept: Kept, cells: Sequence[Cell]) -> tuple[Chosen, list[Cell]]:
    """Cells as rows of the fit, as if each had been measured; without those it cannot use."""
    chosen = _read(terms, [{**_imagined(cell), **kept.same} for cell in cells])
    if not chosen.rows:
        why = chosen.refused[0][1].rstrip(".")
        msg = f"this server cannot be calibrated: {why}."
        raise UsageError(msg)
    return chosen, [_cell_of(row) for row in chosen.rows]


def read_rows(terms: Terms, rows: Sequence[dict[str, Any]]) -> ReadReport:
    """Rows as the reader of benchmark files has them."""
    with _file_of(rows) as path:
        return read_observations([path], assumptions(terms.assume))


def _read(terms: Terms, rows: Sequence[dict[str, Any]]) -> Chosen:
    with _file_of(rows) as path:
        return _choose(terms, path)


@contextmanager
def _file_of(rows: Sequence[dict[str, Any]]) -> Iterator[Path]:
    with scratch_folder() as folder:
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        yield path


def _choose(terms: Terms, path: Path) -> Chosen:
    return choose([path], engine=terms.engine, fit_on=None, assume=terms.assume, prior=terms.prior)


def _cell_of(row: Row) -> Cell:
    s = row.scenario
    return Cell(int(s.conc or 0), int(s.isl or 0), int(s.osl or 0))


def _imagined(cell: Cell) -> dict[str, Any]:
    """A row of a cell that was not measured: a plan does not depend on its outcome."""
    n, speed = cell.requests, 100.0 * cell.conc
    return {
        "dataset_name": "random-ids",
        "random_range_ratio": 1.0,
        "max_concurrency": cell.conc,
        "num_prompts": n,
        "completed": n,
        "total_input_tokens": n * cell.isl,
        "total_output_tokens": n * cell.osl,
        "output_throughput": speed,
        "mean_tpot_ms": cell.conc / speed / MS,
        "mean_ttft_ms": 1.0,
        "verify_steps": n * cell.osl,
    }


def _foreseen(chosen: Chosen, jobs: int) -> tuple[Prior, Floats, Floats]:
    prior = prior_of(chosen.rows, chosen.engine, chosen.known)
    with Evaluator(chosen.rows, chosen.engine, prior.parameters, jobs=jobs) as price:
        return prior, price.answers(prior.mean), price.slopes(prior.mean)


def experiment(
    terms: Terms,
    target: Target,
    planned: Plan,
    kept: Kept,
    *,
    on_cell: Callable[[int, Cell], None] = lambda index, cell: None,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
) -> str | None:
    """Measure the cells; returns why it ended early, None if it did not.

    Whatever happens, ``kept`` has the rows that were finished.
    """

    async def go() -> str | None:
        async with terms.connect() as client:
            begin = client.clock()
            try:
                await at_rest(client, target)
                for index, cell in enumerate(planned.cells):
                    on_cell(index, cell)
                    left = terms.minutes * 60 - (client.clock() - begin)
                    async with asyncio.timeout(left):
                        row = await measure(client, target, cell, seed=len(kept.rows))
                    kept.add(with_acceptance(terms, kept, row))
                    on_row(row)
            except TimeoutError:
                return (
                    f"the {terms.minutes:g} minutes allowed were over after "
                    f"{len(kept.rows)} cells; --minutes allows more"
                )
            except DflashSimError as error:
                return str(error).rstrip(".")
        return None

    found: str | None = terms.run(go())
    return found


def with_acceptance(terms: Terms, kept: Kept, row: dict[str, Any]) -> dict[str, Any]:
    """The row with the acceptance that was counted while it was measured."""
    chosen = _read(terms, [{**row, **kept.same}])
    found = matched(chosen.rows[0], chosen.engine, row) if chosen.rows else None
    return row if found is None else {**row, "acceptance": found}


def learn(terms: Terms, kept: Kept, *, name: str) -> Outcome:
    """Fit the rows that are kept.

    Raises
    ------
    ServerError
        There are too few.
    """
    if len(kept.rows) < FEWEST:
        msg = (
            f"{len(kept.rows)} of {FEWEST} cells that a fit needs at least were measured; they are "
            f"kept in {kept.path}, and the same command goes on."
        )
        raise ServerError(msg)
    chosen = _choose(terms, kept.path)
    if not chosen.rows:
        raise UsageError(": ".join(chosen.refused[0]))
    found = run_fit(chosen, name=name, jobs=terms.jobs)
    prior = prior_of(found.rows, chosen.engine, chosen.known)
    with Evaluator(found.rows, chosen.engine, prior.parameters, jobs=terms.jobs) as price:
        answers = [price.answers(x) for x in (prior.mean, found.calibration.mean)]
    at = [METRICS.index(metric) for metric in SHOWN]
    measured = np.array([[_measured(row, metric) for metric in SHOWN] for row in found.rows])
    before, after = (np.exp(a[:, at]) / measured - 1 for a in answers)
    return Outcome(chosen, found, before, after)


def _measured(row: Row, metric: str) -> float:
    return row.observation.metrics[metric] * (MS if metric.endswith("_ms") else 1.0)
