"""Caches that a running request keeps between passes: pages of KV, slots of delta-net state.

Page 0 and state slot 0 belong to nobody. Padded rows of a captured graph point there, as in SGLang:
they are computed and written like all others, and nobody reads the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dflash_sim.kernels.rank import ALONE, Rank
from dflash_sim.kernels.reference.backend import REFERENCE, Backend
from dflash_sim.kernels.reference.norm_rope import wide
from dflash_sim.profiles.networks.hf_config import AttentionShape, GdnShape, ModelShape


@dataclass(frozen=True)
class Placement:
    """Places of the ``T = R x B`` rows of one pass, in the text and in the pools.

    Texts of different lengths are packed, one after the other: :func:`pack`.

    Attributes
    ----------
    requests, rows : ``R`` and ``B``; B is 0 where texts are packed
    positions : [R B] int64, place in the text [tokens]
    slots : [R B] int64, place in the KV pools; negative is not written
    page_table : [R, max_pages] int32
    seq_lens : [R] int32, context including the rows [tokens]
    state_slots : [R] int64, slots of delta-net state
    keep_states : the live states stay and the state after each row is stored (verify);
        otherwise they move on past the rows (prefill, decode)
    packed : one placement per text where they are packed
    """

    requests: int
    rows: int
    positions: Tensor
    slots: Tensor
    page_table: Tensor
    seq_lens: Tensor
    state_slots: Tensor
    keep_states: bool = False
    packed: tuple["Placement", ...] = ()

    @property
    def parts(self) -> tuple["Placement", ...]:
        """The parts whose requests have equally many rows, as attention and delta nets need."""
        return self.packed or (self,)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The rows of ``x`` [T, ...] that belong to each part."""
        sizes = [part.requests * part.rows for part in self.parts]
        return torch.split(x, sizes)

    def last_of(self, lengths: Tensor) -> Tensor:
        """[R], which of the T rows is the last of each request's first ``lengths`` [R]."""
        if self.packed:  # each request has exactly its rows
            return lengths.cumsum(0) - 1
        return torch.arange(self.requests, device=lengths.device) * self.rows + lengths - 1

    def slots_of(self, lengths: Tensor) -> Tensor:
        """The slots [T], negative from each request's row ``lengths`` [R] on."""
        if self.packed:
            return self.slots
        step = torch.arange(self.rows, device=self.slots.device)
        return self.slots.masked_fill((step >= lengths[:, None]).flatten(), -1)


def pack(parts: Sequence[Placement]) -> Placement:
    """One pass over texts of different lengths, one request each."""
    return Placement(
        requests=len(parts),
        rows=0,
        positions=torch.cat([part.positions for part in parts]),
        slots=torch.cat([part.slots for part in parts]),
        page_table=torch.cat([part.page_table for part in parts]),
        seq_lens=torch.cat([part.seq_lens for part in parts]),
        state_slots=torch.cat([part.state_slots for part in parts]),
        packed=tuple(parts),
    )


