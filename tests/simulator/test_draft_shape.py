"""Trees of drafts: shapes that there are, what a cycle runs, and accept lengths of trees."""

from typing import Any

import pytest

from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.simulator.cost.cycle import Phase
from dflash_sim.simulator.cost.ops import Attention, Gemm
from dflash_sim.simulator.draft_shape import most_tokens
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.requests.other_laws import accept_length
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.studies.show.titles import method_title

DFLASH = {"gpu": "b200", "model": "qwen3-8b", "method": "dflash", "dataset": "gsm8k"}
CHAIN: dict[str, Any] = {
    "gpu": "h100",
    "model": "qwen3-8b",
    "method": "eagle3",
    "dataset": "gsm8k",
    "thinking": False,
    "steps": 7,
    "conc": 4,
    "runs": 1,
}
TREE = CHAIN | {"topk": 10, "block": 60}
MTP = {"model": "qwen3.5-27b", "method": "mtp", "steps": 3, "topk": 1, "block": None}
DRAWN = {"speculative_use_rejection_sampling": True}


def setup(**fields: Any) -> Setup:
    return resolve(Scenario.parse(**TREE | fields))


def phases(found: Setup, requests: int = 2) -> dict[str, Phase]:
    return {p.name: p for p in found.step.cycle.decode(requests=requests, ctx=512.0)}


def attention(phase: Phase) -> Attention:
    return next(c.op for c in phase.calls if isinstance(c.op, Attention))


@pytest.mark.parametrize(
    ("topk", "steps", "most"), [(1, 3, 4), (2, 1, 3), (4, 2, 1 + 4 + 16), (10, 7, 1 + 10 + 600)]
)
def test_a_tree_has_so_many_tokens(topk: int, steps: int, most: int) -> None:
    """A first step of topk drafts, then topk of each of topk paths a step."""
    assert most_tokens(topk, steps) == most


def test_what_a_cycle_of_a_tree_runs() -> None:
    """Steps of topk rows, 60 rows verified, and a row for each token of a path filled in."""
    found = phases(setup())
    assert (attention(found["draft"]).rows, found["draft"].steps) == (10, 6)
    assert attention(found["verify"]).rows == 60
    assert attention(found["materialise"]).rows == 8
    products = [c.op for c in found["draft"].calls if isinstance(c.op, Gemm)]
    assert {p.m for p in products} == {2 * 10}


def test_a_chain_is_what_it_was() -> None:
    chain = resolve(Scenario.parse(**CHAIN, acceptance="al:3"))
    found = phases(chain)
    assert (attention(found["draft"]).rows, found["draft"].steps) == (1, 6)
    assert attention(found["verify"]).rows == attention(found["materialise"]).rows == 8
    assert not any(c.op.name == "build_tree" for c in found["draft"].calls)


def test_the_published_length_of_a_tree_is_met_and_bounded_by_its_path() -> None:
    """Qwen3-8B on GSM8K: 3.71 tokens of a tree of 60, 3.23 of 16 (DFlash paper, table 1)."""
    for block, published in ((60, 3.71), (16, 3.23)):
        found = setup(block=block)
        assert found.expectation is not None
        assert accept_length(found.expectation) == pytest.approx(published, rel=1e-3)
        assert "PAPER_T1" in found.expectation.source
        assert found.most_tokens == 8
    assert method_title(setup()) == "EAGLE-3, 7 steps, tree of topk 10, 60 verified"


