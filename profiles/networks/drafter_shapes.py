"""Networks that draft for a target: DFlash and those that descend from it, and EAGLE-3 heads."""

from collections.abc import Iterator
from dataclasses import dataclass

from dflash_sim.profiles.networks.attention import AttentionShape
from dflash_sim.profiles.networks.layers import LayerShape
from dflash_sim.profiles.networks.mlps import DenseMlp
from dflash_sim.profiles.networks.weight import Weight
from dflash_sim.profiles.precision import BF16, Precision

# Kinds of drafters that draft a block at a time, and what they are called.
KIND_TITLES = {
    "dflash": "DFlash",
    "dflash2": "DFlash2",
    "dspark": "DSpark",
    "domino": "Domino",
}
BLOCK_KINDS = tuple(KIND_TITLES)
_SIDES = 2  # a convolution works on the input of its sublayer and on the output


@dataclass(frozen=True)
class Convolutions:
    """DFlash2's convolutions along a block, around every attention and every MLP.

    Both the input and the output of a sublayer are mixed with the rows before them in the block,
    by weights that a product with the hidden state gives for each group of channels and that a
    learned kernel is added to. The first row of a block sees no row before it.

    Parameters
    ----------
    kernel_size
        Rows that a row is mixed from, itself included (``conv_kernel_size``).
    group_size
        Channels that share the weights of a row (``conv_group_size``).
    """

    kernel_size: int
    group_size: int

    def kernel_width(self, hidden: int) -> int:
        """Outputs of the product that gives the weights of both sides."""
        return _SIDES * self.kernel_size * (hidden // self.group_size)

    def weights(self, hidden: int) -> Iterator[Weight]:
        """Weights of one convolution, around one sublayer; every rank has all of them."""
        yield Weight("conv.kernel_projection", self.kernel_width(hidden) * hidden, 1)
        yield Weight("conv.base_kernel", _SIDES * self.kernel_size * hidden, 1)


@dataclass(frozen=True)
class Selector:
    """DFlash2's choice of a path through the best tokens of each position.

    The score of a token after another is its logit and a product of two learned vectors of
    ``rank`` values, of which the first is scaled by the hidden state.

    Parameters
    ----------
    rank
        Length of the vectors (``selector_rank``).
    top_k
        Tokens of each position that can be chosen (``selector_top_k``).
    vocab
        Tokens that can be chosen at all, the first of the vocabulary (``selector_vocab_size``).
    """

    rank: int
    top_k: int
    vocab: int

    def weights(self, hidden: int, vocab: int) -> Iterator[Weight]:
        """Two tables of vectors and a projection; every rank has all of them."""
        yield Weight("selector.codebooks", 2 * vocab * self.rank, 1)
        yield Weight("selector.hidden_projection", self.rank * hidden, 1)


@dataclass(frozen=True)
class MarkovHead:
    """DSpark's head: the logits of a position are corrected by the token chosen before it.

    The correction is ``w2 w1[token]``, a product of two tables. A confidence head says how likely
    each draft is to be accepted.

    Parameters
    ----------
    rank
        Width of the tables (``markov_rank``).
    confidence
        True if there is a confidence head (``enable_confidence_head``).
    confidence_reads_token
        True if it reads the vector of the token before besides the hidden state
        (``confidence_head_with_markov``).
    """

    rank: int
    confidence: bool = True
    confidence_reads_token: bool = True

    def weights(self, hidden: int, vocab: int) -> Iterator[Weight]:
        """Tables and the confidence head; ranks share the second table's tokens."""
        yield Weight("markov_w1", vocab * self.rank, 1)
        yield Weight("markov_w2", vocab * self.rank)
        if self.confidence:
            read = hidden + (self.rank if self.confidence_reads_token else 0)
            yield Weight("confidence_head", read + 1, 1)


@dataclass(frozen=True)
class RecurrentHead:
    """Domino's head: a GRU over the drafts so far corrects the logits of the next position.

    Parameters
    ----------
    hidden
        Width of the GRU's state (``gru_hidden_dim``).
    bottleneck
        Width between state and vocabulary (``emb_dim``).
    prefix
        Drafts at the start of a block that are not corrected (``pure_draft_prefix_len``).
    shift_label
        True if the row of a token predicts the next one, as the anchor's row does then.
    """

    hidden: int
    bottleneck: int
    prefix: int = 1
    shift_label: bool = False

    def weights(self, hidden: int, vocab: int) -> Iterator[Weight]:
        """The GRU without biases and the projection of its state; every rank has all of them."""
        yield Weight("prefix_gru", 3 * self.hidden * (hidden + self.hidden), 1)
        yield Weight("embed_proj.in", self.bottleneck * (hidden + self.hidden), 1)
        yield Weight("embed_proj.out", vocab * self.bottleneck, 1)


@dataclass(frozen=True)
class DrafterShape:
    """A DFlash drafter: a shallow block-parallel network fed by the target's hidden states.

    It has no embedding and no head: it uses the target's. Those that descend from DFlash have
    parts more: DFlash2 convolutions and a selector, DSpark a Markov head, Domino a recurrent one.

    Parameters
    ----------
    layers
        Attention of each layer; every layer has an MLP of ``intermediate``.
    block_size
        Rows of the block it was trained for [token], the anchor included. They are the largest
        verify window, but for DSpark, whose anchor drafts too: its window is one wider.
    target_layer_ids
        Target layers whose outputs are concatenated and projected into its KV.
    stacked_kv
        True if SGLang projects keys and values of all layers in one product.
    norm_taps
        True if the output of each target layer has a norm of its own.
    convolutions, selector, markov, recurrent
        Parts that plain DFlash has not; None where it has none.
    """

    name: str
    target: str
    hidden: int
    intermediate: int
    layers: tuple[AttentionShape, ...]
    block_size: int
    target_layer_ids: tuple[int, ...]
    vocab: int
    source: str
    stacked_kv: bool = True
    norm_taps: bool = False
    convolutions: Convolutions | None = None
    selector: Selector | None = None
    markov: MarkovHead | None = None
    recurrent: RecurrentHead | None = None

    @property
    def kind(self) -> str:
        """The kind of drafter by its parts: ``dflash``, ``dflash2``, ``dspark`` or ``domino``."""
        if self.markov is not None:
            return "dspark"
        if self.recurrent is not None:
            return "domino"
        return "dflash2" if self.convolutions or self.selector else "dflash"

    @property
    def width(self) -> int:
        """Largest verify window [token], the anchor included."""
        return self.block_size + (1 if self.markov else 0)

    @property
    def params(self) -> int:
        """Number of weight values."""
        return sum(w.params for w in self._weights())

    def weight_bytes(self, tp: int, precision: Precision = BF16) -> int:
        """Bytes of weights on each of ``tp`` ranks; fc and norms are replicated."""
        return round(sum(w.bytes_per_rank(tp, precision) for w in self._weights()))

    def _weights(self) -> Iterator[Weight]:
        yield Weight("fc", len(self.target_layer_ids) * self.hidden * self.hidden, 1)
        taps = len(self.target_layer_ids) if self.norm_taps else 0
        yield Weight("norms", (2 + taps) * self.hidden, 1)
        for attention in self.layers:
            yield from LayerShape(attention, DenseMlp(self.intermediate)).weights(
                hidden=self.hidden
            )
            if self.convolutions is not None:
                for _ in ("attention", "mlp"):
                    yield from self.convolutions.weights(self.hidden)
        for part in (self.selector, self.markov, self.recurrent):
            if part is not None:
                yield from part.weights(self.hidden, self.vocab)


@dataclass(frozen=True)
class Eagle3Shape:
    """An EAGLE-3 head: three target features fused, then one layer that drafts step by step.

    Its attention reads embedding and hidden state side by side, twice the width
    (Li et al. 2025, arXiv:2503.01840). The embedding is the target's; the head is its own,
    over ``draft_vocab`` tokens. Layers above the first, where there are any, are ordinary ones.
    ``vocab`` are the tokens of its target and ``reads`` the width of the features; 0 is unsaid.
    """

    name: str
    target: str
    hidden: int
    intermediate: int
    attention: AttentionShape
    draft_vocab: int
    source: str
    num_layers: int = 1
    vocab: int = 0
    reads: int = 0

    @property
    def params(self) -> int:
        """Number of weight values."""
        return sum(w.params for w in self._weights())

    def weight_bytes(self, tp: int, precision: Precision = BF16) -> int:
        """Bytes of weights on each of ``tp`` ranks; fc and norms are replicated."""
        return round(sum(w.bytes_per_rank(tp, precision) for w in self._weights()))

    def _weights(self) -> Iterator[Weight]:
        yield Weight("fc", 3 * self.hidden * self.hidden, 1)
        yield from self.attention.weights(hidden=self.hidden, input_dim=2 * self.hidden)
        yield from DenseMlp(self.intermediate).weights(hidden=self.hidden)
        for _ in range(self.num_layers - 1):
            yield from LayerShape(self.attention, DenseMlp(self.intermediate)).weights(
                hidden=self.hidden
            )
        yield Weight("norms", 4 * self.hidden, 1)
        yield Weight("lm_head", self.draft_vocab * self.hidden)
