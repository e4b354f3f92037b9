"""Mixers and MLPs of one rank as lists of ops, as in SGLang's model files."""

from dataclasses import dataclass, replace

from dflash_sim.profiles.formats import PLAIN
from dflash_sim.profiles.networks.attention import BlockChoice
from dflash_sim.profiles.networks.hf_config import (
    AttentionShape,
    DenseMlp,
    GdnShape,
    KdaShape,
    Mamba2Shape,
    MoeMlp,
)
from dflash_sim.profiles.precision import BF16, Precision, bytes_of
from dflash_sim.profiles.units import GDN_GATES_BESIDE_ROWS
from dflash_sim.simulator.cost.latent_ops import IndexerScores, Kda, SparseModule
from dflash_sim.simulator.cost.ops import (
    AnyCall,
    Attention,
    Call,
    Collective,
    Elementwise,
    GdnConv,
    GdnPrefill,
    GdnRecurrent,
    Gemm,
    Moe,
    PrefillAttention,
    with_quantisation,
)


@dataclass(frozen=True, slots=True)
class Rows:
    """The size of a pass: requests, query rows of each, cached tokens of each.

    ``saves`` is False where recurrent states are replayed from their inputs, not saved by row;
    ``joined`` is False where a hybrid model's release divides layers into more kernels. Where the
    cache has a format of its own, ``kv_casts`` are the small kernels before it is written, and
    ``pool_tokens`` the latents that are cast back in each layer.
    """

    requests: int
    rows: int
    ctx: float = 0.0
    prefill: bool = False
    saves: bool = True
    joined: bool = True
    kv_casts: int = 0
    pool_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.requests * self.rows


@dataclass(frozen=True, slots=True)
class Kernels:
    """Calls whose bytes follow from the precision: small kernels, products, collectives.

    Parameters
    ----------
    tp
        Ranks of the collectives.
    """

    precision: Precision
    tp: int = 1

    @property
    def value(self) -> float:
        """Bytes of one activation."""
        return bytes_of(self.precision.activations)

    def kv_write(self, elements: float, count: int = 1) -> AnyCall:
        """So many keys and values, read as activations and written as the cache has them."""
        each = self.value + bytes_of(self.precision.kv_cache)
        return Call(Elementwise("kv_write", each * elements), count)

    def small(self, name: str, elements: float, count: int = 1) -> AnyCall:
        """An elementwise kernel that reads and writes so many activations."""
        return Call(Elementwise(name, self.value * elements), count)

    def cached(self, name: str, elements: float, count: int = 1) -> AnyCall:
        """As :meth:`small`, of what the product before it left in the L2 cache."""
        return Call(Elementwise(name, self.value * elements, "cached"), count)

    def gated_norm(self, size: Rows, width: int, count: int) -> AnyCall:
        """The norm behind a recurrence and its gate: two tensors in, one out."""
        nbytes, rows = 3.0 * self.value * size.tokens * width, 1 if size.prefill else size.rows
        return Call(Elementwise("gated_norm", nbytes, "gated_norm", rows), count)

    def norm(self, name: str, tokens: int, hidden: int, count: int = 1) -> AnyCall:
        """Fused residual add and RMSNorm: two tensors in, two out."""
        return Call(Elementwise(name, 4.0 * self.value * tokens * hidden, "norm"), count)

    def layer_norm(self, name: str, size: Rows, hidden: int, count: int) -> AnyCall:
        """The norm before a mixer or MLP: after an all-reduce of decode rows it runs inside it."""
        norm = self.norm(name, size.tokens, hidden, count)
        fused = self.tp > 1 and not size.prefill and size.joined
        return replace(norm, exposed="fused_norm_exposed") if fused else norm

    def gemm(self, name: str, m: int, n: int, k: int, *, of: str, count: int = 1) -> AnyCall:
        """``count`` products with ``n x k`` weights of module ``of`` on this rank."""
        return Call(Gemm(name, m, n, k, self.precision.of(of)), count)

    def all_reduce(self, name: str, tokens: int, hidden: int, count: int) -> list[AnyCall]:
        """A sum of the residual stream over the ranks; none on a single one."""
        if self.tp == 1:
            return []
        nbytes = float(self.value * tokens * hidden)
        return [Call(Collective(name, "all_reduce", nbytes, self.tp), count)]

    def gather(self, name: str, nbytes: float, count: int = 1) -> list[AnyCall]:
        """An all-gather over the ranks; none on a single one."""
        if self.tp == 1:
            return []
        return [Call(Collective(name, "all_gather", nbytes, self.tp), count)]


