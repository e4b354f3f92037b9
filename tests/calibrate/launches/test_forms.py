"""Launches as people have them: abbreviated, in scripts, in containers, in manifests."""

import pytest

from dflash_sim.calibrate.launches.flags import flag_of
from dflash_sim.calibrate.launches.router import WHY, router_of_launch
from dflash_sim.calibrate.launches.server_flags import KINDS, TAKES, spellings, variables
from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.calibrate.observations.launch_fields import MODELLED
from dflash_sim.profiles.errors import UsageError

SERVE = "python3 -m sglang.launch_server --model-path Qwen/Qwen3-4B --tp 2"
PLAIN = {"model": "Qwen/Qwen3-4B", "tp": 2, "method": "none"}


@pytest.mark.parametrize(
    "text",
    [
        SERVE,
        SERVE + " --port 30000 > log.txt 2>&1 &",
        f"sudo -E nohup {SERVE} | tee out.log",
        f"cd /srv && source venv/bin/activate && {SERVE}",
        f"srun --ntasks=1 --gres=gpu:2 bash -lc '{SERVE}'",
        f'docker exec -it box bash -c "cd /srv; {SERVE}"',
        f"docker run --gpus all --shm-size 32g -p 1:1 -e HF_TOKEN=secret img:latest {SERVE}",
        "sglang serve Qwen/Qwen3-4B --tp 2",
        "/opt/venv/bin/sglang launch_server --model Qwen/Qwen3-4B --tp-size=2",
        "python3 /src/sglang/launch_server.py --model Qwen/Qwen3-4B --tp=2",
        "--model-path Qwen/Qwen3-4B --tp 2",
        "python3 -m sglang.launch_server \\  \n  --model-path Qwen/Qwen3-4B \\\n  --tp 2\n",
        "python3 -m sglang.launch_server\n  --model-path Qwen/Qwen3-4B\n  # --tp 8 \\\n  --tp 2\n",
        "M=Qwen/Qwen3-4B\nexport N=2\npython3 -m sglang.launch_server --model $M --tp ${N} $MORE\n",
        "python3 -m sglang.launch_server --model ${M:-Qwen/Qwen3-4B} --tp '2'",
        'ARGS=(--model-path Qwen/Qwen3-4B\n --tp 2)\nexec sglang serve "${ARGS[@]}"',
        'A="--tp 2"; A+=" --port 1"; sglang serve --model Qwen/Qwen3-4B $A',
        f"# start it\n{SERVE}  # two GPUs\n\ncurl localhost:30000/health",
        'FROM lmsysorg/sglang\nCMD ["sglang", "serve", "--model", "Qwen/Qwen3-4B", "--tp", "2"]',
        '["python3", "-m", "sglang.launch_server", "--model=Qwen/Qwen3-4B", "--tp", "2"]',
        "command:\n - python3\n - -m\n - sglang.launch_server\n - --model=Qwen/Qwen3-4B\n - --tp 2",
        "  command: >\n   python3 -m sglang.launch_server\n   --model Qwen/Qwen3-4B --tp 2\n",
        "entrypoint: python3 -m sglang.launch_server\ncommand: --model Qwen/Qwen3-4B\n  --tp 2\n",
        "spec:\n  containers:\n  - name: a\n    command: [bash, -c]\n    args:\n    - |\n"
        "      set -e\n      sglang serve --model Qwen/Qwen3-4B \\\n        --tp 2\n",
    ],
)
def test_one_launch_in_many_wrappings(text: str) -> None:
    assert scenario_from_launch(text).fields == PLAIN


@pytest.mark.parametrize(
    ("typed", "flag"),
    [
        ("--mem-frac", "--mem-fraction-static"),
        ("--speculative-algo", "--speculative-algorithm"),
        ("--speculative-draft", "--speculative-draft-model-path"),  # alone up to 0.5.1
        ("--tp", "--tp-size"),
        ("--max-run", "--max-running-requests"),
        ("--cuda-graph-max", "--cuda-graph-max-bs-decode"),
        ("--tensor_parallel_size", "--tp-size"),
    ],
)
def test_abbreviations_are_those_of_the_server(typed: str, flag: str) -> None:
    assert flag_of(typed).name == flag


