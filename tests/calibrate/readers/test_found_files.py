"""Benchmark results as people paste and keep them: printed tables, phases, seconds, bad rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from dflash_sim.calibrate.observations.observation import Observation, ReadReport
from dflash_sim.calibrate.readers.read import read_observations
from dflash_sim.profiles.errors import UsageError

SERVER = {"gpu": "b200", "tp": 1, "method": "none", "model": "qwen3-8b"}
SGLANG = """
$ python3 -m sglang.bench_serving ...
benchmark_args=Namespace(backend='sglang', dataset_name='random', model=None, num_prompts=64,
============ Serving Benchmark Result ============
Backend:                                 sglang
Traffic request rate:                    inf
Max request concurrency:                 8
Successful requests:                     64
Benchmark duration (s):                  20.00
Total input tokens:                      64000
Total generated tokens:                  32,000
Output token throughput (tok/s):         1600.00
Concurrency:                             7.90
Accept length:                           3.10
----------------End-to-End Latency----------------
Mean E2E Latency (ms):                   2468.75
---------------Time to First Token----------------
Mean TTFT (ms):                          60.00
Median TTFT (ms):                        50.00
P99 TTFT (ms):                           90.00
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          4.82
==================================================
"""
VLLM = """
============ Serving Benchmark Result ============
Successful requests:                     40
Maximum request concurrency:             4
Request rate configured (RPS):           inf
Benchmark duration (s):                  10.00
Total input tokens:                      4000
Total generated tokens:                  8000
Output token throughput (tok/s):         800.00
Total Token throughput (tok/s):          1200.00
Mean TTFT (ms):                          20.00
Mean TPOT (ms):                          4.90
Mean E2EL (ms):                          995.10
==================================================
"""


def read(tmp_path: Path, text: str | dict[str, Any], **assume: Any) -> ReadReport:
    path = tmp_path / "result"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return read_observations([path], SERVER | assume)


def only(report: ReadReport) -> Observation:
    assert report.refused == ()
    assert report.used == 1
    return report.observations[0]


class TestPrinted:
    def test_of_sglang(self, tmp_path: Path) -> None:
        row = only(read(tmp_path, SGLANG, method="dflash", block=8))
        assert row.fields["conc"] == 8
        assert row.fields["num_prompts"] == 64
        lengths = (row.fields["isl"], row.fields["osl"], row.fields["range_ratio"])
        assert lengths == (2000, 1000, 0.0)  # means of 1,000 and 500, and the default draws them
        assert row.metrics["output_throughput"] == 1600
        assert row.metrics["mean_ttft_ms"] == 60
        assert row.metrics["mean_e2e_latency_ms"] == 2468.75
        assert row.metrics["accept_length_cycle"] == 3.1

    def test_of_vllm_says_nothing_of_who_served(self, tmp_path: Path) -> None:
        row = only(read(tmp_path, VLLM))
        assert row.fields["conc"] == 4
        assert row.metrics["mean_tpot_ms"] == 4.9
        assert row.metrics["mean_e2e_latency_ms"] == 995.1
        assert "engine" in row.assumed

    def test_of_vllm_says_what_its_own_steps_accepted(self, tmp_path: Path) -> None:
        drafts = (
            "---------------Speculative Decoding---------------\n"
            "Acceptance rate (%):  25.00\nAcceptance length:  2.75\nDrafts:  4000\n"
            "Draft tokens:  28,000\nAccepted tokens:  7000\nPer-position acceptance (%):\n"
            "  Position 0:  75.00\n  Position 1:  50.00\n  Position 2:  25.00\n"
        )
        args = "Namespace(dataset_name='random', random_range_ratio='{}')\n"
        end = VLLM.index("Mean E2EL")
        text = args.format(0.0) + VLLM[:end] + drafts + VLLM[end:]
        report = read(tmp_path, text, method="dflash")
        row = only(report)
        assert row.fields["block"] == 8  # seven drafts a step, and the anchor
        assert row.metrics["accept_length_cycle"] == 2.75
        assert row.accept_histogram is not None
        assert row.accept_histogram[:3] == (1000, 1000, 1000)
        assert not any("server started" in note for note in row.notes)
        assert "range_ratio" not in row.fields  # lengths are as asked for
        wide = only(read(tmp_path, text.replace("'0.0'", "'0.6'"), method="dflash"))
        assert wide.fields["range_ratio"] == pytest.approx(0.25)  # from 0.4 to 1.6 of the mean

    def test_several_in_one_log_in_a_quotation(self, tmp_path: Path) -> None:
        other = SGLANG.replace("concurrency:                 8", "concurrency:                 16")
        other = other.replace("1600.00", "1500.00").replace("20.00", "21.33")
        log = "".join(f"> {line}\n" for line in (SGLANG + other).splitlines())
        report = read(tmp_path, log, method="dflash", block=8)
        assert [row.fields["conc"] for row in report.observations] == [8, 16]

    def test_the_launch_above_it_is_the_server(self, tmp_path: Path) -> None:
        launch = "python3 -m sglang.launch_server --model Qwen/Qwen3-4B \\\n  --page-size 16\n\n"
        path = tmp_path / "issue.txt"
        path.write_text(launch + SGLANG.replace("Accept length", "Nothing"))
        row = only(read_observations([path], {"gpu": "h200"}))
        assert row.fields["model"] == "qwen3-4b"
        assert row.fields["page_size"] == 16
        assert row.fields["method"] == "none"

    def test_arguments_that_were_printed(self, tmp_path: Path) -> None:
        args = "Namespace(backend='sglang', dataset_name='random', random_range_ratio=1.0, x=[])\n"
        row = only(read(tmp_path, args + SGLANG, method="dflash", block=8))
        assert row.about["benchmark"] == "random"
        assert row.notes == () or "mean" not in row.notes[0]

    def test_of_another_engine(self, tmp_path: Path) -> None:
        report = read(tmp_path, SGLANG.replace("Backend:     ", "Backend: vllm"))
        assert "engine 'vllm" in report.refused[0][1]


def aiperf(phases: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "request_latency": {"unit": "ms", "avg": 1000.0},
        "time_to_first_token": {"unit": "ms", "avg": 20.0},
        "output_token_throughput": {"unit": "tokens/sec", "avg": 800.0},
        "input_sequence_length": {"unit": "tokens", "avg": 100.0},
        "output_sequence_length": {"unit": "tokens", "avg": 100.0},
        "input_config": {"phases": phases},
    }


WARM = {"name": "warmup", "requests": 3, "concurrency": 2, "exclude_from_results": True}


class TestPhases:
    def test_the_measured_phase_is_the_load(self, tmp_path: Path) -> None:
        row = only(read(tmp_path, aiperf([WARM, {"name": "p", "requests": 90, "concurrency": 8}])))
        assert row.fields["conc"] == 8
        assert row.fields["num_prompts"] == 90

    @pytest.mark.parametrize(
        ("said", "even"),
        [({"type": "constant"}, True), ({"type": "poisson"}, False),
         ({"ramp": {"type": "constant"}}, False), ({"arrival_pattern": "constant"}, True),
         ({"type": "poisson", "rate_ramp": {"type": "constant"}}, False)],
    )  # fmt: skip
    def test_a_type_of_a_part_of_a_phase_says_nothing_of_arrivals(
        self, tmp_path: Path, said: dict[str, Any], even: bool
    ) -> None:
        row = only(read(tmp_path, aiperf([WARM, {"name": "p", "rate": 2.0, **said}])))
        assert row.fields["rate"] == 2
        assert ("burstiness" in row.fields) == even

    def test_two_measured_phases_are_no_single_load(self, tmp_path: Path) -> None:
        twice = [{"name": "a", "concurrency": 8}, {"name": "b", "concurrency": 16}]
        assert "2 phases that are measured" in read(tmp_path, aiperf(twice)).refused[0][1]

    def test_a_summary_named_without_a_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "summary.json").write_text(json.dumps(aiperf([{"concurrency": 8}])))
        monkeypatch.chdir(tmp_path)
        only(read_observations([Path("summary.json")], SERVER))


def in_seconds(**more: Any) -> dict[str, Any]:
    return {
        "model_id": "Qwen/Qwen3-8B",
        "max_concurrency": 4,
        "completed": 40,
        "duration": 10.0,
        "total_input_tokens": 4000,
        "total_output_tokens": 8000,
        "output_throughput": 800.0,
        "median_ttft": 0.02,
        "median_tpot": 0.0049,
        "median_e2el": 0.995,
    } | more


def test_latencies_without_a_unit_are_seconds(tmp_path: Path) -> None:
    row = only(read(tmp_path, in_seconds()))
    assert row.metrics["median_ttft_ms"] == 20
    assert row.metrics["median_tpot_ms"] == pytest.approx(4.9)


class TestBadRows:
    def test_a_quantised_model_is_not_another_model(self, tmp_path: Path) -> None:
        row = only(read(tmp_path, in_seconds(model_id="Qwen/Qwen3-8B-FP8")))
        assert row.fields["model"] == "qwen3-8b-fp8"
        report = read(tmp_path, in_seconds(model_id="Qwen/Qwen3-8B-GGUF"))
        assert "quantised to GGUF, by its name, whose kernels" in report.refused[0][1]

    @pytest.mark.parametrize(
        ("precision", "read_as"),
        [
            ("fp8", {"quantization": "fp8"}),
            ("bf16", {}),
            ("NVFP4", {"quantization": "modelopt_fp4"}),
            ("int4", {"quantization": "awq"}),
        ],
    )
    def test_a_column_of_precision_is_of_weights(
        self, tmp_path: Path, precision: str, read_as: dict[str, str]
    ) -> None:
        table = (
            "model,gpu,tp,method,conc,isl,osl,precision,output_tok_s\n"
            f"qwen3-8b,h200,1,none,4,1000,300,{precision},500\n"
        )
        fields = only(read(tmp_path, table)).fields
        assert {n: v for n, v in fields.items() if n == "quantization"} == read_as
        report = read(tmp_path, table.replace(precision, "fp3"))
        assert "'fp3'" in report.refused[0][1]

    @pytest.mark.parametrize(
        ("model", "precision"),
        [
            ("RedHatAI/Qwen3-8B-FP8-dynamic", "fp8"),
            ("nvidia/Llama-3.3-70B-Instruct-FP8", "fp8"),
            ("openai/gpt-oss-120b", "fp4"),
        ],
    )
    def test_a_quantised_checkpoint_keeps_what_its_files_say(
        self, tmp_path: Path, model: str, precision: str
    ) -> None:
        table = "model,gpu,tp,method,conc,isl,osl,precision,output_tok_s\n"
        row = only(read(tmp_path, f"{table}{model},h200,1,none,4,1000,300,{precision},500\n"))
        assert "quantization" not in row.fields

    def test_seconds_called_milliseconds(self, tmp_path: Path) -> None:
        wrong = VLLM.replace("995.10", "0.995").replace("20.00", "0.02").replace("4.90", "0.0049")
        assert "seconds, not milliseconds?" in read(tmp_path, wrong).refused[0][1]

    def test_two_speeds_of_one_configuration(self, tmp_path: Path) -> None:
        other = VLLM.replace("800.00", "1600.00").replace("10.00", "5.00")
        third = VLLM.replace("concurrency:             4", "concurrency:             8")
        report = read(tmp_path, VLLM + other + third)
        assert report.used == 1
        assert [why for _, why in report.refused] == [report.refused[0][1]] * 2
        assert "800 tok/s" in report.refused[0][1]
        assert "1,600" in report.refused[0][1]

    def test_runs_of_one_setting_differ_a_little(self, tmp_path: Path) -> None:
        again = VLLM.replace("800.00", "820.00").replace("10.00", "9.76")
        assert read(tmp_path, VLLM + again).used == 2


def test_a_build_may_be_assumed_by_any_of_its_names(tmp_path: Path) -> None:
    row = only(read(tmp_path, VLLM, generation="2026-03"))
    assert row.build == "2026-03"
    assert "build" in row.assumed
    assert "build" not in row.fields
    with pytest.raises(UsageError, match="build is assumed already"):
        read(tmp_path, VLLM, generation="2026-03", build="0.5.9")
