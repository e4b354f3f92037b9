"""Paged block attention against a definition in loops, torch's own, and its invariances."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from dflash_sim.kernels.reference.attention import block_attention  # noqa: E402

torch.set_num_threads(1)
torch.manual_seed(0)
F64 = torch.float64


def pools(pages: int, page: int, heads: int, dim: int) -> "tuple[torch.Tensor, torch.Tensor]":
    return (
        torch.randn(pages, page, heads, dim, dtype=F64),
        torch.randn(pages, page, heads, dim, dtype=F64),
    )


def one_row(q, keys, values, seen, scale):  # type: ignore[no-untyped-def]
    """Softmax attention of one query head, one number at a time."""
    scores = [scale * sum(a * b for a, b in zip(q, keys[j], strict=True)) for j in seen]
    top = max(scores)
    weights = [math.exp(s - top) for s in scores]
    total = sum(weights)
    return [
        sum(w * values[j][d] for w, j in zip(weights, seen, strict=True)) / total
        for d in range(len(q))
    ]


@settings(max_examples=25)
@given(
    rows=st.integers(1, 4),
    group=st.integers(1, 3),
    page=st.integers(1, 4),
    lens=st.lists(st.integers(0, 7), min_size=1, max_size=3),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 9),
)
def test_every_number_by_its_definition(
    rows: int, group: int, page: int, lens: list[int], causal: bool, window: int | None
) -> None:
    requests, heads, dim = len(lens), 2, 3
    width = -(-(max(lens) + rows) // page)
    k_pool, v_pool = pools(requests * width + 1, page, heads, dim)
    table = torch.randperm(requests * width + 1)[: requests * width].view(requests, width)
    q = torch.randn(requests, rows, heads * group, dim, dtype=F64)
    seq_lens = torch.tensor(lens, dtype=torch.int32) + rows
    out = block_attention(
        q, k_pool, v_pool, table.int(), seq_lens, causal=causal, scale=0.7, window=window
    )
    for r, seq in enumerate(seq_lens.tolist()):
        keys, values = k_pool[table[r]].flatten(0, 1), v_pool[table[r]].flatten(0, 1)
        for i in range(rows):
            at = seq - rows + i
            last = at if causal else seq - 1
            first = 0 if window is None else max(0, at - window + 1)
            seen = range(first, last + 1)
            for h in range(heads * group):
                kv = h // group
                want = one_row(
                    q[r, i, h].tolist(), keys[:, kv].tolist(), values[:, kv].tolist(), seen, 0.7
                )
                assert out[r, i, h].tolist() == pytest.approx(want, abs=1e-9)


def case(requests: int = 2, rows: int = 5, tokens: int = 20):  # type: ignore[no-untyped-def]
    k_pool, v_pool = pools(16, 4, 2, 8)
    table = torch.randperm(16)[: requests * 8].view(requests, 8).int()
    q = torch.randn(requests, rows, 4, 8, dtype=F64)
    lens = torch.tensor([tokens, tokens - 7][:requests], dtype=torch.int32)
    return q, k_pool, v_pool, table, lens


def test_verify_rows_are_decode_steps() -> None:
    q, k_pool, v_pool, table, lens = case()
    block = block_attention(q, k_pool, v_pool, table, lens, causal=True, scale=0.3)
    for i in range(5):
        step = block_attention(
            q[:, i : i + 1], k_pool, v_pool, table, lens - 4 + i, causal=True, scale=0.3
        )
        assert torch.allclose(block[:, i : i + 1], step)


def test_a_block_without_causality_has_no_order() -> None:
    q, k_pool, v_pool, table, lens = case()
    order = torch.tensor([3, 0, 4, 1, 2])
    args = (k_pool, v_pool, table, lens)
    out = block_attention(q, *args, causal=False, scale=0.3)
    assert torch.allclose(
        block_attention(q[:, order], *args, causal=False, scale=0.3), out[:, order]
    )
    ordered = block_attention(q[:, order], *args, causal=True, scale=0.3)
    assert not torch.allclose(ordered, block_attention(q, *args, causal=True, scale=0.3)[:, order])


def test_as_torch_computes_it() -> None:
    q, k_pool, v_pool, table, lens = case(requests=1)
    keys, values = (pool[table[0].long()].flatten(0, 1)[:20] for pool in (k_pool, v_pool))
    for causal in (True, False):
        mask = torch.ones(5, 20, dtype=torch.bool)
        theirs = torch.nn.functional.scaled_dot_product_attention(
            q[0].transpose(0, 1),
            keys.transpose(0, 1),
            values.transpose(0, 1),
            attn_mask=mask.tril(15) if causal else mask,
            enable_gqa=True,
        ).transpose(0, 1)
        ours = block_attention(q, k_pool, v_pool, table, lens, causal=causal, scale=8**-0.5)
        assert torch.allclose(ours[0], theirs)


def test_what_is_not_seen_does_not_matter() -> None:
    q, k_pool, v_pool, table, lens = case()
    clean = block_attention(q, k_pool, v_pool, table, lens, causal=True, scale=0.3, window=6)
    used = {r: range(max(0, n - 5 - 5), n) for r, n in enumerate(lens.tolist())}
    for r in range(2):
        for at in range(32):
            if at not in used[r]:
                k_pool[table[r, at // 4], at % 4] = torch.nan
                v_pool[table[r, at // 4], at % 4] = torch.nan
    dirty = block_attention(q, k_pool, v_pool, table, lens, causal=True, scale=0.3, window=6)
    assert torch.equal(clean, dirty)


def test_a_padded_request_gives_zeros() -> None:
    q, k_pool, v_pool, table, lens = case()
    lens[1] = 0
    out = block_attention(q, k_pool, v_pool, table, lens, causal=False, scale=0.3)
    assert out[0].abs().min() > 0
    assert not out[1].any()


def test_a_window_wider_than_the_text_is_none() -> None:
    q, k_pool, v_pool, table, lens = case()
    args = (q, k_pool, v_pool, table, lens)
    for causal in (True, False):
        full = block_attention(*args, causal=causal, scale=0.3)
        assert torch.equal(full, block_attention(*args, causal=causal, scale=0.3, window=20))
        narrow = block_attention(*args, causal=causal, scale=0.3, window=4)
        assert not torch.allclose(full, narrow)


def test_the_gate_multiplies_the_output() -> None:
    q, k_pool, v_pool, table, lens = case()
    gate = torch.randn_like(q)
    args = (q, k_pool, v_pool, table, lens)
    plain = block_attention(*args, causal=True, scale=0.3)
    gated = block_attention(*args, causal=True, scale=0.3, gate=gate)
    assert torch.allclose(gated, plain * torch.sigmoid(gate))
