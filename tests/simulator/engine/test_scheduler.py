"""SGLang's batch policy, rule by rule, and KV memory that runs out."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SyntheticStep, System, closed, crowded, limits

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.engine.events import EventEngine
from dflash_sim.simulator.engine.leap import refusal
from dflash_sim.simulator.engine.records import PREFILL, Run
from dflash_sim.simulator.engine.scheduler import Req, Scheduler
from dflash_sim.simulator.requests.laws import FixedAcceptance, SglangSimulated
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

STEP = SyntheticStep(fixed_s=4e-3, prefill_per_token_s=1e-5)


def req(rid: int, isl: int = 10, *, osl: int = 50, cached: int = 0, generated: int = 0) -> Req:
    r = Req(rid, isl=isl, osl=osl, cached=cached, commits=[])
    r.generated = generated
    return r


def scheduler(waiting: list[Req], running: list[Req] | None = None, **changed: Any) -> Scheduler:
    s = Scheduler(limits(**changed))
    s.waiting.extend(waiting)
    s.running = list(running or [])
    return s


def prefilled(s: Scheduler) -> list[int] | None:
    """Ids of the next prefill batch, merged as the engines do."""
    batch = s.get_new_batch_prefill()
    if batch is None:
        return None
    s.merge(batch)
    return [r.rid for r in batch.reqs]


# ---- admission ---------------------------------------------------------------------------


def test_batch_is_full_until_the_batch_shrinks() -> None:
    """A freed slot that nobody reported is not looked for: the bit decides."""
    one, two = req(0), req(1)
    s = scheduler([req(2)], [one, two], max_running_requests=2)
    assert prefilled(s) is None
    assert s.batch_is_full
    s.filter_finished()
    assert prefilled(s) is None
    one.done = True
    assert prefilled(s) is None  # finished, but the running batch has not been filtered
    s.filter_finished()
    assert not s.batch_is_full
    assert prefilled(s) == [2]


def test_batch_is_not_full_while_nobody_waits() -> None:
    s = scheduler([], [req(0)], max_running_requests=1)
    assert prefilled(s) is None
    assert not s.batch_is_full


def test_no_more_than_the_free_slots_are_admitted_in_order() -> None:
    s = scheduler([req(i) for i in range(5)], [req(9)], max_running_requests=4)
    assert prefilled(s) == [0, 1, 2]
    assert [r.rid for r in s.waiting] == [3, 4]


def test_prompt_budget() -> None:
    """``max_prefill_tokens`` holds back a second prompt, never the first."""
    lengths = [300, 40, 60, 39, 40, 30]
    s = scheduler([req(i, n) for i, n in enumerate(lengths)], max_prefill_tokens=100)
    assert [prefilled(s) for _ in range(4)] == [[0], [1], [2, 3], [4, 5]]
    pages = [req(i, 33) for i in range(4)]
    s = scheduler(pages, max_prefill_tokens=192, page_size=64)  # three pages, the last not filled
    assert prefilled(s) == [0, 1]


def test_chunks_are_page_aligned_and_come_first() -> None:
    waiting = [req(0, 30), req(1, 100), req(2, 5)]
    s = scheduler(waiting, chunked_prefill_size=64, page_size=16)
    batches = [s.get_new_batch_prefill() for _ in range(2)]
    first, second = batches
    assert first is not None
    assert second is not None
    assert [r.rid for r in first.reqs] == [0, 1]
    assert first.tokens == 30 + 32  # the second prompt gets the two whole pages that are left
    assert first.chunked is waiting[1]
    assert [r.rid for r in second.reqs] == [1]
    assert (second.tokens, second.prefix, second.chunked) == (64, 32, waiting[1])
    third = s.get_new_batch_prefill()
    assert third is not None
    assert [r.rid for r in third.reqs] == [1, 2]
    assert (third.tokens, third.chunked) == (4 + 5, None)
    assert third.prefix == (96 + 0) / 2


def test_a_chunk_in_progress_ignores_the_full_bit_and_the_delay() -> None:
    s = scheduler(
        [req(0, 100)], chunked_prefill_size=50, max_running_requests=2, min_free_slots_delay=2
    )
    batch = s.get_new_batch_prefill()
    assert batch is not None
    s.merge(batch)
    assert s.running == []
    s.running, s.batch_is_full = [req(1)], True
    assert prefilled(s) == [0]


def test_cached_tokens_are_not_computed() -> None:
    s = scheduler([req(0, 100, cached=64), req(1, 100)])
    batch = s.get_new_batch_prefill()
    assert batch is not None
    assert (batch.tokens, batch.prefix) == (36 + 100, 32)


def test_the_longest_cached_prefix_goes_first_if_asked_for() -> None:
    """Of equal prefixes the oldest; and of more than SGLang sorts, the oldest of all."""
    waiting = [req(0, 100), req(1, 100, cached=32), req(2, 100, cached=64), req(3, 100, cached=32)]
    assert prefilled(scheduler(list(waiting), sorted_up_to=4)) == [2, 1, 3, 0]
    assert prefilled(scheduler(list(waiting))) == [0, 1, 2, 3]
    assert prefilled(scheduler(list(waiting), sorted_up_to=3)) == [0, 1, 2, 3]


def test_a_loop_looks_for_requests_once_an_interval() -> None:
    """Decode loops count; a prefill before, or an idle server, looks at once."""
    s = scheduler([], recv_interval=3)
    assert [s.polls(prefilled=False) for _ in range(7)] == [False, False, True] * 2 + [False]
    assert [s.polls(prefilled=True), s.polls(prefilled=False)] == [True, False]
    s.idle()
    assert [s.polls(prefilled=False) for _ in range(3)] == [True, False, False]
    assert all(scheduler([]).polls(prefilled=False) for _ in range(5))


@given(st.integers(1, 9), st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_loops_that_are_leapt_over_count(interval: int, leaps: list[int]) -> None:
    """A leap of n loops leaves the count as n loops do, one by one."""
    one, other = (scheduler([], recv_interval=interval) for _ in range(2))
    for n in leaps:
        assert one.polls(prefilled=False) == other.polls(prefilled=False)
        until = one.loops_until_poll
        looked = [one.polls(prefilled=False) for _ in range(n - 1)]
        other.pass_loops(n - 1)
        assert one.loops_deaf == other.loops_deaf
        assert True not in looked[: until - 1]
        assert len(looked) < until or looked[until - 1]


@pytest.mark.parametrize(("said", "init"), [(1.0, 0.7), (0.3, 0.21), (2.0, 1.0)])
def test_conservativeness_scales_what_is_kept_free(said: float, init: float) -> None:
    fields = {"model": "qwen3-8b", "gpu": "h200", "tp": 1, "method": "none"}
    found = resolve(Scenario.parse(**fields, schedule_conservativeness=said)).limits
    assert found.new_token_ratio_init == pytest.approx(init)
    assert found.new_token_ratio_min == pytest.approx(0.14 * init)
    assert found.new_token_ratio_decay == pytest.approx(0.86 * init / 600)


def test_flags_of_the_scheduler_are_its_limits() -> None:
    fields = {"model": "qwen3-8b", "gpu": "h200", "tp": 1, "method": "none"}
    flags = {"max_prefill_tokens": 500, "scheduler_recv_interval": 30, "schedule_policy": "lpm"}
    setup = resolve(Scenario.parse(**fields, **flags))
    found = setup.limits
    assert (found.max_prefill_tokens, found.recv_interval) == (500, 30)
    assert found.sorted_up_to == 128
    e = setup.engine
    each_s = e["recv_requests"] * e["time_factor"] * e["host_factor"]
    assert setup.host.recv_s == pytest.approx(each_s / 30)
    no_cache = resolve(Scenario.parse(**fields, schedule_policy="lpm", radix_cache=False))
    assert no_cache.limits.sorted_up_to == 0


def test_free_slots_are_held_back_only_while_others_run() -> None:
    s = scheduler([req(1)], [req(0)], max_running_requests=3, min_free_slots_delay=3)
    assert prefilled(s) is None
    assert not s.batch_is_full
    s.running = []
    assert prefilled(s) == [1]


# ---- KV memory ---------------------------------------------------------------------------


def tight(**changed: Any) -> dict[str, Any]:
    return {"kv_tight": True, "max_new_tokens": 100, "clip_max_new_tokens": 100} | changed


def test_admission_counts_what_runners_may_still_take() -> None:
    """400 slots: the runner holds 41 and is expected to take 0.7 of the 80 it may; 303 are left."""
    runner = req(0, 20, generated=20)
    assert prefilled(scheduler([req(1, 201)], [runner], **tight(kv_tokens=400))) == [1]
    s = scheduler([req(1, 203)], [runner], **tight(kv_tokens=400))
    assert prefilled(s) is None
    assert s.batch_is_full


def test_a_retracted_request_asks_for_what_it_has_not_generated() -> None:
    """Its 60 tokens are in the prompt now; it may generate 40 more, and 203 slots are too many."""
    runner, back = req(0, 20, generated=20), req(1, 201 - 60, generated=60)
    back.prompt = back.isl + back.generated
    assert prefilled(scheduler([back], [runner], **tight(kv_tokens=345))) == [1]
    assert prefilled(scheduler([req(2, 201)], [runner], **tight(kv_tokens=345))) is None


def test_a_prompt_in_chunks_holds_what_is_computed() -> None:
    s = scheduler([req(0, 150), req(1, 100)], **tight(kv_tokens=400, chunked_prefill_size=120))
    for expected in ([0], [0]):  # 120 + 30 computed: 250 left, less 100 that it may generate
        assert prefilled(s) == expected
    assert s.batch_is_full
    roomy = scheduler([req(0, 150), req(1, 100)], **tight(kv_tokens=500, chunked_prefill_size=120))
    assert [prefilled(roomy) for _ in range(2)] == [[0], [0, 1]]


def test_a_lone_request_is_always_admitted() -> None:
    assert prefilled(scheduler([req(0, 500)], **tight(kv_tokens=400))) == [0]


@pytest.mark.parametrize(("speculative", "victims"), [(True, [3, 2]), (False, [1, 2])])
def test_who_is_retracted(speculative: bool, victims: list[int]) -> None:
    """With speculation the newest go; without, the least generated, then the longest prompt."""
    runners = [req(0, 90, generated=30), req(1, 90, generated=5)]
    runners += [req(2, 80, generated=5), req(3, 90, generated=40)]
    s = scheduler([req(4)], runners, **tight(kv_tokens=255, speculative=speculative, block=4))
    assert [r.rid for r in s.check_decode_mem()] == victims
    assert [r.rid for r in s.waiting] == [4, *victims]
    assert s.retractions == 2
    left = [r for r in runners if r.rid not in victims]
    made = sum(r.generated for r in left)
    assert s.new_token_ratio == pytest.approx((made + 2 * 20) / (2 * 100))
    for r in runners:
        if r.rid in victims:
            assert (r.prompt, r.chunk_done, r.cached) == (r.isl + r.generated, 0, 0)


def test_new_token_ratio_decays_to_its_floor() -> None:
    s = scheduler([], [req(0)], **tight())
    for _ in range(10):
        s.check_decode_mem()
    assert s.new_token_ratio == pytest.approx(0.7 - 10 * 0.001)
    for _ in range(700):
        s.check_decode_mem()
    assert s.new_token_ratio == 0.098


@pytest.mark.parametrize(("speculative", "ahead"), [(True, 2 * 8), (False, 2)])
def test_reservation_is_two_blocks_ahead_of_what_the_host_knows(
    speculative: bool, ahead: int
) -> None:
    s = Scheduler(limits(block=8 if speculative else 1, speculative=speculative, page_size=16))
    assert s._reserved(req(0, 100, generated=0)) == -(-(100 + ahead) // 16) * 16
    assert s._reserved(req(0, 100, generated=41)) == -(-(140 + ahead) // 16) * 16


class Watched(Scheduler):
    """Checks the KV accounting whenever a decode batch is formed."""

    victims: Counter[int]
    peak = 0

    def check_decode_mem(self) -> list[Req]:
        out = super().check_decode_mem()
        held = sum(self._reserved(r) for r in self.running)
        assert held <= self.limits.kv_tokens or len(self.running) == 1
        assert self.running
        self.victims.update(r.rid for r in out)
        self.peak = max(self.peak, held)
        return out


def run_watched(system: System) -> tuple[Run, Watched]:
    engine = system.engine()
    watched = Watched(system.limits)
    watched.victims = Counter()
    engine.scheduler = watched
    return engine.run(), watched


@settings(max_examples=100)
@given(crowded())
def test_requests_survive_a_kv_cache_that_runs_out(system: System) -> None:
    run, watched = run_watched(system)
    work = system.workload
    assert np.isfinite(run.finish_s).all()
    assert run.retractions == watched.victims.total()
    prefill = run.kind == PREFILL
    extra = run.kv_tokens[prefill].sum() - work.isl.sum()
    assert (extra > 0) == (run.retractions > 0)
    # A retracted request samples one token from each prefill it needs again.
    prefills = 1 + np.array([watched.victims[i] for i in range(len(work))])
    overshoot = run.committed - (work.osl - prefills)
    assert (overshoot[run.cycles > 0] >= 0).all()
    assert (overshoot < system.limits.block).all()
    assert (run.gpu_start_s[1:] >= run.gpu_end_s[:-1]).all()


def test_the_crowd_is_tight_enough() -> None:
    """Requests that arrive one by one are admitted on hope, and retracted, in every mode."""
    osl, isl = np.full(8, 80), np.full(8, 20)
    for mode in ("v1", "v2-sync", "v2"):
        for commit, block in ((2, 4), (1, 1)):
            run, watched = run_watched(
                System.of(
                    replace(closed(osl, conc=8), isl=isl, arrival_s=np.arange(8) * STEP.fixed_s),
                    STEP,
                    acceptance=FixedAcceptance(commit, block) if block > 1 else None,
                    mode=mode,
                    kv_tight=True,
                    kv_tokens=260,
                    max_new_tokens=80,
                    clip_max_new_tokens=80,
                    new_token_ratio_init=0.1,
                    new_token_ratio_min=0.05,
                )
            )
            assert run.retractions >= 2
            assert 250 < watched.peak <= 260


@settings(max_examples=30)
@given(crowded())
def test_ample_memory_changes_nothing(system: System) -> None:
    """KV accounting with room to spare is no accounting at all."""
    ample = replace(system.limits, kv_tokens=10**6)
    one = system.but(limits=ample).event()
    other = system.but(limits=replace(ample, kv_tight=False)).event()
    assert one.retractions == 0
    np.testing.assert_array_equal(one.finish_s, other.finish_s)


def test_leap_refuses_what_it_cannot_run() -> None:
    work = closed([5, 5], conc=2)
    plain = System.of(work, STEP)
    assert refusal(plain.draws) is None
    shared = System.of(work, STEP, acceptance=SglangSimulated(2.5, 4))
    assert "batch step" in str(refusal(shared.draws))


def test_one_commit_for_the_whole_batch() -> None:
    """SGLang's synthetic acceptance: equal requests that start together end together."""
    work = closed(np.full(8, 60), conc=4)
    run = System.of(work, STEP, acceptance=SglangSimulated(2.5, 4), mode="v2-sync", seed=4).event()
    assert len(np.unique(run.finish_s)) == 2
    assert len(np.unique(run.cycles)) <= 2
    assert (run.committed >= 59).all()


