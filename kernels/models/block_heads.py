"""What chooses the tokens of a block: DFlash2's selector, the heads of DSpark and of Domino."""

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, silu

from dflash_sim.kernels.layers.shard import Shard
from dflash_sim.kernels.models.target import Vocabulary
from dflash_sim.kernels.reference.accept import Odds, inverse_cdf
from dflash_sim.kernels.reference.paths import score_pairs, walk
from dflash_sim.kernels.reference.recurrent import GATES, gru_cell
from dflash_sim.profiles.networks.hf_config import MarkovHead as MarkovShape
from dflash_sim.profiles.networks.hf_config import RecurrentHead as RecurrentShape
from dflash_sim.profiles.networks.hf_config import Selector


class PathSelector:
    """A path through the best tokens of every place: each is scored after the one before it.

    Every rank has all of it.

    Parameters
    ----------
    shard
        Holds ``hidden_projection.weight``, ``predecessor_codebook`` and ``successor_codebook``.
    """

    def __init__(self, shape: Selector, shard: Shard, *, hidden: int, vocab: int) -> None:
        self.shape = shape
        self.projection = shard.whole("hidden_projection.weight", shape.rank, hidden)
        self.before = shard.whole("predecessor_codebook", vocab, shape.rank)
        self.after = shard.whole("successor_codebook", vocab, shape.rank)

    def __call__(
        self,
        hidden: Tensor,
        anchor: Tensor,
        vocabulary: Vocabulary,
        *,
        temperature: float = 0.0,
        numbers: Tensor | None = None,
    ) -> tuple[Tensor, Odds | None]:
        """Return the drafts [R, N] and, where they are drawn, what from.

        Parameters
        ----------
        hidden : [R, N, H], the rows that draft
        anchor : [R] int64
        temperature, numbers
            As for :func:`~dflash_sim.kernels.reference.paths.walk`.
        """
        requests, places = hidden.shape[:2]
        flat = hidden.flatten(0, 1)
        found = vocabulary.best(flat, self.shape.top_k, below=self.shape.vocab)
        unary, ids = (x.view(requests, places, -1) for x in found)
        first = anchor[:, None, None].expand(-1, 1, ids.shape[2])
        last = torch.cat([first, ids[:, :-1]], 1)
        scale = linear(flat, self.projection).view(requests, places, 1, -1)
        scores = score_pairs(
            unary, embedding(last, self.before) * scale, embedding(ids, self.after)
        )
        return walk(scores, ids, temperature=temperature, numbers=numbers)


class MarkovHead:
    """One draft after the other: the logits of a place, and a correction by the token before it.

    The correction is a product of two narrow tables. A confidence head, where a checkpoint has
    one, is not read: the verify pass is as wide as the block, whatever is drafted.

    Parameters
    ----------
    shard
        Holds ``markov_w1.weight``, which every rank has, and ``markov_w2.weight``, cut by tokens.
    """

    def __init__(self, shape: MarkovShape, shard: Shard, *, vocab: int) -> None:
        self.before = shard.whole("markov_w1.weight", vocab, shape.rank)
        self.after = shard.split("markov_w2.weight", vocab, shape.rank)

    def __call__(
        self,
        hidden: Tensor,
        anchor: Tensor,
        vocabulary: Vocabulary,
        *,
        temperature: float = 0.0,
        numbers: Tensor | None = None,
    ) -> tuple[Tensor, Odds | None]:
        """Return the drafts [R, N] and, where they are drawn, what from.

        Parameters
        ----------
        hidden : [R, N, H], the rows that draft
        anchor : [R] int64
        temperature, numbers
            Without ``numbers`` [R, N] in [0, 1) the best token is taken; with them one is drawn.
        """
        requests, places = hidden.shape[:2]
        base = linear(hidden.flatten(0, 1), vocabulary.head).view(requests, places, -1)
        last, tokens, chances = anchor, [], []
        for place in range(places):
            local = base[:, place] + linear(embedding(last, self.before), self.after)
            if numbers is None:
                last = vocabulary.largest(local)
            else:
                logits = vocabulary.gathered(local).to(torch.float64)
                chances.append(torch.softmax(logits / temperature, -1))
                last = inverse_cdf(chances[-1], numbers[:, place])
            tokens.append(last)
        odds = Odds(torch.stack(chances, 1)) if chances else None
        return torch.stack(tokens, 1), odds


class RecurrentHead:
    """One draft after the other: the logits of a place, corrected by a GRU over those before.

    The first drafts are the block's own. Later ones are always the best: none is drawn. SGLang
    looks for them among 2,048 tokens that the block finds likely; here all are looked at.

    Parameters
    ----------
    shard
        Holds ``prefix_gru`` and the first weight of ``embed_proj``, which every rank has, and
        ``embed_proj.2.weight``, cut by tokens.
    """

    def __init__(self, shape: RecurrentShape, shard: Shard, *, hidden: int, vocab: int) -> None:
        self.shape = shape
        rows = GATES * shape.hidden
        self.read = shard.whole("prefix_gru.weight_ih_l0", rows, hidden)
        self.kept = shard.whole("prefix_gru.weight_hh_l0", rows, shape.hidden)
        self.down = shard.whole("embed_proj.0.weight", shape.bottleneck, hidden + shape.hidden)
        self.up = shard.split("embed_proj.2.weight", vocab, shape.bottleneck)

    def __call__(
        self,
        hidden: Tensor,
        anchor: Tensor,
        vocabulary: Vocabulary,
        *,
        temperature: float = 0.0,
        numbers: Tensor | None = None,
    ) -> tuple[Tensor, Odds | None]:
        """Return the drafts [R, N], for ``hidden`` [R, N, H] of the rows that draft.

        ``temperature`` and ``numbers`` are those of the heads that draw; this one does not.
        """
        requests, places = hidden.shape[:2]
        base = linear(hidden.flatten(0, 1), vocabulary.head).view(requests, places, -1)
        alone = min(self.shape.prefix, places)
        first = vocabulary.largest(base[:, :alone].flatten(0, 1)).view(requests, alone)
        tokens = [anchor, *first.unbind(1)]
        state = hidden.new_zeros(requests, self.shape.hidden)
        heard = 0
        for place in range(alone, places):
            for token in tokens[heard:]:
                read = linear(vocabulary.embed(token), self.read)
                state = gru_cell(read, linear(state, self.kept), state)
            heard = len(tokens)
            narrow = linear(torch.cat([hidden[:, place], state], -1), self.down)
            tokens.append(vocabulary.largest(base[:, place] + linear(silu(narrow), self.up)))
        return torch.stack(tokens[1:], 1), None
