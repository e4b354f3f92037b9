"""How answers were sampled: out of files, command lines and bodies of requests."""

import json
from pathlib import Path
from typing import Any

import pytest

from dflash_sim.calibrate.compare.compare import compare
from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.calibrate.observations.sampling import client_sampling, sampling_of
from dflash_sim.calibrate.readers.read import read_observations
from dflash_sim.profiles.errors import UsageError

DATA = Path(__file__).parents[2] / "data" / "readers"
DRAWN = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
LAUNCH = "python -m sglang.launch_server --model-path Qwen/Qwen3-8B"
CLIENTS = [
    "python3 -m sglang.bench_serving --extra-request-body '{}' --num-prompts 8",
    "python -m sglang.bench_serving --extra-request-body='{}'",
    "vllm bench serve --temperature 0.6 --top-p=0.95 --top-k 20 --model x",
    "aiperf profile --extra-inputs temperature:0.6 --extra-inputs top_p:0.95 top_k:20",
    "genai-perf profile --extra-inputs '{}'",
    'guidellm benchmark run --backend-kwargs \'{{"extras": {{"body": {}}}}}\'',
]
WARM = ("temperature", "tok/s")


def told(name: str, change: Any, folder: Path) -> dict[str, Any]:
    """The sampling fields of the first row of a changed file."""
    text = (DATA / name).read_text(encoding="utf-8")
    raw = json.loads(text.splitlines()[0] if name.endswith(".jsonl") else text)
    path = folder / Path(name).with_suffix(".json").name
    path.write_text(json.dumps(change(raw) or raw), encoding="utf-8")
    preset = {"gpu": "b200", "method": "dflash", "block": 16, "dataset": "gsm8k", "conc": 8}
    report = read_observations([path], preset | {"model": "qwen3-8b"})
    assert report.used, report.refused
    fields = report.observations[0].fields
    return {name: fields[name] for name in DRAWN if name in fields}


@pytest.mark.parametrize("text", CLIENTS)
def test_client_commands(text: str) -> None:
    command = text.format(json.dumps(DRAWN)) if "{}" in text else text
    assert client_sampling(command) == DRAWN
    assert client_sampling(f"MODEL=x\n{LAUNCH} &\nsleep 60\n{command}") == DRAWN


def test_what_runs_no_benchmark_says_nothing() -> None:
    assert client_sampling(f"{LAUNCH} --temperature 0.6") == {}
    assert client_sampling("echo vllm serve --temperature 0.6") == {}
    assert client_sampling("vllm bench serve --model x") == {}


@pytest.mark.parametrize("top_k", [0, -1])
def test_all_tokens_are_no_top_k(top_k: int) -> None:
    assert sampling_of({"temperature": 1, "top_k": top_k}) == {"temperature": 1.0}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"temperature": "warm"}, "temperature is 'warm'; expected a number"),
        ({"top_k": 2.5}, "top_k is 2.5; expected a whole number"),
        ({"extra_request_body": "temperature"}, "extra_request_body: 'temperature' is no JSON"),
        ({"extra_request_body": 3}, "extra_request_body: 3 is no object"),
    ],
)
def test_what_is_no_sampling_is_named(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        sampling_of(raw)


class TestLaunch:
    def test_clients_of_a_script(self) -> None:
        body = json.dumps(DRAWN)
        text = f"{LAUNCH}\npython -m sglang.bench_serving --extra-request-body '{body}'"
        fields = scenario_from_launch(text).fields
        assert fields == scenario_from_launch(LAUNCH).fields | DRAWN

    def test_the_server_s_own_gives_way_to_the_client_s(self) -> None:
        own = f'{LAUNCH} --preferred-sampling-params \'{{"temperature": 0.3, "min_p": 0.1}}\''
        assert scenario_from_launch(own).fields["temperature"] == 0.3
        both = f"{own}\nvllm bench serve --temperature 1"
        assert scenario_from_launch(both).fields["temperature"] == 1.0

    def test_a_malformed_one_is_one_line(self) -> None:
        with pytest.raises(
            UsageError, match=r"^--from-launch: --preferred-sampling-params: .*warm"
        ):
            scenario_from_launch(f'{LAUNCH} --preferred-sampling-params \'{{"top_p": "warm"}}\'')

    def test_defaults_of_the_checkpoint_are_not_passed_over(self) -> None:
        left = scenario_from_launch(f"{LAUNCH} --sampling-defaults model").not_modelled
        assert [name for name, _ in left] == ["--sampling-defaults"]


class TestFiles:
    def test_bench_serving(self, tmp_path: Path) -> None:
        name = "sglang_bench_serving/runs.jsonl"
        assert told(name, lambda raw: raw | {"extra_request_body": DRAWN}, tmp_path) == DRAWN
        tag = "temperature=0.6 top_p=0.95 top_k=20"
        assert told(name, lambda raw: raw | {"tag": tag}, tmp_path) == DRAWN
        assert told(name, lambda raw: None, tmp_path) == {}

    def test_vllm(self, tmp_path: Path) -> None:
        name = "vllm_bench_serve/openai-infqps-concurrency8.json"
        assert told(name, lambda raw: raw | DRAWN, tmp_path) == DRAWN

    def test_guidellm(self, tmp_path: Path) -> None:
        kwargs = {"extras": {"body": DRAWN}}
        found = told(
            "guidellm/benchmarks.json",
            lambda raw: raw["args"].update(backend_kwargs=kwargs),
            tmp_path,
        )
        assert found == DRAWN

    @pytest.mark.parametrize("extra", [DRAWN, [[k, v] for k, v in DRAWN.items()]])
    def test_aiperf(self, extra: Any, tmp_path: Path) -> None:
        found = told(
            "aiperf/profile_export_aiperf.json",
            lambda raw: raw["input_config"]["input"].update(extra=extra),
            tmp_path,
        )
        assert found == DRAWN

    def test_logged_requests(self) -> None:
        (row,) = read_observations(
            [DATA / "sglang_request_metrics/sglang-request-metrics-20261102_10.log"],
            {"model": "qwen3-8b", "method": "dflash"},
        ).observations
        assert row.fields.get("temperature") in (None, 0.0)

    def test_a_row_that_was_sampled_is_predicted_so(self, tmp_path: Path) -> None:
        head = "model,method,block,gpu,dataset,conc,temperature,top_p,output_tok_s,accept_len"
        path = tmp_path / "own.csv"
        path.write_text(
            f"{head}\nqwen3-8b,dflash,16,b200,gsm8k,32,1,0.95,9000,6\n"
            "qwen3-8b,dflash,16,b200,gsm8k,32,greedy,,10000,6\n",
            encoding="utf-8",
        )
        drawn, greedy = read_observations([path]).observations
        assert (drawn.fields["temperature"], drawn.fields["top_p"]) == (1.0, 0.95)
        assert greedy.fields["temperature"] == 0.0
        assert "temperature" not in drawn.assumed
        slow, fast = (
            compare(row, with_causes=False, with_interval=False).metric("output_throughput")
            for row in (drawn, greedy)
        )
        assert slow is not None
        assert fast is not None
        assert slow.predicted < fast.predicted
