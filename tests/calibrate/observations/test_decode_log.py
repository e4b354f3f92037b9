"""Logs of servers: a batch that stays as it is tells its time per token, in any release."""

from pathlib import Path

import pytest

from dflash_sim.calibrate.observations.observation import Observation, ReadReport
from dflash_sim.calibrate.readers.read import read_observations
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario

LAUNCH = (
    "[2026-10-05 12:00:01] server_args=ServerArgs(model_path='Qwen/Qwen3-8B', tp_size=1, "
    "speculative_algorithm='DFLASH', speculative_num_draft_tokens=8)\n"
)
PREFILL = "[2026-10-05 12:01:20 TP0] Prefill batch, #new-seq: 1, #new-token: 1000, #running-req: {}"
RELEASES = {
    "2025": "[2025-03-24 02:56:41 TP0] Decode batch. #running-req: {n}, #token: {cached}, "
    "token usage: 0.01, accept len: 3.00, gen throughput (token/s): {speed}, largest-len: 0, "
    "#queue-req: 6, ",
    "2026": "[2026-04-05 20:02:51] Decode batch, #running-req: {n}, #token: {cached}, token "
    "usage: 0.08, accept len: 3.00, accept rate: 0.29, cuda graph: True, gen throughput "
    "(token/s): {speed}, #queue-req: 0",
    "hybrid": "\x1b[36m(pid=105447)\x1b[0m [2026-10-06 11:00:59 TP0 EP0] Decode batch, "
    "#running-req: {n}, #full token: {cached}, full token usage: 0.00, mamba num: 16, mamba "
    "usage: 0.42, accept len: 3.00, cuda graph: True, gen throughput (token/s): {speed}, "
    "#queue-req: 0",
}


def read(tmp_path: Path, *lines: str) -> ReadReport:
    path = tmp_path / "server.log"
    path.write_text(LAUNCH + "\n".join(lines) + "\n")
    return read_observations([path], {"gpu": "b200"})


def only(report: ReadReport) -> Observation:
    assert report.refused == ()
    (row,) = report.observations
    return row


@pytest.mark.parametrize("release", RELEASES)
def test_a_steady_batch_tells_its_time_per_token(tmp_path: Path, release: str) -> None:
    def line(speed: float, n: int = 16) -> str:
        return RELEASES[release].format(n=n, speed=speed, cached=1600 * n)

    # What came right behind a prefill, or with other requests, counts their time as well.
    steady = [line(9.0), line(8000.0), line(7900.0), PREFILL.format(16), line(500.0), line(8100.0)]
    row = only(read(tmp_path, *steady, line(4000.0, n=15), line(20000.0)))
    assert row.metrics["mean_tpot_ms"] == pytest.approx(1e3 * 16 / 8000)
    assert row.metrics["accept_length_cycle"] == 3
    assert (row.fields["conc"], row.fields["num_prompts"]) == (16, 16)
    assert row.fields["isl"] + row.fields["osl"] / 2 == 1600  # the context in the middle
    launched = (row.fields["model"], row.fields["method"], row.fields["block"])
    assert launched == ("qwen3-8b", "dflash", 8)


def test_sizes_of_the_batch_are_rows_of_their_own(tmp_path: Path) -> None:
    lines = [RELEASES["2026"].format(n=n, speed=1000 * n, cached=n) for n in (1, 1, 1, 4, 4, 4)]
    report = read(tmp_path, *lines)
    assert [row.fields["conc"] for row in report.observations] == [1, 4]
    eager = read(tmp_path, *(line.replace("graph: True", "graph: False") for line in lines[:3]))
    assert any("outside CUDA graphs" in note for note in only(eager).notes)


@pytest.mark.parametrize("flag", ["", "disable_radix_cache=True, "])
def test_what_is_simulated_is_the_batch_alone(tmp_path: Path, flag: str) -> None:
    """32 prompts of 8,000 tokens would be prefilled longer than 256 tokens are decoded."""
    line = (
        RELEASES["2026"].format(n=32, speed=2000, cached=32 * 8000).replace("len: 3.00", "len: 1")
    )
    launch = LAUNCH.replace("'DFLASH'", "None").replace("tp_size", f"{flag}tp_size")
    row = only(read(tmp_path, launch, *[line] * 3))
    found = predict(Scenario.parse(**row.fields), with_interval=False).values
    assert found["mean_tpot_ms"] == pytest.approx(found["step_ms"], rel=0.02)


