"""Delta-net states after refused rows are those of a text that never held them."""

from functools import cache

import pytest

torch = pytest.importorskip("torch", reason="the layers are written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tiny_networks import (  # noqa: E402
    DOUBLE,
    HYBRIDS,
    Drawn,
    Runner,
    random_ids,
    target_spec,
)

from dflash_sim.kernels.models.target import TargetModel  # noqa: E402

COMMITS = st.lists(st.lists(st.integers(1, 5), min_size=2, max_size=2), min_size=1, max_size=3)


@cache
def model(family: str) -> TargetModel:
    return TargetModel(target_spec(family), Drawn(family), DOUBLE, tokens=64)


def fresh(family: str, requests: int = 2) -> Runner:
    return Runner(model(family), DOUBLE, requests=requests)


@pytest.mark.parametrize("family", HYBRIDS)
@settings(max_examples=6)
@given(commits=COMMITS)
def test_a_refused_row_is_as_if_never_read(family: str, commits: list[list[int]]) -> None:
    runner = fresh(family)
    texts = list(random_ids(2, 7))
    runner.extend(torch.stack(texts))
    for cycle, lens in enumerate(commits):
        draft = random_ids(2, 5, seed=cycle + 1)
        runner.verify(draft, torch.tensor(lens))
        texts = [torch.cat([text, draft[r, : lens[r]]]) for r, text in enumerate(texts)]
    last = random_ids(2, 1, seed=99)
    got = runner.run(last)
    for r, text in enumerate(texts):
        whole = torch.cat([text, last[r]])[None]
        want = fresh(family, requests=1).run(whole)
        assert torch.allclose(got[r, 0], want[0, -1], atol=1e-9)
        states, redone = runner.cache.gdn, fresh(family, requests=1)
        redone.extend(whole)
        assert states is not None
        assert redone.cache.gdn is not None
        ours, theirs = runner.state_slots[r], redone.state_slots[0]
        assert torch.allclose(states.ssm[:, ours], redone.cache.gdn.ssm[:, theirs], atol=1e-9)
        assert torch.allclose(states.conv[:, ours], redone.cache.gdn.conv[:, theirs], atol=1e-9)


@pytest.mark.parametrize("family", HYBRIDS)
def test_without_rollback_the_answer_is_another(family: str) -> None:
    """The negative control: states that moved past refused rows are seen."""
    right, wrong = fresh(family), fresh(family)
    text, draft, last = random_ids(2, 7), random_ids(2, 5, seed=1), random_ids(2, 1, seed=2)
    right.extend(text)
    wrong.extend(text)
    kept = torch.tensor([2, 1])
    right.verify(draft, kept)
    wrong.run(draft)  # states move past all five rows
    wrong.lens = wrong.lens + kept
    assert (right.run(last) - wrong.run(last)).abs().max() > 1e-3


def test_verify_moves_no_live_state_and_a_reset_forgets() -> None:
    runner = fresh("qwen3_5_text")
    runner.extend(random_ids(2, 7))
    states = runner.cache.gdn
    assert states is not None
    before = states.ssm.clone(), states.conv.clone()
    runner.run(random_ids(2, 5), keep_states=True)
    assert torch.equal(states.ssm, before[0])
    assert torch.equal(states.conv, before[1])
    states.reset(runner.state_slots[:1])
    assert not states.ssm[:, runner.state_slots[0]].any()
    assert torch.equal(states.ssm[:, runner.state_slots[1]], before[0][:, runner.state_slots[1]])
