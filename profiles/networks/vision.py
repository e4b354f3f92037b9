"""The vision tower of a multimodal checkpoint: it takes memory, and decodes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

from dflash_sim.profiles.networks.weight import Weight
from dflash_sim.profiles.precision import BF16, Precision


@dataclass(frozen=True)
class VisionTower:
    """A vision transformer with the projection of its patches into the language model.

    Parameters
    ----------
    hidden, intermediate, depth
        Width, MLP width and number of its blocks; a depth of 0 where the config does not say.
    patch, positions
        Values of a patch, and learned positions.
    merged, out
        Patches that are merged into one token, and the width of that token.
    num_hidden_layers
        The field of that name, which SGLang reads for its default memory fraction; Qwen's own
        configs call it ``depth``, so that SGLang takes the usual number.
    """

    hidden: int
    intermediate: int
    depth: int
    patch: int
    positions: int
    merged: int
    out: int
    num_hidden_layers: int | None = None

    def weight_bytes(self, tp: int, precision: Precision = BF16) -> float:
        """Bytes of weights on each of ``tp`` ranks."""
        return sum(w.bytes_per_rank(tp, precision) for w in self._weights())

    def _weights(self) -> Iterator[Weight]:
        """Blocks and merger are split over the ranks, the embeddings are not (Qwen3-VL)."""
        if not self.depth:
            return  # what a config does not say is not weighed
        h, wide, token = self.hidden, self.intermediate, self.merged * self.hidden
        attention = 4 * h * h + 4 * h
        mlp = 2 * h * wide + wide + h
        yield Weight("patch_embed", h * self.patch + h, 1)
        yield Weight("pos_embed", self.positions * h, 1)
        yield Weight("blocks", self.depth * (attention + mlp))
        yield Weight("block_norms", self.depth * 4 * h, 1)
        yield Weight("merger", token * token + token * self.out)
        yield Weight("merger_norm", 2 * h + token + self.out, 1)
