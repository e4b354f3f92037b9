"""Processes, one per rank, over gloo: the same tokens as one rank's."""

import math
import os
from functools import cache
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from real_engine import greedy_text, knowing, setup, target  # noqa: E402
from tiny_networks import random_ids  # noqa: E402

from dflash_sim.realrun.job.journal import Answer, Run  # noqa: E402
from dflash_sim.realrun.job.requests import Request  # noqa: E402
from dflash_sim.realrun.launch import serve  # noqa: E402
from dflash_sim.realrun.worker.cores import apart  # noqa: E402

HYBRID = "qwen3_5_moe_text"
ASKED = tuple(
    Request(prompt=tuple(random_ids(n, seed=n).tolist()), max_new_tokens=m, stop=frozenset({0, 1}))
    for n, m in ((5, 12), (11, 9), (2, 14))
)


@cache
def answers() -> tuple[tuple[int, ...], ...]:
    return tuple(greedy_text(target(HYBRID), r) for r in ASKED)


def ran(method: str, **changes: Any) -> Run:
    """Requests through worker processes, drafts mostly right."""
    texts = [(*r.prompt, *a) for r, a in zip(ASKED, answers(), strict=True)]
    made = setup(HYBRID, method, wrap=knowing(texts, wrong=0.2), **changes)
    return serve(made, ASKED, conc=2)


@pytest.mark.parametrize("tp", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("method", "mode"), [("none", "v2"), ("mtp", "v1"), ("eagle3", "v2"), ("dflash", "v2-sync")]
)
def test_every_number_of_ranks_says_the_same(method: str, mode: str, tp: int) -> None:
    """A hybrid model with experts, float32; heads are cut, two key-value heads copied."""
    run = ran(method, mode=mode, tp=tp)
    assert tuple(a.output for a in run.answers) == answers()
    if method != "none":
        assert run.accept_length > 1.5
    assert all((i.comm_s > 0) == (tp > 1) for i in run.iterations)


def test_sums_in_place_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of nccl on GPUs, asked of gloo: two numbers add to the same in any order."""
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")  # forked ranks see it
    run = ran("dflash", mode="v2", tp=2)
    assert tuple(a.output for a in run.answers) == answers()
    assert all(math.isnan(i.comm_s) for i in run.iterations)  # the host only launches them


@pytest.mark.slow
def test_eight_ranks() -> None:
    """More ranks than cores, and four times as many as key-value heads."""
    for method, mode in (("dflash", "v2"), ("mtp", "v1")):
        run = ran(method, mode=mode, tp=8)
        assert tuple(a.output for a in run.answers) == answers()
        assert run.accept_length > 1.5


def test_sampled_text_does_not_depend_on_the_ranks() -> None:
    """Every rank draws the same numbers, so none of them leaves the others."""
    asked = ASKED[:2]

    def sampled(tp: int) -> list[tuple[int, ...]]:
        made = setup("qwen3", "dflash", dtype="float64", temperature=1.0, seed=5, tp=tp)
        return [a.output for a in serve(made, asked, conc=2).answers]

    assert sampled(2) == sampled(1)


def test_scheduler_and_workers_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a core to spare; the caller is then where it was before."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 7})
    assert apart(2) == ({2}, {3, 7})
    assert apart(3) is None
    monkeypatch.undo()
    everywhere = os.sched_getaffinity(0)
    during: list[set[int]] = []
    serve(setup(), ASKED, conc=1, on_answer=lambda _: during.append(os.sched_getaffinity(0)))
    expected = apart(1)
    assert set(map(frozenset, during)) == {frozenset(expected[0] if expected else everywhere)}
    assert os.sched_getaffinity(0) == everywhere


def test_answers_are_told_as_they_come() -> None:
    heard: list[Answer] = []
    run = serve(setup(), ASKED, conc=1, on_answer=heard.append)
    assert sorted(heard, key=lambda a: a.rid) == list(run.answers)
    assert [a.rid for a in heard] == [0, 1, 2]
