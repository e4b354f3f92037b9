"""One decoder layer; the parts that it is made of can be imported from here too."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dflash_sim.profiles.networks.attention import AttentionShape
from dflash_sim.profiles.networks.mla import MlaShape
from dflash_sim.profiles.networks.mlps import DenseMlp, MoeMlp
from dflash_sim.profiles.networks.recurrent import GdnShape
from dflash_sim.profiles.networks.weight import Weight
from dflash_sim.profiles.precision import Formats, Precision

__all__ = [
    "AttentionShape",
    "DenseMlp",
    "GdnShape",
    "LayerShape",
    "Mixer",
    "MlaShape",
    "Mlp",
    "MoeMlp",
    "Weight",
]

Mixer = AttentionShape | GdnShape | MlaShape
Mlp = DenseMlp | MoeMlp


@dataclass(frozen=True)
class LayerShape:
    """A token mixer followed by an MLP, each behind a norm.

    ``formats`` are those of modules that a quantised checkpoint stores otherwise in this layer.
    """

    mixer: Mixer
    mlp: Mlp
    formats: Formats = ()

    def in_formats(self, precision: Precision) -> Precision:
        """``precision`` as it is in this layer."""
        if not self.formats:
            return precision
        modules = dict(precision.modules) | dict(self.formats)
        return replace(precision, modules=tuple(modules.items()))

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        """Every weight of the layer."""
        yield from self.mixer.weights(hidden=hidden)
        yield from self.mlp.weights(hidden=hidden)
        yield Weight("layer_norms", 2 * hidden, 1)

    def params(self, hidden: int) -> int:
        """Number of weight values."""
        return sum(w.params for w in self.weights(hidden=hidden))

    def idle_params(self, hidden: int) -> int:
        """Values of the routed experts that one token does not visit."""
        if isinstance(self.mlp, DenseMlp):
            return 0
        return (self.mlp.num_experts - self.mlp.top_k) * self.mlp.params_per_expert(hidden)
