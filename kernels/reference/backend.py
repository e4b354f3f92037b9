"""The ops a layer calls, as a table: the plain-torch references, or faster ones in their place.

``replace(REFERENCE, block_attention=mine)`` is a backend with one op exchanged. What each op takes
and returns is said at its reference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from dflash_sim.kernels.reference import accept as ref_accept
from dflash_sim.kernels.reference import attention as ref_attention
from dflash_sim.kernels.reference import convolution as ref_convolution
from dflash_sim.kernels.reference import draft as ref_draft
from dflash_sim.kernels.reference import gdn as ref_gdn
from dflash_sim.kernels.reference import moe as ref_moe
from dflash_sim.kernels.reference import norm_rope as ref_norm_rope

One: TypeAlias = Callable[..., Tensor]
Two: TypeAlias = Callable[..., tuple[Tensor, Tensor]]
InPlace: TypeAlias = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Every op of the layers except matrix products, embeddings and collectives."""

    rms_norm: One = ref_norm_rope.rms_norm
    add_rms_norm: Two = ref_norm_rope.add_rms_norm
    gated_rms_norm: One = ref_norm_rope.gated_rms_norm
    qk_norm_rope_write: One = ref_norm_rope.qk_norm_rope_write
    block_attention: One = ref_attention.block_attention
    swiglu: One = ref_moe.swiglu
    route_topk: Two = ref_moe.route_topk
    grouped_swiglu: One = ref_moe.grouped_swiglu
    gdn_gates: Two = ref_gdn.gdn_gates
    conv_extend: One = ref_gdn.conv_extend
    conv_verify: One = ref_gdn.conv_verify
    gdn_extend: One = ref_gdn.gdn_extend
    gdn_verify_slots: One = ref_gdn.gdn_verify_slots
    commit_states: InPlace = ref_gdn.commit_states
    block_convolution: One = ref_convolution.block_convolution
    materialise: InPlace = ref_draft.materialise
    local_argmax: Two = ref_draft.local_argmax
    greedy_accept: Callable[..., ref_accept.Accepted] = ref_accept.greedy_accept


REFERENCE = Backend()
