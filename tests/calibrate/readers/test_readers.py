"""Benchmark files in, observations out: every tool's words, and all that can be wrong."""

import csv
import doctest
import io
import json
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.calibrate.observations import hints as read_hints
from dflash_sim.calibrate.observations import lengths
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import ALIASES, NAMES, Observation, ReadReport
from dflash_sim.calibrate.observations.row_filter import parse_filter
from dflash_sim.calibrate.readers.read import KNOWN, read_observations
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_published
from dflash_sim.simulator.requests.workload import fixed_workload, open_loop
from dflash_sim.simulator.scenario import Scenario

DATA = Path(__file__).parents[2] / "data" / "readers"
PUBLISHED = Path(__file__).parents[3] / "profiles" / "published" / "throughput.csv"
FILES = sorted(p for p in DATA.rglob("*") if p.is_file() and p.name != "README.md")
PRESET = {"gpu": "b200", "model": "qwen3.5-397b-a17b", "method": "dflash", "block": 16}
MODES = {"none": None, "unknown": None, "spec_v1": "v1", "spec_v2": "v2"}


def read(*names: str, **assume: Any) -> ReadReport:
    return read_observations([DATA / name for name in names], assume)


def written(tmp_path: Path, text: str | bytes, name: str = "file", **assume: Any) -> ReadReport:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_observations([path], assume)


