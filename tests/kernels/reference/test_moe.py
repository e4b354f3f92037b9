"""Routing and experts: transformers' blocks, and what must hold for any routing."""

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from dflash_sim.kernels.reference.moe import (  # noqa: E402
    grouped_swiglu,
    route_topk,
    shared_expert,
    swiglu,
)

torch.set_num_threads(1)
torch.manual_seed(0)
F64 = torch.float64


@given(k=st.integers(1, 8), seed=st.integers(0, 9))
def test_routing_takes_the_most_probable(k: int, seed: int) -> None:
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(seed), dtype=F64)
    raw, experts = route_topk(logits, k, renormalise=False)
    even, same = route_topk(logits, k, renormalise=True)
    assert torch.equal(experts, same)
    probability = logits.softmax(-1)
    assert torch.allclose(raw, probability.gather(1, experts.long()))
    assert torch.allclose(even.sum(-1), torch.ones(5, dtype=F64))
    left_out = torch.ones_like(probability).scatter(1, experts.long(), 0).bool()
    best_left = probability.masked_fill(~left_out, 0).amax(-1)
    assert (raw.amin(-1) >= best_left).all()


def weights(experts: int = 6):  # type: ignore[no-untyped-def]
    return torch.randn(experts, 14, 10, dtype=F64), torch.randn(experts, 10, 7, dtype=F64)


def test_all_experts_chosen_is_a_weighted_sum() -> None:
    x, (w13, w2) = torch.randn(4, 10, dtype=F64), weights()
    share, experts = route_topk(torch.randn(4, 6, dtype=F64), 6, renormalise=False)
    one_by_one = sum(
        share.gather(1, (experts == e).long().argmax(-1, keepdim=True))
        * shared_expert(x, w13[e], w2[e])
        for e in range(6)
    )
    assert torch.allclose(grouped_swiglu(x, w13, w2, share, experts), one_by_one)


@given(first=st.integers(0, 6))
def test_experts_of_two_ranks_add_up(first: int) -> None:
    x, (w13, w2) = torch.randn(5, 10, dtype=F64), weights()
    share, experts = route_topk(torch.randn(5, 6, dtype=F64), 2, renormalise=True)
    whole = grouped_swiglu(x, w13, w2, share, experts)
    low = grouped_swiglu(x, w13[:first], w2[:first], share, experts)
    high = grouped_swiglu(x, w13[first:], w2[first:], share, experts - first)
    assert torch.allclose(low + high, whole)


@pytest.mark.parametrize("parts", [1, 7])
def test_intermediate_parts_add_up(parts: int) -> None:
    x, (w13, w2) = torch.randn(3, 10, dtype=F64), weights(1)
    gate, up = w13[0].chunk(2)
    summed = sum(
        shared_expert(x, torch.cat([g, u]), down)
        for g, u, down in zip(
            gate.chunk(parts), up.chunk(parts), w2[0].chunk(parts, dim=1), strict=True
        )
    )
    assert torch.allclose(summed, shared_expert(x, w13[0], w2[0]))


def test_swiglu_by_hand() -> None:
    one = torch.tensor([[1.0, -2.0, 3.0, 0.5]], dtype=F64)
    want = [1 / (1 + 2.718281828459045**-1) * 3, -2 / (1 + 2.718281828459045**2) * 0.5]
    assert swiglu(one).tolist()[0] == pytest.approx(want)


@pytest.mark.parametrize("renormalise", [True, False])
def test_the_same_as_transformers_qwen3(renormalise: bool) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.17", reason="the oracle")
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    config = transformers.Qwen3MoeConfig(
        hidden_size=16,
        moe_intermediate_size=12,
        num_experts=8,
        num_experts_per_tok=3,
        norm_topk_prob=renormalise,
    )
    check(Qwen3MoeSparseMoeBlock(config), top_k=3, renormalise=renormalise)


def test_the_same_as_transformers_qwen3_5() -> None:
    transformers = pytest.importorskip("transformers", minversion="5.17", reason="the oracle")
    from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as theirs

    config = transformers.Qwen3_5MoeTextConfig(
        hidden_size=16,
        moe_intermediate_size=12,
        shared_expert_intermediate_size=20,
        num_experts=8,
        num_experts_per_tok=3,
    )
    check(theirs.Qwen3_5MoeSparseMoeBlock(config), top_k=3, renormalise=True)


def check(block, *, top_k: int, renormalise: bool) -> None:  # type: ignore[no-untyped-def]
    for p in block.parameters():
        p.data.normal_(0, 0.4)
    x = torch.randn(1, 9, 16)
    w = dict(block.named_parameters())
    share, experts = route_topk(x[0] @ w["gate.weight"].T, top_k, renormalise=renormalise)
    out = grouped_swiglu(x[0], w["experts.gate_up_proj"], w["experts.down_proj"], share, experts)
    if "shared_expert_gate.weight" in w:
        gate_up = [w["shared_expert.gate_proj.weight"], w["shared_expert.up_proj.weight"]]
        out = out + shared_expert(
            x[0],
            torch.cat(gate_up),
            w["shared_expert.down_proj.weight"],
            w["shared_expert_gate.weight"],
        )
    assert torch.allclose(out, block(x)[0], atol=1e-5)
