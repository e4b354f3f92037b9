"""A server with constants that nobody tells is measured, and then predicted where it was not."""

import asyncio
import gc
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("httpx")

from in_process import Served

from dflash_sim.calibrate.live.client import Client, ServerError
from dflash_sim.calibrate.live.experiment import Cell, measure
from dflash_sim.calibrate.live.target import Target, look
from dflash_sim.jobs import stopping
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.server_levels import FACTORS
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.studies.live import page
from dflash_sim.studies.live.question import (
    Plan,
    Terms,
    experiment,
    find,
    kept_of,
    learn,
    plan,
    same_of,
    to_its_end,
    with_acceptance,
)

ASKED = {"gpu": "b200", "model": "qwen3-8b", "num_gpus": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_task_cancels_it(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Raised there, as by asyncio alone, it would come with tracebacks of task and group."""
    before = signal.signal(number, stopping._stop)
    monkeypatch.setattr(stopping, "_heard", [])
    ended = []

    async def hit() -> None:
        os.kill(os.getpid(), number)
        try:
            await asyncio.sleep(9)
        finally:
            ended.append("hit")

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(hit())
            group.create_task(asyncio.sleep(9))

    try:
        with pytest.raises(KeyboardInterrupt):
            to_its_end(both())
    finally:
        signal.signal(number, before)
    gc.collect()
    assert ended == ["hit"]
    assert caplog.records == []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of a few requests."""
    monkeypatch.setattr("dflash_sim.calibrate.live.experiment.ENOUGH_TOKENS", 768)


class Long(Cell):
    """Twice as many requests: runs of a few clients scatter by 2 % at a given accept length."""

    @property
    def requests(self) -> int:
        return 2 * super().requests


def server(method: str = "none", **hidden: float) -> Setup:
    """A server whose constants are others by some factors."""
    law = {} if method == "none" else {"acceptance": "al:3.7"}
    setup = resolve(Scenario.parse(**ASKED, method=method, isl=64, osl=64, **law))
    scaled = {name: setup.engine[name] * factor for name, factor in hidden.items()}
    return replace(setup, engine=setup.engine.with_constants(**scaled))


def asked(served: Served, rows: Path, **terms: Any) -> Terms:
    words = {"assume": ["gpu=b200"], "prior": "shipped"} | terms
    return Terms(served.connect, rows, run=served.run, **words)


def planned(*cells: Cell) -> Plan:
    """A plan that nobody thought about."""
    return Plan(cells, (1.0,) * len(cells), choice=None)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "hidden"),
    [
        # Up to twice as far out as servers of one release are expected to differ.
        ("none", {"time_factor": 1.08, "prefill_factor": 1.3, "host_factor": 1.25}),
        ("dflash", {"time_factor": 1.06, "prefill_factor": 1.3, "host_factor": 1.25}),
        ("dflash", {"time_factor": 0.95, "prefill_factor": 0.8, "wide_verify_factor": 1.1}),
    ],
)
def test_hidden_constants_are_found_and_unseen_loads_predicted(
    method: str, hidden: dict[str, float], tmp_path: Path
) -> None:
    truth = server(method, **hidden)
    served = Served(truth)
    terms = asked(served, tmp_path / "rows.jsonl", jobs=2)
    target = find(terms)
    kept = kept_of(terms, target)
    thought = plan(terms, target, kept)
    assert len(thought.cells) >= 3
    assert thought.choice.after[-1] < thought.choice.prior_sd / 3
    assert experiment(terms, target, thought, kept) is None
    assert served.clock() < 60 * terms.minutes
    outcome = learn(terms, kept, name="mine")
    assert np.abs(outcome.after[:, 0]).mean() < 0.03

    # Together, the levels of this server make up each hidden factor, within their errors.
    c = outcome.fit.calibration
    for name, factor in FACTORS.items():
        mine = [i for i, p in enumerate(c.parameters) if p.kind == name]
        if factor.scale != "log" or not mine:
            continue
        found = float(c.mean[mine].sum())
        sd = float(np.sqrt(c.covariance[np.ix_(mine, mine)].sum()))
        want = float(np.log(hidden.get(factor.constant, 1.0)))
        assert abs(found - want) < 2.5 * sd, (name, found, want, sd)

    file = tmp_path / "mine.toml"
    file.write_text(c.to_toml(), encoding="utf-8")
    fields = truth.scenario.model_dump() | {"calibration": str(file)}
    errors = []
    for cell in (Long(3, 512, 128), Long(12, 512, 128), Long(24, 1024, 128)):
        assert cell not in thought.cells
        unseen = with_acceptance(terms, kept, measured(served, cell))
        fields |= {"isl": cell.isl, "osl": cell.osl, "conc": cell.conc, "max_new_tokens": cell.osl}
        # What so few requests happened to accept is chance, and is no part of the prediction.
        fields |= {"num_prompts": cell.requests, "acceptance": unseen.get("acceptance"), "runs": 1}
        known = predict(Scenario.parse(**fields), with_baseline=False, with_interval=False).values
        errors.append(known["output_throughput"] / unseen["output_throughput"] - 1)
    assert np.abs(errors).mean() < 0.03, errors
    assert np.abs(errors).max() < 0.035, errors


