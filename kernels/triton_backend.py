"""The ops a layer calls, with a Triton kernel wherever fusing pays."""

from dataclasses import replace

from dflash_sim.kernels import (
    triton_accept,
    triton_attention,
    triton_gdn,
    triton_kv,
    triton_moe,
)
from dflash_sim.kernels.backend import REFERENCE

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