def records(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


class TestEveryFile:
    def test_each_tool_has_a_file_and_a_word_on_its_origin(self) -> None:
        folders = {path.parent for path in FILES}
        assert len(folders) == 9
        for folder in folders:
            lines = (folder / "README.md").read_text().splitlines()
            assert len(lines) == 1
            assert "illustrative" in lines[0]

    @pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
    def test_counts_add_up_and_fields_make_a_scenario(self, path: Path) -> None:
        report = read_observations([path], PRESET)
        assert report.read == len(report.observations) + len(report.refused) > 0
        for row in report.observations:
            assert Scenario.parse(**row.fields)
            assert all(value >= 0 for value in row.metrics.values())
            assert all(name in row.fields or name not in PRESET for name in row.assumed)

    def test_all_together_is_the_sum_of_each(self) -> None:
        each = [read_observations([path], PRESET) for path in FILES]
        both = read_observations(sorted(FILES, key=lambda p: p.name != "before.prom"), PRESET)
        paired = 1  # the two scrapes are refused alone and used together
        told_twice = 1  # AIPerf's requests beside its summary
        assert both.used == sum(r.used for r in each) + paired - told_twice
        assert both.counts.endswith(f" {both.used} used, {len(both.refused)} refused")


class TestMeanings:
    """Expected values are worked out from the files' own numbers."""

    def test_bench_serving_scenario_comes_from_server_info(self) -> None:
        first, plain, open_loop = read("sglang_bench_serving/runs.jsonl").observations
        assert first.fields == {
            "gpu": "b200", "model": "qwen3.5-397b-a17b", "tp": 8, "method": "dflash", "block": 16,
            "draft_model": "qwen3.5-397b-a17b-dflash", "attention_backend": "trtllm_mha",
            "max_running_requests": 32, "mem_fraction_static": 0.8, "chunked_prefill_size": 16384,
            "cuda_graph_max_bs": 32, "page_size": 64, "engine_mode": "v2", "radix_cache": True,
            "num_prompts": 320, "conc": 32, "isl": 1024, "osl": 1024, "max_new_tokens": 1024,
        }  # fmt: skip
        assert first.build == "0.5.13"
        assert first.assumed == ("temperature",)  # what a client sends is in no such file
        assert first.metrics["accept_length_cycle"] == 6.41
        assert "accept_length" not in first.metrics
        assert plain.fields["method"] == "none"
        assert "block" not in plain.fields
        assert open_loop.fields["rate"] == 3.0
        assert "conc" not in open_loop.fields
        drawn = {k: open_loop.fields[k] for k in ("isl", "range_ratio")}
        assert drawn == {"isl": 1024, "range_ratio": 0.5}  # uniform on 512..1024, mean 768
        assert open_loop.fields["engine_mode"] == "v2-sync"
        assert open_loop.assumed == ("gpu", "temperature")

    def test_bench_serving_falls_back_on_the_launch_command(self, tmp_path: Path) -> None:
        raw = records("sglang_bench_serving/runs.jsonl")[0]
        raw["server_info"] = {"launch_command": raw["server_info"]["launch_command"]}
        (row,) = written(tmp_path, json.dumps(raw)).observations
        assert row.fields["block"] == 16
        assert row.fields["tp"] == 8

    def test_one_batch_throughput_counts_prefill(self) -> None:
        alone, many = read("sglang_one_batch/batches.jsonl").observations
        assert alone.metrics["output_throughput"] == pytest.approx(512 / 0.6421)
        assert alone.about["decode_tok_s"] == pytest.approx(512 / (0.6421 - 0.0712), rel=1e-4)
        assert many.metrics["mean_tpot_ms"] == pytest.approx((2987.5 - 330.4) / 511)
        assert many.fields["conc"] == many.fields["num_prompts"] == 32

    def test_vllm_percent_e2el_and_positions(self) -> None:
        (row,) = read("vllm_bench_serve/openai-infqps-concurrency8.json").observations
        accepted = [3480, 2960, 2480, 2040, 1640, 1280, 960]  # of 4000 steps, by position
        assert row.metrics["accept_rate"] == pytest.approx(sum(accepted) / 28000)
        assert row.metrics["accept_length_cycle"] == pytest.approx(1 + sum(accepted) / 4000)
        assert row.accept_histogram == (520, 520, 480, 440, 400, 360, 320, 960)
        assert row.fields["block"] == 8
        assert row.metrics["mean_e2e_latency_ms"] == pytest.approx(95 + 2.36 * 293)
        assert row.metrics["total_throughput"] == pytest.approx(2950 * (1024 + 294) / 294)

    def test_vllm_appends(self) -> None:
        closed, arrivals = read("vllm_bench_serve/appended.json").observations
        assert closed.fields["conc"] == 16  # request_rate "inf" is no rate
        assert arrivals.fields["rate"] == 1.0

    def test_aiperf_names(self) -> None:
        (run,) = read("aiperf/profile_export_aiperf.json", **PRESET).observations
        assert run.metrics["mean_tpot_ms"] == 5.69  # inter_token_latency
        assert run.metrics["mean_itl_ms"] == 27.4  # inter_chunk_latency
        assert run.metrics["duration"] == pytest.approx(320 * 512 / 5200)
        assert run.fields["conc"] == 16
        assert run.fields["num_prompts"] == 320

    def test_aiperf_requests(self) -> None:
        report = read("aiperf/profile_export.jsonl", **PRESET)
        (run,) = report.observations
        assert run.fields["conc"] == 2
        assert run.metrics["completed"] == 8
        assert run.metrics["mean_ttft_ms"] == 182.5
        assert run.metrics["mean_itl_ms"] == 27.5
        assert run.metrics["mean_tpot_ms"] == pytest.approx(20 * 27.5 / 127)
        assert run.metrics["output_throughput"] == pytest.approx(8 * 128 / 9.746, rel=1e-6)
        assert report.refused[0][0] == "profile_export.jsonl:9"

    def test_aiperf_lengths_are_as_spread_as_it_says(self, tmp_path: Path) -> None:
        """Uniform lengths with the mean and the deviation of the run's outputs."""
        raw = json.loads((DATA / "aiperf/profile_export_aiperf.json").read_text())
        for deviation, least in ((100.0, 512 - 100 * 3**0.5), (0.0, 512.0), (900.0, 0.0)):
            raw["output_sequence_length"]["std"] = deviation
            (run,) = written(tmp_path, json.dumps(raw), **PRESET).observations
            longest, ratio = run.fields["osl"], run.fields.get("range_ratio", 1.0)
            assert longest * (1 + ratio) / 2 == pytest.approx(512, abs=1)
            assert longest * ratio == pytest.approx(least, abs=1)

    def test_aiperf_says_when_a_tokenizer_is_of_a_quantised_checkpoint(
        self, tmp_path: Path
    ) -> None:
        """A summary that names the bf16 model may be of the other, with a quarter of the bytes."""
        raw = json.loads((DATA / "aiperf/profile_export_aiperf.json").read_text())
        notes = []
        for tokenizer in ("nvidia/Qwen3-8B-NVFP4", "Qwen/Qwen3-8B"):
            raw["input_config"] = {"models": "Qwen/Qwen3-8B", "concurrency": 16}
            raw["input_config"]["tokenizer"] = {"name": tokenizer}
            (run,) = written(tmp_path, json.dumps(raw), gpu="b200", method="none").observations
            assert run.fields["model"] == "qwen3-8b"
            notes.append([note for note in run.notes if "its tokenizer is that of" in note])
        assert [len(found) for found in notes] == [1, 0]

    def test_aiperf_knows_a_model_by_its_tokenizer_too(self, tmp_path: Path) -> None:
        raw = json.loads((DATA / "aiperf/profile_export_aiperf.json").read_text())
        raw["input_config"] = {"models": "mine", "concurrency": 16}
        raw["input_config"]["tokenizer"] = {"name": "Qwen/Qwen3-8B"}
        (run,) = written(tmp_path, json.dumps(raw), gpu="b200", method="none").observations
        assert run.fields["model"] == "qwen3-8b"
        del raw["input_config"]["tokenizer"]
        report = written(tmp_path, json.dumps(raw), gpu="b200", method="none")
        assert "--assume model=NAME" in report.refused[0][1]

    def test_aiperf_time_units(self, tmp_path: Path) -> None:
        raw = json.loads((DATA / "aiperf/profile_export_aiperf.json").read_text())
        raw["time_to_first_token"] = {"unit": "ns", "avg": 180e6}
        (run,) = written(tmp_path, json.dumps(raw), **PRESET).observations
        assert run.metrics["mean_ttft_ms"] == pytest.approx(180)
        raw["time_to_first_token"]["unit"] = "fortnights"
        assert "fortnights" in written(tmp_path, json.dumps(raw), **PRESET).refused[0][1]

    def test_guidellm_tpot_leaves_the_first_token_out(self) -> None:
        one, eight, arrivals = read("guidellm/benchmarks.json", **PRESET).observations
        assert one.metrics["mean_tpot_ms"] == 1.2  # its inter_token_latency_ms
        # Without that: (140 + 255 x 2.2) / 256 = 2.738 includes the first token; 2.2 does not.
        assert eight.metrics["mean_tpot_ms"] == pytest.approx(2.2)
        assert eight.metrics["mean_e2e_latency_ms"] == pytest.approx(140 + 255 * 2.2)
        assert [r.fields.get("conc") for r in (one, eight, arrivals)] == [1, 8, None]
        assert arrivals.fields["rate"] == 2.0

    @pytest.mark.parametrize(("how", "even"), [("constant", True), ("poisson", False)])
    def test_arrivals_that_come_evenly_are_told_from_others(
        self, tmp_path: Path, how: str, even: bool
    ) -> None:
        """Gaps that are all the same leave no queue where those by chance do."""
        aiperf = json.loads((DATA / "aiperf/profile_export_aiperf.json").read_text())
        aiperf["input_config"] = {"models": "Qwen/Qwen3-8B", "loadgen": {
            "request_rate": 2.0, "request_rate_mode": how, "request_count": 50}}  # fmt: skip
        guidellm = json.loads((DATA / "guidellm/benchmarks.json").read_text())
        del guidellm["benchmarks"][:2]
        guidellm["benchmarks"][0]["config"]["strategy"] = {"type_": how, "rate": 2.0}
        for raw in (aiperf, guidellm):
            (run,) = written(tmp_path, json.dumps(raw), gpu="b200", method="none").observations
            scenario = Scenario.parse(**run.fields, seed=1)
            work = open_loop(
                fixed_workload(isl=8, osl=8, requests=50, conc=1), rate=2.0,
                burstiness=scenario.burstiness, rng=np.random.default_rng(1),
            )  # fmt: skip
            assert work.arrival_s is not None
            gaps = np.diff(work.arrival_s)
            assert (gaps.std() < 0.01 * gaps.mean()) == even

    def test_inferencex_is_in_seconds_and_per_gpu(self) -> None:
        (row,) = read("inferencex/agg_qwen3.5_1k1k_tp8_conc32.json").observations
        assert row.metrics["mean_ttft_ms"] == pytest.approx(576)
        assert row.metrics["mean_tpot_ms"] == pytest.approx(17.92)
        assert row.metrics["output_throughput"] == pytest.approx(
            32 * 1024 / (0.576 + 1023 * 0.01792)
        )
        assert row.fields["gpu"] == "b200"
        assert row.build == "0.5.14"

    @pytest.mark.parametrize(
        "name",
        ["inferencex/agg_qwen3.5_1k1k_tp8_conc32.json",
         "vllm_bench_serve/openai-infqps-concurrency8.json", "sglang_bench_serving/runs.jsonl"],
    )  # fmt: skip
    def test_records_that_are_kept_as_a_table(self, name: str, tmp_path: Path) -> None:
        """All that is not nested: of SGLang's server, columns that somebody added."""
        text, server = (DATA / name).read_text(), {"method": "dflash", "block": 16}
        saved, _ = json.JSONDecoder().raw_decode(text)
        (row,) = written(tmp_path, json.dumps(saved), **server).observations
        added = {"gpu": "b200", "tp": 8, "model": "qwen3.5-397b-a17b", "method": "dflash"}
        flat = {key: value for key, value in (added | saved).items() if key != "server_info"}
        out = io.StringIO()
        writer = csv.DictWriter(out, flat)
        writer.writeheader()
        writer.writerow(flat)
        (kept,) = written(tmp_path, out.getvalue(), **server).observations
        assert kept.metrics == row.metrics
        same = ("model", "gpu", "method", "conc", "isl", "osl", "num_prompts", "range_ratio")
        assert [kept.fields.get(n) for n in same] == [row.fields.get(n) for n in same]

    def test_request_metrics_sum_up(self) -> None:
        report = read("sglang_request_metrics/sglang-request-metrics-20261102_10.log")
        (row,) = report.observations
        histogram = row.accept_histogram
        assert histogram is not None
        steps = sum(histogram)
        assert row.metrics["verify_steps"] == steps
        drafts = sum(j * n for j, n in enumerate(histogram))
        assert row.metrics["accept_length_cycle"] == pytest.approx(1 + drafts / steps)
        assert row.metrics["accept_rate"] == pytest.approx(drafts / steps / 15)
        assert row.fields == {"block": 16}  # the last requests carry no sampling parameters
        each = [sum(h) and (sum((j + 1) * n for j, n in enumerate(h))) / sum(h) for h in HISTOGRAMS]
        assert row.metrics["accept_length"] == pytest.approx(sum(each) / len(each))
        assert report.refused[0][1] == "the request was aborted"

    def test_prometheus_difference(self) -> None:
        (row,) = read("sglang_metrics/before.prom", "sglang_metrics/after.prom").observations
        assert row.metrics["verify_steps"] == 18800
        assert row.metrics["accept_length_cycle"] == pytest.approx((120000 - 120) / 18800)
        # 22 % of 30 s on rank 0, and 2 % more on rank 1.
        run_batch = [row.metrics[f"scheduler_stage_s.run_batch.{o}"] for o in OVERLAPS]
        assert sum(run_batch) == pytest.approx(0.22 * 30 * 1.01)
        assert row.metrics["duration"] == pytest.approx(30 * 1.01)
        assert row.fields["model"] == "qwen3.5-397b-a17b"

    def test_result_rows_of_our_own(self, tmp_path: Path) -> None:
        row = {
            "schema_version": 1, "kind": "observed", "gpu": "b200", "tp": 8, "method": "dflash",
            "model": "qwen3.5-397b-a17b", "block": 8, "engine_mode": "v2", "dataset_name": "mbpp",
            "thinking": True, "max_concurrency": 4, "concurrency": 3.9, "output_throughput": 1500.5,
        }  # fmt: skip
        predicted = row | {"kind": "predicted"}
        report = written(tmp_path, f"{json.dumps(row)}\n{json.dumps(predicted)}\n")
        (found,) = report.observations
        assert found.fields["conc"] == 4
        assert found.metrics["concurrency"] == 3.9
        assert "prediction" in report.refused[0][1]


OVERLAPS = ("full", "partial", "none")
HISTOGRAMS = [
    raw.get("meta_info", raw.get("out", {}).get("meta_info", raw))["spec_correct_drafts_histogram"]
    for raw in records("sglang_request_metrics/sglang-request-metrics-20261102_10.log")
    if "left" not in json.dumps(raw)
]


class TestTables:
    def test_published_rows_read_as_the_loader_reads_them(self) -> None:
        points = load_published()
        report = read_observations([PUBLISHED])
        lines = {row.row: row for row in report.observations}
        for line, point in enumerate(points, start=2):
            row = lines.get(f"throughput.csv:{line}")
            if row is None:
                assert point.method == "eagle3-tree" or point.dataset == "alpaca"
                continue
            f = row.fields
            assert row.source == point.source_id
            assert (f["model"], f["gpu"], f["tp"]) == (point.model, point.gpu, point.tp)
            assert (f["method"], f.get("block", 1)) == (point.method, point.block)
            assert f["conc"] == point.conc
            assert f.get("engine_mode") == MODES[point.engine_mode]
            assert row.metrics["output_throughput"] == point.output_tok_s
            assert row.metrics.get("accept_length") == point.accept_len
            if "isl" not in f:
                assert (f["dataset"], f.get("thinking")) == (point.dataset, point.thinking)
        assert report.used + len(report.refused) == len(points)

    def test_headers_of_an_earlier_collection(self) -> None:
        report = read("table/collected.csv")
        plain, mtp, moe, dense, lengths, tree = report.observations
        assert plain.fields["gpu"] == "gh200"
        assert plain.fields["num_prompts"] == 1024  # max(64, 8 x 128)
        assert mtp.fields["num_prompts"] == 128
        assert mtp.fields["block"] == 4  # 3 steps verify 4
        assert mtp.fields["osl"] == 512
        assert mtp.fields["radix_cache"] is False
        assert mtp.assumed == ("isl",)
        assert mtp.build == "0.5.21.dev861"
        assert moe.fields["draft_model"] == "qwen3.5-122b-a10b-dflash"
        assert dense.fields["block"] == 16  # 15 drafts
        assert "draft_model" in dense.assumed  # the drafter was replaced under its name
        assert dense.about["drafter"].startswith("z-lab/Qwen3.5-27B-DFlash (orig")
        assert {"engine_mode", "thinking"} <= set(dense.assumed)
        assert (lengths.fields["isl"], lengths.fields["osl"]) == (8192, 1024)
        assert [tree.fields[n] for n in ("steps", "topk", "block")] == [7, 10, 60]
        reasons = [reason for _, reason in report.refused]
        assert [reason.split("'")[0] for reason in reasons] == [
            "column gpu: ",
            "engine ",
        ]

    def test_fitted_rows_say_so(self) -> None:
        rows = read("table/own.csv").observations
        assert rows[2].about["fitted_what"] == ("kernel_gap",)
        assert rows[2].fields["radix_cache"] is False

    def test_rounding_is_an_error(self) -> None:
        row = read("table/own.csv").observations[1]
        assert row.rel_err["accept_length"] == pytest.approx(0.01 / 12**0.5 / 5.02)

    @pytest.mark.parametrize(
        ("text", "sheet"),
        [
            ("GH200 96GB HBM3 (sm_90)", "gh200"),
            ("NVIDIA B200", "b200"),
            ("8x B200", "b200"),
            ("H100 SXM5 80GB", "h100"),
            ("RTX PRO 6000 Blackwell Server", "rtx_pro_6000"),
            ("H200 141GB", "h200"),
        ],
    )
    def test_gpu_names(self, text: str, sheet: str) -> None:
        assert Names().gpu(text)[0] == sheet

    @pytest.mark.parametrize(
        "text",
        ["V100 PCIe", "GH200 144GB", "A100 48GB", "MI250X x4", "B200 or H200"],
    )
    def test_other_machines_are_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match=text):
            Names().gpu(text)

    def test_doctests(self) -> None:
        for module, count in ((read_hints, 1), (lengths, 2)):
            assert doctest.testmod(module) == (0, count)


