"""Op lists hold the FLOPs, bytes and collectives that the networks' shapes demand."""

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.profiles.load import default_drafter, load_drafter, load_model
from dflash_sim.profiles.networks.hf_config import (
    AttentionShape,
    GdnShape,
    ModelShape,
    MoeMlp,
)
from dflash_sim.profiles.precision import bytes_of
from dflash_sim.simulator.cost import passes as graph
from dflash_sim.simulator.cost.cycle import PHASES, Cycle
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.cost.ops import (
    AnyCall,
    Attention,
    Collective,
    Elementwise,
    GdnRecurrent,
    Gemm,
    Moe,
    PrefillAttention,
    split_attention,
)

MODELS = (
    "qwen3.5-397b-a17b",
    "qwen3.5-122b-a10b",
    "qwen3.5-35b-a3b",
    "qwen3.5-27b",
    "qwen3.6-27b",
    "qwen3-coder-30b-a3b",
    "qwen3-8b",
    "qwen3-4b",
    "gpt-oss-120b",
    "gpt-oss-20b",
    "llama-3.1-8b",
)
BIG = "qwen3.5-397b-a17b"

BYTES_PER_PARAM = {name: bytes_of(name) for name in ("bfloat16", "mxfp4")}


@cache
def model(name: str) -> ModelShape:
    return load_model(name)


def flops(calls: list[AnyCall], *kinds: type) -> float:
    return sum(c.count * c.op.flops for c in calls if not kinds or isinstance(c.op, kinds))


def named(calls: list[AnyCall], name: str) -> list[AnyCall]:
    return [c for c in calls if c.op.name == name]


def launches(calls: list[AnyCall], kind: type) -> Counter[str]:
    out: Counter[str] = Counter()
    for c in calls:
        if isinstance(c.op, kind):
            out[c.op.name] += c.count
    return out


# ---- the target --------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_one_token_multiplies_the_active_parameters(name: str) -> None:
    m = model(name)
    calls = graph.target_forward(m, tp=1, size=Rows(1, 1, 0.0))
    assert flops(calls) == pytest.approx(2 * m.active_params, rel=0.03)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_weights_read_are_the_weights_stored(name: str, tp: int) -> None:
    """Every matrix once, all experts touched: a rank's share but for embedding, norms, biases."""
    m = model(name)
    read = 0.0
    for c in graph.target_forward(m, tp=tp, size=Rows(1, 1, 0.0)):
        if isinstance(c.op, Gemm):
            read += c.count * 2 * c.op.n * c.op.k
        elif isinstance(c.op, Moe):
            per_expert = 3 * c.op.hidden * c.op.inter / tp * BYTES_PER_PARAM[c.op.dtype]
            read += c.count * c.op.experts * per_expert
    lookup = 0 if m.tied_embeddings else 2 * m.vocab * m.hidden // tp
    assert read == pytest.approx(m.weight_bytes(tp) - lookup, rel=5e-3)


REPLICATED = {"router"}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_ranks_share_the_products(name: str, tp: int) -> None:
    """tp shards sum to the whole, but for routers and for KV heads fewer than ranks."""
    m = model(name)
    size = Rows(4, 8, 1000.0)
    whole, shard = (graph.target_forward(m, tp=n, size=size) for n in (1, tp))
    for big, small in zip(
        [c for c in whole if isinstance(c.op, Gemm | Moe)],
        [c for c in shard if isinstance(c.op, Gemm | Moe)],
        strict=True,
    ):
        assert big.op.name == small.op.name
        assert big.count == small.count
        times = 1 if big.op.name in REPLICATED else tp
        if big.op.name == "qkv_proj":
            a = next(a for a in m.attention_layers)
            copies = max(tp, a.num_kv_heads) - a.num_kv_heads
            extra = 2.0 * size.tokens * m.hidden * 2 * copies * a.head_dim
            assert times * small.op.flops == pytest.approx(big.op.flops + extra)
        else:
            assert times * small.op.flops == pytest.approx(big.op.flops)


@pytest.mark.parametrize("name", MODELS)
def test_two_all_reduces_per_layer_and_one_for_the_embedding(name: str) -> None:
    m = model(name)
    calls = graph.target_forward(m, tp=2, size=Rows(2, 4, 0.0))
    reduced = [c for c in calls if isinstance(c.op, Collective) and c.op.kind == "all_reduce"]
    assert sum(c.count for c in reduced) == 2 * len(m.layers) + 1
    assert {c.op.nbytes for c in reduced} == {2.0 * 8 * m.hidden}
    alone = graph.target_forward(m, tp=1, size=Rows(2, 4, 0.0))
    assert not [c for c in alone if isinstance(c.op, Collective)]


