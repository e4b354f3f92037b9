"""One decoder layer; the parts that it is made of can be imported from here too."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dflash_sim.profiles.networks.attention import AttentionShape
from dflash_sim.profiles.networks.mla import MlaShape
from dflash_sim.profiles.networks.mlps import DenseMlp, MoeMlp
from dflash_sim.profiles.networks.recurrent import GdnShape, Mamba2Shape
from dflash_sim.profiles.networks.weight import Weight
from dflash_sim.profiles.precision import Formats, Precision

__all__ = [
    "AttentionShape",
    "DenseMlp",
    "GdnShape",
    "LayerShape",
    "Mamba2Shape",
    "Mixer",
    "MlaShape",
    "Mlp",
    "MoeMlp",
    "Recurrent",
    "Weight",
]

Recurrent = GdnShape | Mamba2Shape
Mixer = AttentionShape | MlaShape | GdnShape | Mamba2Shape
Mlp = DenseMlp | MoeMlp


@dataclass(frozen=True)
class LayerShape:
    """A token mixer followed by an MLP, each behind a norm; one of the two may be absent.

    Parameters
    ----------
    norms
        Norms of the width of the residual stream; None for one before each part.
    scale
        The layer's output is multiplied by one value (Gemma 4).
    formats
        Formats of modules that a quantised checkpoint stores otherwise in this layer.
    """

    mixer: Mixer | None
    mlp: Mlp | None
    norms: int | None = None
    scale: bool = False
    formats: Formats = ()

    def in_formats(self, precision: Precision) -> Precision:
        """``precision`` as it is in this layer."""
        if not self.formats:
            return precision
        modules = dict(precision.modules) | dict(self.formats)
        return replace(precision, modules=tuple(modules.items()))

    @property
    def parts(self) -> int:
        """Number of parts that read the residual stream."""
        return (self.mixer is not None) + (self.mlp is not None)

    @property
    def extra_norms(self) -> int:
        """Norms beside those before each part."""
        return 0 if self.norms is None else self.norms - self.parts

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        """Every weight of the layer."""
        if self.mixer is not None:
            yield from self.mixer.weights(hidden=hidden)
        if self.mlp is not None:
            yield from self.mlp.weights(hidden=hidden)
        norms = (self.parts + self.extra_norms) * hidden
        yield Weight("layer_norms", norms + int(self.scale), 1)

    def params(self, hidden: int) -> int:
        """Number of weight values."""
        return sum(w.params for w in self.weights(hidden=hidden))

    def idle_params(self, hidden: int) -> int:
        """Values of the routed experts that one token does not visit."""
        return 0 if self.mlp is None else self.mlp.idle_params(hidden)