def test_servers_that_were_started_one_after_the_other_are_apart(tmp_path: Path) -> None:
    def line(speed: float, tokens: int = 16000) -> str:
        return RELEASES["2026"].format(n=16, speed=speed, cached=tokens)

    plain = LAUNCH.replace("'DFLASH'", "None").rstrip("\n")
    failed = plain.replace("tp_size=1", "tp_size=8")
    report = read(tmp_path, *[line(6000)] * 3, failed, plain, *[line(2000)] * 3, line(9.0))
    drafted, alone = report.observations  # of the last start, one that failed has no batch
    assert report.refused == ()
    launched = [(row.fields["method"], row.fields["tp"]) for row in (drafted, alone)]
    assert launched == [("dflash", 1), ("none", 1)]
    assert drafted.metrics["mean_tpot_ms"] == pytest.approx(1e3 * 16 / 6000)
    assert alone.metrics["mean_tpot_ms"] == pytest.approx(1e3 * 16 / 2000)


WARNED = """launch_server.py:51: Warning: 'python -m sglang.launch_server' is still supported, but
'sglang serve' is the recommended entrypoint.
  Example: sglang serve --model-path <model> [options]
"""


def test_what_the_server_says_of_its_launch_counts(tmp_path: Path) -> None:
    typed = "+ SGLANG_ENABLE_SPEC_V2=0 python -m sglang.launch_server --model-path Qwen/Qwen3-4B\n"
    batches = "\n".join([RELEASES["2026"].format(n=4, speed=900, cached=4000)] * 3)
    path = tmp_path / "server.log"
    for above, mode in (("", None), (typed, "v1")):
        path.write_text(above + WARNED + LAUNCH + batches)
        row = only(read_observations([path], {"gpu": "b200"}))
        assert (row.fields["model"], row.fields["method"]) == ("qwen3-8b", "dflash")
        assert row.fields.get("engine_mode") == mode
    path.write_text(f"{typed}{batches}\n{typed.replace('4B', '14B')}{batches}")
    report = read_observations([path], {"gpu": "b200"})
    assert [row.fields["model"] for row in report.observations] == ["qwen3-4b", "qwen3-14b"]


def test_the_context_is_that_of_the_speed(tmp_path: Path) -> None:
    # Two loads in one log: the line in the middle tells both.
    lines = [RELEASES["2026"].format(n=1, speed=s, cached=c)
             for s, c in [(150, 1000)] * 5 + [(90, 60000)] * 3]  # fmt: skip
    row = only(read(tmp_path, *lines))
    assert row.metrics["mean_tpot_ms"] == pytest.approx(1e3 / 150)
    assert row.fields["isl"] + row.fields["osl"] / 2 == 1000


def test_a_record_may_quote_a_line_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    path.write_text(
        '{"server_info": {"model_path": "Qwen/Qwen3-8B"}, "mean_e2e_latency_ms": 90,'
        '"completed": 8, "max_concurrency": 1, "texts": ["Decode batch, #running-req: 1"]}'
    )
    report = read_observations([path], {"gpu": "b200", "isl": 9, "osl": 9, "tp": 1})
    assert only(report).about["tool"] == "sglang bench_serving"


@pytest.mark.parametrize(
    ("lines", "why"),
    [([RELEASES["2026"].format(n=n, speed=9, cached=n) for n in (1, 2, 3)], "no batch stayed as"),
     ([PREFILL.format(0)], "no batch stayed as"),
     ([RELEASES["2026"].format(n="0.5", speed="1.2.3", cached="x")] * 3, "no batch stayed as"),
     ([PREFILL.format(0).replace("TP0", f"DP{rank} TP0") for rank in (0, 1)], "of their own"),
     (["INFO [loggers.py:248] Engine 000: Avg generation throughput: 39.1 tokens/s"], "of vLLM's"),
     (['vllm:num_requests_running{engine="0",model_name="Qwen/Qwen3-8B"} 16.0'], "of vLLM's"),
     (["INFO [metrics.py:100] SpecDecoding metrics: Mean acceptance length: 3.00"], "of vLLM's")],
)  # fmt: skip
def test_other_logs_are_refused_by_what_they_are(
    tmp_path: Path, lines: list[str], why: str
) -> None:
    ((_, said),) = read(tmp_path, *lines).refused
    assert why in said
