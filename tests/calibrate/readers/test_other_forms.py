"""Results in other forms: other clients, batches without a server, tables made for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dflash_sim.calibrate.observations.headings import as_csv, column_of
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.text_tables import text_tables
from dflash_sim.calibrate.readers.read import read_observations

ASSUMED = {"gpu": "b200", "tp": 1, "method": "none", "model": "qwen3-8b"}
LLMPERF = {
    "model": "Qwen/Qwen3-8B", "num_concurrent_requests": 4, "results_ttft_s_mean": 0.05,
    "results_ttft_s_quantiles_p50": 0.04, "results_inter_token_latency_s_mean": 0.011,
    "results_end_to_end_latency_s_mean": 1.1, "results_number_input_tokens_mean": "500.4",
    "results_number_output_tokens_mean": "100.0", "results_num_completed_requests": 40,
    "results_num_completed_requests_per_min": 180.0,
    "results_mean_output_throughput_token_per_s": 300.0,
}  # fmt: skip
EVALSCOPE = {
    "Time taken for tests (s)": 20.0, "Number of concurrency": 8, "Total requests": 80,
    "Succeed requests": 80, "Output token throughput (tok/s)": 1000.0,
    "Average time to first token (s)": 0.1, "Average time per output token (s)": 0.007,
    "Average latency (s)": 1.85, "Average input tokens per request": 512.0,
    "Average output tokens per request": 250.0,
}  # fmt: skip
GENAI_BENCH = {
    "scenario": "D(100,100)", "num_concurrency": 4, "batch_size": 1, "run_duration": 50.0,
    "iteration_type": "num_concurrency", "mean_output_throughput_tokens_per_s": 400.0,
    "requests_per_second": 4.0, "num_completed_requests": 200,
    "stats": {
        "ttft": {"mean": 0.05, "p50": 0.04}, "tpot": {"mean": 0.009, "stddev": 0.001},
        "e2e_latency": {"mean": 0.95}, "output_throughput": {"mean": 110.0},
        "num_input_tokens": {"mean": 106.0}, "num_output_tokens": {"mean": 100.0, "stddev": 0.0},
    },
}  # fmt: skip
OLD = """============ Serving Benchmark Result ============
Backend:                                 sglang
Traffic request rate:                    128.0
Max reqeuest concurrency:                512
Successful requests:                     1024
Benchmark duration (s):                  287.20
Total input tokens:                      1048576
Total generated tokens:                  131072
Output token throughput (tok/s):         456.37
Concurrency:                             {}
==================================================
"""


def read(tmp_path: Path, text: str | Mapping[str, Any], **assumed: Any) -> list[Observation]:
    path = tmp_path / "result.txt"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    report = read_observations([path], ASSUMED | assumed)
    assert report.refused == ()
    return list(report.observations)


def test_llmperf_says_seconds(tmp_path: Path) -> None:
    (row,) = read(tmp_path, LLMPERF)
    assert (row.fields["conc"], row.fields["isl"], row.fields["osl"]) == (4, 500, 100)
    assert row.metrics["mean_ttft_ms"] == pytest.approx(50)
    assert row.metrics["median_ttft_ms"] == pytest.approx(40)
    assert row.metrics["output_throughput"] == 300
    assert row.metrics["request_throughput"] == pytest.approx(3)
    assert "mean_tpot_ms" not in row.metrics  # its inter-token latency has the first token in it


@pytest.mark.parametrize("printed", [False, True])
def test_evalscope_as_saved_and_as_printed(tmp_path: Path, printed: bool) -> None:
    box = "".join(f"+---+---+\n| {key} | {value} |\n" for key, value in EVALSCOPE.items())
    text = f"Benchmarking summary:\n+---+---+\n| Key | Value |\n{box}+---+---+\n"
    (row,) = read(tmp_path, text if printed else EVALSCOPE)
    assert (row.fields["conc"], row.fields["isl"], row.fields["osl"]) == (8, 512, 250)
    assert row.metrics["mean_tpot_ms"] == pytest.approx(7)
    assert row.metrics["mean_e2e_latency_ms"] == pytest.approx(1850)
    assert row.metrics["duration"] == 20


@pytest.mark.parametrize(("unit", "scale"), [(None, 1.0), ("s", 1.0), ("ms", 1e3)])
def test_genai_bench_says_its_unit(tmp_path: Path, unit: str | None, scale: float) -> None:
    stats: Any = GENAI_BENCH["stats"]
    times = {name: {k: v * scale for k, v in stats[name].items()}
             for name in ("ttft", "tpot", "e2e_latency")}  # fmt: skip
    run = GENAI_BENCH | {"stats": stats | times}
    (row,) = read(tmp_path, {"aggregated_metrics": run, "_time_unit": unit})
    assert (row.fields["conc"], row.fields["isl"], row.fields["osl"]) == (4, 106, 100)
    assert row.metrics["mean_ttft_ms"] == pytest.approx(50)
    assert row.metrics["median_ttft_ms"] == pytest.approx(40)
    assert row.metrics["std_tpot_ms"] == pytest.approx(1)
    assert row.metrics["mean_e2e_latency_ms"] == pytest.approx(950)
    assert row.metrics["output_throughput"] == 400  # of the server, not of one request
    assert "engine" in row.assumed


def test_genai_bench_at_a_rate_and_with_batches_of_prompts(tmp_path: Path) -> None:
    rate = {"iteration_type": "request_rate", "request_rate": 4, "num_concurrency": 64}
    (row,) = read(tmp_path, {"aggregated_metrics": GENAI_BENCH | rate})
    assert row.fields["rate"] == 4
    assert "conc" not in row.fields
    path = tmp_path / "batches.json"
    path.write_text(json.dumps({"aggregated_metrics": GENAI_BENCH | {"batch_size": 8}}))
    ((_, why),) = read_observations([path], ASSUMED).refused
    assert "batch_size 8" in why


def test_one_batch_without_a_server(tmp_path: Path) -> None:
    raw = {"batch_size": 8, "input_len": 512, "output_len": 128, "prefill_latency": 0.05,
           "median_decode_latency": 0.007, "total_latency": 1.0}  # fmt: skip
    (row,) = read(tmp_path, raw)
    assert row.fields["method"] == "none"
    assert row.fields["conc"] == 8
    assert row.metrics["mean_ttft_ms"] == pytest.approx(50)
    assert row.metrics["median_tpot_ms"] == pytest.approx(7)
    assert row.metrics["output_throughput"] == pytest.approx(8 * 128)
    assert any("without a server" in note for note in row.notes)


def test_all_prompts_at_once_as_saved_and_as_printed(tmp_path: Path) -> None:
    saved = {"backend": "engine", "successful_requests": 100, "total_latency": 10.0,
             "total_input_tokens": 30000, "total_output_tokens": 20000, "last_gen_throughput": 9.0,
             "output_throughput": 2000.0}  # fmt: skip
    printed = (
        "====== Offline Throughput Benchmark Result =======\nBackend:            engine\n"
        "Successful requests:     100\nBenchmark duration (s):   10.0\n"
        "Total input tokens:      30000\nTotal generated tokens:   20000\n"
        "Output token throughput (tok/s):   2000.0\n==================================\n"
    )
    rows = [*read(tmp_path, saved), *read(tmp_path, printed)]
    for row in rows:
        assert row.fields["conc"] == 100
        assert row.metrics["output_throughput"] == 2000
    assert rows[0].fields["isl"] == 300


def test_a_cap_on_clients_that_old_releases_misspelt_is_read(tmp_path: Path) -> None:
    (row,) = read(tmp_path, OLD.format(507.99))
    assert row.fields["conc"] == 512  # nearly all of them waited: they limit the load
    assert "rate" not in row.fields
    path = tmp_path / "half.txt"
    path.write_text(OLD.format(250.0))
    ((_, why),) = read_observations([path], ASSUMED).refused
    assert "request_rate 128 and max_concurrency 512 both limit the load" in why


def test_images_in_prompts_are_told(tmp_path: Path) -> None:
    line = "Total input vision tokens:               1000000\n"
    text = OLD.format(507.99).replace("Total generated", line + "Total generated")
    (row,) = read(tmp_path, text)
    assert "prompts hold images: their tokens are simulated as text" in row.notes


@pytest.mark.parametrize(
    "text",
    [
        "Here it is:\n\n| Concurrency | Output tok/s | Mean TTFT (ms) | Of |\n|---|---:|---|---|\n"
        "| 1 | **158.3** | 22.1 | a |\n| 8 | 1,100.2 tok/s | 40 ms | - |\n\nbye\n",
        "concurrency,Output throughput (tok/s),TTFT (s),Notes\n1,158.3,0.0221,a\n8,1100.2,0.04,b\n",
        "┏━━━┳━━━┳━━━┓\n┃ conc ┃ tok/s ┃ Avg TTFT (ms) ┃\n┡━━━╇━━━╇━━━┩\n│ 1 │ 158.3 │ 22.1 │\n"
        "│ 8 │ 1,100.2 │ 40 │\n└───┴───┴───┘\n",
    ],
)
def test_tables_that_people_write(tmp_path: Path, text: str) -> None:
    one, eight = read(tmp_path, text, isl=1000, osl=500)
    assert (one.fields["conc"], eight.fields["conc"]) == (1, 8)
    assert one.metrics["output_throughput"] == 158.3
    assert eight.metrics["output_throughput"] == 1100.2
    assert one.metrics["mean_ttft_ms"] == pytest.approx(22.1)
    assert one.fields["isl"] == 1000


def test_the_table_of_one_batch_counts_its_whole_time(tmp_path: Path) -> None:
    text = (
        "| batch size | latency (s) | input throughput (tok/s) | output throughput (tok/s) | "
        "acc length | ITL (ms) | input cost ($/1M) |\n|---|---|---|---|---|---|---|\n"
        "| 16 | 5.9 | 41234.5 | 2776.2 | 2.85 | 5.76 | 0.01 |\n"
    )
    told = {"method": "eagle3", "steps": 3, "isl": 1024, "osl": 1024}
    (row,) = read(tmp_path, text, **told)
    assert row.metrics["duration"] == 5.9
    assert row.metrics["mean_tpot_ms"] == 5.76
    assert row.metrics["accept_length_cycle"] == 2.85
    assert "output_throughput" not in row.metrics  # which would be of decoding alone


def test_the_table_of_one_batch_tells_lengths_from_when_each_phase_ended(tmp_path: Path) -> None:
    batch, isl, osl, prefill_s, decode_s = 4, 2048, 300, 0.5, 2.5
    cells = (batch, isl, prefill_s + decode_s, batch * isl / prefill_s, batch * osl / decode_s)
    text = (
        "| batch size | input len | latency (s) | input throughput (tok/s) | output throughput "
        "(tok/s) | acc length | ITL (ms) | input cost ($/1M) |\n|---|---|---|---|---|---|---|---|\n"
        f"| {' | '.join(map(str, cells))} | n/a | {1e3 * decode_s / osl} | 0.01 |\n"
    )
    (row,) = read(tmp_path, text)
    lengths = [row.fields[name] for name in ("conc", "num_prompts", "isl", "osl")]
    assert lengths == [batch, batch, isl, osl]
    assert row.metrics["output_throughput"] == pytest.approx(batch * osl / (prefill_s + decode_s))


@pytest.mark.parametrize(
    ("heads", "lengths"),
    [("Requests | Input tokens | Output tokens", (1000, 500)),
     ("Num prompts | Total input tokens | Total generated tokens", (1000, 500)),
     ("Of | Input tokens | Output tokens", (None, None))],
)  # fmt: skip
def test_tokens_of_a_whole_run_are_no_lengths(
    tmp_path: Path, heads: str, lengths: tuple[int | None, int | None]
) -> None:
    text = (
        f"| Concurrency | {heads} | Duration (s) | Output tok/s |\n|---|---|---|---|---|---|\n"
        "| 16 | 320 | 320000 | 160000 | 72.6 | 2204 |\n"
    )
    (row,) = read(tmp_path, text, dataset="gsm8k")
    assert (row.fields.get("isl"), row.fields.get("osl")) == lengths
    assert row.metrics["total_output_tokens"] == 160000
    if "Total" not in heads:
        (row,) = read(tmp_path, text.replace("320000 | 160000", "1000 | 500"))
        assert (row.fields["isl"], row.fields["osl"]) == (1000, 500)


def test_the_speed_of_one_answer_has_made_no_total(tmp_path: Path) -> None:
    text = (
        "| conc | ISL | OSL | Duration (s) | tok/s | TPOT (ms) |\n|---|---|---|---|---|---|\n"
        "| 8 | 500 | 1000 | 10 | 100 | 9.8 |\n"
    )
    (row,) = read(tmp_path, text)
    assert (row.fields["isl"], row.fields["osl"]) == (500, 1000)
    (row,) = read(tmp_path, text.replace("9.8", "78"))
    assert row.metrics["total_output_tokens"] == 1000


@pytest.mark.parametrize(("heading", "fits"), [("RPS", True), ("Request rate (req/s)", False)])
def test_a_rate_that_may_have_limited_the_load_is_no_closed_loop(
    tmp_path: Path, heading: str, fits: bool
) -> None:
    path = tmp_path / "issue.md"
    path.write_text(f"| Max concurrency | {heading} | tok/s |\n|---|---|---|\n| 64 | 4 | 1900 |\n")
    assumed = {"gpu": "b200", "model": "qwen3-8b", "method": "none", "isl": 1000, "osl": 500}
    report = read_observations([path], assumed)
    assert len(report.observations) == fits
    assert len(report.refused) == (not fits)


def test_clients_of_a_table_are_no_others_than_its_own(tmp_path: Path) -> None:
    """A table with the model as vLLM writes it, and the load as it does not."""
    path = tmp_path / "a.csv"
    path.write_text(
        "concurrency,model_id,output_throughput,total_token_throughput,num_prompts,request_rate\n"
        "8,Qwen/Qwen3-8B,900,1800,80,inf\n"
    )
    assumed = {"gpu": "b200", "model": "qwen3-8b", "method": "none", "isl": 1000, "osl": 1000}
    assert [r.fields["conc"] for r in read_observations([path], assumed).observations] in ([], [8])


@pytest.mark.parametrize(
    ("server", "tokens", "kept"),
    [({"method": "none"}, 1.6, None), ({"method": "dflash", "block": 8}, 3.2, 3.2),
     ({"method": "dflash", "block": 8}, 50.0, None)],
)  # fmt: skip
def test_chunks_that_were_joined_are_no_steps(
    tmp_path: Path, server: dict[str, Any], tokens: float, kept: float | None
) -> None:
    (row,) = read(tmp_path, EVALSCOPE | {"Decoded tokens per iter": tokens}, **server)
    assert row.metrics.get("accept_length") == kept
    assert row.metrics["output_throughput"] == 1000
    assert any("tokens a chunk" in note for note in row.notes) == bool(kept)


def test_lengths_that_were_added_to_a_record_are_its_own(tmp_path: Path) -> None:
    """All that tells this from a table of our own are words that SGLang's benchmark has too."""
    (row,) = read(
        tmp_path,
        "gpu,max_concurrency,isl,osl,random_range_ratio,total_output_tokens,output_throughput\n"
        "b200,8,1000,500,1.0,25000,1000\n",
    )
    assert (row.fields["conc"], row.fields["isl"], row.fields["osl"]) == (8, 1000, 500)


