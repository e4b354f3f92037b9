"""MLPs, dense and of routed experts: their sizes and weights."""

from collections.abc import Iterator
from dataclasses import dataclass

from dflash_sim.profiles.networks.weight import Weight


@dataclass(frozen=True)
class DenseMlp:
    """Gated MLP: gate, up and down projections."""

    intermediate: int

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        yield Weight("gate_up_proj", 2 * hidden * self.intermediate, module="mlp")
        yield Weight("down_proj", hidden * self.intermediate, module="mlp")


@dataclass(frozen=True)
class MoeMlp:
    """Routed experts, with one always-on shared expert when ``shared_intermediate`` is not 0.

    Parameters
    ----------
    shared_gate
        True if the shared expert is weighted by a gate of its own (Qwen), not added (DeepSeek).
    correction_bias
        True if the choice of experts has a bias that balances their load.
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
    ep: int = 1

    def params_per_expert(self, hidden: int) -> int:
        """Values of one routed expert."""
        biases = 2 * self.intermediate + hidden if self.bias else 0
        return 3 * hidden * self.intermediate + biases

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        per_matrix = self.num_experts * hidden * self.intermediate
        yield Weight("experts.gate_up_proj", 2 * per_matrix, module="experts")
        yield Weight("experts.down_proj", per_matrix, module="experts")
        yield Weight("router", self.num_experts * hidden, 1, module="router")
        if self.correction_bias:
            yield Weight("e_score_correction_bias", self.num_experts, 1)
        if self.bias:
            yield Weight("experts.gate_up_bias", self.num_experts * 2 * self.intermediate)
            yield Weight("experts.down_bias", self.num_experts * hidden, 1)
            yield Weight("router_bias", self.num_experts, 1)
        if self.shared_intermediate:
            yield Weight(
                "shared_expert.gate_up_proj",
                2 * hidden * self.shared_intermediate,
                module="shared_expert",
            )
            yield Weight(
                "shared_expert.down_proj", hidden * self.shared_intermediate, module="shared_expert"
            )
            if self.shared_gate:
                yield Weight("shared_expert_gate", hidden, 1, module="router")
