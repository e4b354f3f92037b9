"""MLPs of every layer, read from a config."""

from dflash_sim.profiles.networks.fields import Fields
from dflash_sim.profiles.networks.layers import DenseMlp, Mlp, MoeMlp


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
    experts = moe(f, bias=bias)
    if shared:
        width = f.integer("shared_expert_intermediate_size", default=0, low=0)
        experts = moe(f, shared=width, bias=bias)
    if all(sparse):
        return (experts,) * num_layers
    plain = DenseMlp(f.integer("intermediate_size"))
    return tuple(experts if s else plain for s in sparse)


def moe(f: Fields, *, shared: int = 0, bias: bool = False) -> MoeMlp:
    """Return the routed experts of a layer, with a shared expert of width ``shared``."""
    experts = f.integer("num_experts", "num_local_experts", high=2**16)
    return MoeMlp(
        num_experts=experts,
        top_k=f.integer("num_experts_per_tok", "experts_per_token", high=experts),
        intermediate=f.integer("moe_intermediate_size", "intermediate_size"),
        shared_intermediate=shared,
        bias=bias,
    )
