"""Operators with exact per-rank shapes: what a pass is made of, never how long it takes.

``price.py`` prices them, ``calibrate measure`` times them, layers in ``kernels/`` agree with them.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Generic, TypeVar

import numpy as np

from dflash_sim.profiles.formats import format_of
from dflash_sim.profiles.precision import BF16, Precision, bytes_of
from dflash_sim.profiles.units import GDN_CHUNK_TOKENS
from dflash_sim.simulator.cost.latent_ops import LatentOp, MlaDecode, SparseModule

POPULARITY_NODES = 24


@dataclass(frozen=True, slots=True)
class Gemm:
    """``[m, k] @ [k, n]`` on one rank; the second factor is a weight."""

    name: str
    m: int
    n: int
    k: int
    precision: Precision = BF16

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.n * self.k

    @property
    def nbytes(self) -> float:
        rows = self.m * self.k + self.m * self.n
        weights = self.n * self.k * bytes_of(self.precision.weights)
        return rows * bytes_of(self.precision.activations) + weights


@cache
def popularity(skew: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of a log-normal popularity of mean 1."""
    z, weight = np.polynomial.hermite_e.hermegauss(POPULARITY_NODES)
    return np.exp(skew * z - skew**2 / 2), weight / weight.sum()


def experts_touched(experts: int, top_k: int, *, tokens: float, skew: float) -> float:
    """Expected distinct experts of unrelated tokens, ``sum_e 1 - (1 - p_e)^T``.

    Parameters
    ----------
    skew
        Standard deviation of the log of an expert's popularity; 0 is uniform, where
        ``E(1 - (1 - k/E)^T)`` is exact for a choice without replacement [1].
    """
    liked, weight = popularity(skew)
    chosen = np.minimum(liked * top_k / experts, 1.0)
    touched = experts * float(weight @ (1.0 - (1.0 - chosen) ** tokens))
    return max(touched, float(top_k))


@dataclass(frozen=True, slots=True)
class Moe:
    """Top-k choice and routed experts (gate_up, activation, down, weighted sum).

    ``inter`` is unsharded; the router's own product is a separate :class:`Gemm`. ``rows`` tokens
    each belong to one request: neighbours in one text share experts, different requests do not.
    An expert without a gate has two ``matrices``. Whole experts are dealt to ``ep`` groups of
    ``tp`` ranks, which split each of theirs; FLOPs and bytes are those of a rank that has its even
    share.
    """

    name: str
    tokens: int
    experts: int
    top_k: int
    hidden: int
    inter: int
    tp: int
    rows: int = 1
    precision: Precision = BF16
    matrices: int = 3
    ep: int = 1

    @property
    def ranks(self) -> int:
        """Ranks that the experts are spread over."""
        return self.tp * self.ep

    @property
    def dtype(self) -> str:
        """The experts' format, which tables and profiles are kept by."""
        return self.precision.weights

    @property
    def gated_inter(self) -> int:
        """Width of experts with a gate that have as many weights, as the tables time them."""
        return self.inter * self.matrices // 3

    def independent(self, overlap: float) -> float:
        """Tokens of as many different texts that would touch as many experts.

        Each row beyond a request's first counts ``1 - overlap``.
        """
        requests = self.tokens / self.rows
        return requests * (1 + (self.rows - 1) * (1 - overlap))

    @property
    def flops(self) -> float:
        return (
            2.0 * self.matrices * self.tokens * self.top_k * self.hidden * self.inter / self.ranks
        )

    @property
    def uniformly_touched(self) -> float:
        """Distinct experts of uniform independent routing, E(1 - (1 - k/E)^T), as of random rows.

        Texts touch fewer: a price asks :func:`experts_touched` with an engine's skew.
        """
        return self.experts * (1.0 - (1.0 - self.top_k / self.experts) ** self.tokens)

    @property
    def nbytes(self) -> float:
        """Bytes moved for random rows."""
        return self.nbytes_of(self.uniformly_touched)

    def nbytes_of(self, touched: float) -> float:
        """Bytes moved where ``touched`` experts are read."""
        inner = self.inter / self.ranks
        weights = self.matrices * touched * self.hidden * inner
        rows = self.tokens * (2 * self.hidden + self.matrices * self.top_k * inner)
        return weights * bytes_of(self.precision.weights) + rows * bytes_of(
            self.precision.activations
        )


