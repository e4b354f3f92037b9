"""One decoder layer; the parts that it is made of can be imported from here too."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dflash_sim.profiles.networks.attention import AttentionShape
from dflash_sim.profiles.networks.mla import CompressedShape, MlaShape
from dflash_sim.profiles.networks.mlps import DenseMlp, MoeMlp
from dflash_sim.profiles.networks.recurrent import GdnShape, KdaShape, Mamba2Shape
from dflash_sim.profiles.networks.weight import HOST, Weight
from dflash_sim.profiles.precision import Formats, Precision

__all__ = [
    "AttentionShape",
    "Cached",
    "CompressedShape",
    "DenseMlp",
    "GdnShape",
    "KdaShape",
    "LayerShape",
    "Mamba2Shape",
    "Mixer",
    "MlaShape",
    "Mlp",
    "MoeMlp",
    "Ngrams",
    "Recurrent",
    "Streams",
    "Weight",
]

Recurrent = GdnShape | KdaShape | Mamba2Shape
Cached = AttentionShape | MlaShape | CompressedShape
Mixer = Cached | Recurrent
Mlp = DenseMlp | MoeMlp


@dataclass(frozen=True)
class Streams:
    """Hyper-connections: a residual of several streams, mixed before and behind each part.

    Parameters
    ----------
    rank
        Of the projection that says how the streams are mixed (Qwen4); 0 where a small matrix of
        their own numbers mixes them (DeepSeek-V4, arXiv:2512.24880).
    """

    count: int
    rank: int = 0

    def site_params(self, hidden: int) -> int:
        """Values at one place where streams become one and one becomes streams."""
        wide = self.count * hidden
        if self.rank:
            return wide * (1 + 2 * self.rank + self.count)
        mixed = self.count * (self.count + 2)  # in, out, and each stream to each
        return mixed * (wide + 1) + 3  # a bias of each, a scale of the three


@dataclass(frozen=True)
class Ngrams:
    """Features of the last tokens, looked up in a table and added to every stream (Qwen4).

    Parameters
    ----------
    rows
        Of the table, each as wide as a part of ``width``: one part for each hash of the tokens.
    width
        Of what is looked up for a token.
    conv_kernel
        Taps of the convolution behind it.
    """

    rows: int
    parts: int
    width: int
    conv_kernel: int

    def weights(self, *, hidden: int, streams: int) -> Iterator[Weight]:
        """The table, which the host may hold; projections, three norms and a convolution."""
        wide = streams * hidden
        yield Weight("ngram_embedding", self.rows * (self.width // self.parts), module=HOST)
        yield Weight("ple_proj", self.width * (wide + hidden), 1)
        yield Weight("ple_norms_and_conv", wide * (3 + self.conv_kernel), 1)


@dataclass(frozen=True)
class LayerShape:
    """A token mixer followed by an MLP, each behind a norm; one of the two may be absent.

    Parameters
    ----------
    norms
        Norms of the width of the residual stream; None for one before each part.
    streams
        How the residual stream is several; None where it is one.
    depth
        Sums of earlier layers that both parts attend to beside the last (attention residuals of
        Kimi-K3); None of a layer without.
    ngrams
        Features of n-grams that are added before the layer; None of most.
    scale
        The layer's output is multiplied by one value (Gemma 4).
    formats
        Formats of modules that a quantised checkpoint stores otherwise in this layer.
    """

    mixer: Mixer | None
    mlp: Mlp | None
    norms: int | None = None
    streams: Streams | None = None
    depth: int | None = None
    ngrams: Ngrams | None = None
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
        if self.depth is not None:
            yield Weight("residual_norms_and_queries", 2 * self.parts * hidden, 1)
        if self.streams is not None:
            sites = self.parts * self.streams.site_params(hidden)
            yield Weight("hyper_connections", sites, 1)
            if self.ngrams is not None:
                yield from self.ngrams.weights(hidden=hidden, streams=self.streams.count)

    def params(self, hidden: int) -> int:
        """Number of weight values."""
        return sum(w.params for w in self.weights(hidden=hidden))

    def idle_params(self, hidden: int) -> int:
        """Values of the routed experts, and rows of tables, that one token does not visit."""
        table = self.ngrams
        rows = (table.rows - table.parts) * (table.width // table.parts) if table else 0
        return rows + (0 if self.mlp is None else self.mlp.idle_params(hidden))