HEADER = "model,method,block,gpu,tp,num_gpus,dataset,conc,output_tok_s,accept_len\n"
GOOD = "qwen3-8b,dflash,16,b200,1,1,gsm8k,4,4000,6.1"
BAD_CELLS = {
    "tp 8 exceeds": "qwen3-8b,dflash,16,b200,8,4,gsm8k,4,4000,6.1",
    "accept_length 17 exceeds block 16": "qwen3-8b,dflash,16,b200,1,1,gsm8k,4,4000,17",
    "below 1": "qwen3-8b,dflash,16,b200,1,1,gsm8k,4,4000,0.4",
    "no concurrency": "qwen3-8b,dflash,16,b200,1,1,gsm8k,,4000,6.1",
    "no model": ",dflash,16,b200,1,1,gsm8k,4,4000,6.1",
    "no method": "qwen3-8b,,16,b200,1,1,gsm8k,4,4000,6.1",
    "no block": "qwen3.5-4b,mtp,,b200,1,1,gsm8k,4,4000,3.1",
    "no native MTP": "qwen3-8b,mtp,4,b200,1,1,gsm8k,4,4000,3.1",
    "unknown model 'gpt-5'": "gpt-5,dflash,16,b200,1,1,gsm8k,4,4000,6.1",
    "column gpu: unknown GPU 'b2000'": "qwen3-8b,dflash,16,b2000,1,1,gsm8k,4,4000,6.1",
    "unknown dataset 'AIME25'": "qwen3-8b,dflash,16,b200,1,1,AIME25,4,4000,6.1",
    "conc is 'many'": "qwen3-8b,dflash,16,b200,1,1,gsm8k,many,4000,6.1",
    "nothing was measured": "qwen3-8b,dflash,16,b200,1,1,gsm8k,4,,",
    "output_tok_s is 'inf': left out": "qwen3-8b,dflash,16,b200,1,1,gsm8k,4,inf,",
    "method none drafts nothing": "qwen3-8b,none,,b200,1,1,gsm8k,4,4000,6.1",
    "9 cells": "qwen3-8b,dflash,16,b200,1,1,gsm8k,4,4000",
}