def _kv_and_rows(kv: float, rows: float, precision: Precision) -> float:
    """Bytes of cached keys and values, and of queries and outputs."""
    return kv * bytes_of(precision.kv_cache) + rows * bytes_of(precision.activations)


@dataclass(frozen=True, slots=True)
class Attention:
    """Paged attention of ``rows`` query rows per request over ``ctx`` cached tokens plus the rows.

    ``rows=1`` is decoding; more rows are verification or a draft block. The KV of a request is
    read once whatever the rows; ``causal`` ones see none after them, in tiles that are as large.
    """

    name: str
    requests: int
    rows: int
    ctx: float
    heads: int
    kv_heads: int
    head_dim: int
    window: int = 0
    precision: Precision = BF16
    causal: bool = True

    def at(self, ctx: float) -> "Attention":
        """Return this attention over another context."""
        return replace(self, ctx=ctx)

    @property
    def kv_len(self) -> float:
        seen = self.ctx + self.rows
        return min(seen, self.window + self.rows) if self.window else seen

    @property
    def flops(self) -> float:
        return 4.0 * self.requests * self.rows * self.kv_len * self.heads * self.head_dim

    @property
    def nbytes(self) -> float:
        kv = 2 * self.kv_len * self.kv_heads * self.head_dim
        qo = 2 * self.rows * self.heads * self.head_dim
        return self.requests * _kv_and_rows(kv, qo, self.precision)


@dataclass(frozen=True, slots=True)
class PrefillAttention:
    """Causal attention of ``seq`` new tokens per request over ``prefix`` cached ones."""

    name: str
    requests: int
    seq: float
    prefix: float
    heads: int
    kv_heads: int
    head_dim: int
    window: int = 0
    precision: Precision = BF16

    @property
    def flops(self) -> float:
        mean_kv = self.prefix + (self.seq + 1) / 2
        if self.window:
            mean_kv = min(mean_kv, self.window)
        return 4.0 * self.requests * self.seq * mean_kv * self.heads * self.head_dim

    @property
    def nbytes(self) -> float:
        kv = 2 * (self.prefix + self.seq) * self.kv_heads * self.head_dim
        qo = 2 * self.seq * self.heads * self.head_dim
        return self.requests * _kv_and_rows(kv, qo, self.precision)


@dataclass(frozen=True, slots=True)
class GdnRecurrent:
    """Gated delta rule, recurrent form: state read once per request, a state written per row.

    Mamba-2 updates its states alike: its heads are ``v_heads``, its groups ``k_heads``.

    Decoding writes one state; verification writes one after each of ``rows`` positions, so that
    the accepted one can be committed (SGLang's intermediate SSM states).
    """

    name: str
    requests: int
    rows: int
    v_heads: int
    k_heads: int
    head_k_dim: int
    head_v_dim: int
    precision: Precision = BF16
    saves: bool = True  # a state after each row; without, inputs are kept and replayed

    @property
    def state_bytes(self) -> float:
        """One request's state on this rank."""
        values = self.v_heads * self.head_k_dim * self.head_v_dim
        return values * bytes_of(self.precision.state)

    @property
    def state_traffic(self) -> float:
        """State reads and writes, in decode steps of one request (a read and a write)."""
        return self.requests * (1 + (self.rows if self.saves else 1)) / 2

    @property
    def flops(self) -> float:
        return 6.0 * self.requests * self.rows * self.v_heads * self.head_k_dim * self.head_v_dim

    @property
    def nbytes(self) -> float:
        return 2.0 * self.state_traffic * self.state_bytes


