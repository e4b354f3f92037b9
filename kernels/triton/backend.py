"""The ops a layer calls, with a Triton kernel wherever fusing pays."""

from dataclasses import replace

from dflash_sim.kernels.reference.backend import REFERENCE
from dflash_sim.kernels.triton import accept as triton_accept
from dflash_sim.kernels.triton import attention as triton_attention
from dflash_sim.kernels.triton import gdn as triton_gdn
from dflash_sim.kernels.triton import kv as triton_kv
from dflash_sim.kernels.triton import moe as triton_moe

TRITON = replace(
    REFERENCE,
    qk_norm_rope_write=triton_kv.qk_norm_rope_write,
    block_attention=triton_attention.block_attention,
    grouped_swiglu=triton_moe.grouped_swiglu,
    gdn_extend=triton_gdn.gdn_extend,
    gdn_verify_slots=triton_gdn.gdn_verify_slots,
    commit_states=triton_gdn.commit_states,
    materialise=triton_kv.materialise,
    local_argmax=triton_accept.local_argmax,
    greedy_accept=triton_accept.greedy_accept,
)
