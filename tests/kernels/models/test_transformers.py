"""Whole small models give transformers' numbers: logits, drafts, checkpoints."""

from inspect import signature
from pathlib import Path
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
    HYBRIDS,
    PAGE,
    TARGETS,
    VOCAB,
    Runner,
    drafter_spec,
    random_ids,
    target_spec,
)
from torch import Tensor, nn  # noqa: E402

from dflash_sim.kernels.cache import Cache, place  # noqa: E402
from dflash_sim.kernels.layers.checkpoint import SafetensorsFolder, Tensors  # noqa: E402
from dflash_sim.kernels.layers.spec import read_target  # noqa: E402
from dflash_sim.kernels.models.cycle import Dflash, Running  # noqa: E402
from dflash_sim.kernels.models.drafter import Drafter  # noqa: E402
from dflash_sim.kernels.models.target import TargetModel  # noqa: E402
from dflash_sim.kernels.rank import ALONE, Rank  # noqa: E402

CLASSES = {
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM"),
    "qwen3_next": ("Qwen3NextConfig", "Qwen3NextForCausalLM"),
    "qwen3_5_text": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM"),
    "qwen3_5_moe_text": ("Qwen3_5MoeTextConfig", "Qwen3_5MoeForCausalLM"),
}


def scramble(module: nn.Module, seed: int = 0) -> None:
    """Weights far from their initial ones and zeros, so that each of them matters."""
    torch.manual_seed(seed)
    for name, p in module.named_parameters():
        if "norm" in name or name.endswith("dt_bias"):
            p.data.add_(0.3 * torch.randn_like(p))
        elif not name.endswith("A_log"):
            p.data.normal_(0, 0.2)


def oracle(family: str, **changes: Any) -> Any:
    config, model = (getattr(transformers, name) for name in CLASSES[family])
    fields = {k: v for k, v in EXTRA[family].items() if k != "mtp_num_hidden_layers"}
    built = model(config(**BASE | fields | changes)).eval()
    scramble(built)
    return built


@pytest.mark.parametrize("family", TARGETS)
@torch.no_grad()
def test_prefill_decode_and_verify(family: str) -> None:
    theirs = oracle(family)
    spec = read_target(theirs.config.to_dict(), family)
    assert spec.shape.layers == target_spec(family).shape.layers
    ours = Runner(TargetModel(spec, Tensors(theirs.state_dict()), tokens=64), ALONE)
    ids = random_ids(2, 33)
    want = theirs(ids).logits
    everything = torch.tensor([8, 8])
    parts = [ours.extend(part) for part in (ids[:, :9], ids[:, 9:14])]
    parts += [ours.extend(ids[:, 14 + i : 15 + i]) for i in range(3)]
    parts += [ours.verify(ids[:, 17 + 8 * i : 25 + 8 * i], everything) for i in range(2)]
    assert want.std() > 0.5
    assert (torch.cat(parts, 1) - want).abs().max() < 1e-4


@pytest.mark.parametrize("family", HYBRIDS)
@torch.no_grad()
def test_a_refused_row_leaves_nothing_behind(family: str) -> None:
    """transformers cannot roll back; it reads the accepted text from the start instead."""
    theirs = oracle(family)
    spec = read_target(theirs.config.to_dict(), family)
    ours = Runner(TargetModel(spec, Tensors(theirs.state_dict()), tokens=64), ALONE)
    text, draft, after = random_ids(2, 10), random_ids(2, 6, seed=1), random_ids(2, 4, seed=2)
    ours.extend(text)
    commits = torch.tensor([4, 1])
    ours.verify(draft, commits)
    got = ours.run(after)
    for r, kept in enumerate(commits.tolist()):
        whole = torch.cat([text[r], draft[r, :kept], after[r]])
        assert (got[r] - theirs(whole[None]).logits[0, -4:]).abs().max() < 1e-4


