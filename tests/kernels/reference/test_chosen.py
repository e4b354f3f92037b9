"""Blocks of tokens that MiniMax-M3 attends to: transformers' numbers, and what any choice keeps."""

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from typing import Any  # noqa: E402

from torch import Tensor  # noqa: E402

from dflash_sim.kernels.reference.attention import block_attention  # noqa: E402
from dflash_sim.kernels.reference.chosen import choose_blocks  # noqa: E402
from dflash_sim.kernels.reference.norm_rope import (  # noqa: E402
    apply_rotary,
    rms_norm,
    rotary_table,
)

torch.set_num_threads(1)
TOKENS, PAGE, BLOCK, TOPK = 22, 4, 4, 2
CONFIG: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_block_size": BLOCK,
    "index_topk_blocks": TOPK,
    "layer_types": ["minimax_m3_sparse"],
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 0.5,
    },
}


def paged(rows: Tensor) -> "tuple[Tensor, Tensor]":
    """A pool of scattered pages that holds ``rows`` [1, T, ...], and its page table."""
    torch.manual_seed(3)
    pages = -(-rows.shape[1] // PAGE)
    table = torch.randperm(2 * pages)[:pages].int()
    pool = torch.full((2 * pages, PAGE, *rows.shape[2:]), float("nan"), dtype=rows.dtype)
    for at in range(rows.shape[1]):
        pool[table[at // PAGE], at % PAGE] = rows[0, at]
    return pool.nan_to_num(0.0), table[None]


def test_the_same_as_transformers() -> None:
    transformers = pytest.importorskip("transformers", minversion="5.24", reason="the oracle")
    torch.manual_seed(0)
    config = transformers.MiniMaxM3VLTextConfig(**CONFIG, attn_implementation="eager")
    model = transformers.MiniMaxM3VLForCausalLM(config).eval()
    attention = model.model.layers[0].self_attn
    for p in attention.parameters():
        p.data.normal_(0, 0.3)
    x = torch.randn(1, TOKENS, 32)
    places = torch.arange(TOKENS)[None]
    cos, sin = model.model.rotary_emb(x, places)
    mask = torch.full((TOKENS, TOKENS), -torch.inf).triu(1)[None, None]
    theirs = attention(
        hidden_states=x, position_embeddings=(cos, sin), attention_mask=mask, position_ids=places
    )[0]

    table = tuple(part[:TOKENS] for part in rotary_table(TOKENS, 4, theta=10_000.0))

    def heads(projection: Any, norm: Any, count: int) -> Tensor:
        rows = projection(x).view(TOKENS, count, 8)
        return apply_rotary(rms_norm(rows, norm.weight, eps=1e-6, zero_centred=True), *table)[None]

    index = attention.indexer
    q = heads(attention.q_proj, attention.q_norm, 4)
    k_pool, pages = paged(heads(attention.k_proj, attention.k_norm, 2))
    v_pool, _ = paged(attention.v_proj(x).view(1, TOKENS, 2, 8))
    keys, _ = paged(heads(index.k_proj, index.k_norm, 1)[:, :, 0])
    lens = torch.tensor([TOKENS], dtype=torch.int32)
    picked = choose_blocks(
        heads(index.q_proj, index.q_norm, 2), keys, pages, lens, block=BLOCK, topk=TOPK
    )
    own = block_attention(q, k_pool, v_pool, pages, lens, causal=True, scale=8**-0.5, chosen=picked)
    assert torch.allclose(attention.o_proj(own.flatten(-2)), theirs, atol=1e-5)
    everything = block_attention(q, k_pool, v_pool, pages, lens, causal=True, scale=8**-0.5)
    assert not torch.allclose(everything, own, atol=1e-3)  # the choice leaves something out


def test_the_newest_block_is_always_picked_and_no_more_than_allowed() -> None:
    torch.manual_seed(1)
    rows = 3
    q, keys = torch.randn(1, rows, 2, 8), torch.randn(1, TOKENS, 8)
    pool, pages = paged(keys)
    lens = torch.tensor([TOKENS], dtype=torch.int32)
    picked = choose_blocks(q, pool, pages, lens, block=BLOCK, topk=TOPK)
    for row in range(rows):
        own = (TOKENS - rows + row) // BLOCK
        blocks = picked[0, row].unflatten(-1, (-1, BLOCK)).all(-1)
        assert blocks[:, own].all()
        assert (blocks.sum(-1) == TOPK).all()
    most = choose_blocks(q, pool, pages, lens, block=BLOCK, topk=TOKENS)
    assert most[0, -1].all()  # with room for all blocks the last row leaves nothing out