def test_aiperfs_table_of_statistics(tmp_path: Path) -> None:
    text = (
        "Metric,avg,min,max,p99,p50,std\nTime to First Token (ms),120.5,50,400,300,100,30\n"
        "Inter Token Latency (ms),9.5,9,11,10.9,9.4,0.3\n"
        'Input Sequence Length (tokens),"1,024",1024,1024,1024,1024,0\n'
        "Output Sequence Length (tokens),500,500,500,500,500,0\n"
    )
    (row,) = read(tmp_path, text, conc=32)
    assert row.metrics["mean_ttft_ms"] == 120.5
    assert row.metrics["p99_tpot_ms"] == 10.9
    assert (row.fields["isl"], row.fields["osl"]) == (1024, 500)


def test_aiperf_prints_its_command_below_its_table(tmp_path: Path) -> None:
    text = (
        "┏━━━┳━━━┳━━━┓\n┃ Metric ┃ avg ┃ p50 ┃\n┡━━━╇━━━╇━━━┩\n"
        "│ Time to First Token (ms) │ 120.5 │ 100 │\n│ Inter Token Latency (ms) │ 9.5 │ 9.4 │\n"
        "│ Input Sequence Length (tokens) │ 1,024 │ 1024 │\n"
        "│ Output Sequence Length (tokens) │ 500 │ 500 │\n└───┴───┴───┘\n"
        "CLI Command: aiperf profile --model Qwen/Qwen3-4B --concurrency 24 --request-count 240\n"
    )
    (row,) = read(tmp_path, text)
    told = [row.fields[name] for name in ("model", "conc", "num_prompts", "isl")]
    assert told == ["qwen3-4b", 24, 240, 1024]