@pytest.mark.parametrize("name", [BIG, "qwen3-8b"])
def test_a_release_that_divides_hybrid_layers_finer_computes_the_same(name: str) -> None:
    """SGLang 0.5.9: four products in, three copies and norms of their own; of hybrids alone."""
    m, joined = model(name), Cycle(METHODS["none"], model(name), 8, 1)
    split = replace(joined, joined=False)
    gdn = sum(isinstance(layer.mixer, GdnShape) for layer in m.layers)
    fine, few = (c.decode(requests=4, ctx=0.0)[0].calls for c in (split, joined))
    assert flops(fine, Gemm) == pytest.approx(flops(few, Gemm))
    products = [sum(c.count for c in x if isinstance(c.op, Gemm)) for x in (fine, few)]
    assert products[0] - products[1] == 2 * gdn
    assert sum(c.count for c in named(fine, "qkv_copies")) == 3 * gdn
    assert not named(split.decode(requests=1, ctx=0.0)[0].calls, "qkv_copies")
    assert {c.exposed for c in named(few, "input_norm")} == {"fused_norm_exposed"}
    alone = "" if gdn else "fused_norm_exposed"
    assert {c.exposed for c in named(fine, "input_norm")} == {alone}


def test_logits_are_gathered_over_the_vocabulary() -> None:
    """32 requests, block 16, 248,320 tokens in bf16: 254 MB on every rank."""
    calls = graph.target_forward(model(BIG), tp=8, size=Rows(32, 16, 0.0))
    (gather,) = named(calls, "logits_all_gather")
    assert gather.op.nbytes == pytest.approx(254e6, rel=2e-3)
    (cast,) = named(calls, "logits_cast")
    assert cast.op.nbytes - gather.op.nbytes == pytest.approx(508e6, rel=2e-3)


def test_a_prefill_samples_one_token_per_request() -> None:
    calls = graph.target_forward(model(BIG), tp=8, size=Rows(3, 500, 0.0, prefill=True))
    (head,) = named(calls, "lm_head")
    assert isinstance(head.op, Gemm)
    assert head.op.m == 3
    assert {c.op.m for c in named(calls, "router") if isinstance(c.op, Gemm)} == {1500}


# ---- attention and state -----------------------------------------------------------------


@given(
    requests=st.integers(1, 64),
    rows=st.integers(1, 16),
    ctx=st.integers(0, 10_000),
    heads=st.sampled_from([4, 8, 32]),
)
def test_verify_reads_the_cache_once_per_request(
    requests: int, rows: int, ctx: int, heads: int
) -> None:
    """Bytes beyond queries and outputs are those of one decode at the same reach."""
    wide = Attention("a", requests, rows, float(ctx), heads, 2, 128)
    one = Attention("a", requests, 1, float(ctx + rows - 1), heads, 2, 128)
    assert wide.kv_len == one.kv_len

    def without_q_and_o(op: Attention) -> float:
        return op.nbytes - 2 * 2 * op.requests * op.rows * op.heads * op.head_dim

    assert without_q_and_o(wide) == without_q_and_o(one)
    assert wide.flops == rows * one.flops


@given(seq=st.integers(1, 300), prefix=st.integers(0, 500), requests=st.integers(1, 8))
def test_prefill_attends_to_every_earlier_token(seq: int, prefix: int, requests: int) -> None:
    op = PrefillAttention("a", requests, seq, float(prefix), 4, 2, 64)
    pairs = requests * sum(prefix + i for i in range(1, seq + 1))
    assert op.flops == pytest.approx(4 * pairs * 4 * 64)


def test_a_draft_window_bounds_what_is_attended() -> None:
    drafter, m = default_drafter("qwen3-8b"), model("qwen3-8b")
    for window, reach in ((None, 5016.0), (512, 528.0)):
        calls = graph.draft_block(drafter, m, tp=1, size=Rows(2, 16, 5000.0), window=window)
        attention, _ = split_attention(calls)
        assert {c.op.kv_len for c in attention} == {reach}


def test_recurrent_state_is_read_once_and_written_per_row() -> None:
    one = GdnRecurrent("g", 4, 1, 8, 2, 128, 128)
    wide = replace(one, rows=16)
    assert one.nbytes == 2 * 4 * one.state_bytes
    assert wide.nbytes == (1 + 16) * 4 * one.state_bytes


