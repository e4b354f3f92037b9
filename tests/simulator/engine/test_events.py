"""The event engine keeps the laws of its stages, of its batches, and of conservation."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import NO_HOST, SyntheticStep, System, closed, hosts, systems

from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.engine.records import DECODE, PREFILL, Run
from dflash_sim.simulator.requests.laws import Acceptance, FixedAcceptance, ParametricAcceptance
from dflash_sim.simulator.requests.survival import FrailtyWeibull

FLAT = SyntheticStep(fixed_s=4e-3)
TIMES = st.floats(1e-4, 1e-2)
SMALL = systems(longest=40)


def period_s(
    gpu_s: float,
    host: HostTime,
    mode: str,
    *,
    batch: int = 3,
    acceptance: Acceptance | None = None,
    host_length_sync: bool = False,
    draft_share: float = 0.2,
    tail_share: float = 0.1,
) -> float:
    """Seconds between results of an unchanging batch, after the pipeline has filled."""
    step = SyntheticStep(fixed_s=gpu_s, draft_share=draft_share, tail_share=tail_share)
    run = System.of(
        closed(np.full(batch, 1001), conc=batch),
        step,
        acceptance=acceptance or FixedAcceptance(4, 4),
        host=host,
        mode=mode,
        host_length_sync=host_length_sync,
    ).event()
    emit = run.emit_s[run.kind == DECODE]
    return float(emit[240] - emit[140]) / 100


# ---- the period of a cycle ---------------------------------------------------------------


@settings(max_examples=25)
@given(gpu_s=TIMES, host=hosts(1e-3), batch=st.integers(1, 8))
def test_v1_is_the_sum_of_host_and_gpu(gpu_s: float, host: HostTime, batch: int) -> None:
    h = host
    chain = h.recv_s + h.schedule_s + h.process_s + h.prepare_draft_s + h.prepare_verify_s
    chain += h.syncs_s + h.accept_s
    chain += batch * (h.schedule_per_request_s + h.process_per_request_s + h.accept_per_request_s)
    assert period_s(gpu_s, h, "v1", batch=batch) == pytest.approx(chain + gpu_s, rel=1e-9)


@settings(max_examples=25)
@given(gpu_s=TIMES, host=hosts(1e-3), batch=st.integers(1, 8))
def test_v2_without_overlap_hides_its_launches_only(
    gpu_s: float, host: HostTime, batch: int
) -> None:
    h = host
    chain = h.recv_s + h.get_next_batch(batch) + h.first_launch_s + h.d2h_s + h.process(batch)
    expected = chain + max(gpu_s, h.rest_launch_s)
    assert period_s(gpu_s, h, "v2-sync", batch=batch) == pytest.approx(expected, rel=1e-9)


def host_loop_s(h: HostTime, batch: int) -> float:
    launch = h.first_launch_s + h.rest_launch_s
    return h.recv_s + h.get_next_batch(batch) + launch + h.process(batch)


@settings(max_examples=25)
@given(gpu_s=TIMES, host=hosts(3e-3), batch=st.integers(1, 8))
def test_v2_takes_the_longer_of_host_and_gpu(gpu_s: float, host: HostTime, batch: int) -> None:
    """Exactly ``max(gpu, host loop)``, while the copy hides behind the launches."""
    loop_s = host_loop_s(host, batch)
    assume(abs(gpu_s - loop_s) > 0.01 * loop_s)  # nearer, the first steps' lead is used up slowly
    copy_s = min(host.d2h_s, host.rest_launch_s)
    measured = period_s(gpu_s, replace(host, d2h_s=copy_s), "v2", batch=batch)
    assert measured == pytest.approx(max(gpu_s, loop_s), rel=1e-9)


@settings(max_examples=25)
@given(gpu_s=TIMES, host=hosts(3e-3), batch=st.integers(1, 8))
def test_v2_period_is_the_critical_circuit(gpu_s: float, host: HostTime, batch: int) -> None:
    """The largest mean over circuits of the max-plus system, whatever the stages are."""
    loop_s, copy_s = host_loop_s(host, batch), host.d2h_s
    circuits = [
        gpu_s,
        loop_s,
        copy_s,
        (loop_s - host.rest_launch_s + gpu_s + copy_s) / 2,  # enqueue, run, copy, process
        (loop_s + copy_s) / 2,  # the last launch ends the step
    ]
    first, second = sorted(circuits)[:-3:-1]
    assume(first == second or first > 1.01 * second)
    assert period_s(gpu_s, host, "v2", batch=batch) == pytest.approx(max(circuits), rel=1e-9)


@settings(max_examples=25)
@given(gpu_s=st.floats(8e-3, 2e-2), host=hosts(1e-3), tail_share=st.floats(0.0, 0.3))
def test_host_lengths_expose_a_copy_and_a_launch(
    gpu_s: float, host: HostTime, tail_share: float
) -> None:
    """``g_pre + max(g_tail, c + l0)`` when the rest of the host loop fits beside ``g_pre``."""
    tail_s = tail_share * gpu_s
    expected = gpu_s - tail_s + max(tail_s, host.d2h_s + host.first_launch_s)
    assume(host_loop_s(host, 3) < gpu_s - tail_s)
    measured = period_s(gpu_s, host, "v2", host_length_sync=True, tail_share=tail_share)
    assert measured == pytest.approx(expected, rel=1e-9)
    assert period_s(gpu_s, host, "v2", tail_share=tail_share) <= measured * (1 + 1e-12)


@settings(max_examples=25)
@given(gpu_s=TIMES, host=hosts(2e-3))
def test_overlap_never_hurts_a_cycle(gpu_s: float, host: HostTime) -> None:
    """``max(host, gpu) <= V2 <= V2-sync``, and ``<= V1`` where V1 does at least the same work."""
    copy_s = min(host.d2h_s, host.rest_launch_s)
    host = replace(host, d2h_s=copy_s)
    v1, sync, v2 = (period_s(gpu_s, host, mode) for mode in ("v1", "v2-sync", "v2"))
    more = 1 + 1e-12
    assert max(gpu_s, host_loop_s(host, 3)) <= v2 * more
    assert v2 <= sync * more
    worker = host.prepare_draft_s + host.prepare_verify_s + host.v1_accept(3)
    if worker >= host.first_launch_s + host.rest_launch_s + copy_s:
        assert sync <= v1 * more


@pytest.mark.parametrize(
    ("conc", "accept_length", "v1_tok_s", "v2_tok_s", "hidden_s"),
    [(1, 6.35, 845.98, 1161.88, 2.0e-3), (32, 6.48, 11405.85, 15326.81, 4.7e-3)],
)
def test_published_gain_of_overlap(
    conc: int, accept_length: float, v1_tok_s: float, v2_tok_s: float, hidden_s: float
) -> None:
    """SGLang PR 23000 (Qwen3-8B, B200): the V1 cycle less its host time predicts V2 within 5 %."""
    v1_cycle_s, v2_cycle_s = (conc * accept_length / x for x in (v1_tok_s, v2_tok_s))
    spread = dict.fromkeys(("recv_s", "schedule_s", "prepare_draft_s", "accept_s"), hidden_s / 4)
    host = replace(NO_HOST, **spread)
    gpu_s = v1_cycle_s - hidden_s
    assert period_s(gpu_s, host, "v1", batch=conc) == pytest.approx(v1_cycle_s, rel=1e-9)
    assert period_s(gpu_s, host, "v2", batch=conc) == pytest.approx(v2_cycle_s, rel=0.05)
    assert v1_cycle_s > 1.3 * v2_cycle_s


@pytest.mark.parametrize(("conc", "removed_s"), [(1, 2.0e-3), (32, 4.7e-3)])
def test_the_sheets_host_times_are_what_overlap_removed(conc: int, removed_s: float) -> None:
    """The same pull request: V1's host chain and eager kernels against V1 less V2, within 20 %."""
    sheet = load_engine("sglang-0.5.14")
    host = HostTime.from_sheet(sheet)
    gpu_s = 12e-3
    v1_s = period_s(gpu_s, host, "v1", batch=conc) + sheet["v1_eager_extra"]
    assert v1_s - period_s(gpu_s, host, "v2", batch=conc) == pytest.approx(removed_s, rel=0.2)