@dataclass(frozen=True, slots=True)
class GdnConv:
    """Causal conv1d update of ``tokens`` rows with its state, ``rows`` of each request."""

    name: str
    tokens: int
    v_heads: int
    k_heads: int
    conv_dim: int
    conv_kernel: int
    precision: Precision = BF16
    rows: int = 1

    @property
    def flops(self) -> float:
        return 2.0 * self.tokens * self.conv_dim * self.conv_kernel

    @property
    def nbytes(self) -> float:
        values = self.tokens * self.conv_dim * (2 + 2 * (self.conv_kernel - 1))
        return values * bytes_of(self.precision.activations)


@dataclass(frozen=True, slots=True)
class GdnPrefill:
    """Chunked gated delta rule and its conv1d over ``seq`` tokens of each request."""

    name: str
    requests: int
    seq: float
    v_heads: int
    k_heads: int
    head_k_dim: int
    head_v_dim: int
    conv_dim: int
    precision: Precision = BF16

    @property
    def flops(self) -> float:
        wide = self.head_k_dim + GDN_CHUNK_TOKENS
        return 4.0 * self.requests * self.seq * self.v_heads * self.head_v_dim * wide

    @property
    def nbytes(self) -> float:
        values = self.requests * self.seq * 4 * self.conv_dim
        return values * bytes_of(self.precision.activations)


@dataclass(frozen=True, slots=True)
class Quantize:
    """Activations of a product put into the format that it is made in."""

    name: str
    product: Gemm

    @property
    def precision(self) -> Precision:
        """The formats of the product."""
        return self.product.precision

    @property
    def into(self) -> str:
        """The format that activations are put into."""
        return format_of(self.precision.weights).quantises

    @property
    def flops(self) -> float:
        return 0.0

    @property
    def nbytes(self) -> float:
        each = bytes_of(self.precision.activations) + bytes_of(self.into)
        return self.product.m * self.product.k * each


@dataclass(frozen=True, slots=True)
class Elementwise:
    """A memory-bound kernel: norms, RoPE, copies, argmax; rows per request, blocks of threads."""

    name: str
    nbytes: float
    kind: str = "small"  # | norm | gated_norm | vocab | stream | cached | pool_cast | a search
    rows: int = 1
    blocks: int | None = None  # fewer than SMs reach their share of the memory's rate

    @property
    def flops(self) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class Collective:
    """An all-reduce of, or all-gather into, ``nbytes`` over ``gpus`` ranks."""

    name: str
    kind: str  # all_reduce | all_gather
    nbytes: float
    gpus: int

    @property
    def flops(self) -> float:
        return 0.0


Op = (
    Gemm
    | Moe
    | Attention
    | PrefillAttention
    | GdnRecurrent
    | GdnConv
    | GdnPrefill
    | Quantize
    | Elementwise
    | Collective
    | LatentOp
)
OverContext = Attention | MlaDecode | SparseModule  # what a step's context makes longer


O_co = TypeVar("O_co", bound=Op, covariant=True)


@dataclass(frozen=True, slots=True)
class Call(Generic[O_co]):
    """``count`` launches of one op in a pass.

    ``exposed`` is empty for ordinary kernels; for kernels that run beside others on a second
    stream it names the engine constant that says which share of their time shows.
    """

    op: O_co
    count: int
    exposed: str = ""


AnyCall = Call[Op]
AttentionCall = Call[OverContext]


def with_quantisation(calls: list[AnyCall]) -> list[AnyCall]:
    """``calls`` with the kernel before each quantised product that quantises its activations.

    SGLang launches one for each product, and fuses none with the norm before it; those of experts
    are part of their kernels, and of their times.
    """
    out: list[AnyCall] = []
    for call in calls:
        op = call.op
        if isinstance(op, Gemm) and format_of(op.precision.weights).quantises:
            out.append(Call(Quantize("quantize_activations", op), call.count, call.exposed))
        out.append(call)
    return out


def split_attention(calls: list[AnyCall]) -> tuple[list[AttentionCall], list[AnyCall]]:
    """``(attention over a cache, everything else)``: only the former depends on the context."""
    attention = [Call(c.op, c.count, c.exposed) for c in calls if isinstance(c.op, OverContext)]
    return attention, [c for c in calls if not isinstance(c.op, OverContext)]
