"""What a drafter proposes after many cycles is what it proposes having read the text at once."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from real_engine import greedy_text, knowing, setup  # noqa: E402
from tiny_networks import TARGETS, random_ids  # noqa: E402
from torch import Tensor  # noqa: E402

from dflash_sim.kernels.rank import Rank  # noqa: E402
from dflash_sim.realrun.job.requests import Request  # noqa: E402
from dflash_sim.realrun.job.setup import METHODS  # noqa: E402
from dflash_sim.realrun.launch import fit_requests  # noqa: E402
from dflash_sim.realrun.worker.device import Device  # noqa: E402

DOUBLE = Rank(dtype=torch.float64)
LENGTHS = (5, 9, 6)
CASES = [
    (family, method)
    for method, row in METHODS.items()
    for family in TARGETS
    if row.speculative
    if row.network != "mtp-layer" or family not in ("qwen3", "qwen3_moe")
]


def device(family: str, method: str, texts: list[tuple[int, ...]], **changes: Any) -> Device:
    """A rank that holds one text in each of three slots, its pages scattered."""
    made = setup(family, method, dtype="float64", max_running_requests=3, **changes)
    asked = [Request(prompt=text, max_new_tokens=60) for text in texts]
    fitted = fit_requests(made, asked, None)
    held = Device(fitted, DOUBLE)
    each = fitted.pages // 3
    order = torch.randperm(fitted.pages, generator=torch.Generator().manual_seed(2)) + 1
    held.map_pages(
        [(slot + 1, i, int(order[slot * each + i])) for slot in range(3) for i in range(each)]
    )
    held.join([(slot + 1, slot) for slot in range(3)])
    held.prefill([(slot + 1, text, -1) for slot, text in enumerate(texts)])
    return held


def proposals(held: Device) -> Tensor:
    return held.draft(held.slots_of((1, 2, 3))).tokens


@pytest.mark.parametrize(("family", "method"), CASES)
def test_caches_are_those_of_a_text_read_at_once(family: str, method: str) -> None:
    """Refused rows, chains over places to be overwritten, slots in another order: nothing stays."""
    prompts = [tuple(random_ids(n, seed=n).tolist()) for n in LENGTHS]
    answers = [
        greedy_text(setup(family).target, Request(prompt=p, max_new_tokens=30)) for p in prompts
    ]
    texts = [(*p, *a) for p, a in zip(prompts, answers, strict=True)]
    told = {"steps": 4, "wrap": knowing(texts, wrong=0.4)}
    held = device(family, method, prompts, **told)
    gained = torch.zeros(3, dtype=torch.int64)
    for cycle in range(6):
        order = ((1, 2, 3), (3, 1, 2))[cycle % 2]
        accepted = held.cycle(held.slots_of(order))
        gained[torch.tensor(order) - 1] += accepted.commit_len
    assert gained.unique().numel() > 1
    read = [text[: n + int(g)] for text, n, g in zip(texts, LENGTHS, gained, strict=True)]
    assert held.lens[1:].tolist() == [len(text) for text in read]
    fresh = device(family, method, read, steps=4)
    assert torch.equal(held.anchor, fresh.anchor)
    own = held.method.draft
    held.method.draft = type(held.method).draft.__get__(held.method)  # type: ignore[method-assign]
    assert own is not held.method.draft
    assert torch.equal(proposals(held), proposals(fresh))


def test_a_state_that_is_not_rolled_back_is_seen() -> None:
    """The negative control: one committed row too many, and the proposals are others."""
    prompts = [tuple(random_ids(n, seed=n).tolist()) for n in LENGTHS]
    right, wrong = (device("qwen3_5_text", "mtp", prompts, steps=4) for _ in range(2))
    slots = right.slots_of((1, 2, 3))
    right.cycle(slots)
    verified = wrong.verify(wrong.draft(slots))
    accepted = wrong.judge(verified)
    more = accepted._replace(commit_len=(accepted.commit_len + 1).clamp(max=5))
    wrong.commit(verified, more)
    assert not torch.equal(proposals(right)[:, 1:], proposals(wrong)[:, 1:])
