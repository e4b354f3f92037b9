"""What the descendants of DFlash run in a cycle: kernels, shapes, and what they cost."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from dflash_sim.profiles.load import load_drafter, load_model
from dflash_sim.simulator.cost.cycle import Cycle, Phase
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.cost.ops import Attention, Gemm
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

ROWS, REQUESTS, CTX = 8, 4, 1024.0


def draft(method: str, name: str, model: str = "qwen3.6-27b", **more: Any) -> Phase:
    cycle = Cycle(
        method=METHODS[method],
        model=load_model(model),
        tp=more.pop("tp", 1),
        block=ROWS,
        drafter=load_drafter(name),
        **more,
    )
    return cycle.decode(requests=REQUESTS, ctx=CTX)[0]


def counted(phase: Phase) -> Counter[str]:
    found: Counter[str] = Counter()
    for call in phase.calls:
        found[call.op.name] += call.count
    return found


def products(phase: Phase) -> dict[str, Gemm]:
    return {call.op.name: call.op for call in phase.calls if isinstance(call.op, Gemm)}


def setup(method: str, **fields: Any) -> Setup:
    asked = {"gpu": "b200", "model": "qwen3.6-27b", "block": 8, "acceptance": "al:4", "conc": 32}
    asked |= {"engine": "sglang-0.5.20"}
    return resolve(Scenario.parse(method=method, **asked | fields))


def test_dflash2_is_dflash_with_convolutions_and_a_walk() -> None:
    """Two products and four kernels a layer more, and the selector where the argmax was."""
    plain = counted(draft("dflash", "qwen3.6-27b-dflash"))
    both = counted(draft("dflash2", "qwen3.6-27b-dflash2"))
    assert plain - both == Counter({"draft_argmax": 1})
    assert both - plain == Counter(
        {
            "conv_weights": 10,
            "conv_in": 10,
            "conv_out": 10,
            "selector_top_k": 1,
            "selector_projection": 1,
            "selector_codebooks": 2,
            "selector_scaling": 1,
            "selector_scores": 1,
            "selector_add": 1,
            "selector_walk": 1,
            "selector_copies": 6,
        }
    )
    made = products(draft("dflash2", "qwen3.6-27b-dflash2"))["conv_weights"]
    assert (made.m, made.n, made.k) == (REQUESTS * ROWS, 1280, 5120)
    assert products(draft("dflash2", "qwen3.6-27b-dflash2"))["draft_lm_head"].m == REQUESTS * 7


def test_rows_that_see_each_other_reach_the_kernel() -> None:
    def causal(method: str, name: str) -> list[bool]:
        calls = draft(method, name).calls
        return [c.op.causal for c in calls if isinstance(c.op, Attention)]

    assert causal("dflash", "qwen3.6-27b-dflash") == [True, False]  # sliding layers, the full one
    assert causal("dflash2", "qwen3.6-27b-dflash2") == [False]


def test_causal_or_not_the_tiles_are_the_same() -> None:
    op = next(
        c.op for c in draft("dflash2", "qwen3.6-27b-dflash2").calls if isinstance(c.op, Attention)
    )
    price = setup("dflash2").step.cost.op
    assert price(replace(op, causal=True)).as_array() == pytest.approx(price(op).as_array())


def test_dspark_drafts_from_the_anchor_on() -> None:
    """Seven rows draft seven tokens, one step of the head after the other, all in one graph."""
    phase = draft("dspark", "qwen3.6-27b-dspark")
    found, made = counted(phase), products(phase)
    assert found["markov_lookup"] == found["markov_bias"] == found["markov_argmax"] == 7
    assert found["markov_noise"] == found["markov_add"] == 7
    assert made["draft_lm_head"].m == made["qkv_proj"].m == REQUESTS * 7
    assert (made["markov_bias"].m, made["markov_bias"].n, made["markov_bias"].k) == (4, 248320, 256)
    assert (phase.graphs, phase.steps) == (1, 0)
    verified = METHODS["dspark"].block(ROWS)
    assert verified == ROWS


def test_domino_feeds_every_draft_but_the_last() -> None:
    """Anchor and first draft start the GRU; six drafts are corrected, and five of them fed."""
    found = counted(draft("domino", "qwen3.6-27b-domino"))
    assert found["domino_first_argmax"] == 1
    assert found["domino_up"] == found["domino_argmax"] == 6
    assert found["domino_gru_in"] == found["domino_gru_cell"] == 2 + 5


def test_ranks_share_the_vocabulary_and_copy_the_rest() -> None:
    one = products(draft("dspark", "qwen3.6-27b-dspark"))
    four = products(draft("dspark", "qwen3.6-27b-dspark", tp=4))
    assert four["markov_bias"].n == one["markov_bias"].n // 4
    conv = [
        products(draft("dflash2", "qwen3.6-27b-dflash2", tp=tp))["conv_weights"] for tp in (1, 4)
    ]
    assert conv[0] == conv[1]
    many = counted(draft("dspark", "qwen3.6-27b-dspark", tp=4))
    assert many["markov_argmax_all_gather"] == 2 * 7


def test_what_they_cost_beside_dflash_is_what_their_authors_say() -> None:
    """Convolutions and selector: 0.6 to 1.5 % of a cycle by their authors; DSpark's head: 1.3 %."""
    batches = {}
    for method, name in (("dflash", "dflash"), ("dflash2", "dflash2"), ("dspark", "dspark")):
        step = setup(method, draft_model=f"qwen3.6-27b-{name}").step
        batches[method] = [step.decode_s(n, 1024.0 * n) for n in (1, 32)]
    plain = batches["dflash"]
    for method in ("dflash2", "dspark"):
        shares = [own / base - 1 for own, base in zip(batches[method], plain, strict=True)]
        assert all(0.0 < share < 0.04 for share in shares), (method, shares)


