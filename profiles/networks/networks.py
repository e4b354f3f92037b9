"""Whole target models, and how any network can be split over ranks."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.networks.drafter_shapes import DrafterShape, Eagle3Shape
from dflash_sim.profiles.networks.layers import (
    AttentionShape,
    Cached,
    CompressedShape,
    DenseMlp,
    LayerShape,
    Mixer,
    Mlp,
    MoeMlp,
    Recurrent,
)
from dflash_sim.profiles.networks.mla import MlaShape
from dflash_sim.profiles.networks.quantized import Quantized
from dflash_sim.profiles.networks.vision import VisionTower
from dflash_sim.profiles.networks.weight import Weight
from dflash_sim.profiles.precision import BF16, STATE_DTYPES, Precision


@dataclass(frozen=True)
class ModelShape:
    """A target model, as its Hugging Face config describes it.

    Parameters
    ----------
    hidden, vocab
        Widths of the residual stream and of the output.
    layers
        Decoder layers from the bottom up.
    mtp_layers
        Native multi-token-prediction layers shipped with the checkpoint.
    dtype
        Format of the weights that no module's own replaces.
    quantized
        How the checkpoint is quantised, module by module; None if it is not.
    source
        Where the config came from.
    context
        Longest request, prompt and answer together; None if the config states none [token].
    state_dtype
        Format of the recurrent states that the checkpoint asks for.
    vision
        The vision tower; None for a model of text alone.
    base
        The model that a quantised checkpoint was made of, where it has a sheet.
    own_mtp
        The MTP layer where it is of another kind than the target's; None where it is not.
    mtp_lends_index
        True if draft steps attend to the tokens that were chosen when the drafts were kept up.
    scaled_logits, scaled_residual
        True if logits are capped or scaled by a kernel of their own, and what each half of a
        layer adds to the residual stream.
    family
        The ``model_type`` of its text layers.
    ending
        Values between the last layer and the final norm, which are on every rank.
    caution
        What every answer about it must say; nothing for most.
    """

    name: str
    hidden: int
    vocab: int
    layers: tuple[LayerShape, ...]
    tied_embeddings: bool
    mtp_layers: int
    dtype: str
    source: str
    state_dtype: str = STATE_DTYPES[0]
    vision: VisionTower | None = None
    context: int | None = None
    quantized: Quantized | None = None
    base: str | None = None
    own_mtp: LayerShape | None = None
    mtp_lends_index: bool = False
    scaled_logits: bool = False
    scaled_residual: bool = False
    family: str = ""
    ending: int = 0
    caution: str = ""

    @property
    def behaves_as(self) -> str:
        """The model whose answers and acceptance this one has: what it was made of, or itself."""
        return self.base or self.name

    def saying(self, more: str | None) -> "ModelShape":
        """The model with one more thing to be cautious about, if there is any."""
        return replace(self, caution="; ".join(filter(None, (more, self.caution))))

    def dealt(self, ep: int) -> "ModelShape":
        """Return this model with its experts dealt whole to ``ep`` groups of ranks.

        Raises
        ------
        UsageError
            It has no experts, or they cannot be dealt evenly.
        """
        if ep == 1:
            return self
        counts = {x.mlp.num_experts for x in self.layers if isinstance(x.mlp, MoeMlp)}
        if not counts:
            msg = f"ep_size {ep}: {self.name} has no experts to deal to ranks; drop --ep-size."
            raise UsageError(msg)
        if any(n % ep for n in counts):
            many = ", ".join(map(str, sorted(counts)))
            msg = f"ep_size {ep} does not divide the {many} experts of {self.name}; give 2, 4 or 8."
            raise UsageError(msg)
        layers = (
            replace(x, mlp=replace(x.mlp, ep=ep)) if isinstance(x.mlp, MoeMlp) else x
            for x in self.layers
        )
        return replace(self, layers=tuple(layers))

    @property
    def precision(self) -> Precision:
        """The number formats of the checkpoint itself."""
        own = self.quantized
        if own is None:
            return replace(BF16, state=self.state_dtype)
        kv_cache = own.kv_cache or BF16.kv_cache
        return replace(BF16, state=self.state_dtype, modules=own.formats, kv_cache=kv_cache)

    @cached_property
    def layer_groups(self) -> tuple[tuple[LayerShape, int], ...]:
        """Distinct layers with their counts, in order of first appearance."""
        return tuple(Counter(self.layers).items())

    @cached_property
    def attention_layers(self) -> tuple[AttentionShape, ...]:
        """Softmax attention layers with heads of their own, sliding ones included."""
        return tuple(x.mixer for x in self.layers if isinstance(x.mixer, AttentionShape))

    @cached_property
    def cached_layers(self) -> tuple[Cached, ...]:
        """Layers that cache something of every token."""
        return tuple(x.mixer for x in self.layers if isinstance(x.mixer, Cached))

    @cached_property
    def latent_layers(self) -> tuple[MlaShape | CompressedShape, ...]:
        """Layers of latent attention, whose cache is the same on every rank."""
        return tuple(x for x in self.cached_layers if isinstance(x, MlaShape | CompressedShape))

    @property
    def latent_kind(self) -> str:
        """What the latent attention is, as an engine chooses a backend: nothing without any.

        ``compressed`` over tokens, ``sparse`` where an indexer chooses them, else ``dense``.
        """
        if any(isinstance(mixer, CompressedShape) for mixer in self.latent_layers):
            return "compressed"
        if any(mixer.indexer for mixer in self.latent_layers):
            return "sparse"
        return "dense" if self.latent_layers else ""

    @property
    def gdn_layers(self) -> int:
        """Number of layers with a recurrent state."""
        return len(self.gdn_mixers)

    @cached_property
    def params(self) -> int:
        """Parameters of the language model, without MTP layers or a vision tower."""
        return sum(w.params * count for w, count in self._weights())

    @property
    def active_params(self) -> int:
        """Parameters one token multiplies: all but unvisited experts and the embedding lookup."""
        idle = sum(x.idle_params(self.hidden) * n for x, n in self.layer_groups)
        lookup = 0 if self.tied_embeddings else self.vocab * self.hidden
        return self.params - idle - lookup

    @cached_property
    def gdn_mixers(self) -> tuple[Recurrent, ...]:
        """Mixers with a recurrent state, one for each layer that has one."""
        return tuple(x.mixer for x in self.layers if isinstance(x.mixer, Recurrent))

    def kv_bytes(self, tp: int = 1, precision: Precision = BF16) -> float:
        """KV cache of one token over all attention layers on one of ``tp`` ranks [byte]."""
        return sum(a.kv_bytes(tp, precision) for a in self.cached_layers)

    def gdn_state_bytes(self, precision: Precision = BF16) -> float:
        """Recurrent and convolution state of one request over all layers [byte]."""
        return sum(m.state_bytes(precision) for m in self.gdn_mixers)

    def gdn_ssm_bytes(self, precision: Precision = BF16) -> float:
        """Recurrent state alone of one request over all layers [byte]."""
        return sum(m.ssm_state_bytes(precision) for m in self.gdn_mixers)

    @property
    def mtp_layer(self) -> LayerShape | None:
        """The MTP layer: full attention and an MLP like the target's last ones."""
        if not self.mtp_layers or self.own_mtp is not None:
            return self.own_mtp if self.mtp_layers else None
        layer = next((x for x in reversed(self.layers) if _attends(x.mixer)), None)
        if layer is None:
            return None
        mixer = layer.mixer
        if isinstance(mixer, AttentionShape):
            mixer = replace(mixer, window=None)
        elif isinstance(mixer, MlaShape):
            mixer = mixer.with_own_indexer
        last_mlp = next(x.mlp for x in reversed(self.layers) if x.mlp is not None)
        return replace(layer, mixer=mixer, mlp=layer.mlp or last_mlp, formats=())

    @property
    def mtp_draft_layer(self) -> LayerShape | None:
        """The MTP layer of a draft step, which may choose no tokens to attend to itself."""
        layer = self.mtp_layer
        if layer is None or not self.mtp_lends_index or not isinstance(layer.mixer, MlaShape):
            return layer
        return replace(layer, mixer=layer.mixer.with_lent_indexer)

    def weight_bytes(self, tp: int, precision: Precision = BF16) -> int:
        """Bytes of weights on each of ``tp`` ranks, without MTP layers."""
        own = self.in_formats(precision)
        outside = sum(w.bytes_per_rank(tp, own) for w in self._outside_layers())
        return round(
            outside
            + sum(
                w.bytes_per_rank(tp, layer.in_formats(own)) * count
                for layer, count in self.layer_groups
                for w in layer.weights(hidden=self.hidden)
            )
        )

    def stored(self, quantized: Quantized | None) -> "ModelShape":
        """The same model with its weights, and those of layers that differ, in other formats."""
        own = dict(quantized.layers) if quantized else {}
        layers = tuple(replace(x, formats=own.get(i, ())) for i, x in enumerate(self.layers))
        return replace(self, quantized=quantized, layers=layers)

    def in_formats(self, precision: Precision) -> Precision:
        """``precision`` with the checkpoint's own formats of modules, where it names none."""
        return (
            precision if precision.modules else replace(precision, modules=self.precision.modules)
        )

    def vision_weight_bytes(self, tp: int, precision: Precision = BF16) -> float:
        """Bytes of the vision tower on each of ``tp`` ranks; 0 for a model of text alone."""
        return self.vision.weight_bytes(tp, precision) if self.vision else 0.0

    def mtp_weight_bytes(self, tp: int, precision: Precision = BF16) -> int:
        """Bytes of MTP weights on each of ``tp`` ranks."""
        return round(sum(w.bytes_per_rank(tp, precision) for w in self._mtp_weights()))

    def _outside_layers(self) -> Iterator[Weight]:
        yield Weight("embed_tokens", self.vocab * self.hidden, module="embed")
        if not self.tied_embeddings:
            yield Weight("lm_head", self.vocab * self.hidden, module="lm_head")
        yield Weight("norm", self.hidden + self.ending, 1)

    def _weights(self) -> Iterator[tuple[Weight, int]]:
        for weight in self._outside_layers():
            yield weight, 1
        for layer, count in self.layer_groups:
            for weight in layer.weights(hidden=self.hidden):
                yield weight, count

    def _mtp_weights(self) -> Iterator[Weight]:
        layer = self.mtp_layer
        if layer is None:
            return
        yield Weight("fc", 2 * self.hidden * self.hidden, 1)
        yield Weight("norms", 3 * self.hidden, 1)
        for _ in range(self.mtp_layers):
            yield from layer.weights(hidden=self.hidden)