@settings(max_examples=25)
@given(gpu_s=TIMES, host=hosts(3e-3), launches_s=st.floats(0.0, 5e-2))
def test_the_first_token_waits_for_the_next_launch(
    gpu_s: float, host: HostTime, launches_s: float
) -> None:
    """Under overlap ``max(prefill end + c, next batch enqueued) + p``; else one loop's chain."""
    # Prompts of eight tokens: the synthetic step launches such a prefill three times over.
    step = SyntheticStep(fixed_s=1e-3, prefill_fixed_s=gpu_s, prefill_launches_s=launches_s / 3)
    h = host
    launched = h.recv_s + h.get_next_batch(1) + h.first_launch_s
    rest_s = max(launches_s, h.rest_launch_s)
    ended = launched + max(gpu_s, rest_s)
    expected = {
        "v2": max(ended + h.d2h_s, launched + rest_s + launched + h.rest_launch_s) + h.process(1),
        "v2-sync": ended + h.d2h_s + h.process(1),
    }
    for mode, first_s in expected.items():
        run = System.of(closed([5], conc=1), step, host=host, mode=mode).event()
        assert run.first_token_s[0] == pytest.approx(first_s, rel=1e-12)


def test_launching_a_prefill_holds_up_those_that_decode() -> None:
    """The host launches for 50 ms: no result leaves meanwhile, and the GPU runs dry behind 1 ms."""
    launches_s = 50e-3
    step = SyntheticStep(fixed_s=1e-3, prefill_fixed_s=1e-3, prefill_launches_s=launches_s / 3)
    work = replace(closed([300, 20], conc=2), arrival_s=np.array([0.0, 0.1505]))
    for mode, steps in (("v2", 2), ("v2-sync", 1)):
        run = System.of(work, step, mode=mode).event()
        (second,) = np.flatnonzero(run.kind == PREFILL)[1:]
        on_gpu_s = run.gpu_end_s[second] - run.gpu_start_s[second]
        assert on_gpu_s == pytest.approx(launches_s, abs=1.001e-3)  # behind a step in flight
        longest = np.diff(run.emit_s[run.kind == DECODE]).max()
        assert launches_s - 1e-9 < longest <= launches_s + (steps + 1) * 1e-3 + 1e-9, mode