def slots_at(page_table: Tensor, positions: Tensor, page_size: int) -> Tensor:
    """Pool slots of ``positions`` [R, B] int64 under ``page_table`` [R, max_pages] int32."""
    pages = page_table.to(torch.int64).gather(1, positions // page_size)
    return pages * page_size + positions % page_size


def place(
    page_table: Tensor,
    context_lens: Tensor,
    state_slots: Tensor,
    *,
    rows: int,
    page_size: int,
    keep_states: bool = False,
) -> Placement:
    """``rows`` new rows for each request, after ``context_lens`` [R] committed tokens.

    No value is read on the host, so the same calls can be captured in a graph.
    """
    steps = torch.arange(rows, device=context_lens.device)
    positions = context_lens.to(torch.int64)[:, None] + steps
    slots = slots_at(page_table, positions, page_size)
    return Placement(
        requests=page_table.shape[0],
        rows=rows,
        positions=positions.flatten(),
        slots=slots.flatten(),
        page_table=page_table,
        seq_lens=(context_lens + rows).to(torch.int32),
        state_slots=state_slots,
        keep_states=keep_states,
    )


class PagedKV:
    """Keys and values of ``layers`` layers, each [L, pages, page_size, Hkv, D]."""

    def __init__(
        self,
        layers: Sequence[AttentionShape],
        *,
        pages: int,
        page_size: int,
        rank: Rank,
    ) -> None:
        heads = max(1, layers[0].num_kv_heads // rank.tp)
        shape = (len(layers), pages, page_size, heads, layers[0].head_dim)
        self.page_size = page_size
        self.k = torch.zeros(shape, dtype=rank.dtype, device=rank.device)
        self.v = torch.zeros(shape, dtype=rank.dtype, device=rank.device)


class GdnStates:
    """Delta-rule and convolution states of ``layers`` layers: live ones, and what verify stores.

    Live: ``ssm`` [L, S, Hv, Dk, Dv] in float32 or wider, ``conv`` [L, S, C, K - 1]. Scratch:
    the same with [L, R, B, ...] in front, for ``R`` requests of ``B`` verify rows.
    """

    def __init__(
        self,
        shape: GdnShape,
        layers: int,
        *,
        slots: int,
        requests: int,
        rows: int,
        rank: Rank,
    ) -> None:
        state = (shape.num_v_heads // rank.tp, shape.head_k_dim, shape.head_v_dim)
        window = (shape.conv_dim // rank.tp, shape.conv_kernel - 1)
        dtype, device = rank.dtype, rank.device
        live, kept = (layers, slots), (layers, requests, rows)
        self.ssm = torch.zeros((*live, *state), dtype=wide(dtype), device=device)
        self.conv = torch.zeros((*live, *window), dtype=dtype, device=device)
        self.ssm_scratch = torch.zeros((*kept, *state), dtype=wide(dtype), device=device)
        self.conv_scratch = torch.zeros((*kept, *window), dtype=dtype, device=device)

    def commit(self, slots: Tensor, commit_len: Tensor, backend: Backend = REFERENCE) -> None:
        """Move each request's live state to where it stood after ``commit_len`` [R] verify rows."""
        backend.commit_states(self.ssm, self.ssm_scratch, slots, commit_len)
        backend.commit_states(self.conv, self.conv_scratch, slots, commit_len)

    def reset(self, slots: Tensor) -> None:
        """Forget what earlier requests left in ``slots`` [n] int64."""
        self.ssm[:, slots] = 0
        self.conv[:, slots] = 0


class Cache:
    """One rank's pools for one network; ``gdn`` is None where all layers are attention."""

    def __init__(self, kv: PagedKV, gdn: GdnStates | None = None) -> None:
        self.kv = kv
        self.gdn = gdn

    @classmethod
    def for_target(
        cls,
        shape: ModelShape,
        *,
        pages: int,
        page_size: int,
        slots: int,
        requests: int,
        rows: int,
        rank: Rank = ALONE,
    ) -> "Cache":
        """Pools of a target model; ``slots`` of state, scratch for ``requests`` x ``rows``."""
        kv = PagedKV(shape.attention_layers, pages=pages, page_size=page_size, rank=rank)
        mixers = [x.mixer for x in shape.layers if isinstance(x.mixer, GdnShape)]
        if not mixers:
            return cls(kv)
        states = GdnStates(
            mixers[0], len(mixers), slots=slots, requests=requests, rows=rows, rank=rank
        )
        return cls(kv, states)

    @classmethod
    def for_attention(
        cls,
        layers: Sequence[AttentionShape],
        *,
        pages: int,
        page_size: int,
        rank: Rank = ALONE,
    ) -> "Cache":
        """Pools of a drafter or draft head; they share page numbers with the target's."""
        return cls(PagedKV(layers, pages=pages, page_size=page_size, rank=rank))