def test_a_chunk_smaller_than_a_page_is_refused() -> None:
    """No prompt would ever be prefilled."""
    with pytest.raises(UsageError, match=r"chunked_prefill_size 96 .* 64-token KV page"):
        resolve(Scenario.parse(gpu="b200", chunked_prefill_size=96))


class SharedDraw(EventEngine):
    """Checks that the rows of a step commit what the step drew."""

    def _advance(self, reqs: tuple[Req, ...]) -> int:
        step = self.decode_steps
        cached = super()._advance(reqs)
        assert {r.commits[r.launched - 1] for r in reqs} == {self.draws.commits[0, step]}
        return cached


@pytest.mark.parametrize("mode", ["v2", "v2-sync"])
def test_one_commit_for_the_whole_batch_also_after_retraction(mode: str) -> None:
    system = System.of(
        replace(closed(np.full(8, 80), conc=8), arrival_s=np.arange(8) * STEP.fixed_s),
        STEP,
        acceptance=SglangSimulated(2.5, 4),
        mode=mode,
        kv_tight=True,
        kv_tokens=230,
        max_new_tokens=80,
        new_token_ratio_init=0.1,
        new_token_ratio_min=0.05,
    )
    run = SharedDraw(**system.parts).run()
    assert run.retractions > 0
    assert np.isfinite(run.finish_s).all()
