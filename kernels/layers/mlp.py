"""The MLP of one rank: dense SwiGLU, or routed experts with a shared one."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from dflash_sim.kernels.layers.shard import Shard
from dflash_sim.kernels.layers.spec import Numerics
from dflash_sim.profiles.networks.hf_config import DenseMlp, MoeMlp


class SwigluMlp:
    """``down(silu(gate(x)) * up(x))``; every rank has its part of the intermediate width."""

    def __init__(self, intermediate: int, shard: Shard, *, hidden: int) -> None:
        gate = shard.split("gate_proj.weight", intermediate, hidden)
        up = shard.split("up_proj.weight", intermediate, hidden)
        self.gate_up = torch.cat([gate, up])
        self.down = shard.split("down_proj.weight", hidden, intermediate, dim=1)
        self.backend = shard.rank.backend

    def __call__(self, x: Tensor) -> Tensor:
        """This rank's share of the output [T, H], to be summed over ranks; ``x`` is [T, H]."""
        return linear(self.backend.swiglu(linear(x, self.gate_up)), self.down)


class MoeBlock:
    """Router, routed experts, and the shared expert behind its gate.

    All ranks route alike and hold a part of the intermediate width of every expert. Routing is
    done in float32 or wider.
    """

    def __init__(self, shape: MoeMlp, numerics: Numerics, shard: Shard, *, hidden: int) -> None:
        self.shape, self.renormalise = shape, numerics.renormalise
        self.backend = shard.rank.backend
        self.router = shard.whole("gate.weight", shape.num_experts, hidden)
        self.w13, self.w2 = _experts(shape, shard.under("experts."), hidden)
        self.shared: SwigluMlp | None = None
        if shape.shared_intermediate:
            below = shard.under("shared_expert.")
            self.shared = SwigluMlp(shape.shared_intermediate, below, hidden=hidden)
            self.shared_gate = shard.whole("shared_expert_gate.weight", 1, hidden)

    def __call__(self, x: Tensor) -> Tensor:
        """This rank's share of the output [T, H], to be summed over ranks; ``x`` is [T, H]."""
        weights, experts = self.backend.route_topk(
            linear(x, self.router), self.shape.top_k, renormalise=self.renormalise
        )
        out = self.backend.grouped_swiglu(x, self.w13, self.w2, weights, experts)
        if self.shared is None:
            return out
        return out + self.shared(x) * torch.sigmoid(linear(x, self.shared_gate))


def build_mlp(
    shape: DenseMlp | MoeMlp,
    numerics: Numerics,
    shard: Shard,
    *,
    hidden: int,
) -> SwigluMlp | MoeBlock:
    """The MLP that ``shape`` describes."""
    if isinstance(shape, DenseMlp):
        return SwigluMlp(shape.intermediate, shard, hidden=hidden)
    return MoeBlock(shape, numerics, shard, hidden=hidden)


def _experts(shape: MoeMlp, shard: Shard, hidden: int) -> tuple[Tensor, Tensor]:
    """``w13`` [E, 2 I, H] and ``w2`` [E, H, I] of this rank, stored fused or expert by expert."""
    count, inter = shape.num_experts, shape.intermediate
    if shard.has("0.gate_proj.weight") and not shard.has("gate_up_proj"):
        parts = [SwigluMlp(inter, shard.under(f"{e}."), hidden=hidden) for e in range(count)]
        return torch.stack([p.gate_up for p in parts]), torch.stack([p.down for p in parts])
    gate_and_up = [shard.part(inter), shard.part(inter, start=inter)]
    w13 = shard.ranges("gate_up_proj", (count, 2 * inter, hidden), 1, gate_and_up)
    return w13, shard.split("down_proj", count, hidden, inter, dim=2)