# ---- conservation ------------------------------------------------------------------------


class Census:
    """Counts requests in the system at every host stage and integrates them over time."""

    def __init__(self, system: System) -> None:
        self.engine = system.engine(self)
        self.area = 0.0
        self.last_s = 0.0
        self.lanes: dict[str, list[tuple[str, float, float]]] = {"host": [], "gpu": [], "copy": []}

    def __call__(self, lane: str, name: str, start_s: float, end_s: float, _: int) -> None:
        self.lanes[lane].append((name, start_s, end_s))
        if lane == "host":
            self.count(end_s)

    def count(self, now: float) -> None:
        e, s = self.engine, self.engine.scheduler
        inside = [*s.waiting, *(r for r in s.running if not r.done)]
        if s.chunked_req is not None:
            inside.append(s.chunked_req)
        assert len({r.rid for r in inside}) == len(inside)
        on_the_way = [at for at, _ in e.arrivals if at < now]
        done = np.isfinite(e.log.finish_s).sum()
        arrived = (np.array(e.log.arrival_s) < now).sum()
        late = sum(e.log.arrival_s[r.rid] == now for r in inside)
        assert done + len(inside) - late + len(on_the_way) == arrived
        self.area += len(inside) * (now - self.last_s)
        self.area += sum(now - max(at, self.last_s) for at in on_the_way)
        self.last_s = now

    def run(self) -> Run:
        run = self.engine.run()
        self.count(self.engine.env.now)
        return run