def measured(served: Served, cell: Cell) -> Any:
    """A cell of a server, as a user's benchmark would have it."""

    async def work(client: Client) -> Any:
        return await measure(client, await look(client), cell, seed=99)

    return served.ask(work)


CELLS = (Cell(1, 64, 128), Cell(2, 64, 128), Cell(4, 64, 128), Cell(4, 512, 128))


@pytest.mark.usefixtures("quick")
def test_what_was_measured_is_gone_on_with(tmp_path: Path) -> None:
    served = Served(server())
    terms = asked(served, tmp_path / "rows.jsonl")
    target = find(terms)
    first = kept_of(terms, target)
    assert experiment(terms, target, planned(*CELLS[:2]), first) is None
    assert terms.rows.read_text(encoding="utf-8").count("\n") == 2
    again = kept_of(terms, target)
    assert again.cells == set(CELLS[:2])
    with pytest.raises(ServerError, match=r"2 of 3 cells .* the same command goes on"):
        learn(terms, again, name="x")
    assert experiment(terms, target, planned(*CELLS[2:]), again) is None
    outcome = learn(terms, kept_of(terms, target), name="x")
    assert len(outcome.chosen.rows) == 4
    assert "predicted over measured" in page.page(outcome)
    assert page.summary(outcome)["kind"] == "live calibration"
    assert not plan_has(terms, CELLS)


@pytest.mark.usefixtures("quick")
def test_errors_are_of_the_rows_as_they_were_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that names no release may be fitted as one that is not home's."""
    eager = "sglang-0.5.9"
    served = Served(server())
    told = served.twin.info
    served.twin.info = lambda: {k: v for k, v in told().items() if k != "version"}
    terms = asked(served, tmp_path / "rows.jsonl")
    target = find(terms)
    kept = kept_of(terms, target)
    assert experiment(terms, target, planned(*CELLS[:3]), kept) is None
    monkeypatch.setattr("dflash_sim.calibrate.fit.fit.likeliest_release", lambda *_, **__: eager)
    outcome = learn(terms, kept, name="x")
    assert {row.scenario.engine for row in outcome.fit.rows} == {eager}
    assert outcome.after[:, 0] == pytest.approx(outcome.fit.errors, abs=1e-6)
    names = [row.observation.row for row in outcome.fit.rows]
    assert list(page.summary(outcome)["after"]) == names


def plan_has(terms: Terms, cells: tuple[Cell, ...]) -> set[Cell]:
    """Those of some measured cells that a plan would measure again."""
    target = find(terms)
    return set(plan(terms, target, kept_of(terms, target)).cells) & set(cells)


@pytest.mark.usefixtures("quick")
def test_an_interrupt_loses_one_cell_at_most(tmp_path: Path) -> None:
    served = Served(server())
    terms = asked(served, tmp_path / "rows.jsonl")
    target = find(terms)
    kept = kept_of(terms, target)

    def interrupt(index: int, cell: Cell) -> None:
        if index == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment(terms, target, planned(*CELLS), kept, on_cell=interrupt)
    assert kept_of(terms, target).cells == set(CELLS[:2])


