"""Norms, rotation and paged writes: invariants, and the same numbers as transformers."""

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from dflash_sim.kernels.reference.norm_rope import (  # noqa: E402
    add_rms_norm,
    apply_rotary,
    gated_rms_norm,
    norm_rope,
    paged_kv_write,
    qk_norm_rope,
    qk_norm_rope_write,
    rms_norm,
    rotary_table,
)

torch.set_num_threads(1)
torch.manual_seed(0)
F64 = torch.float64


def test_rms_norm_makes_the_mean_square_one() -> None:
    x = torch.randn(5, 64, dtype=F64) * torch.logspace(-3, 3, 5, dtype=F64)[:, None]
    normed = rms_norm(x, torch.ones(64, dtype=F64), eps=0.0)
    assert torch.allclose(normed.square().mean(-1), torch.ones(5, dtype=F64))
    assert torch.allclose(normed, rms_norm(1000 * x, torch.ones(64, dtype=F64), eps=0.0))
    plus_one = rms_norm(x, torch.zeros(64, dtype=F64), eps=0.0, zero_centred=True)
    assert torch.equal(plus_one, normed)


def test_add_rms_norm_returns_the_sum() -> None:
    x, residual, weight = torch.randn(3, 8), torch.randn(3, 8), torch.rand(8)
    normed, total = add_rms_norm(x, residual, weight, eps=1e-6)
    assert torch.equal(total, x + residual)
    assert torch.equal(normed, rms_norm(x + residual, weight, eps=1e-6))


@given(shift=st.integers(0, 200), gap=st.integers(0, 50), rotary=st.sampled_from([4, 8, 16]))
def test_a_rotated_product_depends_on_the_distance_alone(shift: int, gap: int, rotary: int) -> None:
    cos, sin = rotary_table(256, rotary, theta=1e4, dtype=F64)
    q, k = torch.randn(1, 2, 16, dtype=F64), torch.randn(1, 2, 16, dtype=F64)

    def product(m: int, n: int) -> "torch.Tensor":
        return (apply_rotary(q, cos[[m]], sin[[m]]) * apply_rotary(k, cos[[n]], sin[[n]])).sum(-1)

    assert torch.allclose(product(gap + shift, shift), product(gap, 0), atol=1e-10)
    turned = apply_rotary(q, cos[[shift]], sin[[shift]])
    assert torch.allclose(turned.norm(), q.norm())
    assert torch.equal(turned[..., rotary:], q[..., rotary:])


def test_norm_comes_before_rotation() -> None:
    cos, sin = rotary_table(16, 8, theta=1e4, dtype=F64)
    x, weight = torch.randn(3, 2, 8, dtype=F64), torch.rand(8, dtype=F64)
    at = torch.tensor([4, 0, 9])
    normed = rms_norm(x, weight, eps=1e-6)
    assert torch.equal(
        norm_rope(x, weight, cos, sin, at, eps=1e-6), apply_rotary(normed, cos[at], sin[at])
    )


@given(data=st.data())
def test_a_paged_write_touches_its_slots_and_no_others(data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(24)))
    slots = torch.tensor([s if s % 3 else -1 - s for s in order[:10]])
    k, v = torch.randn(10, 2, 4), torch.randn(10, 2, 4)
    k_pool, v_pool = torch.zeros(6, 4, 2, 4), torch.zeros(6, 4, 2, 4)
    paged_kv_write(k, v, k_pool, v_pool, slots)
    flat_k, flat_v = torch.zeros(24, 2, 4), torch.zeros(24, 2, 4)
    paged_kv_write(k, v, flat_k, flat_v, slots)
    assert torch.equal(k_pool.view(24, 2, 4), flat_k)
    for t, slot in enumerate(slots.tolist()):
        if slot >= 0:
            page, offset = divmod(slot, 4)
            assert torch.equal(k_pool[page, offset], k[t])
            assert torch.equal(v_pool[page, offset], v[t])
    untouched = sorted(set(range(24)) - set(slots.tolist()))
    assert not flat_k[untouched].any()
    assert not flat_v[untouched].any()


def test_the_fused_op_is_its_parts() -> None:
    cos, sin = rotary_table(32, 8, theta=1e4)
    q, k, v = torch.randn(5, 4, 16), torch.randn(5, 2, 16), torch.randn(5, 2, 16)
    weights, at = (torch.rand(16), torch.rand(16)), torch.tensor([3, 4, 5, 0, 1])
    slots, pools = torch.tensor([7, 2, -1, 0, 5]), (torch.zeros(2, 4, 2, 16),) * 2
    pools = (pools[0].clone(), pools[1].clone())
    turned = qk_norm_rope_write(
        q, k, v, *weights, cos, sin, at, *pools, slots, eps=1e-6, zero_centred=True
    )
    want_q, want_k = qk_norm_rope(q, k, *weights, cos, sin, at, eps=1e-6, zero_centred=True)
    assert torch.equal(turned, want_q)
    kept = [0, 1, 3, 4]
    assert torch.equal(pools[0].view(8, 2, 16)[slots[kept]], want_k[kept])
    assert torch.equal(pools[1].view(8, 2, 16)[slots[kept]], v[kept])


def test_half_precision_is_rounded_once() -> None:
    x, weight = torch.randn(4, 64).to(torch.bfloat16), torch.rand(64).to(torch.bfloat16)
    exact = rms_norm(x.double(), weight.double(), eps=1e-6)
    assert torch.equal(rms_norm(x, weight, eps=1e-6), exact.to(torch.bfloat16))


def test_the_same_as_transformers() -> None:
    pytest.importorskip("transformers", minversion="5.17", reason="the independent oracle")
    from transformers.models.qwen3 import modeling_qwen3 as plain
    from transformers.models.qwen3_5 import modeling_qwen3_5 as gated

    x, weight = torch.randn(6, 4, 16), torch.randn(16)
    for module, zero_centred in (
        (plain.Qwen3RMSNorm(16, eps=1e-5), False),
        (gated.Qwen3_5RMSNorm(16, eps=1e-5), True),
    ):
        module.weight.data.copy_(weight)
        ours = rms_norm(x, weight, eps=1e-5, zero_centred=zero_centred)
        assert torch.allclose(ours, module(x), atol=1e-6)
    out_norm = gated.Qwen3_5RMSNormGated(16, eps=1e-5)
    out_norm.weight.data.copy_(weight)
    gate = torch.randn(6, 4, 16)
    assert torch.allclose(gated_rms_norm(x, gate, weight, eps=1e-5), out_norm(x, gate), atol=1e-6)
    at = torch.tensor([0, 3, 4, 9, 1, 2])
    for rotary in (16, 4):  # all of the head, and a quarter of it as in Qwen3.5
        cos, sin = rotary_table(10, rotary, theta=1e4)
        doubled = [torch.cat([table[at], table[at]], dim=-1)[None] for table in (cos, sin)]
        theirs, _ = gated.apply_rotary_pos_emb(x[None], x[None], *doubled, unsqueeze_dim=2)
        assert torch.allclose(apply_rotary(x, cos[at], sin[at]), theirs[0], atol=1e-6)