@settings(max_examples=25)
@given(SMALL)
def test_little(system: System) -> None:
    """The time integral of requests in the system is the sum of their sojourns, to rounding."""
    census = Census(system)
    run = census.run()
    end_s = census.engine.env.now
    here = run.arrival_s <= end_s
    sojourn = np.fmin(run.finish_s, end_s)[here] - run.arrival_s[here]
    assert census.area == pytest.approx(sojourn.sum(), rel=1e-9, abs=1e-12)


@settings(max_examples=25)
@given(SMALL)
def test_order_of_times(system: System) -> None:
    run = system.event()
    done = np.isfinite(run.finish_s)
    assert done[system.workload.measured].all()
    assert (run.arrival_s[done] <= run.first_token_s[done]).all()
    assert (run.first_token_s[done] <= run.finish_s[done]).all()
    assert (np.diff(run.emit_s) >= 0).all()
    assert (run.gpu_start_s[1:] >= run.gpu_end_s[:-1]).all()
    assert (run.gpu_end_s - run.gpu_start_s >= run.gpu_s * (1 - 1e-9)).all()
    assert (run.emit_s >= run.gpu_end_s).all()


@settings(max_examples=25)
@given(SMALL)
def test_timeline_is_the_record(system: System) -> None:
    census = Census(system)
    run = census.run()
    for lane in census.lanes.values():
        assert all(b[1] >= a[2] * (1 - 1e-12) for a, b in pairwise(lane))
    gpu = census.lanes["gpu"]
    n = len(run.kind)
    if system.mode == "v1" and system.limits.speculative:
        ends = [end for name, _, end in gpu if name in ("prefill", "materialise")]
        busy = sum(end - start for name, start, end in gpu if name != "prefill")
        decode_s = run.gpu_s[run.kind == DECODE].sum()
        assert busy == pytest.approx(decode_s, rel=1e-9, abs=1e-12)
    else:
        kinds = [name == "prefill" for name, _, _ in gpu]
        assert kinds[:n] == (run.kind == PREFILL).tolist()
        np.testing.assert_array_equal([start for _, start, _ in gpu][:n], run.gpu_start_s)
        ends = [end for _, _, end in gpu]
    np.testing.assert_array_equal(ends[:n], run.gpu_end_s)
    results = [end for name, _, end in census.lanes["host"] if name == "process_batch_result"]
    np.testing.assert_array_equal(results, run.emit_s)
    assert len(ends) - n <= 1  # launched, never processed


def wasted_rows(run: Run) -> int:
    """Requests whose end the host learned while another decode step was already launched."""
    finished = np.isfinite(run.finish_s)
    at = np.searchsorted(run.emit_s, run.finish_s[finished])
    after = at + 1
    return int((run.kind[after[after < len(run.kind)]] == DECODE).sum())


@settings(max_examples=20)
@given(SMALL)
def test_one_wasted_row_per_finished_request_under_overlap(system: System) -> None:
    """Unless a prefill, or nothing, was launched in between; and none without overlap."""
    # With results that take no time, two may be processed at once.
    run = system.but(host=replace(system.host, process_s=1e-4)).event()
    assume(np.isfinite(run.finish_s).all())
    rows = int(run.batch[run.kind == DECODE].sum())
    wasted = rows - int(run.cycles.sum())
    assert wasted == (wasted_rows(run) if system.mode == "v2" else 0)


def test_every_request_wastes_one_row_when_none_replaces_it() -> None:
    osl = np.arange(5, 45, 4)
    for mode, wasted in (("v1", 0), ("v2-sync", 0), ("v2", len(osl) - 1)):
        run = System.of(
            closed(osl, conc=len(osl)), FLAT, acceptance=FixedAcceptance(2, 4), mode=mode
        ).event()
        rows = run.batch[run.kind == DECODE].sum()
        assert rows - run.cycles.sum() == wasted, mode  # the last one ends the run instead


@settings(max_examples=60)
@given(SMALL)
def test_tokens_out_are_commits_less_overshoot(system: System) -> None:
    run, work = system.event(), system.workload
    done = np.isfinite(run.finish_s)
    overshoot = run.committed[done] - (work.osl[done] - 1)
    block = system.limits.block
    assert ((overshoot >= 0) & (overshoot < block)).all()
    assert (overshoot[run.cycles[done] == 0] == 0).all()
    commits = system.draws.commits
    for rid in np.flatnonzero(done):
        n = run.cycles[rid]
        assert commits[rid, :n].sum() == run.committed[rid]
        assert n == 0 or commits[rid, : n - 1].sum() < work.osl[rid] - 1