@pytest.mark.usefixtures("quick")
def test_an_experiment_longer_than_allowed_ends_and_is_kept(tmp_path: Path) -> None:
    served = Served(server())
    terms = asked(served, tmp_path / "rows.jsonl", minutes=0.1)
    target = find(terms)
    kept = kept_of(terms, target)
    why = experiment(terms, target, planned(*CELLS), kept)
    assert why is not None
    assert "0.1 minutes allowed were over after" in why
    assert served.clock() == pytest.approx(6.0, abs=1.0)
    assert 1 <= len(kept.rows) < len(CELLS)
    assert kept_of(terms, target).cells == kept.cells


@pytest.mark.usefixtures("quick")
def test_a_server_that_breaks_off_keeps_what_was_measured(tmp_path: Path) -> None:
    served = Served(server())
    terms = asked(served, tmp_path / "rows.jsonl")
    target = find(terms)
    kept = kept_of(terms, target)

    def drain(row: Any) -> None:
        served.routes.draining = True

    why = experiment(terms, target, planned(*CELLS), kept, on_row=drain)
    assert why is not None
    assert "shutting down" in why
    assert len(kept_of(terms, target).rows) == 1


@pytest.mark.parametrize(
    ("terms", "change", "why"),
    [
        ({"assume": []}, None, "--assume gpu=b200"),
        ({"assume": ["gpu=b2000"]}, None, "b2000"),
        ({"assume": ["gpu"]}, None, "KEY=VALUE"),
        ({"minutes": 0.1}, None, "raise --minutes 0.1"),
        ({"max_requests": 5}, None, "--max-requests 5"),
        ({}, {"model_path": "acme/unheard-of-7b"}, "unheard-of-7b"),
        ({}, {"pp_size": 4}, "pp"),
    ],
)
def test_what_cannot_be_calibrated_is_said_in_a_line(
    terms: dict[str, Any], change: dict[str, Any] | None, why: str, tmp_path: Path
) -> None:
    served = Served(server())
    if change:
        told = served.twin.info
        served.twin.info = lambda: {**told(), **change}
    words = asked(served, tmp_path / "rows.jsonl", **terms)

    def question() -> Plan:
        target = find(words)
        return plan(words, target, kept_of(words, target))

    with pytest.raises(UsageError, match=why) as error:
        question()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text + "{\n", ":2 is no row"),
        (lambda text: "[]\n", ":1 is no row"),
        (lambda text: text.replace('"tp_size": 1', '"tp_size": 2'), "tp_size is 2 there and 1"),
        (lambda text: text.replace("gpu=b200", "gpu=h200"), "gpu=h200 there, gpu=b200 here"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_rows_of_something_else_are_refused(
    damage: Callable[[str], str], why: str, tmp_path: Path
) -> None:
    served = Served(server())
    terms = asked(served, tmp_path / "rows.jsonl")
    target = find(terms)
    experiment(terms, target, planned(CELLS[0]), kept_of(terms, target))
    terms.rows.write_text(damage(terms.rows.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(UsageError, match=why):
        kept_of(terms, target)


def test_a_context_that_no_cell_fits_is_said(tmp_path: Path) -> None:
    served = Served(server())
    terms = asked(served, tmp_path / "rows.jsonl")
    target = replace(find(terms), most_tokens=100)
    with pytest.raises(UsageError, match="takes 100 tokens a request at most"):
        plan(terms, target, kept_of(terms, target))


def test_a_name_says_nothing_but_the_model(tmp_path: Path) -> None:
    """One that holds what a tag would read as another field is refused."""
    terms = Terms(Served(server()).connect, tmp_path / "rows.jsonl", assume=("gpu=b200",))
    assert "model=mine" in same_of(terms, Target("http://x", "mine"))["tag"]
    with pytest.raises(UsageError, match="--assume model="):
        same_of(terms, Target("http://x", "mine gpu=h200"))
