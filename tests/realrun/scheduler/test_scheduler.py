"""Counts that are known beforehand: verify steps, wasted rows, batches, pools."""

import math
from collections import Counter
from functools import cache
from time import perf_counter
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from real_engine import (  # noqa: E402
    Inline,
    greedy_text,
    inline_worker,
    knowing,
    serve_inline,
    setup,
    target,
)
from tiny_networks import random_ids  # noqa: E402

from dflash_sim.profiles.errors import InfeasibleError  # noqa: E402
from dflash_sim.realrun.job.journal import Run  # noqa: E402
from dflash_sim.realrun.job.messages import Result  # noqa: E402
from dflash_sim.realrun.job.requests import Request  # noqa: E402
from dflash_sim.realrun.job.setup import MODES  # noqa: E402
from dflash_sim.realrun.launch import fit_requests  # noqa: E402
from dflash_sim.realrun.scheduler.pools import Pool  # noqa: E402
from dflash_sim.realrun.scheduler.scheduler import Scheduler, accept_on_host  # noqa: E402
from dflash_sim.realrun.worker.worker import Worker  # noqa: E402


def ask(*lengths: tuple[int, int]) -> tuple[Request, ...]:
    """Requests of given prompt and answer lengths."""
    return tuple(
        Request(prompt=tuple(random_ids(n, seed=i).tolist()), max_new_tokens=m)
        for i, (n, m) in enumerate(lengths)
    )


@cache
def text(request: Request) -> tuple[int, ...]:
    return (*request.prompt, *greedy_text(target(), request))


def told(asked: tuple[Request, ...], *, wrong: float, conc: int = 2, **changes: Any) -> Run:
    """DFlash whose drafts are right but for a share."""
    wrap = knowing([text(r) for r in asked], wrong=wrong)
    return serve_inline(setup("qwen3", "dflash", wrap=wrap, **changes), asked, conc=conc)[0]


ASKED = ask((4, 17), (6, 22), (9, 1), (3, 30))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block", [2, 3, 5])
def test_a_perfect_drafter(mode: str, block: int) -> None:
    """Every verify commits a whole block: ceil((n - 1) / B) of them after the first token."""
    run = told(ASKED, wrong=0.0, mode=mode, block=block)
    for answer, request in zip(run.answers, ASKED, strict=True):
        steps = math.ceil((request.max_new_tokens - 1) / block)
        # Past the text that it was told it knows nothing; only the last verify may stand there.
        assert len(answer.commits) == steps
        assert set(answer.commits[:-1]) <= {block}


@pytest.mark.parametrize("mode", MODES)
def test_an_adversarial_drafter(mode: str) -> None:
    """Every verify commits the bonus alone: as many steps as plain decoding."""
    run = told(ASKED, wrong=1.0, mode=mode)
    for answer, request in zip(run.answers, ASKED, strict=True):
        assert answer.commits == (1,) * (request.max_new_tokens - 1)


def test_overlap_wastes_one_row_per_answer() -> None:
    """A finished request's row runs once more, save where nothing was launched any more.

    The last step of all is of requests that have all ended; it is not in the record.
    """
    for conc in (1, 3):
        run = told(ASKED, wrong=0.3, mode="v2", conc=conc, max_running_requests=3)
        last = max(a.finish_s for a in run.answers)
        at_the_end = sum(a.finish_s == last for a in run.answers)
        assert sum(i.wasted for i in run.iterations) == len(ASKED) - at_the_end
        assert all(i.wasted == 0 for i in told(ASKED, wrong=0.3, mode="v2-sync").iterations)


class Watched(Inline):
    """Workers that keep when each result was taken, and how many results nobody has taken."""

    def __init__(self, executor: Worker) -> None:
        super().__init__(executor)
        self.taken_s: list[float] = []

    def receive(self) -> Result:
        self.taken_s.append(perf_counter())
        return super().receive()


