"""What a row says of a run, and what it leaves open."""

from dataclasses import replace
from math import nan
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from real_engine import setup  # noqa: E402

from dflash_sim.commands.run import _report  # noqa: E402
from dflash_sim.realrun.job.journal import CAPTURED, Answer, Iteration, Run, Span  # noqa: E402
from dflash_sim.realrun.job.requests import Request  # noqa: E402
from dflash_sim.realrun.launch import fit_requests  # noqa: E402
from dflash_sim.realrun.row import Row, observed_row  # noqa: E402
from dflash_sim.simulator.engine.records import DECODE, PREFILL  # noqa: E402

ASKED = [Request(prompt=(3, 1, 4), max_new_tokens=7)]
PHASES = [("draft", 0.0, 0.1), ("verify", 0.1, 0.6), ("accept", 0.6, 0.7)]
PHASES += [("materialise", 0.7, 0.9)]


def step(index: int, begun_s: float, phases: list[Span], **changes: Any) -> Iteration:
    """One iteration of one request; its result is taken a second after it began."""
    gpu = [(name, begun_s + a, begun_s + b) for name, a, b in phases]
    host = [("run_batch", begun_s - 0.1, begun_s), ("wait", begun_s, begun_s + 1.0)]
    made = {"kind": DECODE, "batch": 1, "tokens": 1} | changes
    return Iteration(index=index, host=host, gpu=gpu, **made)


def run_of(phases: list[Span], **changes: Any) -> Run:
    """A prefill and two decode steps, a second apart, on a device that worked 0.9 s of each."""
    first = step(0, 0.0, [("prefill", 0.0, 0.9)], kind=PREFILL, tokens=3)
    decodes = [step(i, float(i), phases, **changes) for i in (1, 2)]
    answer = Answer(
        rid=0,
        prompt=ASKED[0].prompt,
        output=(1, 2, 3, 4, 5, 6, 7),
        commits=(3, 3),
        arrival_s=0.0,
        finish_s=3.0,
        chunk_s=(1.0, 2.0, 3.0),
    )
    return Run((answer,), (first, *decodes), asked=1, duration_s=3.0, mode="v2")


def row_of(run: Run) -> Row:
    fitted = fit_requests(setup("qwen3", "dflash"), ASKED, 1)
    return observed_row(fitted, run, ASKED, conc=1, machine="made up")


def test_phases_that_were_measured() -> None:
    row = row_of(run_of(PHASES))
    assert (row["draft_ms"], row["verify_ms"]) == (100.0, 500.0)
    assert (row["materialise_ms"], row["other_ms"]) == (200.0, 100.0)
    assert row["comm_ms"] == 0.0
    assert row["step_ms"] == pytest.approx(1000.0)
    assert row["gpu_busy"] == pytest.approx(2.7 / 2.9, rel=1e-5)


def test_phases_that_nobody_measured_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    """A captured step is one span: what is inside is unknown, not nothing; its sum is known."""
    known, run = row_of(run_of(PHASES)), run_of([(CAPTURED, 0.0, 0.9)])
    row = row_of(run)
    phases = ("draft_ms", "verify_ms", "materialise_ms", "other_ms")
    assert [row[name] for name in phases] == [None] * 4
    for name in ("step_ms", "host_exposed_ms", "gpu_busy", "prefill_share"):
        assert row[name] == known[name]
    _report(row, run, None)
    shown = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()[2:])
    shown = {name.strip(): value for name, value in shown.items()}
    assert (shown["draft ms"], shown["verify ms"]) == ("-", "-")
    assert shown["step ms"] == "1000.000"


def test_one_step_without_phases_spoils_their_mean() -> None:
    """Phases of some steps are not published as those of all."""
    run = run_of(PHASES)
    mixed = replace(run, iterations=(*run.iterations[:2], step(2, 2.0, [(CAPTURED, 0.0, 0.9)])))
    assert row_of(mixed)["verify_ms"] is None


def test_collectives_that_nobody_timed_are_null() -> None:
    assert row_of(run_of(PHASES, comm_s=nan))["comm_ms"] is None
    assert row_of(run_of(PHASES, comm_s=0.25))["comm_ms"] == 250.0


@pytest.mark.parametrize("phases", [PHASES, [(CAPTURED, 0.0, 0.9)]])
def test_a_step_is_drawn_once(phases: list[Span]) -> None:
    drawn = [at for lane, name, *at in run_of(phases).intervals() if name == "decode"]
    assert [at[0] for at in drawn] == [1.0, 2.0]
