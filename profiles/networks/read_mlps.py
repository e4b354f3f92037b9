"""MLPs of every layer, read from a config."""

from collections.abc import Sequence

from dflash_sim.profiles.networks.fields import Fields
from dflash_sim.profiles.networks.layers import DenseMlp, Mlp, MoeMlp

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_TOP_K = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "top_k_experts",
    "moe_top_k",
)


def dense_layers(f: Fields, num_layers: int) -> tuple[Mlp, ...]:
    """Return a gated MLP in every layer."""
    return (DenseMlp(f.integer("intermediate_size")),) * num_layers


def expert_layers(
    f: Fields, num_layers: int, *, shared: bool = False, bias: bool = False
) -> tuple[Mlp, ...]:
    """Return routed experts in every layer that the config does not keep dense (Qwen's keys)."""
    every = f.integer("decoder_sparse_step", default=1)
    dense = f.integers("mlp_only_layers", high=num_layers)
    sparse = [(i + 1) % every == 0 and i not in dense for i in range(num_layers)]
    width = f.integer("shared_expert_intermediate_size", default=0, low=0) if shared else 0
    return sparse_or_dense(f, sparse, moe(f, shared=width, bias=bias))


def shared_expert_layers(f: Fields, num_layers: int) -> tuple[Mlp, ...]:
    """Return dense layers first, then routed experts beside shared ones (DeepSeek's keys).

    The router chooses by a bias of its own, but in DeepSeek-V2; the shared experts have no gate.
    """
    corrected = f.text("topk_method", default="noaux_tc") == "noaux_tc"
    width = f.integer("moe_intermediate_size", "intermediate_size")
    count = f.integer("n_shared_experts", default=0, low=0)
    experts = moe(f, shared=count * width, shared_gate=False, correction_bias=corrected)
    return sparse_or_dense(f, sparse_after(f, num_layers), experts)


def routed_layers(f: Fields, num_layers: int) -> tuple[Mlp, ...]:
    """Return routed experts alone in every layer; a bias of the router where the config has one."""
    bias = f.flag("use_routing_bias", default=False)
    return (moe(f, correction_bias=bias),) * num_layers


def sparse_or_dense(f: Fields, sparse: Sequence[bool], experts: MoeMlp) -> tuple[Mlp, ...]:
    """Return ``experts`` where a layer is sparse, else a gated MLP of ``intermediate_size``."""
    if all(sparse):
        return (experts,) * len(sparse)
    plain = DenseMlp(f.integer("intermediate_size"))
    return tuple(experts if s else plain for s in sparse)


def moe(
    f: Fields,
    *,
    shared: int = 0,
    bias: bool = False,
    shared_gate: bool = True,
    correction_bias: bool = False,
) -> MoeMlp:
    """Return the routed experts of a layer, with shared ones of width ``shared`` in all."""
    experts = f.integer(*_EXPERTS, high=2**16)
    return MoeMlp(
        num_experts=experts,
        top_k=f.integer(*_TOP_K, high=experts),
        intermediate=f.integer("moe_intermediate_size", "intermediate_size"),
        shared_intermediate=shared,
        bias=bias,
        shared_gate=shared_gate,
        correction_bias=correction_bias,
    )


def sparse_after(f: Fields, num_layers: int) -> list[bool]:
    """Return which layers have experts: one number for each, or all behind the first few."""
    if isinstance(f.config.get("moe_layer_freq"), list):
        return [bool(n) for n in f.per_layer("moe_layer_freq", count=num_layers)]
    if named := f.kinds("mlp_layer_types", count=num_layers, allowed=("dense", "sparse")):
        return [kind == "sparse" for kind in named]
    every = f.integer("moe_layer_freq", default=1)
    first = f.integer("first_k_dense_replace", default=0, low=0, high=num_layers)
    return [i >= first and i % every == 0 for i in range(num_layers)]
