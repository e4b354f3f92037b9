"""``dflash-sim run``: the shipped pair, its files, its faults."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from dflash_sim.calibrate.observations.acceptance_records import verified  # noqa: E402
from dflash_sim.cli import run as cli  # noqa: E402
from dflash_sim.profiles.schema import load_schema  # noqa: E402
from dflash_sim.realrun.job.grown import GROWN  # noqa: E402
from dflash_sim.realrun.job.setup import METHODS  # noqa: E402

SMALL = ["run", "--num-prompts", "4", "--max-new-tokens", "24", "--conc", "2"]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def figures(text: str) -> dict[str, str]:
    lines = [line.split("  ") for line in text.splitlines()[2:]]
    return {line[0]: line[-1].strip() for line in lines}


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("none", []),
        ("dflash", ["--block", "8"]),
        ("dflash2", ["--block", "8"]),
        ("dspark", []),
        ("domino", ["--block", "8"]),
        ("mtp", []),
        ("eagle3", []),
    ],
)
def test_the_shipped_pair(
    method: str, extra: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table, a row of the schema, AIPerf's records whose identities hold, a timeline."""
    files = {name: tmp_path / f"{name}.json" for name in ("row", "requests", "trace")}
    files["row"] = tmp_path / "row.jsonl"
    args = ["-o", files["row"], "--requests", files["requests"], "--trace", files["trace"]]
    assert cli([*SMALL, "--method", method, *extra, *map(str, args)]) == 0
    shown = figures(capsys.readouterr().out)
    [row] = rows(files["row"])
    assert list(row) == [field.name for field in load_schema()]
    assert (row["kind"], row["method"], row["completed"]) == ("observed", method, 4)
    assert shown["answered"] == "4 of 4"
    assert float(shown["output token/s"]) == pytest.approx(row["output_throughput"], abs=0.06)
    records = rows(files["requests"])
    for record in records:
        found = verified(record)
        assert found.completion == len(record["output_ids"])
    made = sum(len(r["output_ids"]) for r in records)
    assert row["total_output_tokens"] == made
    assert row["output_throughput"] == pytest.approx(made / row["duration"], rel=1e-4)
    if method != "none":
        assert row["accept_length_cycle"] > (1.1 if row["warnings"] else 1.5)
        steps = sum(r["num_spec_steps"] for r in records)
        assert sum(row["accept_histogram"]) == row["verify_steps"] == steps
    assert bool(row["warnings"]) == (method in GROWN)  # not trained, and said so
    trace = json.loads(files["trace"].read_text(encoding="utf-8"))
    names = {event["name"] for event in trace["traceEvents"]}
    assert {"recv_requests", "run_batch", "process_batch_result", "decode", "verify"} <= names


def test_speculation_answers_as_plain_decoding_does(tmp_path: Path) -> None:
    """The trained pair, in its own float32: every method, the same text."""
    said = []
    for method in METHODS:
        file = tmp_path / f"{method}.jsonl"
        assert cli([*SMALL, "--method", method, "--requests", str(file)]) == 0
        said.append({r["request_id"]: r["output_ids"] for r in rows(file)})
    assert said == [said[0]] * len(METHODS)


def test_imposed_acceptance_with_random_weights(tmp_path: Path) -> None:
    file = tmp_path / "row.jsonl"
    imposed = ["--random-weights", "--accept-length", "2.5", "-o", str(file), "--isl", "10"]
    assert cli([*SMALL, "--block", "4", *imposed]) == 0
    [row] = rows(file)
    assert row["accept_histogram"][0] == row["accept_histogram"][3] == 0
    assert row["acceptance_source"] == "imposed: 2.5 tokens a step"


def test_an_open_loop(tmp_path: Path) -> None:
    files = [tmp_path / "row.jsonl", tmp_path / "requests.jsonl"]
    args = ["--rate", "50", "-o", str(files[0]), "--requests", str(files[1])]
    assert cli([*SMALL, *args]) == 0
    [row] = rows(files[0])
    assert (row["request_rate"], row["max_concurrency"], row["completed"]) == (50, None, 4)
    arrivals = [r["arrival_s"] for r in sorted(rows(files[1]), key=lambda r: r["request_id"])]
    assert arrivals == sorted(arrivals)
    assert arrivals[0] > 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--model", "nowhere"], "nowhere/config.json: cannot be read"),
        (["--isl", "4", "--prompts", "x.jsonl"], "give one of --prompts FILE and --isl N"),
        (["--prompts", "x.jsonl"], "x.jsonl: cannot be read"),
        (["--block", "99"], "block 99 is not in 2..16"),
        (["--block", "0"], "block 0 is not in 2..16"),
        (["--steps", "3"], "method dflash takes no --steps; give --block or drop it"),
        (["--method", "domino", "--steps", "3"], "method domino takes no --steps; give --block"),
        (["--method", "mtp", "--block", "4"], "method mtp takes no --block; give --steps"),
        (["--method", "none", "--block", "4"], "method none takes no --block; drop it"),
        (["--method", "none", "--steps", "4"], "method none takes no --steps; drop it"),
        (["--tp", "3"], "tp=3"),
        (["--rate", "0"], "must be from 1e-06"),
        (["--rate", "1e-300"], "must be from 1e-06"),
        (["--num-prompts", "1000000000"], "one run has 1,000,000 requests at most"),
        (["--isl", "9000", "--num-prompts", "900000"], "100,000,000 at most"),
        (["--method", "turbo"], "unknown method 'turbo'"),
        (["-o", "no/such/folder.jsonl"], "no/such is no directory"),
    ],
)
def test_bad_input(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli([*SMALL, *args]) == 2
    assert said in capsys.readouterr().err


def start(*args: str, **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "dflash_sim", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | env,
        start_new_session=True,
    )


@pytest.mark.slow
def test_ctrl_c_leaves_whole_lines(tmp_path: Path) -> None:
    """What was answered is in both files; the exit code is a shell's for an interrupt."""
    row, requests = tmp_path / "row.jsonl", tmp_path / "requests.jsonl"
    many = ["--num-prompts", "100000", "--max-new-tokens", "16", "--conc", "2"]
    with start("run", *many, "-o", str(row), "--requests", str(requests)) as process:
        try:
            for _ in range(600):
                if requests.exists() and requests.stat().st_size > 3000:
                    break
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "requests had been answered" in said
    answered = rows(requests)
    assert len(answered) >= 1
    [partial] = rows(row)
    assert partial["completed"] == len(answered)
    [warning] = partial["warnings"]
    assert warning == f"stopped; {len(answered)} of 100000 requests had been answered"


@pytest.mark.slow
def test_ranks_that_somebody_else_started(tmp_path: Path) -> None:
    """As ``torchrun`` does: one process per rank, told by the environment; rank 0 reports."""
    file = tmp_path / "row.jsonl"
    env = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "29511"}
    env |= {"TMPDIR": str(tmp_path), "TORCHELASTIC_RUN_ID": "test"}
    args = [*SMALL, "--tp", "2", "-o", str(file)]
    with start(*args, RANK="1", **env) as second, start(*args, RANK="0", **env) as first:
        said, complaint = first.communicate(timeout=60)
        silence, _ = second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0), complaint
    assert figures(said)["answered"] == "4 of 4"
    assert silence == ""
    assert rows(file)[0]["tp"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["row.jsonl"]
