"""Our layers of latent attention give transformers' numbers, dense and sparse, and on two ranks."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the layers are written in torch")
transformers = pytest.importorskip(
    "transformers", minversion="5.17", reason="the independent oracle; pip install '.[layers]'"
)

from dataclasses import replace  # noqa: E402

from torch import Tensor  # noqa: E402

from dflash_sim.kernels.cache import place  # noqa: E402
from dflash_sim.kernels.layers.checkpoint import Tensors  # noqa: E402
from dflash_sim.kernels.layers.latent import LatentAttention, LatentKV  # noqa: E402
from dflash_sim.kernels.layers.shard import Shard  # noqa: E402
from dflash_sim.kernels.rank import Rank  # noqa: E402
from dflash_sim.kernels.reference.norm_rope import rotary_table  # noqa: E402
from dflash_sim.kernels.reference.routing import route_by_groups  # noqa: E402
from dflash_sim.profiles.networks.hf_config import MlaShape, parse_model  # noqa: E402

torch.set_num_threads(1)
HIDDEN, PAGE = 32, 4
CONFIG: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "max_position_embeddings": 128,
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
}
INDEX = {"index_n_heads": 3, "index_head_dim": 8, "index_topk": 6}
CASES = {
    "deepseek_v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM", {}),
    "deepseek_v3 without a compressed query": (
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        {"q_lora_rank": None},
    ),
    "deepseek_v32": ("DeepseekV32Config", "DeepseekV32ForCausalLM", INDEX),
    "glm_moe_dsa": ("GlmMoeDsaConfig", "GlmMoeDsaForCausalLM", INDEX),
}


def oracle(case: str) -> Any:
    config, model, changes = CASES[case]
    if not hasattr(transformers, model):
        pytest.skip(f"this transformers has no {model}")
    torch.manual_seed(0)
    made = getattr(transformers, config)(**CONFIG | changes, attn_implementation="eager")
    built = getattr(transformers, model)(made).eval()
    for name, p in built.named_parameters():
        p.data.normal_(0, 0.2)
        if "norm" in name and name.endswith("weight"):
            p.data.add_(1)
    return built


def shape_of(case: str) -> MlaShape:
    family = case.partition(" ")[0]
    config = {**CONFIG, **CASES[case][2], "model_type": family}
    mixer = parse_model(config, name="tiny", source="test").layers[0].mixer
    assert isinstance(mixer, MlaShape)
    return mixer


def theirs(built: Any, x: Tensor) -> Tensor:
    """The attention of the first layer over whole texts [R, T, H], causal."""
    tokens = x.shape[1]
    places = torch.arange(tokens)[None].expand(len(x), -1)
    hidden = torch.full((tokens, tokens), -torch.inf).triu(1)[None, None]
    mask = hidden.expand(len(x), 1, -1, -1)
    attention = built.model.layers[0].self_attn
    turned = built.model.rotary_emb(x, places)
    out = attention(
        hidden_states=x, position_embeddings=turned, attention_mask=mask, position_ids=places
    )
    return out[0]


def ours(case: str, built: Any, x: Tensor, cuts: "list[int]", rank: "Rank | None" = None) -> Tensor:
    """The same in passes that end at ``cuts``: a prefill, decodes, a verification."""
    rank, shape = rank or Rank(), shape_of(case)
    named = Tensors(built.model.layers[0].self_attn.state_dict())
    tables = rotary_table(64, shape.qk_rope_head_dim, theta=CONFIG["rope_theta"])
    shard = Shard(named, rank)
    layer = LatentAttention(
        shape,
        shard,
        index=0,
        hidden=HIDDEN,
        tables=tables,
        eps=1e-6,
        index_pairs=case == "glm_moe_dsa",
    )
    shard.check()
    pages = torch.randperm(16).view(2, 8).int()
    kv = LatentKV([shape], pages=16, page_size=PAGE, rank=rank)
    out, start = [], 0
    for end in cuts:
        at = place(
            pages,
            torch.full((2,), start),
            torch.zeros(2, dtype=torch.int64),
            rows=end - start,
            page_size=PAGE,
        )
        out.append(layer(x[:, start:end].reshape(-1, HIDDEN), at, kv).view(2, -1, HIDDEN))
        start = end
    return torch.cat(out, 1)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_prefill_decode_and_verify(case: str) -> None:
    built = oracle(case)
    x = torch.randn(2, 24, HIDDEN)
    want = theirs(built, x)
    got = ours(case, built, x, [13, 14, 15, 20, 24])
    assert want.std() > 0.05
    assert (got - want).abs().max() < 1e-4


@torch.no_grad()
def test_a_sparse_layer_reads_less_than_a_dense_one() -> None:
    built = oracle("deepseek_v32")
    x = torch.randn(2, 24, HIDDEN)
    got = ours("deepseek_v32", built, x, [24])
    shape = shape_of("deepseek_v32")
    assert shape.indexer is not None
    seen_all = replace(shape, indexer=replace(shape.indexer, topk=24))
    named = Tensors(built.model.layers[0].self_attn.state_dict())
    tables = rotary_table(64, shape.qk_rope_head_dim, theta=CONFIG["rope_theta"])
    dense = LatentAttention(
        seen_all, Shard(named, Rank()), index=0, hidden=HIDDEN, tables=tables, eps=1e-6
    )
    kv = LatentKV([shape], pages=16, page_size=PAGE, rank=Rank())
    pages = torch.arange(16).view(2, 8).int()
    zeros = torch.zeros(2, dtype=torch.int64)
    at = place(pages, zeros, zeros, rows=24, page_size=PAGE)
    all_of_it = dense(x.reshape(-1, HIDDEN), at, kv).view(2, -1, HIDDEN)
    few = shape.indexer.topk
    assert (got[:, :few] - all_of_it[:, :few]).abs().max() < 1e-5
    assert (got[:, few:] - all_of_it[:, few:]).abs().max() > 1e-2


@torch.no_grad()
def test_experts_are_chosen_by_groups() -> None:
    gate = oracle("deepseek_v3").model.layers[1].mlp.gate
    gate.e_score_correction_bias.normal_(0, 0.3)
    x = torch.randn(40, HIDDEN)
    logits, want_w, want_e = gate(x)
    weights, experts = route_by_groups(
        logits,
        gate.e_score_correction_bias,
        2,
        groups=2,
        kept_groups=1,
        renormalise=gate.norm_topk_prob,
        scale=gate.routed_scaling_factor,
    )
    assert torch.equal(experts.sort().values, want_e.int().sort().values)
    order, theirs_order = experts.argsort(-1), want_e.argsort(-1)
    assert (weights.gather(1, order) - want_w.gather(1, theirs_order)).abs().max() < 1e-6