def test_headings_of_means_and_of_rates(tmp_path: Path) -> None:
    text = (
        "strategy,concurrency,output_tokens_per_second,prompt_tokens_mean,output_tokens_mean\n"
        "concurrent@16,16,1987.3,1000,500\n"
    )
    (row,) = read(tmp_path, text)
    assert row.metrics["output_throughput"] == 1987.3
    assert (row.fields["isl"], row.fields["osl"]) == (1000, 500)


def test_a_row_for_each_data_set_needs_no_column_of_clients(tmp_path: Path) -> None:
    text = (
        "| Dataset | TPS | τ |\n|---|---|---|\n| GSM8K | 690.2 | 6.35 |\n| MATH-500 | 720 | 7 |\n"
    )
    told = {"method": "dflash", "block": 16}
    rows = read(tmp_path, text, conc=1, **told)
    assert [row.fields["dataset"] for row in rows] == ["gsm8k", "math500"]
    assert [row.metrics["accept_length"] for row in rows] == [6.35, 7]
    report = read_observations([tmp_path / "result.txt"], ASSUMED | told)
    assert all("no concurrency" in why for _, why in report.refused)


def test_a_name_that_only_the_server_knows_gives_way_to_the_assumed_model(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text(json.dumps(LLMPERF | {"model": "my-chatbot"}))
    report = read_observations([path], ASSUMED)
    assert report.observations[0].fields["model"] == "qwen3-8b"
    assert "model" in report.observations[0].assumed
    assert "no sheet is called 'my-chatbot': the assumed qwen3-8b stands in" in report.notes
    ((_, why),) = read_observations([path], {"gpu": "b200", "method": "none"}).refused
    assert "unknown model 'my-chatbot'" in why


def test_a_model_may_be_assumed_by_the_path_of_its_config(tmp_path: Path) -> None:
    from dflash_sim.profiles.find import require_sheet

    config = tmp_path / "config.json"
    config.write_text(require_sheet("models", "qwen3-8b").read_text())
    path = tmp_path / "row.json"
    path.write_text(json.dumps({k: v for k, v in LLMPERF.items() if k != "model"}))
    report = read_observations([path], ASSUMED | {"model": str(config)})
    assert report.observations[0].fields["model"] == str(config)


@pytest.mark.parametrize(
    ("heading", "column"),
    [
        ("Median TTFT (s)", ("median_ttft_ms", 1e3)),
        ("P99 ITL (ms)", ("p99_itl_ms", 1.0)),
        ("TPOT Avg (ms)", ("mean_tpot_ms", 1.0)),
        ("Output Token Throughput (tok/s)", ("output_throughput", 1.0)),
        ("**Acc. length**", None),
        ("accept_len", ("accept_length", 1.0)),
        ("Batch Size", ("conc", 1.0)),
        ("GPU hours", None),
        ("TTFT (us)", ("mean_ttft_ms", 1e-3)),
        ("TTFT (min)", None),
        ("Throughput (tok/s)", ("output_throughput", 1.0)),
        ("Throughput (tok/s/GPU)", None),
        ("Throughput (tok/s/user)", None),
        ("Throughput (req/s)", ("request_throughput", 1.0)),
        ("Output (tok/s)", ("output_throughput", 1.0)),
        ("Input (tok/s)", None),
        ("Decode (ms)", None),
        ("Output (tokens)", ("osl", 1.0)),
        ("Duration (ms)", ("duration", 1e-3)),
        ("Latency (ms)", None),
        ("Latency", None),
        ("Concurrency (users)", ("conc", 1.0)),
    ],
)
def test_headings(heading: str, column: tuple[str, float] | None) -> None:
    assert column_of(heading) == column


def test_a_table_without_a_load_or_with_two_of_one_column_is_none() -> None:
    assert as_csv([["TTFT", "TPOT"], ["1", "2"]]) is None
    assert as_csv([["conc", "model"], ["1", "a"]]) is None
    assert as_csv([["conc", "tok/s", "Output tok/s"], ["1", "2", "3"]]) is None
    assert as_csv([["conc", "tok/s"], ["1", "n/a"]]) == "conc,output_throughput\n1,\n"


@pytest.mark.parametrize(
    ("cell", "amount"),
    [("0.45 s", "450"), ("450", "450"), ("450us", "0.45"), ("1,450 ms", "1450"),
     ("0.45 min", "0.45 min"), ("45%", "45%"), ("0,45", '"0,45"')],
)  # fmt: skip
def test_a_cell_with_a_unit_is_converted_or_left_as_it_is(cell: str, amount: str) -> None:
    table = as_csv([["conc", "TTFT"], ["1", cell]])
    assert table == f"conc,mean_ttft_ms\n1,{amount}\n"


def test_a_unit_that_its_column_has_not_is_told(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    path.write_text(
        "| conc | tok/s | Throughput (tok/s/GPU) | TTFT |\n|---|---|---|---|\n"
        "| 1 | 150 | 75 | 0.45 s |\n| 2 | 300 | 75 | 0.1 h |\n"
    )
    report = read_observations([path], ASSUMED | {"isl": 100, "osl": 100})
    (row,) = report.observations
    assert row.metrics == {"output_throughput": 150, "mean_ttft_ms": 450}
    ((_, why),) = report.refused
    assert "0.1 h" in why
    assert any("columns not read: Throughput (tok/s/GPU)" in note for note in report.notes)


@pytest.mark.parametrize("comma", [True, False])
def test_rows_of_another_width_and_without_results_are_named(tmp_path: Path, comma: bool) -> None:
    path = tmp_path / "table.txt"
    lines = [["Concurrency", "tok/s", "TTFT"], ["1", "150", "20"], ["16", "600"], ["2", "", ""],
             ["4", "500", "30"]]  # fmt: skip
    if comma:
        path.write_text("\n".join(map(",".join, lines)))
    else:
        path.write_text(
            "\n".join(f"| {' | '.join(x)} |" for x in [*lines[:1], ["---"] * 3, *lines[1:]])
        )
    report = read_observations([path], ASSUMED | {"isl": 100, "osl": 100})
    assert [row.fields["conc"] for row in report.observations] == [1, 4]
    assert len(report.refused) == 2
    assert any("row '16, 600' has 2 cells, the header 3" in why for _, why in report.refused)


@pytest.mark.parametrize(
    "text",
    [
        "concurrency,input_len,output_len,throughput_tok_s,mean_ttft_ms\n8,512,64,1500.5,35.5\n",
        "conc\tisl\tosl\toutput_throughput\tTTFT (ms)\n8\t512\t64\t1500.5\t35.5\n",
        "conc;isl;osl;output_throughput;mean_ttft_ms\n8;512;64;1500,5;35,5\n",
        "\ufeffconc,isl,osl,tok/s,ttft_s\n8,512,64,1500.5,0.0355\n",
        "model,conc,isl,osl,output_throughput,ttft_s,output\nqwen3-8b,8,512,64,1500.5,0.0355,text\n",
    ],
)
def test_columns_of_a_spreadsheet(tmp_path: Path, text: str) -> None:
    """What a heading beside known ones means is read too: a length that is not is another load."""
    path = tmp_path / "a.csv"
    path.write_text(text, "utf-8")
    (row,) = read_observations(
        [path], {"gpu": "b200", "method": "none", "model": "qwen3-8b"}
    ).observations
    assert (row.fields["conc"], row.fields["isl"], row.fields["osl"]) == (8, 512, 64)
    assert row.metrics["output_throughput"] == 1500.5
    assert row.metrics["mean_ttft_ms"] == pytest.approx(35.5)


def test_what_a_comma_is_hangs_on_the_table(tmp_path: Path) -> None:
    """Between tabs 1,500 is not 1.5, unless a number beside it shows what the comma is."""
    path = tmp_path / "a.csv"
    found = []
    for between, ttft in (("\t", "35.5"), ("\t", "35,5"), (";", "35,5")):
        head = between.join(("conc", "isl", "osl", "output_throughput", "mean_ttft_ms"))
        path.write_text(f"{head}\n{between.join(('8', '512', '64', '1,500', ttft))}\n")
        fields = {"gpu": "b200", "method": "none", "model": "qwen3-8b"}
        (row,) = read_observations([path], fields).observations
        assert row.metrics["mean_ttft_ms"] == 35.5
        found.append(row.metrics["output_throughput"])
    assert found == [1500, 1.5, 1.5]


def test_a_count_of_repeats_and_a_measured_rate_are_no_load(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("model,rps,conc,isl,osl,n,output_throughput\nqwen3-8b,23.4,8,512,64,3,1500\n")
    report = read_observations([path], {"gpu": "b200", "method": "none"})
    (row,) = report.observations
    assert row.fields["conc"] == 8
    assert not {"rate", "num_prompts"} & set(row.fields)
    assert any("columns not read: rps, n" in note for note in report.notes)


@pytest.mark.parametrize(
    ("columns", "read_as", "left"),
    [
        ({"input_len": 512, "output_len": 64}, (512, 64, None), ""),
        ({"isl": 512, "avg output tokens": 63.7}, (512, 64, None), ""),
        ({"input tokens per request": 512, "mean_output_tokens": 64}, (512, 64, None), ""),
        ({"dataset": "random", "input_len": 512, "output_len": 64}, (512, 64, None), ""),
        ({"isl": 512, "osl": 64, "num requests": 80}, (512, 64, 80), ""),
        ({"input tokens": 40960, "output tokens": 5120, "requests": 80}, (None, None, None),
         "input tokens, output tokens, requests"),
        ({"isl": 512, "osl": 64, "output tokens": 5120}, (512, 64, None), "output tokens"),
        ({"dataset": "humaneval", "input_len": 512, "output_len": 64}, (None, None, None),
         "input_len, output_len"),
        ({"output_len": 64}, (None, None, None), "output_len"),
    ],
)  # fmt: skip
def test_a_total_of_a_run_is_no_length(
    tmp_path: Path,
    columns: dict[str, object],
    read_as: tuple[int | None, ...],
    left: str,
) -> None:
    """Beside known columns one is a length where its heading says so, and both are there."""
    path = tmp_path / "a.csv"
    cells = {"model": "qwen3-8b", "conc": 8, "output_throughput": 1500} | columns
    path.write_text(",".join(cells) + "\n" + ",".join(map(str, cells.values())) + "\n")
    report = read_observations([path], {"gpu": "b200", "method": "none"})
    (row,) = report.observations
    assert tuple(row.fields.get(name) for name in ("isl", "osl", "num_prompts")) == read_as
    told = [note.partition("not read: ")[2] for note in report.notes if "not read: " in note]
    assert told == ([left] if left else [])


def test_cells_of_tables() -> None:
    text = "a | b\n| x | y |\n|:-:|---|\n| 1 | 2 |\n| 3 | |\ntext\n| p | q | r |\n| 1 | 2 | 3 |"
    assert list(text_tables(text)) == [
        [["x", "y"], ["1", "2"], ["3", ""]],
        [["p", "q", "r"], ["1", "2", "3"]],
    ]


def test_broken_cells_in_boxes_are_put_together() -> None:
    rule = "+---+---+---+\n"
    text = f"{rule}| title |\n{rule}| x | y | z |\n{rule}| a long | 2 | u |\n| name | | |\n{rule}"
    text += f"| 3 | 4 | v |\n| | | w |\n| 5 | | |\n{rule}"
    assert list(text_tables(text)) == [
        [["x", "y", "z"], ["a long name", "2", "u"], ["3", "4", "v w"], ["5", "", ""]]
    ]