def attention_mixer(
    a: AttentionShape,
    *,
    hidden: int,
    tp: int,
    size: Rows,
    count: int,
    input_width: int = 0,
    precision: Precision = BF16,
) -> list[AnyCall]:
    """``count`` attention layers, norm to output projection; ``input_width`` sets the fan-in."""
    k = Kernels(precision, tp)
    t, d = size.tokens, a.mean_dim
    heads, kv = a.num_heads // tp, max(1, a.num_kv_heads // tp)
    out = heads * a.value_dim
    width = heads * a.head_dim + (out if a.gated else 0) + (heads if a.head_gates else 0)
    kv_width = kv * (a.head_dim if a.k_is_v else a.head_dim + a.value_dim)
    own = precision.of("attention")
    if a.chosen is not None:
        return _chosen_mixer(k, a, a.chosen, hidden=hidden, size=size, count=count)
    mixer: Attention | PrefillAttention
    if size.prefill:
        mixer = PrefillAttention(
            "attention", size.requests, size.rows, size.ctx, heads, kv, d, a.window or 0, own
        )
    else:
        mixer = Attention(
            "attention",
            size.requests,
            size.rows,
            size.ctx,
            heads,
            kv,
            d,
            a.window or 0,
            own,
            a.causal or size.rows == 1,
        )
    calls = [
        k.layer_norm("input_norm", size, hidden, count),
        k.gemm("qkv_proj", t, width + kv_width, input_width or hidden, of="attention", count=count),
        k.small("qk_norm_rope", 2.0 * t * (heads + kv) * d, count),
        k.kv_write(2.0 * t * kv * d, count),
        Call(mixer, count),
        k.gemm("o_proj", t, hidden, out, of="attention.o_proj", count=count),
        *k.all_reduce("attention_all_reduce", t, hidden, count),
    ]
    if size.kv_casts and own.kv_cache != own.activations:
        calls.append(k.small("kv_casts", 2.0 * t * kv * d, size.kv_casts * count))
    if a.gated or a.head_gates:
        calls.append(k.small("output_gate", 3.0 * t * out, count))
    return calls


