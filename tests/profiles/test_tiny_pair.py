"""The shipped tiny pair: it loads, it is what its script says, and it drafts well without loss."""

import json
import sys
from functools import cache
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the networks are run in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

ROOT = Path(__file__).parents[2]
PAIR = ROOT / "profiles/pairs/tiny"
sys.path.insert(0, str(ROOT / "studies/training"))

import tiny_corpus as corpus  # noqa: E402
import tiny_pair as pair  # noqa: E402
import tiny_training as training  # noqa: E402
from tiny_measure import Blocks, Chain, Outcome, Plain  # noqa: E402
from torch import Tensor  # noqa: E402

from dflash_sim.kernels.cache import Cache, place  # noqa: E402
from dflash_sim.kernels.comm import Comm, run_locally  # noqa: E402
from dflash_sim.kernels.layers.checkpoint import SafetensorsFolder, Tensors  # noqa: E402
from dflash_sim.kernels.layers.spec import read_drafter, read_eagle3, read_target  # noqa: E402
from dflash_sim.kernels.models.drafter import Drafter  # noqa: E402
from dflash_sim.kernels.models.heads import Eagle3Head, MtpHead  # noqa: E402
from dflash_sim.kernels.models.target import TargetModel  # noqa: E402
from dflash_sim.kernels.rank import ALONE, Rank  # noqa: E402

torch.set_num_threads(1)
NEW, COUNT = 64, 8
FOLDERS = ("target", "dflash", "eagle3")


