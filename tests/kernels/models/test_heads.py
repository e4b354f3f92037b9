"""MTP and EAGLE-3 heads: built again from transformers' layers, and through the cache."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the layers are written in torch")
transformers = pytest.importorskip(
    "transformers", minversion="5.17", reason="the independent oracle; pip install '.[layers]'"
)

from tiny_networks import (  # noqa: E402
    BASE,
    EXTRA,
    HIDDEN,
    PAGE,
    VOCAB,
    Drawn,
    eagle3_spec,
    target_spec,
)
from torch import Tensor, nn  # noqa: E402

from dflash_sim.kernels.cache import Cache, Placement, place  # noqa: E402
from dflash_sim.kernels.layers.checkpoint import Tensors  # noqa: E402
from dflash_sim.kernels.models.heads import Eagle3Head, MtpHead  # noqa: E402
from dflash_sim.profiles.networks.hf_config import AttentionShape  # noqa: E402

ROWS = 7
CAUSAL = torch.full((ROWS, ROWS), -torch.inf).triu(1)[None, None]
PARTS = (4, 2, 1)  # rows per call: a prefill, a block, a single step


def fill(module: nn.Module, weights: dict[str, Tensor], prefix: str) -> None:
    module.load_state_dict({n: weights[prefix + n].float() for n in module.state_dict()})


def at_places(start: int, rows: int) -> Placement:
    table = torch.tensor([[2, 3, 1]], dtype=torch.int32)
    zero = torch.zeros(1, dtype=torch.int64)
    return place(table, zero + start, zero, rows=rows, page_size=PAGE)


def one_cache(shape: AttentionShape) -> Cache:
    return Cache.for_attention([shape], pages=4, page_size=PAGE)


def offsets() -> list[tuple[int, int]]:
    """``(start, rows)`` of each call."""
    return [(sum(PARTS[:i]), n) for i, n in enumerate(PARTS)]


@pytest.mark.parametrize("family", ["qwen3_5_text", "qwen3_5_moe_text"])
@torch.no_grad()
def test_mtp(family: str) -> None:
    module = family.removesuffix("_text")
    theirs = getattr(transformers.models, module)
    modeling = getattr(theirs, f"modeling_{module}")
    stem = "Qwen3_5Moe" if "moe" in family else "Qwen3_5"
    fields: dict[str, Any] = {
        k: v for k, v in (BASE | EXTRA[family]).items() if k != "mtp_num_hidden_layers"
    }
    config = getattr(transformers, f"{stem}TextConfig")(**fields)
    config._attn_implementation = "eager"
    layer = getattr(modeling, f"{stem}DecoderLayer")(config, 3).eval()  # the attention layer
    norms = {
        name: getattr(modeling, f"{stem}RMSNorm")(HIDDEN, eps=1e-6)
        for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
    }
    drawn, spec = Drawn(), target_spec(family)
    head = MtpHead(spec, drawn, tokens=16)
    fill(layer, drawn.made, "mtp.layers.0.")
    for name, norm in norms.items():
        fill(norm, drawn.made, f"mtp.{name}.")
    x, hidden = torch.randn(2, ROWS, HIDDEN)
    both = torch.cat([norms["pre_fc_norm_embedding"](x), norms["pre_fc_norm_hidden"](hidden)], -1)
    fused = (both @ drawn.made["mtp.fc.weight"].float().T)[None]
    tables = getattr(modeling, f"{stem}TextRotaryEmbedding")(config)(
        fused, torch.arange(ROWS).expand(3, 1, -1)
    )
    out = layer(fused, position_embeddings=tables, attention_mask=CAUSAL)
    want = norms["norm"](out)[0]
    assert spec.shape.mtp_layer is not None
    mixer = spec.shape.mtp_layer.mixer
    assert isinstance(mixer, AttentionShape)
    cache = one_cache(mixer)
    got = [head(x[s : s + n], hidden[s : s + n], at_places(s, n), cache) for s, n in offsets()]
    assert (torch.cat(got) - want).abs().max() < 1e-4


@torch.no_grad()
def test_eagle3() -> None:
    from transformers.models.llama import modeling_llama as llama

    config = transformers.LlamaConfig(**BASE)
    config._attn_implementation = "eager"
    drawn, spec = Drawn(), eagle3_spec()
    head = Eagle3Head(spec, drawn, tokens=16)
    w = {name: tensor.float() for name, tensor in drawn.made.items()}
    attention = llama.LlamaAttention(config, 0)
    for name in ("q_proj", "k_proj", "v_proj"):
        wide = getattr(attention, name)
        setattr(attention, name, nn.Linear(2 * HIDDEN, wide.out_features, bias=False))
    fill(attention, drawn.made, "midlayer.self_attn.")
    mlp = llama.LlamaMLP(config)
    fill(mlp, drawn.made, "midlayer.mlp.")

    def norm(x: Tensor, name: str) -> Tensor:
        module = llama.LlamaRMSNorm(HIDDEN, eps=1e-6)
        fill(module, drawn.made, f"{name}.")
        out: Tensor = module(x)
        return out

    x, features = torch.randn(ROWS, HIDDEN), torch.randn(ROWS, 3 * HIDDEN)
    hidden = features @ w["fc.weight"].T
    both = torch.cat(
        [norm(x, "midlayer.input_layernorm"), norm(hidden, "midlayer.hidden_norm")], -1
    )
    tables = llama.LlamaRotaryEmbedding(config)(both, torch.arange(ROWS)[None])
    mixed = attention(both[None], position_embeddings=tables, attention_mask=CAUSAL)[0][0]
    middle = hidden + mixed
    carried = middle + mlp(norm(middle, "midlayer.post_attention_layernorm"))
    final = norm(carried, "norm")
    cache = one_cache(spec.shape.attention)
    fused = head.fuse(features)
    parts = [head(x[s : s + n], fused[s : s + n], at_places(s, n), cache) for s, n in offsets()]
    assert (torch.cat([p[0] for p in parts]) - final).abs().max() < 1e-4
    assert (torch.cat([p[1] for p in parts]) - carried).abs().max() < 1e-4
    assert torch.equal(head.argmax(final), (final @ w["lm_head.weight"].T).argmax(-1))


def test_draft_tokens_are_mapped_to_the_targets() -> None:
    drawn, spec = Drawn(), eagle3_spec()
    Eagle3Head(spec, drawn, tokens=8)
    step = torch.arange(VOCAB // 2)
    with_table = Tensors(drawn.made | {"d2t": step})  # every second token: id + shift = 2 id
    head = Eagle3Head(spec, with_table, tokens=8)
    plain = Eagle3Head(spec, drawn, tokens=8)
    final = torch.randn(9, HIDDEN)
    assert torch.equal(head.argmax(final), 2 * plain.argmax(final))