def test_state_commit_moves_the_live_state_twice() -> None:
    """397B at TP 8: 24 MB per request and GPU, read from scratch and written to the slot."""
    (commit,) = graph.gdn_commit(model(BIG), tp=8, requests=32)
    assert commit.op.nbytes == pytest.approx(2 * 32 * 24e6, rel=0.02)
    assert graph.gdn_commit(model("qwen3-8b"), tp=1, requests=32) == []


# ---- experts -----------------------------------------------------------------------------


def coverage(tokens: int, experts: int = 512, top_k: int = 10) -> float:
    return Moe("m", tokens, experts, top_k, 4096, 1024, 1).uniformly_touched


@pytest.mark.parametrize(
    ("tokens", "touched"), [(1, 10.0), (4, 38.8), (8, 74.7), (16, 139.0), (64, 367.1)]
)
def test_experts_touched_by_independent_routing(tokens: int, touched: float) -> None:
    """Qwen3.5-397B, 512 experts, top 10: the published table."""
    assert coverage(tokens) == pytest.approx(touched, abs=0.05 if tokens != 16 else 0.5)


def test_experts_touched_against_drawn_routing() -> None:
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        scores = rng.random((64, 512))
        drawn.append(np.unique(np.argpartition(scores, 10, axis=1)[:, :10]).size)
    error = np.std(drawn) / len(drawn) ** 0.5
    assert abs(np.mean(drawn) - coverage(64)) < 4 * error
    assert abs(np.mean(drawn) - min(512, 64 * 10)) > 100 * error  # no overlap at all


def test_coverage_is_concave_and_ends_at_all_experts() -> None:
    u = np.array([coverage(t) for t in range(1, 700)])
    assert u[0] == pytest.approx(10)
    assert (np.diff(u) > 0).all()
    assert (np.diff(u, 2) < 1e-9).all()
    assert coverage(10**6) == pytest.approx(512)


# ---- drafters ----------------------------------------------------------------------------

