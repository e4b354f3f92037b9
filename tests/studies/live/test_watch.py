"""A server under its own traffic, beside its prediction: what drifts is named."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("httpx")

from in_process import Served

from dflash_sim.calibrate.live.client import ServerError
from dflash_sim.calibrate.live.experiment import prompts
from dflash_sim.calibrate.live.window import window
from dflash_sim.calibrate.readers.sglang_metrics import snapshots
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.live.question import Terms, find
from dflash_sim.studies.live.watch import watch

ASKED = {"gpu": "b200", "model": "qwen3-8b", "num_gpus": 1, "method": "dflash"}


def heard(
    tmp_path: Path, *, al: float = 3.7, windows: int = 2, every_s: float = 8.0, **hidden: float
) -> list[str]:
    """What is said of a server with six clients, said to accept 3.7 tokens a step."""
    setup = resolve(Scenario.parse(**ASKED, acceptance=f"al:{al},theta=0", isl=64, osl=64))
    scaled = {name: setup.engine[name] * factor for name, factor in hidden.items()}
    served = Served(replace(setup, engine=setup.engine.with_constants(**scaled)))
    said: list[str] = []
    terms = Terms(
        served.connect,
        tmp_path / "rows.jsonl",
        assume=("gpu=b200", "acceptance=al:3.7,theta=0"),
        run=served.run,
    )
    target = find(terms)

    def busy(work: Any) -> Any:
        """Run the watch while clients ask, as any traffic does."""

        async def one(k: int) -> None:
            draw = prompts(512, (k,))
            async with served.connect() as client:
                while True:
                    await client.answer(target.model, next(draw), 160 + 40 * k)

        async def both() -> Any:
            clients = [asyncio.create_task(one(k)) for k in range(6)]
            try:
                return await work
            finally:
                for client in clients:
                    client.cancel()
                await asyncio.gather(*clients, return_exceptions=True)

        return served.run(both())

    watch(replace(terms, run=busy), target, every_s=every_s, tell=said.append, windows=windows)
    return said


def test_a_server_that_is_as_predicted_drifts_nowhere(tmp_path: Path) -> None:
    """Though some twenty answers end in a window, and six more are under way at either end."""
    said = heard(tmp_path, windows=3, every_s=2.0)
    assert len(said) == 3
    for line in said:
        assert line.startswith("6 in flight")
        assert "inside its 90 % interval" in line
        assert abs(float(re.findall(r"\(([-+][\d.]+) %\)", line)[0])) < 7


def test_a_fallen_accept_length_is_named(tmp_path: Path) -> None:
    said = heard(tmp_path, al=2.4, windows=1)
    assert "drifts: accept length" in said[1]


def test_slower_steps_are_named(tmp_path: Path) -> None:
    said = heard(tmp_path, windows=1, time_factor=1.5)
    assert "outside" in said[0]
    assert any("drifts: decode step" in line for line in said[1:])


def test_a_slow_host_is_named_by_its_own_stages(tmp_path: Path) -> None:
    said = heard(tmp_path, windows=1, host_factor=6.0)
    assert "outside" in said[0]
    assert any("drifts: host" in line and "scheduler stages" in line for line in said[1:])


def test_a_server_without_metrics_is_not_watched(tmp_path: Path) -> None:
    setup = resolve(Scenario.parse(**ASKED, acceptance="al:3.7", isl=64, osl=64))
    served = Served(setup, metrics=False)
    terms = Terms(served.connect, tmp_path / "r", assume=("gpu=b200",), run=served.run)
    with pytest.raises(ServerError, match="--enable-metrics"):
        watch(terms, find(terms), every_s=1.0, tell=print, windows=1)


def test_a_window_without_answers_says_nothing() -> None:
    text = "sglang:num_requests_total 4\nsglang:generation_tokens_total 100\n"
    (before,), _ = snapshots(text, "before")
    (after,), _ = snapshots(text, "after")
    assert window(before, after, 10.0) is None


def test_a_window_is_a_row_of_its_traffic() -> None:
    text = """sglang:num_requests_total {n}
sglang:generation_tokens_total {out}
sglang:prompt_tokens_total {inward}
sglang:spec_verify_calls_total {steps}
sglang:e2e_request_latency_seconds_sum {e2e}
sglang:e2e_request_latency_seconds_count {n}
"""
    first = text.format(n=4, out=100, inward=400, steps=30, e2e=1.0)
    later = text.format(n=14, out=2100, inward=5400, steps=530, e2e=21.0)
    (before,), _ = snapshots(first, "before")
    (after,), _ = snapshots(later, "after")
    found = window(before, after, 10.0)
    assert found is not None
    row, stages = found
    assert stages == {}
    assert (row["completed"], row["output_throughput"], row["verify_steps"]) == (10, 200.0, 500)
    assert row["mean_e2e_latency_ms"] == pytest.approx(2000.0)
    assert row["max_concurrency"] == 2  # Little: one answer a second, two seconds each


def test_tokens_of_answers_that_go_on_are_counted_as_they_come() -> None:
    """Four requests in step: twelve answers end just before the second scrape, or just after it."""
    text = """sglang:num_requests_total {n}
sglang:generation_tokens_total {out}
sglang:prompt_tokens_total {inward}
sglang:time_to_first_token_seconds_sum {first_s}
sglang:time_to_first_token_seconds_count {first}
sglang:inter_token_latency_seconds_sum {between_s}
sglang:inter_token_latency_seconds_count {between}
"""
    zero = dict.fromkeys(("n", "out", "inward", "first_s", "first", "between_s", "between"), 0)
    came = {"first_s": 1.0, "first": 14, "between_s": 39.0, "between": 2586}
    (before,), _ = snapshots(text.format(**zero), "before")
    for n in (12, 16):
        told = text.format(**came, n=n, out=200 * n, inward=256 * n)
        (after,), _ = snapshots(told, "after")
        found = window(before, after, 10.0)
        assert found is not None
        assert found[0]["output_throughput"] == pytest.approx(260.0)
        assert found[0]["concurrency"] == pytest.approx(4.0)
        assert found[0]["total_output_tokens"] / found[0]["completed"] == 200
        assert found[0]["request_throughput"] == pytest.approx(1.3)


def test_a_server_that_was_started_again_is_watched_on(tmp_path: Path) -> None:
    served = Served(resolve(Scenario.parse(**ASKED, acceptance="al:3.7", isl=64, osl=64)))
    terms = Terms(served.connect, tmp_path / "r", assume=("gpu=b200",), run=served.run)
    target, counts, said = find(terms), iter((9, 4, 4, 4)), list[str]()
    served.twin.load = lambda: replace(load, counters={"generated_tokens": next(counts)})
    load = type(served.twin).load(served.twin)
    watch(terms, target, every_s=1.0, tell=said.append, windows=2)
    assert "was started again in between" in said[0]
    assert said[1:] == ["no request was answered"]