def shipped_prompts() -> list[str]:
    lines = (PAIR / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def some_prompts() -> list[list[int]]:
    return [list(prompt.encode()) for prompt in shipped_prompts()[:COUNT]]


def weights_of(name: str) -> dict[str, Tensor]:
    """All tensors of a shipped folder in float32."""
    from safetensors.torch import load_file

    return {k: v.float() for k, v in load_file(PAIR / name / "model.safetensors").items()}


@cache
def target() -> TargetModel:
    folder = SafetensorsFolder(PAIR / "target")
    return TargetModel(read_target(folder.config(), "tiny"), folder, tokens=1024)


@cache
def plain() -> list[list[int]]:
    return Plain(target(), COUNT).run(some_prompts(), NEW).texts


def drafted(weights: dict[str, Tensor], rows: int = 8) -> Outcome:
    """The real loop over some prompts, with a drafter of these weights."""
    spec = read_drafter(SafetensorsFolder(PAIR / "dflash").config(), "tiny")
    drafter = Drafter(spec, Tensors(weights), tokens=1024)
    return Blocks(target(), drafter, COUNT, rows).run(some_prompts(), NEW)


# -- what is shipped


def test_it_is_small() -> None:
    sizes = [p.stat().st_size for p in PAIR.rglob("*") if p.is_file()]
    assert max(sizes) < 2_000_000
    assert sum(sizes) < 3_000_000


@pytest.mark.parametrize("name", FOLDERS)
def test_configs_are_the_scripts(name: str) -> None:
    configs = {"target": pair.TARGET, "dflash": pair.DFLASH, "eagle3": pair.EAGLE3}
    assert SafetensorsFolder(PAIR / name).config() == configs[name]


@pytest.mark.parametrize("name", FOLDERS)
def test_checkpoints_hold_what_the_networks_ask_for(name: str) -> None:
    """No tensor more, none less, all of the shapes that the configs imply, in bfloat16, finite."""
    from safetensors.torch import load_file

    target = pair.fresh_target(0)
    fresh = {
        "target": target,
        "dflash": pair.fresh_dflash(target, 0),
        "eagle3": pair.fresh_eagle3(0),
    }
    held = load_file(PAIR / name / "model.safetensors")
    assert {k: v.shape for k, v in held.items()} == {k: v.shape for k, v in fresh[name].items()}
    assert {v.dtype for v in held.values()} == {torch.bfloat16}
    assert all(v.isfinite().all() for v in held.values())


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_every_network_loads_and_agrees_on_any_number_of_ranks(tp: int) -> None:
    ids = torch.tensor(some_prompts()[0][:20])

    def work(comm: Comm) -> list[Tensor]:
        rank = Rank(comm=comm, dtype=torch.float64)
        folders = {name: SafetensorsFolder(PAIR / name) for name in FOLDERS}
        spec = read_target(folders["target"].config(), "tiny")
        model = TargetModel(spec, folders["target"], rank, tokens=64)
        size = {"pages": 3, "page_size": 16, "rank": rank}
        cache = Cache.for_target(spec.shape, slots=2, requests=1, rows=1, **size)
        table, zero = torch.tensor([[1, 2]], dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
        at = place(table, zero, zero, rows=20, page_size=16)
        out = model(ids, at, cache, pair.TAPS)
        x = model.vocabulary.embed(ids)
        layer = spec.shape.mtp_layer
        assert layer is not None
        mtp = MtpHead(spec, folders["target"], rank, tokens=64)
        one = Cache.for_attention([layer.mixer], **size)
        eagle = Eagle3Head(
            read_eagle3(folders["eagle3"].config(), "tiny"), folders["eagle3"], rank, tokens=64
        )
        two = Cache.for_attention([eagle.attention.shape], **size)
        small = read_drafter(folders["dflash"].config(), "tiny")
        drafter = Drafter(small, folders["dflash"], rank, tokens=64)
        three = Cache.for_attention(small.shape.layers, **size)
        assert out.features is not None
        drafter.materialise(out.features, at.positions, at.slots, three)
        block = place(table, zero + 10, zero, rows=8, page_size=16)
        return [
            model.logits(out.final),
            mtp(x, out.final, at, one),
            eagle(x, eagle.fuse(out.features), at, two)[0],
            drafter(x[:8], block, three),
        ]

    whole, *_ = run_locally(1, work)
    for results in run_locally(tp, work):
        for got, want in zip(results, whole, strict=True):
            assert want.std() > 0.1
            assert (got - want).abs().max() < 1e-9


# -- how well it drafts


@pytest.mark.parametrize(
    ("rows", "least"), [pytest.param(4, 2.5, marks=pytest.mark.slow), (8, 3.5), (16, 3.5)]
)
def test_blocks_are_accepted_and_nothing_is_lost(rows: int, least: float) -> None:
    outcome = drafted(weights_of("dflash"), rows)
    assert outcome.texts == plain()
    assert outcome.accept_length >= least


@pytest.mark.parametrize("method", ["mtp", "eagle3"])
def test_chains_are_accepted_and_nothing_is_lost(method: str) -> None:
    folder = SafetensorsFolder(PAIR / ("target" if method == "mtp" else "eagle3"))
    head: MtpHead | Eagle3Head = (
        MtpHead(target().spec, folder, tokens=1024)
        if method == "mtp"
        else Eagle3Head(read_eagle3(folder.config(), "tiny"), folder, tokens=1024)
    )
    outcome = Chain(target(), head, COUNT, 3, pair.TAPS).run(some_prompts(), NEW)
    assert outcome.texts == plain()
    assert outcome.accept_length >= 2.5


def test_a_shuffled_drafter_is_refused_and_still_nothing_is_lost() -> None:
    """The control: the same numbers in other places."""
    draw = torch.Generator().manual_seed(0)
    shuffled = {
        name: w.flatten()[torch.randperm(w.numel(), generator=draw)].view(w.shape)
        for name, w in weights_of("dflash").items()
    }
    outcome = drafted(shuffled)
    assert outcome.texts == plain()
    assert outcome.accept_length < 1.5


def test_what_it_says_is_varied() -> None:
    """Not one text for all prompts, nor one letter or blank over and over."""
    assert len({tuple(text) for text in plain()}) == COUNT
    assert min(len(set(text)) for text in plain()) >= 12


# -- the text it was made from


def test_prompts_are_the_generators_and_open_no_training_document() -> None:
    prompts = shipped_prompts()
    assert prompts == corpus.prompts(len(prompts), seed=pair.SEED + 4)
    assert len(set(prompts)) == len(prompts) >= 128
    assert {len(p) // 50 for p in prompts} >= {0, 1, 2, 3}
    least, most = corpus.PROMPT_BYTES
    assert all(least <= len(p) <= most for p in prompts)
    read = corpus.documents(pair.DOCUMENTS, seed=pair.SEED)
    known = {text[:n] for text in read for n in {len(p) for p in prompts}}
    assert not known & set(prompts)
    assert corpus.prompts(1, seed=0, held_out=False)[0] not in corpus.prompts(128, seed=0)


def test_the_generator_repeats_itself() -> None:
    assert corpus.documents(20, seed=7) == corpus.documents(40, seed=7)[:20]
    assert corpus.documents(20, seed=7) != corpus.documents(20, seed=8)


# -- the training script's own networks


def test_the_training_forward_is_the_kernels() -> None:
    """Target, DFlash block, MTP and EAGLE-3 steps: logits of whole sequences, no pages."""
    ids = torch.tensor([some_prompts()[2][:40], some_prompts()[3][:40]])
    weights, dflash = weights_of("target"), weights_of("dflash")
    with torch.no_grad():
        seen = training.read(weights, pair.SPEC, ids, pair.TAPS)
    table = torch.tensor([[1, 3, 5], [2, 4, 6]], dtype=torch.int32)
    zero = torch.zeros(2, dtype=torch.int64)
    model = target()
    cache = Cache.for_target(model.spec.shape, pages=7, page_size=16, slots=3, requests=2, rows=1)
    at = place(table, zero, zero, rows=40, page_size=16)
    out = model(ids.flatten(), at, cache, pair.TAPS)
    assert out.features is not None
    assert (model.logits(out.final).view_as(seen.logits) - seen.logits).abs().max() < 1e-3
    assert (out.features.view_as(seen.features) - seen.features).abs().max() < 1e-3

    anchors = torch.tensor([[9, 30], [17, 21]])
    spec, embedded = pair.DFLASH_SPEC, weights["model.embed_tokens.weight"]
    with torch.no_grad():
        blocks = training.draft_blocks(dflash, spec, embedded, seen.features, ids, anchors, 8)
    drafter = Drafter(spec, Tensors(dflash), tokens=64)
    memory = Cache.for_attention(spec.shape.layers, pages=7, page_size=16, rank=ALONE)
    for column in range(2):
        drafter.materialise(out.features, at.positions, at.slots, memory)
        given = torch.full((2, 8), pair.MASK)
        given[:, 0] = ids.gather(1, anchors[:, column : column + 1])[:, 0]
        block = place(table, anchors[:, column], zero, rows=8, page_size=16)
        got = drafter(embedded[given.flatten()], block, memory).view(2, 8, -1)
        assert (got - blocks.unflatten(1, (2, 8))[:, column]).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["mtp", "eagle3"])
def test_chains_in_training_are_those_of_the_real_loop(name: str) -> None:
    """Three steps from one place: the first over the text before it, then its own drafts."""
    ids, start = torch.tensor([some_prompts()[2][:40]]), 20
    weights, table = weights_of("target"), torch.tensor([[1, 2, 3]], dtype=torch.int32)
    zero, embedded = torch.zeros(1, dtype=torch.int64), weights["model.embed_tokens.weight"]
    with torch.no_grad():
        seen = training.read(weights, pair.SPEC, ids, pair.TAPS)
    loop: Chain
    if name == "mtp":
        loop = Chain(target(), MtpHead(pair.SPEC, Tensors(weights), tokens=64), 1, 3)
        steps = training.chain(weights, pair.SPEC, embedded, seen, ids)
        hidden = seen.final[0]
    else:
        own = weights_of(name)
        loop = Chain(target(), Eagle3Head(pair.EAGLE3_SPEC, Tensors(own), tokens=64), 1, 3)
        steps = training.chain(own, pair.EAGLE3_SPEC, embedded, seen, ids)
        hidden = seen.features[0] @ own["fc.weight"].T
    with torch.no_grad():
        said = [logits[0, start].argmax() for logits in steps]
    rows = place(table, zero, zero, rows=start + 1, page_size=16)
    tokens, hidden = loop.step(ids[0, 1 : start + 2], hidden[: start + 1], rows)
    got, hidden = [tokens[-1]], hidden[-1:]
    for i in (1, 2):
        one = place(table, zero + start + i, zero, rows=1, page_size=16)
        tokens, hidden = loop.step(ids[0, start + 1 + i :][:1], hidden, one)
        got.append(tokens[0])
    assert got == said


def test_transformers_says_the_same() -> None:
    transformers = pytest.importorskip("transformers", minversion="5.17")
    theirs = transformers.Qwen3_5ForCausalLM.from_pretrained(PAIR / "target", dtype=torch.float32)
    ids = torch.tensor([some_prompts()[2][:40]])
    with torch.no_grad():
        want = theirs(ids).logits
        got = training.read(weights_of("target"), pair.SPEC, ids).logits
    assert (got - want).abs().max() < 1e-3