def test_a_tree_costs_more_than_its_chain_at_equal_length() -> None:
    tree = predict(
        Scenario.parse(**TREE | {"acceptance": "al:3.2", "block": 16, "conc": 16}),
        with_interval=False,
        with_baseline=False,
    )
    chain = predict(
        Scenario.parse(**CHAIN | {"acceptance": "al:3.2", "conc": 16}),
        with_interval=False,
        with_baseline=False,
    )
    assert tree.values["verify_ms"] > chain.values["verify_ms"]
    assert tree.values["draft_ms"] > chain.values["draft_ms"]
    assert tree.values["output_throughput"] < chain.values["output_throughput"]
    assert tree.values["accept_length"] == pytest.approx(chain.values["accept_length"], rel=0.03)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"block": None}, "topk 10 makes a tree: give --steps, and with --block the tokens"),
        ({"steps": None}, "topk 10 makes a tree: give --steps"),
        ({"steps": 1}, "a tree of 1 steps and topk 10 has; it verifies 11 tokens at most"),
        ({"policy": "ema"}, "policy ema chooses the length of a chain, and topk 10 makes a tree"),
        (
            {"gpu": "b200", "attention_backend": "trtllm_mha"},
            "topk 10: attention backend trtllm_mha has no kernels for trees",
        ),
        ({"block": 40}, "no accept length is published for qwen3-8b with a tree of 7 steps"),
        ({"acceptance": "al:9"}, "accept length 9 is outside [1, 8]"),
        ({"acceptance": "fixed:9"}, "commit length 9 is outside [1, 8]"),
        ({"method": "dflash", "steps": None, "block": 16}, "method dflash takes no topk"),
        ({"topk": 1}, "give steps k or block k+1, not both"),
        ({"topk": 0}, "--topk 0: input should be greater than or equal to 1"),
        (DRAWN, "speculative_use_rejection_sampling draws chains alone, and topk 10 makes a tree"),
        (
            CHAIN | DRAWN | {"topk": 1, "block": None},
            "qwen3-8b-eagle3 drafts 32,000 of 151,936 tokens",
        ),
        (
            MTP | DRAWN | {"engine": "sglang-0.5.13"},
            "SGLang 0.5.13 has no --speculative-use-rejection-sampling",
        ),
        (
            DFLASH | DRAWN | {"topk": 1, "steps": None, "block": 16},
            "method dflash takes no speculative_use_rejection_sampling",
        ),
    ],
)
def test_a_shape_that_cannot_be_is_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(DflashSimError) as caught:
        predict(Scenario.parse(**TREE | fields), with_interval=False)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gpu", ["h100", "b200", "rtx5090"])
def test_trees_have_a_backend_of_their_own_choice(gpu: str) -> None:
    assert setup(gpu=gpu).backend == "flashinfer"
    assert resolve(Scenario.parse(**CHAIN | {"acceptance": "al:3"})).backend == "fa3"


@pytest.mark.parametrize(
    ("engine", "mode"),
    [
        ("sglang-0.5.10", "v1"),  # the overlapped worker drafts chains alone
        ("sglang-0.5.13", "v1"),
        ("sglang-0.5.14", "v2"),
        ("sglang-0.5.23", "v2"),
    ],
)
def test_releases_overlap_trees_or_not(engine: str, mode: str) -> None:
    assert Scenario.parse(**TREE | {"engine": engine}).engine_mode == mode


@pytest.mark.parametrize(
    ("method", "drafter", "said"),
    [
        ("dflash", "qwen3-4b-dflash", "reads 2560-wide features up to layer 33; qwen3-8b is 4096"),
        ("dflash", "llama-3.1-8b-dflash", "drafts from 128,256 tokens; qwen3-8b has 151,936"),
        ("eagle3", "qwen3-32b-eagle3", "reads 5120-wide features; qwen3-8b is 4096"),
        ("eagle3", "llama-3.1-8b-eagle3", "drafts from 128,256 tokens; qwen3-8b has 151,936"),
    ],
)
def test_a_drafter_of_another_target_is_refused(method: str, drafter: str, said: str) -> None:
    """It would be priced, and its accept length be anybody's."""
    steps = {"steps": 3, "acceptance": "al:3"} if method == "eagle3" else {}
    asked = DFLASH | {"method": method, "draft_model": drafter, "conc": 4} | steps
    with pytest.raises(DflashSimError, match=said):
        resolve(Scenario.parse(**asked))


