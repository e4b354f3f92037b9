"""Latent attention of every layer, read from a config of the DeepSeek kind."""

from dflash_sim.profiles.networks.fields import Fields
from dflash_sim.profiles.networks.layers import MlaShape
from dflash_sim.profiles.networks.mla import Indexer

_INDEXERS = ("full", "shared")
_PATTERN = {"F": "full", "S": "shared"}


def latent_layers(f: Fields, num_layers: int) -> tuple[MlaShape, ...]:
    """Return latent attention to every token, in every layer."""
    return (_mixer(f),) * num_layers


def sparse_layers(f: Fields, num_layers: int) -> tuple[MlaShape, ...]:
    """Return latent attention to the tokens that an indexer chooses, its own or one below."""
    kinds = _indexers(f, num_layers)
    mixers = {kind: _mixer(f, kind) for kind in set(kinds)}
    return tuple(mixers[kind] for kind in kinds)


def _mixer(f: Fields, kind: str | None = None) -> MlaShape:
    indexer = None
    if kind is not None:
        indexer = Indexer(
            heads=f.integer("index_n_heads"),
            head_dim=f.integer("index_head_dim"),
            topk=f.integer("index_topk"),
            shared=kind == "shared",
        )
    return MlaShape(
        num_heads=f.integer("num_attention_heads"),
        q_lora_rank=f.integer("q_lora_rank", default=0, low=0),
        kv_lora_rank=f.integer("kv_lora_rank"),
        qk_nope_head_dim=f.integer("qk_nope_head_dim"),
        qk_rope_head_dim=f.integer("qk_rope_head_dim"),
        v_head_dim=f.integer("v_head_dim"),
        indexer=indexer,
    )


def _indexers(f: Fields, num_layers: int) -> tuple[str, ...]:
    """``full`` or ``shared`` for each layer, as transformers' GlmMoeDsaConfig reads it."""
    named = f.kinds("indexer_types", count=num_layers, allowed=_INDEXERS)
    if not named:
        pattern = f.text("index_topk_pattern", default="")
        if pattern and (len(pattern) != num_layers or not set(pattern) <= {*_PATTERN}):
            f.reject("index_topk_pattern", f"{num_layers} letters F or S, one for each layer")
        every = f.integer("index_topk_freq", default=1)
        offset = f.integer("index_skip_topk_offset", default=2, low=0)
        named = tuple(_PATTERN[letter] for letter in pattern) or tuple(
            _INDEXERS[max(i - offset + 1, 0) % every > 0] for i in range(num_layers)
        )
    if named[0] != "full":
        f.reject(f.first("indexer_types", "index_topk_pattern"), "a first layer with an indexer")
    return named