@pytest.mark.parametrize("family", TARGETS)
@torch.no_grad()
def test_a_saved_checkpoint_is_the_same_network(family: str, tmp_path: Path) -> None:
    theirs = oracle(family)
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    folder = SafetensorsFolder(tmp_path)
    spec = read_target(folder.config(), family)
    ids = random_ids(2, 12)
    ours = Runner(TargetModel(spec, folder, tokens=32), ALONE)
    assert (ours.run(ids) - theirs(ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["qwen3", "qwen3_5_text"])
@torch.no_grad()
def test_half_precision_loses_no_more(family: str) -> None:
    """In bfloat16, the distance to float32 is that of transformers in bfloat16."""
    theirs, half = oracle(family), Rank(dtype=torch.bfloat16)
    spec = read_target(theirs.config.to_dict(), family)
    ours = Runner(TargetModel(spec, Tensors(theirs.state_dict()), half, tokens=32), half)
    ids, everything = random_ids(2, 24), torch.tensor([8, 8])
    exact = theirs(ids).logits
    rounded = theirs.to(torch.bfloat16)(ids).logits.float()
    parts = [ours.extend(ids[:, :8]), ours.verify(ids[:, 8:16], everything)]
    got = torch.cat([*parts, ours.extend(ids[:, 16:])], 1)
    assert got.dtype == torch.bfloat16
    assert (got.float() - exact).abs().mean() < 1.5 * (rounded - exact).abs().mean()


@torch.no_grad()
def test_tied_embeddings() -> None:
    theirs = oracle("qwen3", tie_word_embeddings=True)
    spec = read_target(theirs.config.to_dict(), "tied")
    weights = {k: v for k, v in theirs.state_dict().items() if k != "lm_head.weight"}
    ids = random_ids(1, 12)
    ours = Runner(TargetModel(spec, Tensors(weights), tokens=32), ALONE, requests=1)
    assert (ours.run(ids) - theirs(ids).logits).abs().max() < 1e-4


def cache_argument(model: Any) -> str:
    """What this release of transformers calls the cache that a model takes."""
    return "cache" if "cache" in signature(model.forward).parameters else "past_key_values"


def assistant(kinds: list[str], *, block: int, vocab: int, window: int = 6) -> Any:
    """transformers' own DFlash drafter, reading layers 0 and 2 of a target as wide as ours."""
    from transformers.models.muse_glimmer_assistant import modeling_muse_glimmer_assistant as muse

    config = muse.MuseGlimmerAssistantConfig(
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=len(kinds),
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-6,
        layer_types=kinds,
        sliding_window=window,
        block_size=block,
        mask_token_id=vocab - 1,
        target_layer_ids=[0, 2],
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    built = muse.MuseGlimmerAssistantModel(config).eval()
    scramble(built)
    return built


def drafter_weights(theirs: nn.Module) -> Tensors:
    """Its tensors under the names that published DFlash drafters use."""
    names = {"encoder.fc.": "fc.", "encoder.output_norm_enc.": "hidden_norm."}
    renamed = {}
    for name, tensor in theirs.state_dict().items():
        old = next((n for n in names if name.startswith(n)), "")
        renamed[names.get(old, "") + name.removeprefix(old)] = tensor
    return Tensors(renamed)


@pytest.mark.parametrize(
    "kinds",
    [["full_attention"] * 3, ["sliding_attention", "sliding_attention", "full_attention"]],
    ids=["full", "sliding"],
)
@torch.no_grad()
def test_the_drafter(kinds: list[str]) -> None:
    """One block over a context; there a sliding row sees as far ahead as back, itself left out."""
    from transformers.cache_utils import DFlashCache

    theirs = assistant(kinds, block=5, vocab=VOCAB)
    context, noise = torch.randn(1, 19, 2 * HIDDEN), torch.randn(1, 5, HIDDEN)
    memory = DFlashCache(config=theirs.config)
    memory.activate_past_recording()
    memory.set_previous_accepted_tokens(19)
    keep = {cache_argument(theirs): memory}
    want = theirs(noise_embeds=noise, context_hidden_states=context, **keep).last_hidden_state
    spec = drafter_spec(layer_types=kinds, sliding_window=7, is_causal=False)
    ours = Drafter(spec, drafter_weights(theirs), tokens=64)
    cache = Cache.for_attention(spec.shape.layers, pages=9, page_size=PAGE)
    table = torch.tensor([[7, 2, 5, 1, 8, 3]], dtype=torch.int32)
    nobody = torch.zeros(1, dtype=torch.int64)
    seen = place(table, nobody, nobody, rows=19, page_size=PAGE)
    ours.materialise(context[0], seen.positions, seen.slots, cache)
    at = place(table, nobody + 19, nobody, rows=5, page_size=PAGE)
    assert (ours(noise[0], at, cache) - want[0]).abs().max() < 1e-5


def record_candidates(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The proposals of every later cycle of ``generate``."""
    from transformers.generation.candidate_generator import DFlashTokenCandidateGenerator as Maker

    seen: list[list[int]] = []
    original = Maker.get_candidates

    def recording(self: Any, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        ids, logits = original(self, input_ids, *args, **kwargs)
        seen.append(ids[0, input_ids.shape[1] :].tolist())
        return ids, logits

    monkeypatch.setattr(Maker, "get_candidates", recording)
    return seen


@pytest.mark.parametrize(("seeds", "lengths"), [((1, 0), {1, 2, 3, 4}), ((4, 1), {1, 2, 4})])
@torch.no_grad()
def test_the_whole_loop(
    seeds: tuple[int, int], lengths: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every proposal and every token of ``generate(speculation_type="dflash")``.

    A vocabulary of 6 makes chance agree often; of the seeds, these accept varied lengths.
    """
    vocab, new = 6, 60
    theirs = oracle("qwen3", vocab_size=vocab)
    their_drafter = assistant(["full_attention"] * 2, block=4, vocab=vocab)
    scramble(theirs, seeds[0])
    scramble(their_drafter, seeds[1])
    prompt = random_ids(1, 9, vocab=vocab - 1)
    proposed = record_candidates(monkeypatch)
    greedy = {
        "attention_mask": torch.ones_like(prompt),
        "max_new_tokens": new,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    drafting = {"assistant_model": their_drafter, "speculation_type": "dflash"}
    out = theirs.generate(prompt, **greedy, **drafting)[0, 9:].tolist()
    assert out == theirs.generate(prompt, **greedy)[0, 9:].tolist()

    spec = read_target(theirs.config.to_dict(), "target")
    target = TargetModel(spec, Tensors(theirs.state_dict()), tokens=96)
    size = drafter_spec(
        num_hidden_layers=2,
        block_size=4,
        dflash_config={"target_layer_ids": [0, 2], "mask_token_id": vocab - 1},
    )
    drafter = Drafter(size, drafter_weights(their_drafter), tokens=96)
    pages = {"pages": 26, "page_size": PAGE}
    loop = Dflash(
        target,
        drafter,
        Cache.for_target(spec.shape, slots=2, requests=1, rows=4, **pages),
        Cache.for_attention(size.shape.layers, **pages),
    )
    table = (1 + torch.randperm(25)[:24])[None].to(torch.int32)
    nobody = torch.zeros(1, dtype=torch.int64)
    running = loop.prefill(prompt, Running(nobody, nobody, table, nobody))
    tokens, committed = running.anchor.tolist(), []
    drafts = iter(proposed[1:])  # the first call, before the target has run, proposes nothing
    while len(tokens) < new:
        at = running.rows(4, PAGE, keep_states=True)
        draft = loop.draft(running, at)[0, 1:].tolist()
        theirs_now = next(drafts)
        assert draft[: len(theirs_now)] == theirs_now
        running, accepted = loop.cycle(running)
        committed.append(int(accepted.commit_len))
        tokens += accepted.tokens[0, : committed[-1]].tolist()
    assert tokens[:new] == out
    assert set(committed) == lengths