DRAFTERS = ("qwen3.5-397b-a17b-dflash", "qwen3-8b-dflash", "gpt-oss-120b-dflash")


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("tp", [1, 4, 8])
def test_materialisation_flops(name: str, tp: int) -> None:
    """Per token ``2 K H^2`` on every rank and ``4 H n_kv hd L / TP``."""
    d = load_drafter(name)
    a = d.layers[0]
    heads = max(1, a.num_kv_heads // tp)
    per_token = 2 * len(d.target_layer_ids) * d.hidden**2
    per_token += 4 * d.hidden * heads * a.head_dim * len(d.layers)
    assert flops(graph.materialise(d, tp=tp, tokens=96)) == pytest.approx(96 * per_token)


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("tp", [1, 4])
def test_draft_block_flops_and_collectives(name: str, tp: int) -> None:
    d = load_drafter(name)
    m = model(d.target)
    a, layers, h = d.layers[0], len(d.layers), d.hidden
    calls = graph.draft_block(d, m, tp=tp, size=Rows(3, 8, 500.0))
    matrices = 2 * h * a.q_dim + 2 * h * a.kv_dim + 3 * h * d.intermediate
    expected = 2 * 24 * layers * matrices / tp
    assert flops(calls, Gemm) == pytest.approx(expected)
    reduced = launches(calls, Collective).total()
    assert reduced == (2 * layers + 1 if tp > 1 else 0)
    assert all(c.op.kv_len == 508.0 or c.op.window for c in split_attention(calls)[0])


def test_draft_head_exchanges_pairs_not_logits() -> None:
    calls = graph.draft_head(model(BIG), tp=8, rows=32 * 15)
    (head,) = named(calls, "draft_lm_head")
    assert isinstance(head.op, Gemm)
    assert (head.op.m, head.op.n) == (480, 248320 // 8)
    (pairs,) = named(calls, "draft_argmax_all_gather")
    assert pairs.count == 2
    assert pairs.op.nbytes < 1e5


# ---- cycles ------------------------------------------------------------------------------


def cycle(method: str, block: int, name: str = BIG, tp: int = 8) -> Cycle:
    row = METHODS[method]
    return Cycle(row, model(name), tp, block, row.load_drafter(name, None))


def heads(calls: list[AnyCall]) -> list[int]:
    """Rows of each launch of a vocabulary projection."""
    rows: list[int] = []
    for c in calls:
        if isinstance(c.op, Gemm) and c.op.name.endswith("lm_head"):
            rows += [c.op.m] * c.count
    return rows


def phases(c: Cycle, requests: int = 4) -> dict[str, list[AnyCall]]:
    found = {p.name: p.calls for p in c.decode(requests=requests, ctx=700.0)}
    assert set(found) <= set(PHASES)
    return found


def test_plain_decoding_is_one_pass() -> None:
    found = phases(cycle("none", 1))
    assert list(found) == ["verify"]
    assert heads(found["verify"]) == [4]


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_a_chain_drafts_one_token_at_a_time(steps: int) -> None:
    """MTP k: k - 1 steps of one row, verify and draft-extend of k + 1 rows, a head in each."""
    found = phases(cycle("mtp", steps + 1))
    assert heads(found["draft"]) == [4] * (steps - 1)
    assert heads(found["verify"]) == heads(found["materialise"]) == [4 * (steps + 1)]
    assert heads(phases(cycle("eagle3", steps + 1, "qwen3-8b", 1))["draft"]) == [4] * (steps - 1)


def test_a_block_drafts_all_tokens_at_once() -> None:
    """DFlash B: one block of B rows, one head of B - 1, verify and injection of B."""
    found = phases(cycle("dflash", 16))
    assert heads(found["draft"]) == [4 * 15]
    assert heads(found["verify"]) == [4 * 16]
    assert heads(found["materialise"]) == []
    (fc,) = named(found["materialise"], "fc")
    assert isinstance(fc.op, Gemm)
    assert fc.op.m == 4 * 16
    ablated = phases(cycle("injection-only", 16))
    assert heads(ablated["draft"]) == [4] * 15
    assert flops(phases(cycle("diffusion-only", 16))["materialise"]) < flops(found["materialise"])


def test_verification_is_the_target_on_a_wider_batch() -> None:
    one = graph.target_forward(model(BIG), tp=8, size=Rows(4, 16, 700.0))
    assert phases(cycle("dflash", 16))["verify"] == one
    assert phases(cycle("mtp", 16))["verify"] == one


@pytest.mark.parametrize("method", ["mtp", "eagle3"])
def test_a_drafters_prefill_needs_one_head_row_per_request(method: str) -> None:
    """The drafting layer runs over the prompt; only its last position proposes a token."""
    c = cycle(method, 4) if method == "mtp" else cycle(method, 4, "qwen3-8b", 1)
    fill = {p.name: p.calls for p in c.prefill(requests=3, seq=500, prefix=0.0)}["materialise"]
    assert heads(fill) == [3]
    (qkv,) = named(fill, "qkv_proj")
    assert isinstance(qkv.op, Gemm)
    assert qkv.op.m == 1500
    vocabulary = [c.op for c in fill if isinstance(c.op, Elementwise) and c.op.kind == "vocab"]
    assert max(op.nbytes for op in vocabulary) <= 3 * 8 * 248320


def test_prefill_injects_every_prompt_token() -> None:
    c = cycle("dflash", 16)
    fill = {p.name: p.calls for p in c.prefill(requests=3, seq=500, prefix=64.0)}["materialise"]
    assert fill == graph.materialise(default_drafter(BIG), tp=8, tokens=1500)


def test_the_shared_expert_runs_beside_the_routed_ones() -> None:
    calls = graph.target_forward(model(BIG), tp=8, size=Rows(4, 16, 0.0))
    beside = {c.op.name for c in calls if c.exposed == "shared_expert_exposed"}
    assert beside == {
        "shared_gate_up_proj", "shared_activation", "shared_down_proj", "shared_gate",
    }  # fmt: skip
    routed = next(x.mlp for x in model(BIG).layers)
    assert isinstance(routed, MoeMlp)
    assert not [c for c in calls if c.exposed and isinstance(c.op, Moe)]


def test_attention_is_what_depends_on_the_context() -> None:
    """Two contexts give the same list but for attention, so tables may hold the rest once."""
    near, far = (
        graph.target_forward(model(BIG), tp=8, size=Rows(4, 16, ctx)) for ctx in (0.0, 9e3)
    )
    (near_seen, near_rest), (far_seen, far_rest) = split_attention(near), split_attention(far)
    assert near_rest == far_rest
    assert [c.op.at(9e3) for c in near_seen] == [c.op for c in far_seen]
    full = sum(isinstance(x.mixer, AttentionShape) for x in model(BIG).layers)
    assert sum(c.count for c in far_seen) == full


def test_kv_injection_writes_each_key_and_value_once() -> None:
    drafter, tokens = default_drafter("qwen3-8b"), 48
    calls = graph.materialise(drafter, tp=1, tokens=tokens)
    written = sum(c.op.nbytes * c.count for c in calls if c.op.name == "kv_write")
    assert written == 2 * tokens * sum(
        a.kv_bytes() for a in drafter.layers
    )  # read once, written once
