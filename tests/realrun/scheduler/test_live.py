"""The scheduler stepped by requests: the same answers, nothing lost, and all is given back."""

import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from real_engine import BLOCK, Inline, greedy_text, inline_worker, setup, target  # noqa: E402
from tiny_networks import random_ids  # noqa: E402

from dflash_sim.realrun.job.faults import WorkerLostError  # noqa: E402
from dflash_sim.realrun.job.requests import Request  # noqa: E402
from dflash_sim.realrun.job.setup import Fitted, fit  # noqa: E402
from dflash_sim.realrun.scheduler.live import Call, LiveScheduler, News  # noqa: E402

LONGEST = 60
PROMPTS = [tuple(random_ids(1, n, seed=n)[0].tolist()) for n in (3, 9, 17, 5, 30, 8)]


class Listener:
    """What is told, by call; waits until all have ended."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.said: dict[Call, list[int]] = {call: [] for call in calls}
        self.ended: dict[Call, str] = {}
        self.commits: dict[Call, int] = dict.fromkeys(calls, 0)
        self.news = threading.Condition()

    def __call__(self, news: Sequence[News]) -> None:
        with self.news:
            for new in news:
                self.said[new.call] += new.tokens
                self.commits[new.call] += new.commit
                if new.ended:
                    assert new.call not in self.ended
                    self.ended[new.call] = new.ended
            self.news.notify_all()

    def wait(self, done: Any) -> None:
        with self.news:
            assert self.news.wait_for(done, timeout=60)


def fitted(method: str = "dflash", **changes: Any) -> Fitted:
    return fit(setup(method=method, **changes), longest_text=LONGEST)


def started(made: Fitted, told: Listener) -> tuple[LiveScheduler, threading.Thread]:
    scheduler = LiveScheduler(made, Inline(inline_worker(made)), told)
    thread = threading.Thread(target=scheduler.work)
    thread.start()
    return scheduler, thread


def all_is_given_back(scheduler: LiveScheduler) -> bool:
    batching = scheduler.batching
    pools = (batching.pages, batching.slots)
    return batching.promised == 0 and all(pool.free == pool.size for pool in pools)


@pytest.mark.parametrize("method", ["none", "dflash"])
@pytest.mark.parametrize("mode", ["v1", "v2-sync", "v2"])
def test_answers_are_those_of_the_target_alone(mode: str, method: str) -> None:
    asked = [Request(prompt=p, max_new_tokens=6 + i) for i, p in enumerate(PROMPTS)]
    calls = [Call(request) for request in asked]
    told = Listener(calls)
    scheduler, thread = started(fitted(method, mode=mode, chunked_prefill_size=16), told)
    for call in calls:
        scheduler.submit(call)
    told.wait(lambda: len(told.ended) == len(calls))
    scheduler.stop()
    thread.join(30)
    assert [tuple(told.said[call]) for call in calls] == [greedy_text(target(), r) for r in asked]
    assert set(told.ended.values()) == {"length"}
    assert all_is_given_back(scheduler)
    counted = scheduler.counted
    assert counted.finished == len(asked)
    assert counted.generated_tokens == sum(r.max_new_tokens for r in asked)
    assert counted.prompt_tokens == sum(map(len, PROMPTS))
    if method == "dflash":
        commits = sum(told.commits.values())
        assert commits == counted.accepted + counted.verifies
        assert counted.drafted == (BLOCK - 1) * counted.verifies


def test_an_answer_ends_at_its_stop_token() -> None:
    said = greedy_text(target(), Request(prompt=PROMPTS[1], max_new_tokens=12))
    stop = said[5]
    call = Call(Request(prompt=PROMPTS[1], max_new_tokens=12, stop=frozenset([stop])))
    told = Listener([call])
    scheduler, thread = started(fitted(), told)
    scheduler.submit(call)
    told.wait(lambda: bool(told.ended))
    scheduler.stop()
    thread.join(30)
    assert told.said[call] == list(said[: said.index(stop) + 1])
    assert told.ended[call] == "stop"


@pytest.mark.parametrize("mode", ["v1", "v2-sync", "v2"])
def test_requests_that_are_taken_back_leave_nothing_and_disturb_nobody(mode: str) -> None:
    draw = random.Random(3)
    asked = [Request(prompt=draw.choice(PROMPTS), max_new_tokens=20) for _ in range(24)]
    calls = [Call(request) for request in asked]
    dropped = set(draw.sample(calls, 12))
    told = Listener(calls)
    # Fewer slots than requests, and prompts in parts: some wait, some are read, some are written.
    scheduler, thread = started(fitted(mode=mode, chunked_prefill_size=16), told)
    for call in calls:
        scheduler.submit(call)
        if call in dropped and draw.random() < 0.3:
            scheduler.abort(call)  # before it was seen
    for call in draw.sample(sorted(dropped, key=calls.index), len(dropped)):
        told.wait(lambda: len(told.ended) >= draw.randrange(4))
        scheduler.abort(call)
        scheduler.abort(call)  # once more says nothing new
    kept = [call for call in calls if call not in dropped]
    told.wait(lambda: all(call in told.ended for call in kept))
    scheduler.stop()
    thread.join(30)
    for call in kept:
        assert tuple(told.said[call]) == greedy_text(target(), call.request)
    assert all_is_given_back(scheduler)
    counted = scheduler.counted
    assert counted.finished + counted.aborted == len(calls)
    assert counted.aborted > 0


def test_what_is_over_is_forgotten() -> None:
    calls = [Call(Request(prompt=PROMPTS[0], max_new_tokens=9)) for _ in range(30)]
    told = Listener(calls)
    scheduler, thread = started(fitted(), told)
    for call in calls:
        scheduler.submit(call)
    told.wait(lambda: len(told.ended) == len(calls))
    scheduler.stop()
    thread.join(30)
    assert scheduler.counted.iterations > 64
    assert len(scheduler.iterations) <= 64
    assert not scheduler.answers
    assert not scheduler._calls


def test_a_lost_worker_is_told_to_whoever_runs_the_thread() -> None:
    class Gone(Inline):
        def receive(self) -> Any:
            msg = "rank 0: it is gone"
            raise WorkerLostError(msg)

    made = fitted()
    scheduler = LiveScheduler(made, Gone(inline_worker(made)), print)
    scheduler.submit(Call(Request(prompt=PROMPTS[0], max_new_tokens=4)))
    with pytest.raises(WorkerLostError, match="it is gone"):
        scheduler.work()
