"""Operators of latent attention (MLA), of sparse attention and of KDA, with one rank's shapes.

All query heads read the same latents. So several rows of a request are more heads of one, a cache
is read once whatever their number, and none of it is split over the ranks.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from dflash_sim.profiles.precision import BF16, Precision, bytes_of

QKV = ("query", "key", "value")  # what a delta network's convolution runs over
MACS_OF_A_STATE = 3  # per value of it: forgotten and read by key, written, read by query
SCORE = "float32"  # in which an indexer writes its scores


class Part(Protocol):
    """An op inside another one."""

    @property
    def name(self) -> str: ...

    @property
    def flops(self) -> float: ...

    @property
    def nbytes(self) -> float: ...


@runtime_checkable
class GrowingPart(Part, Protocol):
    """A part that the context makes longer."""

    def at(self, ctx: float) -> "GrowingPart":
        """Return this part over another context."""
        ...


def mean_seen(seq: float, ctx: float, most: float = float("inf")) -> float:
    """Tokens that a row attends to, on average over ``seq`` causal ones after ``ctx`` tokens.

    Row ``i`` of them sees ``ctx + i``, and ``most`` at most.
    """
    short = min(max(most - ctx, 0.0), seq)  # rows that see all there is
    total = short * (ctx + (short + 1) / 2) + ((seq - short) * most if seq > short else 0.0)
    return total / seq


@dataclass(frozen=True, slots=True)
class MlaBmm:
    """One product for each head: ``[tokens, k] @ [k, n]`` with that head's part of ``kv_b_proj``.

    Before attention (``pre``) it takes queries into the space of the latents, after it (``post``)
    outputs back into values. SGLang keeps these weights in the format of activations.
    """

    name: str
    tokens: int
    heads: int
    k: int
    n: int
    phase: str
    precision: Precision = BF16

    @property
    def flops(self) -> float:
        return 2.0 * self.tokens * self.heads * self.k * self.n

    @property
    def nbytes(self) -> float:
        values = self.heads * (self.k * self.n + self.tokens * (self.k + self.n))
        return values * bytes_of(self.precision.activations)


@dataclass(frozen=True, slots=True)
class MlaDecode:
    """Absorbed latent attention of ``rows`` query rows per request over ``ctx`` cached tokens.

    ``latent`` is the width of the values, ``latent + rope`` that of the keys: one of each per
    token, for all heads.
    """

    name: str
    requests: int
    rows: int
    ctx: float
    heads: int
    latent: int
    rope: int
    precision: Precision = BF16

    def at(self, ctx: float) -> "MlaDecode":
        """Return this attention over another context."""
        return replace(self, ctx=ctx)

    @property
    def kv_len(self) -> float:
        return self.ctx + self.rows

    @property
    def flops(self) -> float:
        wide = 2 * self.latent + self.rope
        return 2.0 * self.requests * self.rows * self.kv_len * self.heads * wide

    @property
    def nbytes(self) -> float:
        cached = self.kv_len * (self.latent + self.rope) * bytes_of(self.precision.kv_cache)
        wide = 2 * self.latent + self.rope
        rows = self.rows * self.heads * wide * bytes_of(self.precision.activations)
        return self.requests * (cached + rows)


@dataclass(frozen=True, slots=True)
class MlaPrefill:
    """Causal attention of ``seq`` new tokens over ``prefix`` cached ones, with expanded heads.

    Keys and values of every head are multiplied out first, those of the prefix in chunks.
    """

    name: str
    requests: int
    seq: float
    prefix: float
    heads: int
    qk_dim: int
    v_dim: int
    precision: Precision = BF16

    @property
    def flops(self) -> float:
        seen = mean_seen(self.seq, self.prefix)
        return 2.0 * self.requests * self.seq * seen * self.heads * (self.qk_dim + self.v_dim)

    @property
    def nbytes(self) -> float:
        rows = 2 * self.seq + self.prefix  # queries and outputs, keys and values
        values = self.requests * rows * self.heads * (self.qk_dim + self.v_dim)
        return values * bytes_of(self.precision.activations)


@dataclass(frozen=True, slots=True)
class IndexerScores:
    """Scores of all tokens that a row may see, and the choice of the highest.

    Keys are read once per request. This is what grows with the context.

    Parameters
    ----------
    key_bytes
        Of one key, with its scale.
    stands_for
        Tokens that one key stands for: 1, or those that were compressed into it.
    kept
        Scores that are written of each pair [1]; fewer where only the best of a block is, more
        where heads choose alone.
    """

    name: str
    requests: int
    rows: int
    ctx: float
    heads: int
    head_dim: int
    key_bytes: float
    precision: Precision = BF16
    stands_for: int = 1
    kept: float = 1.0

    def at(self, ctx: float) -> "IndexerScores":
        """Return these scores over another context."""
        return replace(self, ctx=ctx)

    @property
    def scores(self) -> float:
        """Pairs of a query row and a key."""
        return self.requests * self.rows * mean_seen(self.rows, self.ctx) / self.stands_for

    @property
    def flops(self) -> float:
        return 2.0 * self.scores * self.heads * self.head_dim

    @property
    def nbytes(self) -> float:
        keys = self.requests * (self.ctx + self.rows) / self.stands_for * self.key_bytes
        written = self.kept * self.scores * bytes_of(SCORE)
        return keys + 2 * written  # and read by the choice


@dataclass(frozen=True, slots=True)
class SparseAttention:
    """Absorbed latent attention of each query row to the ``topk`` tokens chosen for it."""

    name: str
    requests: int
    rows: int
    ctx: float
    heads: int
    latent: int
    rope: int
    topk: int
    precision: Precision = BF16

    def at(self, ctx: float) -> "SparseAttention":
        """Return this attention over another context."""
        return replace(self, ctx=ctx)

    @property
    def read(self) -> float:
        """Tokens that are read, summed over the rows."""
        return self.requests * self.rows * mean_seen(self.rows, self.ctx, self.topk)

    @property
    def flops(self) -> float:
        return 2.0 * self.read * self.heads * (2 * self.latent + self.rope)

    @property
    def nbytes(self) -> float:
        cached = self.read * (self.latent + self.rope) * bytes_of(self.precision.kv_cache)
        values = self.requests * self.rows * self.heads * (2 * self.latent + self.rope)
        return cached + values * bytes_of(self.precision.activations)


@dataclass(frozen=True, slots=True)
class CompressedAttention:
    """Attention of each query row to a window of tokens and to compressed ones before it.

    One key per token, for all heads, is its value too.

    Parameters
    ----------
    ratio, topk
        Tokens that were compressed into one, 0 where none were; and compressed ones that a row
        attends to at most, 0 where it attends to all.
    entry_bytes
        Of one key.
    """

    name: str
    requests: int
    rows: int
    ctx: float
    heads: int
    head_dim: int
    window: int
    ratio: int
    topk: int
    entry_bytes: float
    precision: Precision = BF16

    def at(self, ctx: float) -> "CompressedAttention":
        """Return this attention over another context."""
        return replace(self, ctx=ctx)

    @property
    def near(self) -> float:
        """Tokens of the window that a row attends to, on average."""
        return mean_seen(self.rows, self.ctx, self.window)

    @property
    def far(self) -> float:
        """Compressed tokens that a row attends to, on average."""
        if not self.ratio:
            return 0.0
        most = self.topk * self.ratio if self.topk else float("inf")
        return mean_seen(self.rows, self.ctx, most) / self.ratio

    @property
    def flops(self) -> float:
        seen = self.requests * self.rows * (self.near + self.far)
        return 2.0 * seen * self.heads * 2 * self.head_dim

    @property
    def nbytes(self) -> float:
        # Rows of a request share what is not chosen.
        shared = min(self.ctx, self.window) + self.rows + (0.0 if self.topk else self.far)
        own = self.rows * self.far if self.topk else 0.0
        values = self.rows * self.heads * 2 * self.head_dim * bytes_of(self.precision.activations)
        return self.requests * ((shared + own) * self.entry_bytes + values)


@dataclass(frozen=True, slots=True)
class SparseModule:
    """A whole layer of sparse attention, from the hidden states to its share of the output.

    The tables time it as one; where they have none, its price is that of its ``parts``.

    Parameters
    ----------
    rows, ctx
        Query rows of each request, and tokens cached before them.
    prefill
        True if the rows are a prefill, False if they decode or verify.
    shared
        True if the layer takes the tokens that another one chose.
    like
        The model whose layer was timed, if the sizes are its own; nothing if they are not.
    table
        The operator table that has such layers.
    """

    name: str
    requests: int
    rows: int
    ctx: float
    heads: int
    prefill: bool
    shared: bool
    parts: tuple[Part, ...]
    like: str = ""
    precision: Precision = BF16
    table: str = "dsa"

    def at(self, ctx: float) -> "SparseModule":
        """Return this layer over another context."""
        moved = tuple(op.at(ctx) if isinstance(op, GrowingPart) else op for op in self.parts)
        return replace(self, ctx=ctx, parts=moved)

    @property
    def tokens(self) -> int:
        return self.requests * self.rows

    @property
    def flops(self) -> float:
        return sum(op.flops for op in self.parts)

    @property
    def nbytes(self) -> float:
        return sum(op.nbytes for op in self.parts)


@dataclass(frozen=True, slots=True)
class Kda:
    """Kimi delta attention with its convolution: a state is read and written, or one for each row.

    Parameters
    ----------
    rows
        Of each request: 1 decodes, more verify or are a prefill.
    saves
        False where inputs are kept and replayed, not a state after each row.
    """

    name: str
    requests: int
    rows: int
    heads: int
    head_dim: int
    conv_kernel: int
    prefill: bool = False
    precision: Precision = BF16
    saves: bool = True

    @property
    def phase(self) -> str:
        """What it is timed as."""
        return "prefill" if self.prefill else "decode" if self.rows == 1 else "verify"

    @property
    def flops(self) -> float:
        tokens, dim = self.requests * self.rows, self.heads * self.head_dim
        rule = MACS_OF_A_STATE * self.head_dim
        return 2.0 * tokens * dim * (rule + len(QKV) * self.conv_kernel)

    @property
    def nbytes(self) -> float:
        dim = self.heads * self.head_dim
        written = self.rows if self.saves and not self.prefill else 1
        states = (1 + written) * dim * self.head_dim * bytes_of(self.precision.state)
        values = self.rows * dim * 2 * len(QKV) * bytes_of(self.precision.activations)
        return self.requests * (states + values)


@dataclass(frozen=True, slots=True)
class StreamMix:
    """Hyper-connections: the streams of a residual before or behind the parts of a layer.

    Before a part (``pre``) they are weighed and summed, behind it (``post``) mixed and added to.

    Parameters
    ----------
    sites
        Parts of the layer.
    """

    name: str
    step: str
    tokens: int
    count: int
    hidden: int
    sites: int
    precision: Precision = BF16

    @property
    def flops(self) -> float:
        wide = self.count * self.hidden
        mixed = self.count * (self.count + 2) if self.step == "pre" else self.count + 1
        return 2.0 * self.sites * self.tokens * wide * mixed

    @property
    def nbytes(self) -> float:
        wide = self.count * self.hidden
        moved = wide + self.hidden if self.step == "pre" else 2 * wide + self.hidden
        weights = wide * self.count * (self.count + 2) if self.step == "pre" else 0
        each = bytes_of(self.precision.activations)
        return self.sites * (self.tokens * moved * each + weights * bytes_of(SCORE))


LatentOp = (
    MlaBmm
    | MlaDecode
    | MlaPrefill
    | IndexerScores
    | SparseAttention
    | CompressedAttention
    | SparseModule
    | Kda
    | StreamMix
)
