"""KV materialisation layer by layer, the block's tokens, and an argmax cut over ranks."""

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from dflash_sim.kernels.reference.draft import (  # noqa: E402
    block_inputs,
    local_argmax,
    materialise,
    pick_argmax,
    project_features,
    project_kv,
)
from dflash_sim.kernels.reference.norm_rope import norm_rope, rotary_table  # noqa: E402

torch.set_num_threads(1)
torch.manual_seed(0)
F64 = torch.float64


def test_one_product_is_every_layers_projection() -> None:
    layers, heads, dim, hidden = 3, 2, 4, 10
    context = torch.randn(6, hidden, dtype=F64)
    weight = torch.randn(layers, 2 * heads * dim, hidden, dtype=F64)
    keys, values = project_kv(context, weight, heads)
    for layer in range(layers):
        k, v = (context @ weight[layer].T).chunk(2, dim=-1)
        assert torch.allclose(keys[layer], k.view(6, heads, dim))
        assert torch.allclose(values[layer], v.view(6, heads, dim))


def test_materialised_kv_is_where_and_what_a_layer_would_write() -> None:
    layers, heads, dim, hidden, page = 2, 2, 4, 10, 3
    context = torch.randn(5, hidden, dtype=F64)
    weight = torch.randn(layers, 2 * heads * dim, hidden, dtype=F64)
    norms, tables = torch.rand(layers, dim, dtype=F64), rotary_table(40, dim, theta=1e4, dtype=F64)
    at, slots = torch.tensor([7, 8, 9, 20, 21]), torch.tensor([4, 2, -1, 0, 11])
    pools = [torch.zeros(layers, 4, page, heads, dim, dtype=F64) for _ in range(2)]
    materialise(context, weight, norms, *tables, at, *pools, slots, eps=1e-6)
    keys, values = project_kv(context, weight, heads)
    for layer in range(layers):
        turned = norm_rope(keys[layer], norms[layer], *tables, at, eps=1e-6)
        for t, slot in enumerate(slots.tolist()):
            if slot >= 0:
                assert torch.equal(pools[0][layer, slot // page, slot % page], turned[t])
                assert torch.equal(pools[1][layer, slot // page, slot % page], values[layer, t])
        used = pools[0][layer].flatten(0, 1).abs().sum((1, 2)) > 0
        assert used.nonzero().flatten().tolist() == [0, 2, 4, 11]


def test_features_are_projected_then_normed() -> None:
    features, fc = torch.randn(3, 12, dtype=F64), torch.randn(4, 12, dtype=F64)
    out = project_features(features, fc, torch.ones(4, dtype=F64), eps=0.0)
    assert torch.allclose(out.square().mean(-1), torch.ones(3, dtype=F64))
    product = features @ fc.T
    assert torch.allclose(out / out[:, :1], product / product[:, :1])


def test_a_block_is_an_anchor_and_masks() -> None:
    ids, positions = block_inputs(
        torch.tensor([5, 6]), torch.tensor([10, 0], dtype=torch.int32), rows=4, mask_id=99
    )
    assert ids.tolist() == [[5, 99, 99, 99], [6, 99, 99, 99]]
    assert positions.tolist() == [[10, 11, 12, 13], [0, 1, 2, 3]]


@given(
    levels=st.integers(1, 4),
    tp=st.sampled_from([1, 2, 3, 4, 6, 12]),
    seed=st.integers(0, 20),
)
def test_the_argmax_does_not_depend_on_the_cut(levels: int, tp: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, levels, (7, 12), generator=draw).to(F64)  # ties on purpose
    local = [
        local_argmax(part, rank * 12 // tp) for rank, part in enumerate(logits.chunk(tp, dim=1))
    ]
    maxima, ids = torch.stack([m for m, _ in local]), torch.stack([i for _, i in local])
    want = [row.index(max(row)) for row in logits.tolist()]
    assert pick_argmax(maxima, ids).tolist() == want