def test_padding_of_a_vocabulary_is_no_other_tokenizer() -> None:
    """MiniMax's drafter counts 200,055 tokens, its target 200,064 rows."""
    found = resolve(Scenario.parse(gpu="b200", model="minimax-m2.7", method="dflash", conc=1))
    assert found.drafter is not None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"method": "dflash", "draft_model": "qwen3-4b-eagle3"}, "is an EAGLE-3 head"),
        ({"method": "dspark", "draft_model": "qwen3-4b-eagle3"}, "give --method eagle3 --steps 3"),
        ({"method": "eagle3", "steps": 3, "draft_model": "qwen3-4b-dflash"}, "a DFlash drafter"),
        ({"method": "eagle3", "steps": 3, "draft_model": "qwen3-4b-dspark"}, "--method dspark"),
    ],
)
def test_a_known_drafter_of_another_method_is_called_so(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        resolve(Scenario.parse(model="qwen3-4b", gpu="h200", **asked))
    assert "unknown" not in str(error.value)


@pytest.mark.parametrize(
    ("engine", "temperature", "says"),
    [
        ("0.5.20", 0.0, "draws the drafts of greedy requests too, as at temperature 1"),
        ("0.5.23", 0.0, "changes nothing at temperature 0"),
        ("0.5.20", 1.0, None),
        ("0.5.23", 1.0, None),
    ],
)
def test_drawn_drafts_of_a_greedy_server_are_told(
    engine: str, temperature: float, says: str | None
) -> None:
    asked = CHAIN | MTP | {"engine": engine, "temperature": temperature}
    bare, drawn = (resolve(Scenario.parse(**asked | more)) for more in ({}, DRAWN))
    told = [w for w in drawn.warnings if "rejection-sampling" in w]
    assert [says in w for w in told] == ([True] if says else [])
    assert drawn.expectation is not None
    assert bare.expectation is not None
    more = accept_length(drawn.expectation) / accept_length(bare.expectation)
    assert (more > 1) == bool(temperature)
    assert (more == 1) == (engine == "0.5.23" and not temperature)


def test_a_path_is_as_long_as_what_is_verified() -> None:
    """Of a tree of three steps two tokens are verified: no more than these can be kept."""
    few = {"steps": 3, "topk": 4, "dataset": None, "isl": 64, "osl": 64, "thinking": True}
    assert setup(**few, block=2, acceptance="al:2").most_tokens == 2
    assert setup(**few, block=16, acceptance="al:3").most_tokens == 4
    with pytest.raises(UsageError, match=r"accept length 3 is outside \[1, 2\]"):
        _ = setup(**few, block=2, acceptance="al:3").expectation


def test_a_step_has_no_more_paths_than_the_drafter_has_tokens() -> None:
    wide = {"steps": 3, "block": 60, "acceptance": "al:3"}
    known = 32_000  # of the published EAGLE-3 head
    assert setup(**wide, topk=known).scenario.topk == known
    with pytest.raises(UsageError, match="drafts from 32,000 tokens; give --topk 32000 at most"):
        setup(**wide, topk=known + 1)


def test_a_message_names_an_accept_length_that_the_drafts_allow() -> None:
    asked = Scenario.parse(model="deepseek-v3", method="mtp", steps=1, gpu="h200", isl=64, osl=64)
    with pytest.raises(DflashSimError, match=r"such as --acceptance al:1\.5"):
        _ = resolve(asked).expectation


@pytest.mark.parametrize(
    ("engine", "more", "says"),
    [
        ("0.5.20", {}, "greedily at any temperature"),
        ("0.5.20", DRAWN, "greedily at any temperature"),
        ("0.5.23", {}, "by itself; give it here"),
        ("0.5.23", DRAWN, None),
        ("0.5.23", {"temperature": 0.0}, None),
        ("0.5.23", {"gpu": "h200"}, None),
    ],
)
def test_what_amd_gpus_verify_at_a_temperature_is_told(
    engine: str, more: dict[str, Any], says: str | None
) -> None:
    asked = CHAIN | MTP | {"gpu": "mi300x", "engine": engine, "temperature": 1.0} | more
    told = [w for w in resolve(Scenario.parse(**asked)).warnings if "on AMD GPUs" in w]
    assert [says in w for w in told] == ([True] if says else [])