@pytest.mark.parametrize("method", ["none", "dflash", "mtp"])
def test_the_last_step_of_overlap_is_nobodys(method: str) -> None:
    """It is awaited, but counts in no time, and the next run on the same workers sees none of it.

    With delta nets, whose states it moved on in slots that the next run is given.
    """
    made = setup("qwen3_5_text", method, mode="v2")
    asked = ask((4, 12), (9, 7), (6, 12))
    fitted = fit_requests(made, asked, 2)
    workers = Watched(inline_worker(fitted))
    first = Scheduler(fitted, workers, asked, conc=2)
    run = first.run()
    assert not workers.results
    assert first.launched == len(workers.taken_s) == len(run.iterations) + 1
    assert first.begun_s + run.duration_s <= workers.taken_s[-1]
    ended_s = max(i.emit_s for i in run.iterations)
    assert max(i.gpu_end_s for i in run.iterations) <= run.duration_s <= ended_s
    last = first.iterations[-1]
    assert last.index not in {i.index for i in run.iterations}
    assert last.gpu == []

    others = ask((7, 11), (5, 9), (3, 12))
    fresh, _ = serve_inline(made, others, conc=2)
    again = Scheduler(fitted, workers, others, conc=2).run()
    assert not workers.results
    assert [a.output for a in again.answers] == [a.output for a in fresh.answers]
    assert [a.commits for a in again.answers] == [a.commits for a in fresh.answers]
    assert again.iterations[0].index == 0
    assert all(start >= 0 for i in again.iterations for _, start, _ in (*i.host, *i.gpu))


def test_the_lag_of_overlap() -> None:
    """Launch k, then process k-1: results are taken while the next step is on the device."""
    run = told(ASKED, wrong=0.3, mode="v2", conc=2)
    stages = {i.index: {name: (a, b) for name, a, b in i.host} for i in run.iterations}
    for k in range(1, max(stages)):
        assert stages[k]["run_batch"][1] <= stages[k - 1]["process_batch_result"][0]
        assert stages[k - 1]["process_batch_result"][1] <= stages[k + 1]["run_batch"][0]
    run = told(ASKED, wrong=0.3, mode="v2-sync", conc=2)
    stages = {i.index: {name: (a, b) for name, a, b in i.host} for i in run.iterations}
    for k in range(1, max(stages)):
        assert stages[k - 1]["process_batch_result"][1] <= stages[k]["run_batch"][0]


def test_stages_and_phases_have_the_names_of_the_simulated_engine() -> None:
    common = {"recv_requests", "get_next_batch", "process_batch_result", "wait"}
    own = {"v1": {"prepare_draft", "prepare_verify", "accept"}, "v2-sync": {"run_batch"}}
    for mode in MODES:
        run = told(ASKED, wrong=0.3, mode=mode)
        for i in run.decodes:
            assert {name for name, *_ in i.host} == common | own.get(mode, {"run_batch"})
            assert [name for name, *_ in i.gpu if name != "accept"] == [
                "draft", "verify", "materialise",
            ]  # fmt: skip
        lanes = Counter(lane for lane, *_ in run.intervals())
        assert set(lanes) == {"host", "gpu"}
        assert all(0 <= start <= end for _, _, start, end, _ in run.intervals())


def test_prompts_go_first_and_the_batch_never_exceeds_its_slots() -> None:
    asked = ask(*[(5, 9)] * 7)
    run = told(asked, wrong=0.5, mode="v2", conc=7, max_running_requests=3)
    assert run.iterations[0].batch == 3
    assert max(i.batch for i in run.iterations) <= 3
    assert sum(i.tokens for i in run.prefills) == 35


@pytest.mark.parametrize("mode", MODES)
def test_long_prompts_are_cut(mode: str) -> None:
    """No prefill reads more than the limit; every prompt token is read once."""
    asked = ask((30, 6), (7, 6), (19, 6))
    run = told(asked, wrong=0.5, mode=mode, conc=3, chunked_prefill_size=8)
    assert max(i.tokens for i in run.prefills) <= 8
    assert sum(i.tokens for i in run.prefills) == 56
    assert [a.output for a in run.answers] == [text(r)[len(r.prompt) :] for r in asked]


def test_open_loop_requests_wait_for_their_time() -> None:
    later = [Request(prompt=(1, 2, 3), max_new_tokens=4, arrival_s=at) for at in (0.06, 0.0, 0.03)]
    run, _ = serve_inline(setup(), later)
    for answer, request in zip(run.answers, later, strict=True):
        assert answer.arrival_s == request.arrival_s
        assert answer.first_token_s > answer.arrival_s
    assert run.duration_s > 0.06