class TestBadInput:
    @pytest.mark.parametrize("reason", BAD_CELLS)
    def test_one_row_is_refused_and_the_next_is_not(self, reason: str, tmp_path: Path) -> None:
        report = written(tmp_path, f"{HEADER}{BAD_CELLS[reason]}\n{GOOD}\n", "rows.csv")
        assert (report.read, report.used) == (2, 1)
        where, why = report.refused[0]
        assert where == "rows.csv:2"
        assert reason in why

    def test_missing_conditions_are_assumed_and_listed(self, tmp_path: Path) -> None:
        text = "model,method,conc,output_tok_s\nqwen3-8b,dflash,4,4000\n"
        (row,) = written(tmp_path, text, dataset="gsm8k", gpu="NVIDIA B200", block=16).observations
        assert row.fields["gpu"] == "b200"
        assert row.fields["dataset"] == "gsm8k"
        assert {"gpu", "dataset", "block", "tp", "engine_mode", "thinking"} <= set(row.assumed)
        assert not {"model", "method", "conc"} & set(row.assumed)

    def test_the_file_wins_over_an_assumption(self, tmp_path: Path) -> None:
        (row,) = written(tmp_path, HEADER + GOOD, gpu="h100", conc=32, isl=1, osl=1).observations
        assert (row.fields["gpu"], row.fields["conc"]) == ("b200", 4)
        assert "isl" not in row.fields

    def test_an_assumption_must_be_a_field(self) -> None:
        with pytest.raises(UsageError, match="unknown assumption 'gpus'"):
            read("table/own.csv", gpus=8)

    def test_a_speedup_needs_no_baseline(self, tmp_path: Path) -> None:
        text = "model,method,block,conc,speedup_vs_baseline\nqwen3-8b,dflash,16,4,3.1\n"
        (row,) = written(tmp_path, text).observations
        assert row.metrics == {"speedup": 3.1}

    def test_unread_columns_are_told(self, tmp_path: Path) -> None:
        text = "model,method,conc,output_tok_s,mood\nqwen3-8b,none,4,900,good\n"
        assert "file: columns not read: mood" in written(tmp_path, text).notes

    def test_repeated_rows_count_once(self, tmp_path: Path) -> None:
        other = GOOD.replace("4000", "4010")
        report = written(tmp_path, f"{HEADER}{GOOD}\n{GOOD}\n{other}\n", "rows.csv")
        assert report.used == 2
        assert report.refused == (("rows.csv:3", "the same as rows.csv:2: counted once"),)
        twice = read("table/own.csv", "table/own.csv")
        assert twice.used == len(twice.refused) == 3

    @pytest.mark.parametrize("at", [40, 2000, -30])
    def test_a_truncated_line_costs_that_line(self, at: int, tmp_path: Path) -> None:
        lines = (DATA / "sglang_bench_serving/runs.jsonl").read_text().splitlines()
        report = written(tmp_path, "\n".join([lines[0][:at], *lines[1:]]), "runs.jsonl")
        assert (report.read, report.used) == (3, 2)
        assert report.refused[0][0] == "runs.jsonl:1"
        assert "not JSON" in report.refused[0][1]

    def test_a_truncated_end_costs_the_last_line(self, tmp_path: Path) -> None:
        text = (DATA / "sglang_bench_serving/runs.jsonl").read_text()
        report = written(tmp_path, text[:-50], "runs.jsonl")
        assert report.refused[0][0] == "runs.jsonl:3"
        assert "cut off" in report.refused[0][1]

    def test_a_truncated_list_keeps_its_whole_members(self, tmp_path: Path) -> None:
        rows = json.loads((DATA / "inferencex/results_bmk.json").read_text())
        text = "[" + ",\n".join(json.dumps(row) for row in rows)
        report = written(tmp_path, text[:-20])
        assert [row.fields["conc"] for row in report.observations] == [4, 4]
        assert [row.fields.get("quantization") for row in report.observations] == [None, "fp8"]
        assert report.read == 4  # the list without its end, and three members

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (b"", "is empty"),
            (b" \n\n", "is empty"),
            (b"\x7fELF\x02\x01\x01\x00\xff\xfe", "is not text"),
            (b"a\x00b", "is not text"),
            (b'{"traceEvents": [], "deviceProperties": []}', "no known tool writes that"),
            (b"PK and so on", "no known tool writes that"),
            (b"[1, 2, 3]", "no known tool writes that"),
            (b"[" * 200_000, "nested too deeply"),
            (HEADER.encode(), "holds no record"),
            (b"model,model,output_tok_s\na,b,1\n", "comes twice"),
        ],
    )
    def test_a_file_that_cannot_be_read(self, text: bytes, reason: str, tmp_path: Path) -> None:
        report = written(tmp_path, text)
        assert (report.read, report.used) == (1, 0)
        assert reason in report.refused[0][1]
        if "tool" in reason:
            assert all(tool in report.refused[0][1] for tool in KNOWN)

    def test_folders_and_missing_files(self, tmp_path: Path) -> None:
        report = read_observations([tmp_path, tmp_path / "absent.csv"])
        assert [why.split(";")[0] for _, why in report.refused] == [
            "is a folder",
            "cannot be read: No such file or directory",
        ]

    def test_answers_that_came_in_one_piece_are_not_in_seconds(self, tmp_path: Path) -> None:
        raw = records("sglang_bench_serving/runs.jsonl")[0]
        raw |= {"mean_ttft_ms": raw["mean_e2e_latency_ms"] - 10, "mean_tpot_ms": 0.05}
        raw |= {name: None for name in raw if name.startswith(("median_", "p99_", "mean_itl"))}
        (row,) = written(tmp_path, json.dumps(raw)).observations
        assert row.metrics["mean_tpot_ms"] == 0.05

    def test_infinity_is_no_measurement(self, tmp_path: Path) -> None:
        raw = records("sglang_bench_serving/runs.jsonl")[0] | {"p99_itl_ms": float("inf")}
        (row,) = written(tmp_path, json.dumps(raw)).observations
        assert "p99_itl_ms" not in row.metrics
        assert "p99_itl_ms is inf: left out" in row.notes

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"output_throughput": 9000.0}, "is not total_output_tokens"),
            ({"mean_e2e_latency_ms": 4.86}, "exceeds mean_e2e_latency_ms"),
            ({"mean_tpot_ms": 0.0045}, "seconds and milliseconds mixed"),
            ({"mean_tpot_ms": 0.0045, "mean_e2e_latency_ms": None}, "seconds, not milliseconds?"),
            ({"mean_ttft_ms": 0.21}, "is a fraction of mean_tpot_ms 4.55: seconds"),
            ({"concurrency": 64.0}, "exceeds the 32 requests in flight"),
            ({"accept_length": 19.0}, "exceeds block 16"),
            ({"max_concurrency": "32 or so"}, "expected a number"),
            ({"request_rate": 5.0, "concurrency": 12.0}, "both limit the load"),
            ({"completed": 0, "duration": 0}, "completed is 0"),
            ({"backend": "vllm"}, "engine 'vllm' is not simulated"),
            ({"tag": "gpu=b17"}, "tag: column gpu: unknown GPU 'b17'"),
        ],
    )
    def test_contradictions(self, change: dict[str, Any], reason: str, tmp_path: Path) -> None:
        raw = records("sglang_bench_serving/runs.jsonl")[0] | change
        report = written(tmp_path, json.dumps(raw))
        assert reason in report.refused[0][1]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"dp_size": 2}, "dp-size 2 is not simulated"),
            ({"dtype": "float32"}, "Products are priced in bf16"),
            ({"speculative_algorithm": "DSPARKLE"}, "unknown"),
            ({"speculative_num_draft_tokens": 8}, "contradicts"),
            ({"model_path": "acme/unheard-of"}, "unknown model 'acme/unheard-of'"),
        ],
    )
    def test_servers_that_are_not_simulated(
        self, change: dict[str, Any], reason: str, tmp_path: Path
    ) -> None:
        raw = records("sglang_bench_serving/runs.jsonl")[0]
        raw["server_info"] |= change
        why = written(tmp_path, json.dumps(raw)).refused[0][1]
        assert why.startswith("server_info: ")
        assert reason in why

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"num_spec_steps": 41}, "counts 40 steps, the record 41"),
            ({"num_accepted_draft_tokens": 9}, "accepted drafts, the record 9"),
            ({"num_draft_tokens": 3}, "exceed the 3 proposed"),
            ({"num_spec_tokens": 4}, "15 drafts accepted in a step"),
            ({"acceptance_histogram": {"-1": 40}}, "expected a whole number"),
        ],
    )
    def test_acceptance_identities(
        self, change: dict[str, Any], reason: str, tmp_path: Path
    ) -> None:
        good, raw = records("aiperf/acceptance.jsonl")[1], records("aiperf/acceptance.jsonl")[0]
        report = written(tmp_path, f"{json.dumps(raw | change)}\n{json.dumps(good)}")
        assert report.used == 1
        assert reason in report.refused[0][1]

    def test_inferencex_in_milliseconds_is_seen(self, tmp_path: Path) -> None:
        raw = json.loads((DATA / "inferencex/agg_qwen3.5_1k1k_tp8_conc32.json").read_text())
        raw["mean_tpot"] *= 1000
        assert "in seconds" in written(tmp_path, json.dumps(raw)).refused[0][1]

    def test_scrapes_alone_and_backwards(self) -> None:
        alone = read("sglang_metrics/before.prom")
        assert "one scrape alone" in alone.refused[0][1]
        back = read("sglang_metrics/after.prom", "sglang_metrics/before.prom")
        assert "started again" in back.refused[0][1]

    def test_counts_that_do_not_add_up_are_a_bug(self) -> None:
        with pytest.raises(ValueError, match="3 rows read, but 0 used and 0 refused"):
            ReadReport(observations=(), read=3)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["0", "-1", "inf", "b200", "dflash"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


class TestFuzz:
    @settings(max_examples=80)
    @given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
    def test_any_bytes(self, tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
        report = written(tmp_path_factory.getbasetemp(), text, "fuzz", **PRESET)
        assert report.read >= 1

    @settings(max_examples=150)
    @given(st.data())
    def test_damaged_records(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        path = data.draw(st.sampled_from(FILES))
        text = path.read_text()
        rng = random.Random(data.draw(st.integers(0, 2**32)))
        try:
            raws: list[Any] = [json.loads(text)]
        except ValueError:
            try:
                raws = [json.loads(line) for line in text.splitlines()]
            except ValueError:
                raws = []
        if raws:
            for _ in range(data.draw(st.integers(1, 3))):
                damage(raws, rng, data.draw(JSON))
            text = "\n".join(json.dumps(raw) for raw in raws)
        else:
            start = rng.randrange(len(text))
            text = text[:start] + data.draw(st.text(max_size=4)) + text[start + rng.randrange(9) :]
        found = written(tmp_path_factory.getbasetemp(), text, "fuzz", **PRESET)
        assert found.read >= 1
        for row in found.observations:
            Scenario.parse(**row.fields)

    @settings(max_examples=150)
    @given(st.text(max_size=60) | st.from_regex(r"(\(|not |conc|==|1|and|'x'|in|,|\)| ){1,12}"))
    def test_any_expression(self, text: str) -> None:
        with suppress(UsageError):
            assert parse_filter(text)(ROW) in (True, False)


def damage(value: Any, rng: random.Random, new: Any) -> None:
    """Replace or remove something at a random depth."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.7:
            value = value[key]
            continue
        if rng.random() < 0.2 and isinstance(value, dict):
            del value[key]
        else:
            value[key] = new
        return


ROW = Observation(
    row="a.csv:2",
    source="CARD",
    fields={"conc": 1, "method": "dflash", "thinking": True, "model": "qwen3-8b", "block": 16}
    | {"temperature": 0.0},
    metrics={"output_throughput": 900.0},
    about={"url": "a"},
)


class TestSelection:
    @pytest.mark.parametrize(
        ("text", "holds"),
        [
            ("concurrency==1 and method!='mtp'", True),
            ("conc > 1 or method in ('mtp', 'DFLASH')", True),
            ("not thinking", False),
            ("1 <= conc < 8 <= block", True),
            ("model == 'Qwen3-8B' and source == 'card'", True),
            ("conc not in (1, 32)", False),
            ("dataset == 'gsm8k'", False),
            ("dataset != 'gsm8k'", False),
            ("not dataset == 'gsm8k'", False),
            ("dataset == None", True),
            ("dataset != None or temperature == 0", True),
            ("conc > -1", True),
            ("True", True),
        ],
    )
    def test_rows(self, text: str, holds: bool) -> None:
        assert parse_filter(text)(ROW) is holds

    @pytest.mark.parametrize(
        ("text", "token"),
        [
            ("concurency==1", "'concurency'"),
            ("conc=='1'", "'conc == '1''"),
            ("method==1", "'method == 1'"),
            ("method<'z'", "'method < 'z''"),
            ("__import__('os').system('true')", "__import__"),
            ("conc.__class__==1", "conc.__class__"),
            ("conc==1 and", "invalid syntax"),
            ("conc is 1", "by is"),
            ("conc==1+1", "'1 + 1'"),
            ("(lambda: 1)==conc", "lambda"),
            ("conc in 'abc'", "'abc'"),
            ("1==1", "'1 == 1'"),
            ("not " * 100 + "thinking", "deep"),
            ("conc", "'conc'"),
        ],
    )
    def test_errors_name_the_token_and_an_example(self, text: str, token: str) -> None:
        with pytest.raises(UsageError) as error:
            parse_filter(text)
        assert token in str(error.value)
        assert "Such as: concurrency==1 and method!='mtp'" in str(error.value)

    def test_names_and_split(self) -> None:
        chosen = parse_filter("concurrency==1 and source!='X'")
        assert chosen.names == {"conc", "source"}
        other = replace(ROW, fields={"conc": 32})
        assert chosen.split([ROW, other]) == ([ROW], [other])
        assert set(ALIASES.values()) <= set(NAMES)

    def test_unlike_a_plain_comparison_a_lack_selects_nothing(self) -> None:
        bare = replace(ROW, fields={})
        assert not any(parse_filter(t)(bare) for t in ("conc==1", "conc!=1", "not conc==1"))
