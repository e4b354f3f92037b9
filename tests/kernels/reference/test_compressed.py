"""DeepSeek-V4's attention by kind of layer and its hyper-connections: transformers' numbers."""

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from typing import Any  # noqa: E402

from torch import Tensor  # noqa: E402

from dflash_sim.kernels.reference.compressed import (  # noqa: E402
    compress,
    compressed_attention,
    finished,
    gather_streams,
    rotate_tail,
    spread_streams,
)
from dflash_sim.kernels.reference.latent import choose  # noqa: E402
from dflash_sim.kernels.reference.norm_rope import rms_norm  # noqa: E402

torch.set_num_threads(1)
TOKENS, HIDDEN, HEADS, DIM, EPS = 23, 16, 4, 12, 1e-6
SIZES = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}
KINDS = ["sliding_attention", *SIZES]
CONFIG: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": HIDDEN, "moe_intermediate_size": 8, "num_hidden_layers": 3,
    "num_attention_heads": HEADS, "head_dim": DIM, "q_lora_rank": 10, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "sliding_window": 6, "o_groups": 2, "o_lora_rank": 5,
    "index_n_heads": 2, "index_head_dim": 8, "index_topk": 2, "compress_rates": SIZES,
    "layer_types": KINDS, "partial_rotary_factor": 1 / 3, "mlp_layer_types": ["moe"] * 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    transformers = pytest.importorskip("transformers", minversion="5.24", reason="the oracle")
    torch.manual_seed(0)
    config = transformers.DeepseekV4Config(**CONFIG, attn_implementation="eager")
    built = transformers.DeepseekV4ForCausalLM(config).eval().float()
    for name, p in built.named_parameters():
        p.data.normal_(0, 0.3)
        if "norm" in name:
            p.data.add_(1)
    return built.model


def unweighted(x: Tensor) -> Tensor:
    return rms_norm(x, torch.ones(x.shape[-1]), eps=EPS)


def entries(model: Any, part: Any, x: Tensor, *, overlap: bool) -> Tensor:
    """Compressed tokens of a compressor or of an indexer, normalised and rotated."""
    rows = compress(part.kv_proj(x), part.gate_proj(x), part.position_bias, overlap=overlap)
    starts = torch.arange(rows.shape[1])[None] * len(part.position_bias)
    turned = model.rotary_emb(x, position_ids=starts, layer_type="compress")
    return rotate_tail(rms_norm(rows, part.kv_norm.weight, eps=EPS), *turned)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_each_kind_is_transformers(model: Any, kind: str) -> None:
    layer = model.layers[KINDS.index(kind)].self_attn
    torch.manual_seed(1)
    x, places = torch.randn(1, TOKENS, HIDDEN), torch.arange(TOKENS)[None]
    turned = {
        name: model.rotary_emb(x, position_ids=places, layer_type=name)
        for name in ("main", "compress")
    }
    at = places[0]
    hidden = (at[None] > at[:, None]) | (at[None] <= at[:, None] - CONFIG["sliding_window"])
    mask = torch.zeros(TOKENS, TOKENS).masked_fill(hidden, -torch.inf)[None, None]
    theirs = layer(x, position_embeddings=turned, position_ids=places, attention_mask=mask)[0]

    cos, sin = turned["main" if kind == "sliding_attention" else "compress"]
    each = (cos[:, :, None], sin[:, :, None])
    low = rms_norm(layer.q_a_proj(x), layer.q_a_norm.weight, eps=EPS)
    q = rotate_tail(unweighted(layer.q_b_proj(low).view(1, TOKENS, HEADS, DIM)), *each)
    near = rotate_tail(rms_norm(layer.kv_proj(x), layer.kv_norm.weight, eps=EPS), cos, sin)
    far, seen = near[:, :0], torch.zeros(1, TOKENS, 0, dtype=torch.bool)
    if kind in SIZES:
        overlap = kind == "compressed_sparse_attention"
        far = entries(model, layer.compressor, x, overlap=overlap)
        seen = finished(places, size=SIZES[kind], count=far.shape[1])
        if overlap:
            index = layer.compressor.indexer
            queries = rotate_tail(index.q_b_proj(low).view(1, TOKENS, 2, 8), *each)
            keys = entries(model, index, x, overlap=True)
            scores = torch.einsum("rbhd,rkd->rbhk", queries, keys).relu()
            summed = torch.einsum("rbh,rbhk->rbk", index.scorer.weights_proj(x), scores)
            seen = choose(summed.masked_fill(~seen, -torch.inf), CONFIG["index_topk"])
            assert seen.sum(-1).max() == CONFIG["index_topk"] < far.shape[1]
    out = compressed_attention(
        q, near, far, places, layer.sinks, window=6, seen=seen, scale=DIM**-0.5
    )
    out = rotate_tail(out, each[0], -each[1]).view(1, TOKENS, 2, -1)
    groups = layer.o_a_proj.weight.view(2, -1, out.shape[-1])
    narrow = torch.einsum("rbgd,god->rbgo", out, groups).flatten(2)
    assert torch.allclose(layer.o_b_proj(narrow), theirs, atol=2e-5)


def test_streams_are_gathered_and_spread_as_in_transformers(model: Any) -> None:
    site = model.layers[0].attn_hc
    torch.manual_seed(2)
    streams = torch.randn(1, 5, 4, HIDDEN)
    post, mix, x = site(streams)
    ours = gather_streams(streams, site.fn, site.base, site.scale, eps=EPS, tiny=1e-6, steps=20)
    for mine, theirs in zip(ours, (x, post, mix), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    out = torch.randn(1, 5, HIDDEN)
    spread = post[..., None] * out[..., None, :] + mix.transpose(-1, -2) @ streams
    assert torch.allclose(spread_streams(out, streams, *ours[1:]), spread, atol=1e-5)


def test_a_balanced_mix_keeps_the_sum_of_the_streams() -> None:
    """Rows and columns of the mix sum to one, so what is kept is neither more nor less."""
    torch.manual_seed(4)
    streams = torch.randn(3, 4, 6, dtype=torch.float64)
    fn = torch.randn(24, 24, dtype=torch.float64) / 10
    base, scale = torch.randn(24, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    _, post, mix = gather_streams(streams, fn, base, scale, eps=0.0, tiny=0.0, steps=200)
    kept = spread_streams(torch.zeros(3, 6, dtype=torch.float64), streams, post, mix)
    assert torch.allclose(mix.sum(-1), torch.ones(3, 4, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(kept.sum(-2), streams.sum(-2), atol=1e-6)


def test_a_window_that_is_not_full_waits() -> None:
    x, gates, bias = torch.randn(1, 7, 3), torch.randn(1, 7, 3), torch.zeros(4, 3)
    assert compress(x, gates, bias, overlap=False).shape == (1, 1, 3)
    more = torch.cat([x, torch.randn(1, 1, 3)], 1), torch.cat([gates, torch.randn(1, 1, 3)], 1)
    both = compress(*more, bias, overlap=False)
    assert both.shape == (1, 2, 3)
    assert torch.equal(both[:, :1], compress(x, gates, bias, overlap=False))
    assert finished(torch.tensor([[2, 3, 6, 7]]), size=4, count=2)[0].sum(-1).tolist() == [
        0, 1, 1, 2,
    ]  # fmt: skip