@settings(max_examples=25)
@given(data=st.data())
def test_pools_are_conserved(data: st.DataObject) -> None:
    """At every moment a page or slot has one owner at most; at the end all are free again."""
    sizes = st.tuples(st.integers(1, 30), st.integers(1, 30))
    asked = ask(*data.draw(st.lists(sizes, min_size=1, max_size=12)))
    made = setup(
        "qwen3",
        "dflash",
        null=True,
        mode=data.draw(st.sampled_from(MODES)),
        kv_tokens=data.draw(st.sampled_from([None, 72, 100])),
        max_running_requests=data.draw(st.integers(1, 6)),
        page_size=data.draw(st.sampled_from([1, 4])),
        chunked_prefill_size=data.draw(st.sampled_from([4, 64])),
    )
    step = Scheduler.get_next_batch_to_run

    def watched(self: Scheduler) -> object:
        batch = step(self)
        batching = self.batching
        alive = [*batching.running, *([batching.chunked_req] if batching.chunked_req else [])]
        held = [page for r in alive if not r.done for page in r.pages]
        slots = [r.slot for r in alive if not r.done]
        assert len(held) == len(set(held)) == batching.pages.size - batching.pages.free
        assert len(slots) == len(set(slots)) == batching.slots.size - batching.slots.free
        assert 0 not in held
        assert 0 not in slots
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "get_next_batch_to_run", watched)
        run, scheduler = serve_inline(made, asked, conc=data.draw(st.integers(1, 8)))
    batching = scheduler.batching
    assert batching.pages.free == batching.pages.size
    assert batching.slots.free == batching.slots.size
    assert batching.promised == 0
    assert [len(a.output) for a in run.answers] == [r.max_new_tokens for r in asked]


def test_a_pool_gives_nothing_twice() -> None:
    pool = Pool(5, "pages")
    first = pool.take(3)
    assert not set(first) & set(pool.take(2))
    with pytest.raises(InfeasibleError, match="1 pages wanted, 0 of 5"):
        pool.take(1)
    pool.give_back(first)
    assert sorted(pool.take(3)) == sorted(first)


def test_the_same_seed_gives_the_same_text() -> None:
    """Sampled, whatever the mode and the batch; another seed gives another."""
    asked = ask((4, 30), (6, 25), (3, 30))

    def sampled(**changes: Any) -> list[tuple[int, ...]]:
        given = {"temperature": 1.5, "seed": 3} | changes
        run, _ = serve_inline(setup("qwen3", "dflash", dtype="float64", **given), asked, conc=3)
        return [a.output for a in run.answers]

    first = sampled()
    assert [sampled(mode=mode) for mode in MODES] == [first] * 3
    assert sampled(max_running_requests=1) == first
    assert sampled(seed=4) != first


def test_synthetic_acceptance_is_one_draw_for_all() -> None:
    """Commit lengths are floor or ceil of the mean, the same for every request of a step."""
    asked = ask((4, 400), (6, 400))
    run, _ = serve_inline(setup("qwen3", "dflash", accept_length=3.24), asked, conc=2)
    first, second = (a.commits for a in run.answers)
    assert first == second
    assert set(first) == {3, 4}
    share = sum(n == 4 for n in first) / len(first)
    assert abs(share - 0.24) < 4 * math.sqrt(0.24 * 0.76 / len(first))


def test_the_hosts_accept_loop_is_the_devices() -> None:
    from dflash_sim.kernels.reference.accept import greedy_accept
    from dflash_sim.realrun.job.messages import Result

    draft, answer = random_ids(50, 6, seed=1, vocab=2), random_ids(50, 6, seed=2, vocab=2)
    want = greedy_accept(draft, answer)
    tokens, lens = accept_on_host(Result(answer.tolist(), [], draft.tolist(), [], 0.0))
    assert lens == want.commit_len.tolist()
    assert tokens == [row[:n].tolist() for row, n in zip(want.tokens, lens, strict=True)]