def _chosen_mixer(
    k: Kernels, a: AttentionShape, index: BlockChoice, *, hidden: int, size: Rows, count: int
) -> list[AnyCall]:
    """``count`` layers that attend to chosen blocks: one module, as the tables time it.

    Its parts read as many tokens as a window of the chosen ones; each row chooses its own.
    """
    t = size.tokens
    index_heads = max(1, index.heads // k.tp)
    read = replace(a, chosen=None, window=index.tokens)
    rows = size if size.prefill else replace(size, requests=t, rows=1)
    inside = attention_mixer(
        read, hidden=hidden, tp=k.tp, size=rows, count=1, precision=k.precision
    )
    scores = IndexerScores(
        "indexer",
        requests=size.requests,
        rows=size.rows,
        ctx=size.ctx,
        heads=index_heads,
        head_dim=index.head_dim,
        key_bytes=index.head_dim * bytes_of(k.precision.kv_cache),
        precision=BF16,
        kept=index_heads / index.block,
    )
    wide = (index_heads + 1) * index.head_dim
    parts = [
        k.gemm("indexer_qk_proj", t, wide, hidden, of="attention"),
        k.small("indexer_norm_rope", 2.0 * t * wide),
        k.kv_write(float(t * index.head_dim)),
        Call(scores, 1),
        *(call for call in inside if not _beside(call)),
    ]
    module = SparseModule(
        "sparse_attention",
        requests=size.requests,
        rows=size.rows,
        ctx=size.ctx,
        heads=a.num_heads // k.tp,
        prefill=size.prefill,
        shared=False,
        parts=tuple(call.op for call in with_quantisation(parts)),
        like=a.timed_as(hidden),
        table="msa",
        precision=k.precision.of("attention"),
    )
    return [
        k.layer_norm("input_norm", size, hidden, count),
        Call(module, count),
        *k.all_reduce("attention_all_reduce", t, hidden, count),
    ]


def _beside(call: AnyCall) -> bool:
    """Return True of what a timed module leaves out: the norm before it, the sum behind it."""
    return call.op.name in ("input_norm", "attention_all_reduce")


def gdn_mixer(
    g: GdnShape, *, hidden: int, tp: int, size: Rows, count: int, precision: Precision = BF16
) -> list[AnyCall]:
    """Gated delta net: projections, conv, recurrence, gated norm, output projection."""
    k = Kernels(precision, tp)
    t = size.tokens
    v_heads, k_heads = g.num_v_heads // tp, max(1, g.num_k_heads // tp)
    value, conv = v_heads * g.head_v_dim, g.conv_dim // tp
    calls = [
        k.layer_norm("input_norm", size, hidden, count),
        *_gdn_inputs(k, size, v_heads, (conv, value), hidden=hidden, count=count),
        k.gated_norm(size, value, count),
        k.gemm("out_proj", t, hidden, value, of="gdn.out_proj", count=count),
        *k.all_reduce("gdn_all_reduce", t, hidden, count),
    ]
    kd, vd = g.head_k_dim, g.head_v_dim
    own = precision.of("other")
    if size.prefill:
        scan = GdnPrefill(
            "gdn_chunk", size.requests, size.rows, v_heads, k_heads, kd, vd, conv, own
        )
        return [*calls, Call(scan, count)]
    of = (size.requests, size.rows, v_heads, k_heads)
    rule = GdnRecurrent("gdn_recurrent", *of, kd, vd, own, size.saves)
    update = GdnConv("gdn_conv", t, v_heads, k_heads, conv, g.conv_kernel, own, size.rows)
    return [*calls, Call(update, count), Call(rule, count)]


def _gdn_inputs(
    k: Kernels, size: Rows, v_heads: int, widths: tuple[int, int], *, hidden: int, count: int
) -> list[AnyCall]:
    """The products before a gated delta net: of qkv and z (``widths``), and of its two gates."""
    t = size.tokens
    if not size.joined:
        qkv, z = widths
        copies = [k.small("qkv_copies", 2.0 * t * qkv / 3, 3 * count)]  # queries, keys, values
        return [
            k.gemm("in_proj_qkv", t, qkv, hidden, of="gdn", count=count),
            k.gemm("in_proj_z", t, z, hidden, of="gdn", count=count),
            k.gemm("in_proj_b_a", t, v_heads, hidden, of="gdn_gates", count=2 * count),
            *([] if size.prefill or t == 1 else copies),
        ]
    gates = k.gemm("in_proj_ba", t, 2 * v_heads, hidden, of="gdn_gates", count=count)
    if t <= GDN_GATES_BESIDE_ROWS:  # beside the large product, on a second stream
        gates = replace(gates, exposed="gdn_gates_exposed")
    return [k.gemm("in_proj_qkvz", t, sum(widths), hidden, of="gdn", count=count), gates]


def kda_mixer(
    a: KdaShape, *, hidden: int, tp: int, size: Rows, count: int, precision: Precision = BF16
) -> list[AnyCall]:
    """Kimi delta attention: one product in, two through a narrow space, rule, gated norm, out."""
    k = Kernels(precision, tp)
    t, heads = size.tokens, a.num_heads // tp
    dim = heads * a.head_dim
    gates = 1 if a.full_gate else 2  # forgetting alone, or the gate of the output as well
    wide = (4 if a.full_gate else 3) * dim + heads + gates * a.head_dim
    rule = Kda(
        "kda",
        requests=size.requests,
        rows=size.rows,
        heads=heads,
        head_dim=a.head_dim,
        conv_kernel=a.conv_kernel,
        prefill=size.prefill,
        precision=precision.of("attention"),
        saves=size.saves,
    )
    return [
        k.layer_norm("input_norm", size, hidden, count),
        k.gemm("in_proj", t, wide, hidden, of="attention", count=count),
        k.gemm("gates_b_proj", t, dim, a.head_dim, of="attention", count=gates * count),
        Call(rule, count),
        k.gated_norm(size, dim, count),
        k.gemm("o_proj", t, hidden, dim, of="attention.o_proj", count=count),
        *k.all_reduce("kda_all_reduce", t, hidden, count),
    ]


def mamba2_mixer(
    m: Mamba2Shape, *, hidden: int, tp: int, size: Rows, count: int, precision: Precision = BF16
) -> list[AnyCall]:
    """Mamba-2: one projection in, conv, state update, gated norm, output projection."""
    k = Kernels(precision, tp)
    t, heads, groups = size.tokens, m.num_heads // tp, max(1, m.groups // tp)
    inner = heads * m.head_dim
    conv = inner + 2 * groups * m.state
    calls = [
        k.layer_norm("input_norm", size, hidden, count),
        k.gemm("in_proj", t, inner + conv + heads, hidden, of="gdn", count=count),
        k.gated_norm(size, inner, count),
        k.gemm("out_proj", t, hidden, inner, of="gdn.out_proj", count=count),
        *k.all_reduce("mamba_all_reduce", t, hidden, count),
    ]
    shape = (heads, groups, m.state, m.head_dim)
    own = precision.of("other")
    if size.prefill:
        scan = GdnPrefill("mamba_chunk", size.requests, size.rows, *shape, conv, own)
        return [*calls, Call(scan, count)]
    update = GdnConv("mamba_conv", t, heads, groups, conv, m.conv_kernel, own, size.rows)
    step = GdnRecurrent("mamba_recurrent", size.requests, size.rows, *shape, own)
    return [*calls, Call(update, count), Call(step, count)]


def dense_mlp(
    mlp: DenseMlp, *, hidden: int, tp: int, size: Rows, count: int, precision: Precision = BF16
) -> list[AnyCall]:
    """Gate and up in one product, activation, down; or up alone."""
    k = Kernels(precision, tp)
    inter, tokens, up = mlp.intermediate // tp, size.tokens, 2 if mlp.gate else 1
    return [
        k.layer_norm("post_attention_norm", size, hidden, count),
        k.gemm("gate_up_proj", tokens, up * inter, hidden, of="mlp", count=count),
        k.cached("activation", (up + 1.0) * tokens * inter, count),
        k.gemm("down_proj", tokens, hidden, inter, of="mlp.down_proj", count=count),
        *k.all_reduce("mlp_all_reduce", tokens, hidden, count),
    ]


def moe_mlp(
    mlp: MoeMlp, *, hidden: int, tp: int, size: Rows, count: int, precision: Precision = BF16
) -> list[AnyCall]:
    """Router, top-k choice with the routed experts, and the shared expert on its own stream."""
    k = Kernels(precision, tp)
    tokens = size.tokens
    routed = Moe(
        "routed_experts",
        tokens=tokens,
        experts=mlp.num_experts,
        top_k=mlp.top_k,
        hidden=mlp.expert_width(hidden),
        inter=mlp.intermediate,
        tp=tp // mlp.ep,
        rows=size.rows,
        precision=precision.of("experts"),
        matrices=mlp.matrices,
        ep=mlp.ep,
    )
    inter, up = mlp.shared_intermediate // tp, mlp.matrices - 1
    at_once = mlp.one_front and all(
        precision.form(x) == PLAIN for x in ("shared_expert", "router", "mlp")
    )
    front, name = mlp.num_experts, "router"
    if at_once:
        front, name = front + mlp.latent + up * inter, "moe_front"
    calls = [
        k.layer_norm("post_attention_norm", size, hidden, count),
        k.gemm(name, tokens, front, hidden, of="router", count=count),
        Call(routed, count),
        *k.all_reduce("moe_all_reduce", tokens, mlp.latent if at_once else hidden, count),
    ]
    if mlp.latent and not at_once:
        calls.append(k.gemm("latent_in", tokens, mlp.latent, hidden, of="mlp", count=count))
    if mlp.latent:
        calls.append(k.gemm("latent_out", tokens, hidden, mlp.latent, of="mlp", count=count))
    if mlp.shared_intermediate:
        gate_up = k.gemm(
            "shared_gate_up_proj", tokens, up * inter, hidden, of="shared_expert", count=count
        )
        beside = [
            *([] if at_once else [gate_up]),
            k.cached("shared_activation", (up + 1.0) * tokens * inter, count),
            k.gemm(
                "shared_down_proj", tokens, hidden, inter, of="shared_expert.down_proj", count=count
            ),
        ]
        if at_once:
            beside += k.all_reduce("shared_all_reduce", tokens, hidden, count)
        if mlp.shared_gate:
            beside.append(k.small("shared_gate", 2.0 * tokens * hidden, count))
        calls += [Call(c.op, c.count, "shared_expert_exposed") for c in beside]
        calls.append(k.small("shared_add", 3.0 * tokens * hidden, count))
    return calls
