"""MLPs, dense and of routed experts: their sizes and weights."""

from collections.abc import Iterator
from dataclasses import dataclass

from dflash_sim.profiles.networks.weight import Weight


@dataclass(frozen=True)
class DenseMlp:
    """Gate, up and down projections; without a ``gate`` only the last two (Nemotron-H)."""

    intermediate: int
    gate: bool = True

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths that the ranks must divide."""
        return (self.intermediate,)

    def idle_params(self, hidden: int) -> int:
        """Values that one token does not multiply: none."""
        return 0 * hidden

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        """Every weight, for a residual stream of width ``hidden``."""
        up = 2 if self.gate else 1
        yield Weight("gate_up_proj", up * hidden * self.intermediate, module="mlp")
        yield Weight("down_proj", hidden * self.intermediate, module="mlp.down_proj")


@dataclass(frozen=True)
class MoeMlp:
    """Routed experts, with an always-on shared expert when ``shared_intermediate`` is not 0.

    Parameters
    ----------
    shared_intermediate
        Width of the shared expert, or of several side by side.
    bias
        The experts and the router have biases (gpt-oss).
    shared_gate
        True if the shared expert is weighted by a gate of its own (Qwen), not added (DeepSeek).
    correction_bias
        True if the choice of experts has a bias that balances their load.
    gate
        Experts have a gate projection.
    latent
        Width that experts work in, behind projections that all share; 0 is the stream's own.
    latent_norm
        A norm of that width, behind the sum of the experts (Kimi-K3).
    one_front
        The engine multiplies into the shared expert, the router and the latent space at once, and
        sums the two kinds of experts over ranks apart, each in its own width (Kimi-K3).
    router_scales
        Values that scale the router beside its weights: 1 for each expert and 1 for each input
        (Gemma 4).
    ep
        Groups of ranks that whole experts are dealt to; the ranks of a group split each. With 1
        every rank has a part of every expert.
    """

    num_experts: int
    top_k: int
    intermediate: int
    shared_intermediate: int = 0
    bias: bool = False
    shared_gate: bool = True
    correction_bias: bool = False
    gate: bool = True
    latent: int = 0
    latent_norm: bool = False
    one_front: bool = False
    router_scales: bool = False
    ep: int = 1

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths that the ranks must divide: of an expert those that share it."""
        shared = (self.shared_intermediate,) if self.shared_intermediate else ()
        return (self.intermediate * self.ep, *shared)

    @property
    def matrices(self) -> int:
        """Matrices of an expert: gate, up and down, or the last two."""
        return 3 if self.gate else 2

    def expert_width(self, hidden: int) -> int:
        """Width of what an expert reads and writes."""
        return self.latent or hidden

    def params_per_expert(self, hidden: int) -> int:
        """Values of one routed expert."""
        biases = 2 * self.intermediate + hidden if self.bias else 0
        return self.matrices * self.expert_width(hidden) * self.intermediate + biases

    def idle_params(self, hidden: int) -> int:
        """Values of the routed experts that one token does not visit."""
        return (self.num_experts - self.top_k) * self.params_per_expert(hidden)

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        """Every weight, for a residual stream of width ``hidden``."""
        per_matrix = self.num_experts * self.expert_width(hidden) * self.intermediate
        up = self.matrices - 1
        yield Weight("experts.gate_up_proj", up * per_matrix, module="experts")
        yield Weight("experts.down_proj", per_matrix, module="experts")
        yield Weight("router", self.num_experts * hidden, 1, module="router")
        if self.correction_bias:
            yield Weight("e_score_correction_bias", self.num_experts, 1)
        if self.latent:
            yield Weight("latent_proj", 2 * hidden * self.latent, 1, module="mlp")
        if self.latent_norm:
            yield Weight("latent_norm", self.latent, 1)
        if self.bias:
            yield Weight("experts.gate_up_bias", self.num_experts * 2 * self.intermediate)
            yield Weight("experts.down_bias", self.num_experts * hidden, 1)
            yield Weight("router_bias", self.num_experts, 1)
        if self.router_scales:
            yield Weight("router_scales", self.num_experts + hidden, 1)
        if self.shared_intermediate:
            wide = hidden * self.shared_intermediate
            yield Weight("shared_expert.gate_up_proj", up * wide, module="shared_expert")
            yield Weight("shared_expert.down_proj", wide, module="shared_expert.down_proj")
            if self.shared_gate:
                yield Weight("shared_expert_gate", hidden, 1, module="router")