def test_a_block_of_one_is_kept_up_alone() -> None:
    """A policy that drafts nothing injects what was committed, and runs none of the heads."""
    for method in ("dflash2", "dspark", "domino"):
        cycle = Cycle(
            method=METHODS[method],
            model=load_model("qwen3.6-27b"),
            tp=1,
            block=1,
            drafter=load_drafter(f"qwen3.6-27b-{method}"),
        )
        phases = cycle.decode(requests=REQUESTS, ctx=CTX)
        assert not phases[0].calls
        assert products(phases[-1])["fc"].m == REQUESTS


# ---- how MTP picks its drafts, by release ---------------------------------------------------


def mtp_cycle(release: str) -> dict[str, Phase]:
    """A cycle of three steps on 4 requests: two in the draft, and the extend."""
    s = setup("mtp", engine=release, steps=3, block=None)
    return {p.name: p for p in s.step.cycle.decode(requests=REQUESTS, ctx=CTX)}


def head_rows(phase: Phase) -> list[int]:
    return [c.op.m for c in phase.calls if isinstance(c.op, Gemm) and c.op.name == "lm_head"]


@pytest.mark.parametrize(
    ("release", "softmaxes", "maxima", "small", "extended"),
    [
        ("sglang-0.5.10", 2, [16, 4], 10, 16),
        ("sglang-0.5.14", 0, [16, 4], 10, 16),
        ("sglang-0.5.16", 0, [4], 1, 16),
        ("sglang-0.5.20", 0, [4], 1, 4),
    ],
)
def test_how_a_release_picks_the_drafts_of_a_chain(
    release: str, softmaxes: int, maxima: list[int], small: int, extended: int
) -> None:
    """What its wheel has: probabilities or logits, of which rows, and with which small kernels."""
    found, row_bytes = mtp_cycle(release), 4.0 * load_model("qwen3.6-27b").vocab
    steps, extend = found["draft"], found["materialise"]
    per_step = counted(steps)
    assert per_step["draft_softmax"] == softmaxes
    assert per_step["argmax"] == 2
    assert per_step["select_top_k_tokens"] == 2 * small
    assert head_rows(extend) == [extended]
    largest = [c.op.nbytes / row_bytes for c in extend.calls if c.op.name == "argmax"]
    assert largest == maxima
    blocks = [c.op.blocks for c in extend.calls if c.op.name == "draft_softmax"]  # type: ignore[union-attr]
    assert blocks == (maxima if softmaxes else [])


def test_each_release_picks_faster_than_the_one_before() -> None:
    s = setup("mtp", engine="sglang-0.5.20", steps=3, block=None)
    kinds = [("softmax", "picked"), ("argmax", "picked"), ("fused", "all"), ("fused", "last")]
    seconds = []
    for picked, extended in kinds:
        cycle = replace(s.step.cycle, picked=picked, extended=extended)
        calls = [c for p in cycle.decode(requests=64, ctx=CTX) for c in p.calls]
        seconds.append(s.step.cost.calls(calls).seconds)
    assert all(a > 1.001 * b for a, b in pairwise(seconds))


def eagle_draft(**fields: Any) -> Counter[str]:
    s = setup("eagle3", model="qwen3-8b", steps=3, acceptance="al:2.5", **fields)
    return counted(s.step.cycle.decode(requests=REQUESTS, ctx=CTX)[0])


def test_a_head_of_fewer_tokens_keeps_what_maps_them() -> None:
    """EAGLE-3's ids are looked up, so that its chain is not written by the fused kernels."""
    assert eagle_draft(block=None)["select_top_k_tokens"] == 20


def test_a_tree_searches_its_probabilities() -> None:
    found = eagle_draft(block=8, topk=4)
    assert (found["draft_softmax"], found["draft_top_k"], found["argmax"]) == (2, 2, 0)