@pytest.mark.parametrize("typed", ["--speculative-num", "--enable", "--disable-c"])
def test_an_abbreviation_of_several_flags_names_them(typed: str) -> None:
    with pytest.raises(UsageError, match=r"could be --.*, --.*; write the flag in full"):
        flag_of(typed)


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        ("--cuda-graph-bs 1 2 64 8", {"cuda_graph_max_bs": 64}),
        ("--mem-frac=0.7 --chunked-prefill 4096", {"mem_fraction_static": 0.7,
                                                   "chunked_prefill_size": 4096}),
        ("--attention-backend fa3 --decode-attention-backend triton",
         {"attention_backend": "triton"}),
        ("--cuda-graph-backend-decode disabled", {"cuda_graph_max_bs": 0}),
        ("--speculative-algo DFLASH --speculative-dflash-draft-window-size 2048",
         {"method": "dflash", "window": 2048}),
        ("--min-free-slots-delay 4", {"min_free_slots_delay": 4}),
        ("--stream-int 8 --scheduler-recv-interval=4 --disable-piecewise-cuda-graph",
         {"stream_interval": 8, "scheduler_recv_interval": 4,
          "cuda_graph_backend_prefill": "disabled"}),
    ],
)  # fmt: skip
def test_flags_set_fields(flags: str, fields: dict[str, object]) -> None:
    assert scenario_from_launch(f"{SERVE} {flags}").fields == PLAIN | fields


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("SGLANG_ENABLE_SPEC_V2=0 {}", "v1"),
        ("export SGLANG_ENABLE_DFLASH_SPEC_V2=False\n{}", "v1"),
        ("docker run -e SGLANG_ENABLE_SPEC_V2=0 lmsysorg/sglang:v0.5.16-cu130 {}", None),
        ("SGLANG_ENABLE_SPEC_V2=1 {}", None),
        ("# export SGLANG_ENABLE_SPEC_V2=0\n{}", None),
    ],
)
def test_the_worker_that_the_environment_asks_for(text: str, mode: str | None) -> None:
    command = f"{SERVE} --speculative-algorithm DFLASH"
    assert scenario_from_launch(text.format(command)).fields.get("engine_mode") == mode


def test_chains_had_the_new_worker_one_release_earlier() -> None:
    command = (
        "SGLANG_ENABLE_SPEC_V2=0 sglang serve --model-path Qwen/Qwen3.5-4B "
        "--speculative-algorithm NEXTN --speculative-num-steps 3"
    )
    assert scenario_from_launch(command, "0.5.13").fields["engine_mode"] == "v2-sync"
    assert scenario_from_launch(command, "0.5.9").fields["engine_mode"] == "v1"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--dp 4", "--dp 4 is not simulated; give --dp 1, or leave it out"),
        ("--enable-dp-attention", "split by requests"),
        ("--device cpu", "Servers on GPUs"),
        ("--lora-paths a=x b=y --max-loras-per-batch 2", "--lora-paths a=x b=y is not simulated"),
        ("--load-format gguf", "ask for the nearest --quantization"),
        ("--torchao-config int4wo-128", "ask for the weights with --quantization"),
        ("--dtype float32", "Products are priced in bf16"),
        ("--disaggregation-mode prefill", "one server that does both"),
        ("--speculative-algorithm NGRAM", "Leave it out to ask for plain decoding"),
        ("--trust-remote-code=yes", "--trust-remote-code takes no value"),
        ("--max-running-requests $LIMIT", "the text does not set the variable"),
        ("--hots 0.0.0.0", "did you mean --host"),
    ],
)
def test_what_is_not_simulated_is_refused_by_name(flags: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        scenario_from_launch(f"{SERVE} {flags}")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_may_change_speed_is_named_with_the_reason() -> None:
    launch = scenario_from_launch(
        f"NCCL_ALGO=Ring HF_TOKEN=hf_secret {SERVE} --enable-mixed-chunk "
        "--sampling-backend flashinfer --enable-torch-compile"
    )
    assert [name for name, _ in launch.not_modelled] == [
        "--enable-mixed-chunk", "--enable-torch-compile", "NCCL_ALGO",
    ]  # fmt: skip
    assert "secret" not in str(launch)


def test_launches_that_differ_are_no_single_question() -> None:
    twice = f"{SERVE} --node-rank 0\n{SERVE} --node-rank 1"
    assert scenario_from_launch(twice).fields == PLAIN
    with pytest.raises(UsageError, match="2 launches that differ"):
        scenario_from_launch(f"{SERVE}\n{SERVE} --page-size 64")


def test_every_flag_is_of_one_kind_with_a_reason() -> None:
    flags = {s.flag.name: s.flag for s in spellings().values()}
    assert {name for name, flag in flags.items() if flag.kind == "modelled"} == MODELLED
    for flag in flags.values():
        assert flag.kind in KINDS
        assert flag.takes in TAKES
        assert flag.why or flag.kind == "modelled", flag.name
    assert all(v.kind in KINDS and (v.why or v.kind == "modelled") for v in variables())


@pytest.mark.parametrize(
    ("words", "router"),
    [
        ("--dp-size 2 --router-policy round_robin", "round-robin"),
        ("--dp-size=2 --router-policy=cache_aware --router-cache-threshold 0.5", "cache-aware"),
        ("--router-balance-abs-threshold 32 --dp-size 8", "cache-aware"),
    ],
)
def test_a_router_in_front_of_servers_is_told_apart(words: str, router: str) -> None:
    text = f"python -m sglang_router.launch_server --model-path Qwen/Qwen3-4B {words} --tp 2"
    launch = scenario_from_launch(text)
    assert launch.fields == PLAIN
    assert launch.remarks == (f"{words} ({WHY})",)
    left = " ".join(launch.remarks_of_plan)
    for word in words.replace("=", " ").split():
        taken = word in ("--router-policy", "round_robin", "cache_aware")
        assert (word in left.replace("=", " ").split()) is not taken, word
    assert router_of_launch(text) == router
    assert router_of_launch(SERVE) is None


def test_a_routers_policy_that_is_not_simulated_is_one_line() -> None:
    text = "python -m sglang_router.launch_router --policy power_of_two --worker-urls http://a"
    with pytest.raises(UsageError, match="power_of_two is not simulated; these are: cache_aware"):
        router_of_launch(text)
