"""An op of the simulator as calls that can be timed: its tensors, and the kernel that does it.

Shapes are those of the op, on one rank. What an elementwise op is depends on what surrounds it in
its pass, which :class:`Surroundings` says. An op that our kernels do inside another one is
``FUSED``: it takes no time of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from dflash_sim.calibrate.measure.clock import copies
from dflash_sim.kernels.layers.spec import Numerics
from dflash_sim.kernels.reference.backend import Backend
from dflash_sim.kernels.reference.norm_rope import rotary_table, wide
from dflash_sim.simulator.cost.ops import (
    Attention,
    Elementwise,
    GdnConv,
    GdnPrefill,
    GdnRecurrent,
    Gemm,
    Moe,
    Op,
    PrefillAttention,
)

FUSED = "fused"
Calls = list[Callable[[], object]]
FLOAT32 = torch.float32
IN_FLOAT32 = {
    "argmax",
    "draft_softmax",
    "draft_rows",
    "logits_cast",
    "gdn_state_commit",
}  # whatever is measured
PAGE = 16  # tokens of a KV page
# Done inside another kernel: rotation writes KV, attention multiplies by the gate, the shared
# expert's gate adds the routed ones.
INSIDE_ANOTHER = {"kv_write", "output_gate", "shared_add"}


@dataclass(frozen=True)
class Surroundings:
    """The place of an op in its pass.

    Parameters
    ----------
    tokens, requests, rows : of the pass
    hidden, vocab, vocab_here : widths of the network; the last is this rank's part
    mixer : the attention or delta net of its layer, for what is named after it
    layers : written by a KV materialisation, or by a commit of states
    gated : whether the attention of its network is
    """

    tokens: int
    requests: int
    rows: int
    hidden: int
    vocab: int
    vocab_here: int
    mixer: Op | None = None
    layers: int = 1
    gated: bool = False


@dataclass(frozen=True)
class Maker:
    """Builds calls on one device.

    Parameters
    ----------
    network_bytes
        Weights of the whole network on this rank: no more copies of an op are made than it has.
    """

    backend: Backend
    numerics: Numerics
    dtype: torch.dtype
    device: torch.device
    cache_bytes: float
    network_bytes: float

    def calls(self, op: Op, at: Surroundings) -> Calls | str | None:
        """Calls on rotating copies; ``FUSED``; or None where no kernel of ours does it."""
        match op:
            case Gemm():
                return self._gemm(op)
            case Moe():
                return self._moe(op)
            case Attention():
                return self._attention(op, at)
            case PrefillAttention():
                return self._prefill_attention(op, at)
            case GdnRecurrent():
                return self._delta_rule(op, op.requests, op.rows)
            case GdnConv():
                return self._conv(op, at)
            case GdnPrefill():
                return self._delta_rule(op, op.requests, round(op.seq))
            case Elementwise():
                return self._elementwise(op, at)
        return None

    def rand(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Normal numbers."""
        return torch.randn(shape, dtype=dtype or self.dtype, device=self.device)

    def ids(self, high: int, *shape: int) -> Tensor:
        """Whole numbers below ``high``, int64."""
        return torch.randint(0, high, shape, device=self.device)

    def _copies(self, nbytes: float) -> range:
        many = copies(nbytes, cache_bytes=self.cache_bytes, network_bytes=self.network_bytes)
        return range(many)

    def _gemm(self, op: Gemm) -> Calls:
        x = self.rand(op.m, op.k)
        weights = [self.rand(op.n, op.k) for _ in self._copies(x.element_size() * op.n * op.k)]
        return [partial(linear, x, weight) for weight in weights]

    def _moe(self, op: Moe) -> Calls:
        local = op.inter // op.tp
        w13 = self.rand(op.experts, 2 * local, op.hidden) / op.hidden**0.5
        w2 = self.rand(op.experts, op.hidden, local) / local**0.5
        x = self.rand(op.tokens, op.hidden)

        def route_and_run(logits: Tensor) -> Tensor:
            chosen = self.backend.route_topk(logits, op.top_k, renormalise=True)
            return self.backend.grouped_swiglu(x, w13, w2, *chosen)

        draws = [self.rand(op.tokens, op.experts) for _ in range(8)]
        return [partial(route_and_run, logits) for logits in draws]

    def _attention(self, op: Attention, at: Surroundings) -> Calls:
        return self._paged(
            op, requests=op.requests, rows=op.rows, keys=round(op.ctx) + op.rows, at=at
        )

    def _prefill_attention(self, op: PrefillAttention, at: Surroundings) -> Calls:
        rows = round(op.seq)
        return self._paged(op, requests=op.requests, rows=rows, keys=round(op.prefix) + rows, at=at)

    def _paged(
        self,
        op: Attention | PrefillAttention,
        *,
        requests: int,
        rows: int,
        keys: int,
        at: Surroundings,
    ) -> Calls:
        each = -(-keys // PAGE)
        table = 1 + torch.randperm(requests * each, device=self.device)
        table = table.view(requests, each).to(torch.int32)
        lens = torch.full((requests,), keys, dtype=torch.int32, device=self.device)
        q = self.rand(requests, rows, op.heads, op.head_dim)
        pool = (requests * each + 1, PAGE, op.kv_heads, op.head_dim)
        nbytes = 2 * q.element_size() * requests * keys * op.kv_heads * op.head_dim
        gate = self.rand(*q.shape) if at.gated else None
        return [
            partial(
                self.backend.block_attention,
                q,
                self.rand(*pool),
                self.rand(*pool),
                table,
                lens,
                causal=isinstance(op, PrefillAttention) or op.causal,
                scale=op.head_dim**-0.5,
                window=op.window or None,
                gate=gate,
            )
            for _ in self._copies(nbytes)
        ]

    def _delta_rule(self, op: GdnRecurrent | GdnPrefill, requests: int, rows: int) -> Calls:
        heads, keys, values = op.v_heads, op.head_k_dim, op.head_v_dim
        q, k = (self.rand(requests, rows, op.k_heads, keys) for _ in range(2))
        v = self.rand(requests, rows, heads, values)
        exact = wide(self.dtype)
        g = -self.rand(requests, rows, heads, dtype=exact).abs()
        beta = self.rand(requests, rows, heads, dtype=exact).sigmoid()
        state = (heads, keys, values)
        slots = torch.randperm(requests, device=self.device) + 1
        kept = isinstance(op, GdnRecurrent) and rows > 1
        nbytes = 4.0 * requests * heads * keys * values * (1 + (rows if kept else 1))
        calls: Calls = []
        for _ in self._copies(nbytes):
            pool = self.rand(requests + 1, *state, dtype=exact)
            parts = (q, k, v, g, beta, pool, slots)
            if kept:
                scratch = torch.zeros(requests, rows, *state, dtype=exact, device=self.device)
                calls.append(partial(self.backend.gdn_verify_slots, *parts, scratch))
            else:
                calls.append(partial(self.backend.gdn_extend, *parts))
        if isinstance(op, GdnPrefill):  # the simulator's op holds its convolution
            return [_both(c, self._convolution(requests, rows, op.conv_dim, 4)) for c in calls]
        return calls

    def _conv(self, op: GdnConv, at: Surroundings) -> Calls:
        rows = max(1, at.rows)
        one = self._convolution(op.tokens // rows, rows, op.conv_dim, op.conv_kernel)
        return [one]

    def _convolution(
        self, requests: int, rows: int, channels: int, width: int
    ) -> Callable[[], object]:
        x, weight = self.rand(requests, rows, channels), self.rand(channels, width)
        pool = self.rand(requests + 1, channels, width - 1)
        slots = torch.randperm(requests, device=self.device) + 1
        if rows == 1:
            return partial(self.backend.conv_extend, x, weight, pool, slots)
        scratch = self.rand(requests, rows, channels, width - 1)
        return partial(self.backend.conv_verify, x, weight, pool, slots, scratch)

    def _elementwise(self, op: Elementwise, at: Surroundings) -> Calls | str | None:
        if op.name in INSIDE_ANOTHER:
            return FUSED
        elements = round(op.nbytes / 2)  # the simulator counts bfloat16
        if op.kind == "norm":
            return self._norm(elements // 4 // at.hidden, at.hidden)
        if op.name in ("activation", "shared_activation"):
            return self._streamed(self.backend.swiglu, at.tokens, 2 * elements // 3 // at.tokens)
        match op.name:
            case "qk_norm_rope":
                return self._rotation(at)
            case "k_norm_rope":
                return self._injection(at)
            case "gated_norm":
                return self._gated_norm(elements // 3, at)
            case "embedding":
                table = self.rand(at.vocab_here, at.hidden)
                ids = self.ids(at.vocab_here, at.tokens)
                return [partial(embedding, ids, table)]
            case "argmax" | "draft_argmax":
                return self._argmax(op, at)
            case "draft_softmax":  # the simulator's are float32
                rows = op.blocks or 1
                return self._streamed(partial(torch.softmax, dim=-1), rows, at.vocab, FLOAT32)
            case "draft_rows":
                rows = round(op.nbytes / 8 / at.vocab)
                return self._streamed(torch.Tensor.clone, rows, at.vocab, FLOAT32)
            case "logits_cast":
                rows = round(op.nbytes / 6 / at.vocab)
                return self._streamed(torch.Tensor.float, rows, at.vocab)
            case "mtp_concat":
                a, b = self.rand(at.tokens, at.hidden), self.rand(at.tokens, at.hidden)
                return [partial(torch.cat, [a, b], -1)]
            case "shared_gate":
                return self._shared_gate(at)
            case "gdn_state_commit":
                return self._commit(op, at)
        return None

    def _streamed(
        self,
        run: Callable[[Tensor], object],
        rows: int,
        width: int,
        dtype: torch.dtype | None = None,
    ) -> Calls:
        nbytes = (dtype or self.dtype).itemsize * rows * width
        return [partial(run, self.rand(rows, width, dtype=dtype)) for _ in self._copies(nbytes)]

    def _norm(self, tokens: int, hidden: int) -> Calls:
        x, weight = self.rand(tokens, hidden), self.rand(hidden)
        more = [self.rand(tokens, hidden) for _ in self._copies(4 * x.numel() * x.element_size())]
        return [
            partial(
                self.backend.add_rms_norm,
                x,
                other,
                weight,
                eps=self.numerics.eps,
                zero_centred=self.numerics.zero_centred,
            )
            for other in more
        ]

    def _gated_norm(self, elements: int, at: Surroundings) -> Calls | None:
        if not isinstance(at.mixer, GdnRecurrent | GdnPrefill):
            return None
        dim = at.mixer.head_v_dim
        x, gate = (self.rand(at.tokens, elements // at.tokens // dim, dim) for _ in range(2))
        run = self.backend.gated_rms_norm
        return [partial(run, x, gate, self.rand(dim), eps=self.numerics.eps)]

    def _tables(self, head_dim: int, tokens: int) -> tuple[Tensor, Tensor]:
        rotated = self.numerics.rotary_dim(head_dim)
        exact = wide(self.dtype)
        theta = self.numerics.theta
        return rotary_table(tokens, rotated, theta=theta, dtype=exact, device=self.device)

    def _rotation(self, at: Surroundings) -> Calls | None:
        mixer = at.mixer
        if not isinstance(mixer, Attention | PrefillAttention):
            return None
        t, dim = at.tokens, mixer.head_dim
        sizes = [mixer.heads * dim, mixer.kv_heads * dim, mixer.kv_heads * dim]
        pools = [self.rand(-(-t // PAGE) + 1, PAGE, mixer.kv_heads, dim) for _ in range(2)]
        where, norm = torch.randperm(t, device=self.device), self.rand(dim)
        calls: Calls = []
        for _ in self._copies(4.0 * t * sum(sizes)):
            q, k, v = (
                x.view(t, -1, dim) for x in torch.split(self.rand(t, sum(sizes)), sizes, dim=1)
            )
            tables = self._tables(dim, t)
            calls.append(
                partial(
                    self.backend.qk_norm_rope_write,
                    *(q, k, v, norm, norm, *tables, where, *pools, where),
                    eps=self.numerics.eps,
                    zero_centred=self.numerics.zero_centred,
                )
            )
        return calls

    def _injection(self, at: Surroundings) -> Calls | None:
        """Norm, rotation and write of the KV of all draft layers: the product is an op of its own.

        The whole is timed with a product one element deep, which costs next to nothing.
        """
        mixer = at.mixer
        if not isinstance(mixer, Attention):
            return None
        dim, heads, t = mixer.head_dim, mixer.kv_heads, at.tokens
        size = (at.layers, -(-t // PAGE) + 1, PAGE, heads, dim)
        pools, where = (self.rand(*size), self.rand(*size)), torch.randperm(t, device=self.device)
        context = self.rand(t, 16)
        weight, norm = self.rand(at.layers, 2 * heads * dim, 16), self.rand(at.layers, dim)
        tables = (context, weight, norm, *self._tables(dim, t), where, *pools, where)
        return [partial(self.backend.materialise, *tables, eps=self.numerics.eps)]

    def _argmax(self, op: Elementwise, at: Surroundings) -> Calls:
        whole = op.name == "argmax"  # over gathered float32 logits; a draft's over this rank's part
        width = at.vocab if whole else at.vocab_here
        rows = max(1, round(op.nbytes / (4 if whole else 2) / width))
        kind = FLOAT32 if whole else None
        logits = [self.rand(rows, width, dtype=kind) for _ in self._copies(4.0 * rows * width)]
        return [partial(self.backend.local_argmax, x, 0) for x in logits]

    def _shared_gate(self, at: Surroundings) -> Calls:
        x, out, routed = (self.rand(at.tokens, at.hidden) for _ in range(3))
        gate = self.rand(1, at.hidden)
        return [lambda: routed + out * torch.sigmoid(linear(x, gate))]

    def _commit(self, op: Elementwise, at: Surroundings) -> Calls | None:
        if not isinstance(at.mixer, GdnRecurrent):
            return None
        m, exact = at.mixer, wide(self.dtype)
        state = (m.v_heads, m.head_k_dim, m.head_v_dim)
        pool = self.rand(at.layers, at.requests + 1, *state, dtype=exact)
        kept = self.rand(at.layers, at.requests, m.rows, *state, dtype=exact)
        slots = torch.arange(1, at.requests + 1, device=self.device)
        lengths = torch.randint(1, m.rows + 1, (at.requests,), device=self.device)
        return [partial(self.backend.commit_states, pool, kept, slots, lengths)]


def _both(a: Callable[[], object], b: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        a()
        b()

    return run


def tensors_bytes(op: Op, itemsize: int) -> float:
    """Return the bytes that an op must move in the measured type; the simulator counts bfloat16."""
    exact = isinstance(op, GdnRecurrent) or op.name in IN_FLOAT32
    return op.nbytes if exact else op.nbytes * itemsize / 2