@settings(max_examples=60)
@given(SMALL)
def test_every_prompt_token_is_prefilled_once(system: System) -> None:
    run, work = system.event(), system.workload
    assume(np.isfinite(run.finish_s).all())
    prefill = run.kind == PREFILL
    assert run.kv_tokens[prefill].sum() == (work.isl - work.cached).sum()
    lim = system.limits
    assert (run.kv_tokens[prefill] <= lim.chunked_prefill_size).all()
    many = run.batch[prefill] > 1
    assert (run.kv_tokens[prefill][many] <= lim.max_prefill_tokens).all()


@settings(max_examples=60)
@given(SMALL)
def test_first_come_first_served(system: System) -> None:
    run = system.but(limits=replace(system.limits, sorted_up_to=0)).event()
    served = np.flatnonzero(np.isfinite(run.first_token_s))
    order = served[np.lexsort((served, run.arrival_s[served]))]
    assert (np.diff(run.first_token_s[order]) >= 0).all()
    assert run.batch.max() <= system.limits.max_running_requests


@settings(max_examples=25)
@given(SMALL)
def test_a_perfect_drafter_and_a_hopeless_one(system: System) -> None:
    block, osl = max(2, system.limits.block), system.workload.osl
    for commit, cycles in ((block, -(-(osl - 1) // block)), (1, osl - 1)):
        again = System.of(
            system.workload, system.step, acceptance=FixedAcceptance(commit, block)
        ).event()
        done = np.isfinite(again.finish_s)
        np.testing.assert_array_equal(again.cycles[done], cycles[done])


# ---- slots -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "between"), [("v1", 0), ("v2-sync", 0), ("v2", 1)]
)  # decode steps launched between a request's last and the prefill that takes its slot
def test_a_slot_is_reused_one_step_later_under_overlap(mode: str, between: int) -> None:
    run = System.of(
        closed([11, 11], conc=2),
        FLAT,
        acceptance=FixedAcceptance(2, 2),
        mode=mode,
        max_running_requests=1,
    ).event()
    prefills = np.flatnonzero(run.kind == PREFILL)
    assert prefills.tolist() == [0, 1 + 5 + between]


def test_free_slots_are_awaited_while_others_run() -> None:
    """``min_free_slots_delay``: the two short answers must both end before anyone is admitted."""
    work = closed([41, 4, 8, 5, 5], conc=5)
    held = System.of(
        work, FLAT, acceptance=FixedAcceptance(1, 2), max_running_requests=3,
        min_free_slots_delay=2, mode="v2-sync",
    )  # fmt: skip
    for delay, admitted in ((2, [3, 2]), (0, [3, 1, 1])):
        run = held.but(limits=replace(held.limits, min_free_slots_delay=delay)).event()
        assert run.batch[run.kind == PREFILL].tolist() == admitted


def test_prefill_comes_before_decoding() -> None:
    """An arrival seen by a loop is prefilled by it, whatever is running."""
    work = replace(closed(np.full(6, 60), conc=6), arrival_s=np.arange(6) * 17.3e-3)
    run = System.of(work, FLAT, mode="v2-sync").event()
    prefills = np.flatnonzero(run.kind == PREFILL)
    assert len(prefills) == 6
    launched = run.gpu_start_s[prefills]
    waited = launched - work.arrival_s
    assert ((waited >= 0) & (waited <= FLAT.fixed_s)).all()


# ---- invariance --------------------------------------------------------------------------


def scaled(system: System, k: float) -> System:
    """The same system with every time multiplied by ``k``."""
    step = system.step
    names = [n for n in step.__dataclass_fields__ if n.endswith("_s")]
    work = system.workload
    return system.but(
        step=replace(step, _tables={}, **{n: k * getattr(step, n) for n in names}),
        host=HostTime(**{n: k * getattr(system.host, n) for n in HostTime.__dataclass_fields__}),
        turnaround_s=k * system.turnaround_s,
        workload=replace(work, arrival_s=None if work.arrival_s is None else k * work.arrival_s),
    )


@settings(max_examples=25)
@given(system=SMALL, k=st.sampled_from([2.0**-7, 8.0, 3.7]))
def test_time_has_no_unit(system: System, k: float) -> None:
    """All times times k: the same iterations, and throughput over k to 1e-12."""
    one, other = system.event(), scaled(system, k).event()
    np.testing.assert_array_equal(one.batch, other.batch)
    np.testing.assert_allclose(other.finish_s, k * one.finish_s, rtol=1e-12)
    np.testing.assert_allclose(other.emit_s, k * one.emit_s, rtol=1e-12)


@settings(max_examples=25)
@given(system=SMALL, seed=st.integers(0, 2**16))
def test_names_of_requests_do_not_matter(system: System, seed: int) -> None:
    work = system.workload
    assume(work.arrival_s is not None and len(set(work.arrival_s)) == len(work))
    p = np.random.default_rng(seed).permutation(len(work))
    names = ("isl", "osl", "cached", "measured", "follow", "arrival_s")
    renamed = replace(work, **{n: getattr(work, n)[p] for n in names})
    d = system.draws
    draws = replace(d, commits=d.commits[p], cycles=d.cycles[p])
    one, other = system.event(), system.but(workload=renamed, draws=draws).event()
    np.testing.assert_array_equal(other.finish_s, one.finish_s[p])
    np.testing.assert_array_equal(other.emit_s, one.emit_s)


@settings(max_examples=20)
@given(SMALL)
def test_a_run_repeats_to_the_last_bit(system: System) -> None:
    one, other = system.event(), system.event()
    for name in Run.__dataclass_fields__:
        if name not in ("engine", "retractions", "loops"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


# ---- what must not be slower -------------------------------------------------------------


def alone(system: System) -> System:
    """The same requests from one client."""
    work = system.workload
    return system.but(workload=closed(work.osl, conc=1, isl=work.isl))


def makespan_s(system: System) -> float:
    return float(np.nanmax(system.event().finish_s))


@settings(max_examples=25)
@given(system=SMALL, less=st.floats(0.1, 0.99))
def test_a_faster_gpu_is_not_slower(system: System, less: float) -> None:
    one = alone(system)
    names = [n for n in one.step.__dataclass_fields__ if n.endswith("_s")]
    quick = replace(one.step, _tables={}, **{n: less * getattr(one.step, n) for n in names})
    assert makespan_s(one.but(step=quick)) <= makespan_s(one) * (1 + 1e-12)


@pytest.mark.slow
@settings(max_examples=25)
@given(system=SMALL, more=st.floats(0.0, 0.1))
def test_a_slower_client_is_not_faster(system: System, more: float) -> None:
    one = alone(system)
    late = one.but(turnaround_s=one.turnaround_s + more)
    # A result sits behind a wasted step under overlap: a pause shorter than it costs nothing.
    assert makespan_s(late) >= makespan_s(one) * (1 - 1e-12)


@settings(max_examples=25)
@given(system=SMALL, lam=st.floats(0.01, 1.0), better=st.floats(0.1, 1.0))
def test_better_acceptance_is_not_slower(system: System, lam: float, better: float) -> None:
    """Common random numbers: every cycle of the better drafter commits at least as much.

    With a step time that ignores the context: a longer last commit makes the wasted step dearer.
    """
    one = alone(system)
    step = replace(one.step, per_token_s=0.0, _tables={})
    runs = []
    for rate in (lam, better * lam):
        law = ParametricAcceptance(FrailtyWeibull(rate, 1.1, 0.05), 8)
        again = System.of(one.workload, step, acceptance=law, seed=3, host=one.host, mode=one.mode)
        runs.append(again.event())
    assert (runs[1].cycles <= runs[0].cycles).all()
    assert np.nanmax(runs[1].finish_s) <= np.nanmax(runs[0].finish_s) * (1 + 1e-12)
