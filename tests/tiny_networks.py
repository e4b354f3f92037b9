"""Networks small enough for a test: configs, weights drawn by name, and a way to run them."""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from dflash_sim.kernels.cache import Cache, place
from dflash_sim.kernels.layers.checkpoint import Range, Tensors
from dflash_sim.kernels.layers.spec import (
    DrafterSpec,
    Eagle3Spec,
    TargetSpec,
    read_drafter,
    read_eagle3,
    read_target,
)
from dflash_sim.kernels.models.target import TargetModel
from dflash_sim.kernels.rank import Rank

torch.set_num_threads(1)

VOCAB, HIDDEN, PAGE = 96, 32, 4
TARGETS = ("qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
HYBRIDS = TARGETS[2:]
DOUBLE = Rank(dtype=torch.float64)

BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
MOE = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
}
SHARED = {"shared_expert_intermediate_size": 20}
GDN = {
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4,
}
EXTRA: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3_moe": MOE,
    "qwen3_next": MOE | SHARED | GDN,
    "qwen3_5_text": GDN | {"mtp_num_hidden_layers": 1},
    "qwen3_5_moe_text": MOE | SHARED | GDN | {"mtp_num_hidden_layers": 1},
}


def target_spec(family: str, **changes: Any) -> TargetSpec:
    """A four-layer target: three delta nets and an attention layer where the family has both."""
    config = BASE | EXTRA[family] | {"model_type": family} | changes
    return read_target(config, f"tiny {family}")


def drafter_spec(**changes: Any) -> DrafterSpec:
    """A three-layer drafter of blocks of 5 that reads layers 0 and 2."""
    config = BASE | {
        "num_hidden_layers": 3,
        "block_size": 5,
        "dflash_config": {"target_layer_ids": [0, 2], "mask_token_id": VOCAB - 1},
    }
    return read_drafter(config | changes, "tiny drafter")


# What makes a DFlash2 drafter of one, a DSpark drafter of four drafts, and a Domino drafter.
PATHS: dict[str, Any] = {
    "architectures": ["DFlash2DraftModel"],
    "conv_kernel_size": 2,
    "conv_group_size": 8,
    "selector_rank": 6,
    "selector_top_k": 5,
}
MARKOV: dict[str, Any] = {
    "architectures": ["DSparkDraftModel"],
    "block_size": 4,
    "markov_rank": 6,
    "enable_confidence_head": False,
}
RECURRENT: dict[str, Any] = {
    "architectures": ["DominoDraftModel"],
    "gru_hidden_dim": 7,
    "emb_dim": 6,
}


def eagle3_spec(**changes: Any) -> Eagle3Spec:
    """An EAGLE-3 head over half the vocabulary."""
    config = BASE | {"model_type": "llama", "num_hidden_layers": 1, "draft_vocab_size": VOCAB // 2}
    return read_eagle3(config | changes, "tiny eagle")


class Drawn:
    """Any tensor asked for, whole and the same for every rank, in float64.

    Projections of Qwen3-Next are there fused by key head, as in its checkpoints.
    """

    def __init__(self, family: str = "") -> None:
        self.apart = family != "qwen3_next"
        self.made: dict[str, Tensor] = {}

    def has(self, name: str) -> bool:
        return self.apart if name.endswith("in_proj_qkv.weight") else not name.endswith("d2t")

    def read(self, name: str, shape: tuple[int, ...], dim: int, ranges: Sequence[Range]) -> Tensor:
        if name not in self.made:
            draw = torch.Generator().manual_seed(crc32(name.encode()))
            drawn = torch.randn(shape, generator=draw, dtype=torch.float64) * 0.2
            self.made[name] = drawn + 1 if "norm" in name else drawn
        return Tensors(self.made).read(name, shape, dim, ranges)


class Runner:
    """A target with pools and scattered pages for some requests, run call by call."""

    def __init__(
        self, model: TargetModel, rank: Rank, *, requests: int = 2, tokens: int = 40, rows: int = 8
    ) -> None:
        self.model, self.rank = model, rank
        draw = torch.Generator().manual_seed(7)
        each = -(-tokens // PAGE)
        pages = 1 + torch.randperm(requests * each + 3, generator=draw)
        self.table = pages[: requests * each].view(requests, each).to(torch.int32)
        self.state_slots = 1 + torch.randperm(requests + 2, generator=draw)[:requests]
        self.cache = Cache.for_target(
            model.spec.shape,
            pages=requests * each + 4,
            page_size=PAGE,
            slots=requests + 3,
            requests=requests,
            rows=rows,
            rank=rank,
        )
        self.lens = torch.zeros(requests, dtype=torch.int64)

    def run(self, ids: Tensor, *, keep_states: bool = False) -> Tensor:
        """Logits [R, n, V] of ``ids`` [R, n] after the committed context, which stays as it is."""
        at = place(
            self.table,
            self.lens,
            self.state_slots,
            rows=ids.shape[1],
            page_size=PAGE,
            keep_states=keep_states,
        )
        final = self.model(ids.flatten(), at, self.cache).final
        return self.model.logits(final).view(*ids.shape, -1)

    def extend(self, ids: Tensor) -> Tensor:
        """As :meth:`run`, and the rows are committed."""
        logits = self.run(ids)
        self.lens = self.lens + ids.shape[1]
        return logits

    def verify(self, ids: Tensor, commit_len: Tensor) -> Tensor:
        """As :meth:`run`, and the first ``commit_len`` [R] rows of each request are committed."""
        logits = self.run(ids, keep_states=True)
        if self.cache.gdn is not None:
            self.cache.gdn.commit(self.state_slots, commit_len)
        self.lens = self.lens + commit_len
        return logits


def random_ids(*shape: int, seed: int = 0, vocab: int = VOCAB) -> Tensor:
    """Token ids."""
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(seed))
