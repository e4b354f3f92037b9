"""Real SGLang launch commands, and broken ones."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_drafter, load_model
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.names import ENGINE_NAMES

# The command on the 397B model card and in the launch post.
CARD = r"""
SGLANG_ENABLE_OVERLAP_PLAN_STREAM=1 python -m sglang.launch_server \
    --model-path Qwen/Qwen3.5-397B-A17B --tp-size 8 --trust-remote-code --port 30000 \
    --speculative-algorithm DFLASH \
    --speculative-draft-model-path modal-labs/Qwen3.5-397B-A17B-DFlash \
    --speculative-dflash-block-size 8 --speculative-draft-attention-backend fa4 \
    --attention-backend trtllm_mha --linear-attn-prefill-backend triton \
    --linear-attn-decode-backend flashinfer --mamba-scheduler-strategy extra_buffer \
    --max-running-requests 32 --cuda-graph-max-bs-decode 32 \
    --enable-flashinfer-allreduce-fusion --mem-fraction-static 0.8
"""
SERVE = "sglang serve --model-path Qwen/Qwen3-8B "


def fields(command: str) -> dict[str, object]:
    return scenario_from_launch(command).fields


@pytest.mark.parametrize(
    ("flags", "ep"),
    [
        ("--tp 4 --ep 4", 4),
        ("--tp 8 --ep-size 2", 2),
        ("--tensor-parallel-size=8 --expert-parallel-size 8 --moe-a2a-backend none", 8),
        ("--enable-ep-moe --tp-size 8", 8),
        ("--enable-ep-moe", None),
        ("--tp 8 --ep 1", None),
        ("--tp 8", None),
    ],
)
def test_experts_on_ranks(flags: str, ep: int | None) -> None:
    assert fields(f"sglang serve --model-path Qwen/Qwen3-30B-A3B {flags}").get("ep_size") == ep


def test_kernels_of_quantised_products_are_those_that_were_timed() -> None:
    asked = "SGLANG_ENABLE_JIT_DEEPGEMM=0 " + SERVE + "--fp8-gemm-backend triton"
    said = " ".join(scenario_from_launch(asked).remarks)
    assert "--fp8-gemm-backend" in said
    assert "SGLANG_ENABLE_JIT_DEEPGEMM" in said
    usual = "SGLANG_ENABLE_JIT_DEEPGEMM=1 " + SERVE + "--fp8-gemm-backend auto"
    assert not scenario_from_launch(usual).remarks


def test_the_card() -> None:
    launch = scenario_from_launch(CARD)
    assert launch.fields == {
        "model": "Qwen/Qwen3.5-397B-A17B",
        "tp": 8,
        "method": "dflash",
        "draft_model": "modal-labs/Qwen3.5-397B-A17B-DFlash",
        "block": 8,
        "attention_backend": "trtllm_mha",
        "max_running_requests": 32,
        "cuda_graph_max_bs": 32,
        "mem_fraction_static": 0.8,
        "linear_attn_decode_backend": "flashinfer",
        "mamba_radix_cache_strategy": "extra_buffer",
    }
    assert [name for name, _ in launch.not_modelled] == [
        "--speculative-draft-attention-backend",
        "--linear-attn-prefill-backend",
        "--enable-flashinfer-allreduce-fusion",
        "SGLANG_ENABLE_OVERLAP_PLAN_STREAM",
    ]
    scenario = Scenario.parse(**launch.fields)
    assert load_model(scenario.model).name == "qwen3.5-397b-a17b"
    assert load_drafter(str(scenario.draft_model)).name == "qwen3.5-397b-a17b-dflash"


@pytest.mark.parametrize(("algorithm", "drawn"), [("NEXTN", True), ("DFLASH", None)])
def test_blocks_of_a_chain_are_verified_by_drafts_that_are_drawn(
    algorithm: str, drawn: bool | None
) -> None:
    """SGLang resolves it so for EAGLE and NEXTN, and refuses it to no other."""
    words = f"--speculative-algorithm {algorithm} --speculative-use-block-verification"
    launch = scenario_from_launch(f"sglang serve --model-path Qwen/Qwen3.5-27B {words}")
    assert launch.fields.get("speculative_use_rejection_sampling") is drawn
    assert [name for name, _ in launch.not_modelled] == ["--speculative-use-block-verification"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python3 -m sglang.launch_server", {"method": "none"}),
        ("env A=1 /usr/bin/python3.11 -m sglang.launch_server --tp 2", {"method": "none", "tp": 2}),
        (
            "/opt/bin/sglang serve --model Qwen/Qwen3-8B",
            {"method": "none", "model": "Qwen/Qwen3-8B"},
        ),
        ("sglang serve --tp=4 &", {"method": "none", "tp": 4}),
        ("sglang serve --tp 2 --tp 4 > log.txt 2>&1", {"method": "none", "tp": 4}),
        ("sglang serve --tensor_parallel_size 4", {"method": "none", "tp": 4}),
        ("sglang serve --disable-radix-cache", {"method": "none", "radix_cache": False}),
        (
            "sglang serve --quantization fp8 --kv-cache-dtype fp8_e4m3",
            {"method": "none", "quantization": "fp8", "kv_cache_dtype": "fp8_e4m3"},
        ),
        ("sglang serve --quantization unquant", {"method": "none"}),
        (
            SERVE + "--quantization fp8 --speculative-algorithm DFLASH "
            "--speculative-draft-model-quantization unquant",
            {
                "model": "Qwen/Qwen3-8B",
                "method": "dflash",
                "quantization": "fp8",
                "speculative_draft_model_quantization": "unquant",
            },
        ),
        (
            "sglang serve --mamba-ssm-dtype bfloat16 --mamba-radix-cache-strategy no_buffer "
            "--mamba-full-memory-ratio 2.5 --max-mamba-cache-size 128",
            {
                "method": "none",
                "mamba_ssm_dtype": "bfloat16",
                "mamba_radix_cache_strategy": "no_buffer",
                "mamba_full_memory_ratio": 2.5,
                "max_mamba_cache_size": 128,
            },
        ),
        (
            "sglang serve --disable-overlap-schedule --page-size 64 --chunked-prefill-size 2048",
            {
                "method": "none",
                "engine_mode": "v2-sync",
                "page_size": 64,
                "chunked_prefill_size": 2048,
            },
        ),
        (
            "sglang serve --speculative-algorithm dflash --speculative-num-draft-tokens 16",
            {"method": "dflash", "block": 16},
        ),
        (
            "sglang serve --speculative-algorithm DFLASH --speculative-draft-window-size 4096",
            {"method": "dflash", "window": 4096},
        ),
        (
            "sglang serve --model-path Qwen/Qwen3.5-35B-A3B --speculative-algorithm NEXTN "
            "--speculative-num-steps 3 --speculative-eagle-topk 1 --speculative-num-draft-tokens 4",
            {"method": "mtp", "model": "Qwen/Qwen3.5-35B-A3B", "steps": 3},
        ),
        (
            "sglang serve --model-path Qwen/Qwen3.5-35B-A3B --speculative-algorithm NEXTN "
            "--speculative-num-steps 3 --speculative-use-rejection-sampling",
            {
                "method": "mtp",
                "model": "Qwen/Qwen3.5-35B-A3B",
                "steps": 3,
                "speculative_use_rejection_sampling": True,
            },
        ),
        (
            "sglang serve --model-path Qwen/Qwen3.5-35B-A3B --speculative-algorithm EAGLE "
            "--speculative-num-draft-tokens 8",
            {"method": "mtp", "model": "Qwen/Qwen3.5-35B-A3B", "steps": 7},
        ),
        (
            SERVE + "--speculative-algorithm EAGLE3 --speculative-draft-model-path "
            "/models/qwen3-8b-eagle3 --speculative-num-steps 5",
            {
                "method": "eagle3",
                "model": "Qwen/Qwen3-8B",
                "draft_model": "qwen3-8b-eagle3",
                "steps": 5,
            },
        ),
        (
            SERVE + "--speculative-algorithm EAGLE3 --speculative-num-steps 5 "
            "--speculative-eagle-topk 8 --speculative-num-draft-tokens 32",
            {"method": "eagle3", "model": "Qwen/Qwen3-8B", "steps": 5, "topk": 8, "block": 32},
        ),
        (
            "sglang serve --model-path Qwen/Qwen3.8-27B --speculative-algorithm DSPARK "
            "--speculative-draft-model-path RadixArk/Qwen3.8-27B-DSpark "
            "--speculative-dspark-block-size 7 --speculative-num-draft-tokens 8 "
            "--speculative-eagle-topk 1",
            {
                "method": "dspark",
                "model": "Qwen/Qwen3.8-27B",
                "draft_model": "RadixArk/Qwen3.8-27B-DSpark",
                "block": 8,
            },
        ),
        (
            "sglang serve --model-path Qwen/Qwen3.8-27B --speculative-algorithm DFLASH "
            "--speculative-draft-model-path z-lab/Qwen3.8-27B-DFlash2",
            {
                "method": "dflash",  # which the scenario makes dflash2 of, as SGLang does
                "model": "Qwen/Qwen3.8-27B",
                "draft_model": "z-lab/Qwen3.8-27B-DFlash2",
            },
        ),
        ("sglang serve --model-path /models/Qwen3-8B/", {"method": "none", "model": "Qwen3-8B"}),
        ("sglang serve --model-path /models/mine", {"method": "none", "model": "/models/mine"}),
        (
            "SGLANG_SIMULATE_ACC_LEN=3.24 SGLANG_SIMULATE_ACC_METHOD=multinomial sglang serve "
            "--speculative-algorithm DFLASH",
            {"method": "dflash", "acceptance": "sglang-simulated:3.24,multinomial"},
        ),
    ],
)
def test_forms(command: str, expected: dict[str, object]) -> None:
    launch = scenario_from_launch(command)
    assert launch.fields == expected
    assert launch.not_modelled == ()
    Scenario.parse(**launch.fields)


def test_drafting_flags_without_an_algorithm_are_reported() -> None:
    launch = scenario_from_launch(SERVE + "--speculative-num-draft-tokens 8")
    assert launch.fields == {"method": "none", "model": "Qwen/Qwen3-8B"}
    assert [name for name, _ in launch.not_modelled] == ["--speculative-num-draft-tokens"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", "not an SGLang launch command; such as: python -m sglang.launch_server"),
        ("python train.py --tp 8", "'python train.py --tp 8' is not an SGLang launch command"),
        ("vllm serve Qwen/Qwen3-8B", "this launches vLLM; what is simulated is SGLang"),
        ("sglang serve --model-path 'Qwen", "no closing quotation"),
        ("sglang serve --tp", "--tp has no value"),
        ("sglang serve --tp --model-path x", "--tp has no value"),
        ("sglang serve --model-path=", "--model-path has no value"),
        ("sglang serve --tp eight", "--tp eight is not a whole number above 0"),
        ("sglang serve --tp 0", "--tp 0 is not a whole number above 0"),
        ("sglang serve --tp -8", "--tp -8 is not a whole number above 0"),
        ("sglang serve --mem-fraction-static nan", "nan is not a number between 0 and 1"),
        ("sglang serve --mamba-full-memory-ratio 0", "0 is not a number above 0"),
        ("sglang serve --max-mamba-cache-size 1.5", "1.5 is not a whole number above 0"),
        ("sglang serve --mem-fraction-static 80", "80 is not a number between 0 and 1"),
        ("sglang serve --page-size 1e3", "--page-size 1e3 is not a whole number"),
        ("sglang serve --tp 2 Qwen/Qwen3-8B", "'Qwen/Qwen3-8B' belongs to no flag"),
        ("sglang serve --tpp 2", "SGLang 0.4.1 to 0.5.23 has no flag --tpp"),
        (
            "sglang serve --dp-size 2",
            "--dp-size 2 is not simulated; give --dp-size 1, or leave it out",
        ),
        ("sglang serve --pp 4", "--pp 4 is not simulated; give --pp 1, or leave it out"),
        ("sglang serve --ep-size=0", "--ep-size 0 is not a whole number above 0"),
        (
            "sglang serve --moe-a2a-backend deepep",
            "is not simulated; give --moe-a2a-backend none, or leave it out. Experts on several",
        ),
        ("sglang serve --tp 8 --enable-deepep-moe", "not DeepEP. Ask for --ep-size without it."),
        (
            "sglang serve --nnodes 2",
            "--nnodes 2 is not simulated; give --nnodes 1, or leave it out",
        ),
        ("sglang serve --speculative-eagle-topk few", "topk few is not a whole number above 0"),
        (
            SERVE + "--speculative-algorithm DSPARK --speculative-dspark-block-size 7 "
            "--speculative-num-draft-tokens 7",
            "--speculative-dspark-block-size 7 contradicts --speculative-num-draft-tokens, which",
        ),
        ("sglang serve --speculative-algorithm DFLSH", "'DFLSH'; did you mean DFLASH?"),
        (SERVE + "--speculative-algorithm EAGLE", "which Qwen/Qwen3-8B lacks; allowed for it"),
        (
            SERVE + "--speculative-algorithm EAGLE3 --speculative-num-steps 3 "
            "--speculative-num-draft-tokens 16",
            "--speculative-num-steps 3 contradicts --speculative-num-draft-tokens",
        ),
        (
            SERVE + "--speculative-algorithm DFLASH --speculative-dflash-block-size 8 "
            "--speculative-num-draft-tokens 16",
            "--speculative-dflash-block-size 8 contradicts --speculative-num-draft-tokens",
        ),
    ],
)
def test_bad_commands_are_one_line(command: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        scenario_from_launch(command)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


PAIRS = (
    ("--tp-size", "4"),
    ("--model-path", "Qwen/Qwen3-8B"),
    ("--speculative-algorithm", "DFLASH"),
    ("--speculative-dflash-block-size", "8"),
    ("--max-running-requests", "32"),
    ("--disable-radix-cache", ""),
    ("--enable-torch-compile", ""),
)


@given(st.permutations(PAIRS), st.lists(st.booleans(), min_size=len(PAIRS), max_size=len(PAIRS)))
def test_order_and_equals_signs_do_not_matter(
    pairs: list[tuple[str, str]], joined: list[bool]
) -> None:
    words = [
        flag if not value else f"{flag}{'=' if equals else ' '}{value}"
        for (flag, value), equals in zip(pairs, joined, strict=True)
    ]
    launch = scenario_from_launch("sglang serve " + " ".join(words))
    assert launch.fields == {
        "tp": 4,
        "model": "Qwen/Qwen3-8B",
        "method": "dflash",
        "block": 8,
        "max_running_requests": 32,
        "radix_cache": False,
    }
    assert [name for name, _ in launch.not_modelled] == ["--enable-torch-compile"]


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for command in (text, f"sglang serve {text}"):
        with suppress(UsageError):
            fields(command)


@pytest.mark.parametrize("name", ["tp-size", "model-path", "speculative-dflash-block-size",
    "speculative-num-steps", "speculative-draft-window-size", "cuda-graph-max-bs-decode",
    "speculative-draft-model-path"])  # fmt: skip
def test_the_command_line_calls_the_same_flags_the_same(name: str) -> None:
    named = {"model-path": "qwen3-8b", "speculative-draft-model-path": "qwen3-8b-dflash"}
    value = named.get(name, "8")
    chain = "NEXTN" if name == "speculative-num-steps" else "DFLASH"
    found = fields(f"sglang serve --speculative-algorithm {chain} --{name} {value}")
    ours = ENGINE_NAMES[name.replace("-", "_")]
    assert set(found) == {"method", ours}


YARN = '{"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "max_position_embeddings": 163840}'


@pytest.mark.parametrize(
    ("words", "context"),
    [
        ("--context-length 131072", 131072),
        (f"--json-model-override-args '{YARN}'", 163840),
        (f"--json-model-override-args '{YARN}' --context-length 65536", 65536),
        (f"--context-length 65536 --json-model-override-args '{YARN}'", 65536),
        ("""--json-model-override-args '{"text_config": {"rope_theta": 1e7}}'""", None),
        ("--json-model-override-args '{}'", None),
        ("--context-length $((ISL+OSL))", None),
    ],
)
def test_scaled_positions_move_the_longest_request_alone(words: str, context: int | None) -> None:
    launch = scenario_from_launch(f"sglang serve --model-path qwen3-8b {words}")
    assert launch.not_modelled == ()
    assert launch.fields.get("context_length") == context
    assert set(launch.fields) - {"context_length"} == {"model", "method"}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ('{"num_hidden_layers": 2}', "sets num_hidden_layers"),
        ('{"text_config": {"num_experts_per_tok": 4}}', "sets num_experts_per_tok"),
        ('{"max_position_embeddings": "long"}', "sets max_position_embeddings"),
        ("[1]", "no JSON object"),
        ("{", "no JSON object"),
        ("[" * 100_000, "no JSON object"),
    ],
    ids=["layers", "experts", "words", "list", "half", "deep"],
)
def test_an_override_of_sizes_is_refused_by_name(override: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        scenario_from_launch(f"sglang serve --json-model-override-args '{override}'")