def check_tp(shape: ModelShape | DrafterShape | Eagle3Shape, tp: int) -> None:
    """Refuse a tensor-parallel size that does not divide the heads and MLPs of ``shape``."""
    if tp >= 1 and _divides(shape, tp):
        return
    largest = max(h for mixer in _mixers(shape) for h in mixer.split_heads)
    works = [str(n) for n in range(1, largest + 1) if _divides(shape, n)]
    msg = f"{shape.name} cannot be split over tp={tp}; tp values that work: {', '.join(works)}"
    raise UsageError(msg)


def _divides(shape: ModelShape | DrafterShape | Eagle3Shape, tp: int) -> bool:
    mixers = _mixers(shape)
    whole = [n for m in mixers for n in m.split_heads] + [n for m in _mlps(shape) for n in m.widths]
    copied = [n for m in mixers for n in m.copied_heads]
    # Fewer key-value heads than ranks are copied, so either may divide the other.
    return all(n % tp == 0 for n in whole) and all(n % tp == 0 or tp % n == 0 for n in copied)


def _attends(mixer: Mixer | None) -> bool:
    return mixer is not None and not isinstance(mixer, Recurrent)


def _mixers(shape: ModelShape | DrafterShape | Eagle3Shape) -> tuple[Mixer, ...]:
    if isinstance(shape, ModelShape):
        return tuple(x.mixer for x, _ in shape.layer_groups if x.mixer is not None)
    if isinstance(shape, DrafterShape):
        return tuple(dict.fromkeys(shape.layers))
    return (shape.attention,)


def _mlps(shape: ModelShape | DrafterShape | Eagle3Shape) -> tuple[Mlp, ...]:
    if isinstance(shape, ModelShape):
        return tuple(x.mlp for x, _ in shape.layer_groups if x.mlp is not None)
    return (DenseMlp(shape.intermediate),)
