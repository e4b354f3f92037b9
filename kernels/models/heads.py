"""Draft heads that predict one token at a time: Qwen3.5's MTP layer and the EAGLE-3 layer."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from dflash_sim.kernels.cache import Cache, Placement
from dflash_sim.kernels.layers.attention import Attention
from dflash_sim.kernels.layers.checkpoint import Source
from dflash_sim.kernels.layers.decoder import DecoderLayer, Norm
from dflash_sim.kernels.layers.mlp import SwigluMlp
from dflash_sim.kernels.layers.shard import Shard
from dflash_sim.kernels.layers.spec import Eagle3Spec, TargetSpec
from dflash_sim.kernels.models.target import Vocabulary, attention_tables
from dflash_sim.kernels.rank import ALONE, Rank
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.networks.hf_config import AttentionShape, check_tp

FEATURES = 3  # an EAGLE-3 head reads three target layers (Li et al., arXiv:2503.01840)


class MtpHead:
    """One more decoder layer, fed the next token's embedding beside the target's last hidden state.

    Embedding and head are the target's; ``fc`` is not cut.
    """

    def __init__(
        self, spec: TargetSpec, source: Source, rank: Rank = ALONE, *, tokens: int
    ) -> None:
        layer, hidden = spec.shape.mtp_layer, spec.shape.hidden
        if layer is None or not isinstance(layer.mixer, AttentionShape):
            msg = f"{spec.shape.name} has no MTP layer"
            raise UsageError(msg)
        check_tp(spec.shape, rank.tp)
        shard = Shard(source, rank, ("mtp.",))
        self.layer = DecoderLayer(
            layer,
            spec.numerics,
            shard.under("layers.0."),
            index=0,
            hidden=hidden,
            tables=attention_tables(layer.mixer, spec.numerics, tokens=tokens, rank=rank),
        )
        self.embedding_norm, self.hidden_norm, self.norm = (
            Norm(name, spec.numerics, shard, hidden=hidden)
            for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
        )
        self.fc = shard.whole("fc.weight", hidden, 2 * hidden)
        shard.check()

    @torch.no_grad()
    def __call__(self, x: Tensor, hidden: Tensor, at: Placement, cache: Cache) -> Tensor:
        """Hidden states [T, H] after the final norm, for the head and for the next step.

        Parameters
        ----------
        x : [T, H], embeddings of the tokens that follow
        hidden : [T, H], final hidden states of the target, or what this returned a step before

        Source: SGLang ``qwen3_5_mtp.py``.
        """
        fused = torch.cat([self.embedding_norm(x), self.hidden_norm(hidden)], dim=-1)
        return self.norm.add(*self.layer(linear(fused, self.fc), None, at, cache))[0]


class Eagle3Head:
    """A Llama layer of twice the input width over three fused target features.

    It has a head of its own over ``draft_vocab`` tokens; ``target_ids`` [draft_vocab] int64 says
    which tokens those are. The embedding is the target's.
    """

    def __init__(
        self, spec: Eagle3Spec, source: Source, rank: Rank = ALONE, *, tokens: int
    ) -> None:
        shape, hidden, numerics = spec.shape, spec.shape.hidden, spec.numerics
        check_tp(shape, rank.tp)
        self.comm = rank.comm
        shard = Shard(source, rank, ("", "model."), anchor="fc.weight")
        layer = shard.under("midlayer.")
        self.attention = Attention(
            shape.attention,
            numerics,
            layer.under("self_attn."),
            index=0,
            hidden=hidden,
            input_width=2 * hidden,
            tables=attention_tables(shape.attention, numerics, tokens=tokens, rank=rank),
        )
        self.mlp = SwigluMlp(shape.intermediate, layer.under("mlp."), hidden=hidden)
        self.embedding_norm, self.hidden_norm, self.between = (
            Norm(name, numerics, layer, hidden=hidden)
            for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm")
        )
        self.fc = shard.whole("fc.weight", hidden, FEATURES * hidden)
        self.norm = Norm("norm", numerics, shard, hidden=hidden)
        top = shard.root()
        head = top.split("lm_head.weight", shape.draft_vocab, hidden)
        self.vocabulary = Vocabulary(head, head, rank)
        shift = top.ids("d2t", shape.draft_vocab) if top.has("d2t") else 0
        self.target_ids = torch.arange(shape.draft_vocab, device=rank.device) + shift
        shard.check()

    @torch.no_grad()
    def fuse(self, features: Tensor) -> Tensor:
        """Target features [T, 3 H] as the hidden states [T, H] of the first step."""
        return linear(features, self.fc)

    @torch.no_grad()
    def __call__(
        self, x: Tensor, hidden: Tensor, at: Placement, cache: Cache
    ) -> tuple[Tensor, Tensor]:
        """``(final, carried)``, each [T, H]: the input of the head, and of the next step.

        Parameters
        ----------
        x : [T, H], embeddings of the tokens that follow
        hidden : [T, H], from :meth:`fuse`, or ``carried`` of a step before

        Source: SGLang ``llama_eagle3.py``.
        """
        both = torch.cat([self.embedding_norm(x), self.hidden_norm(hidden)], dim=-1)
        mixed = self.comm.all_reduce(self.attention(both, at, cache.kv))
        h, residual = self.between.add(mixed, hidden)
        return self.norm.add(self.comm.all_reduce(self.mlp(h)), residual)

    @torch.no_grad()
    def argmax(self, final: Tensor) -> Tensor:
        """Target token ids [T] of the most probable draft tokens."""
        return self.target_ids[self.vocabulary.argmax(final)]
