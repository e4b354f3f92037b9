"""A run walked again is the run that the engine gives at those prices, or there is none."""

from dataclasses import replace

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import SyntheticStep, System, closed, systems

from dflash_sim.simulator.engine.again import walked_again
from dflash_sim.simulator.engine.leap import LeapEngine
from dflash_sim.simulator.engine.records import Run
from dflash_sim.simulator.engine.rough_clock import decided


def again(run: Run, system: System) -> Run | None:
    """The run at the prices of ``system``."""
    speculative = system.limits.speculative
    return walked_again(
        run, system.step, system.host, mode=system.mode, speculative=speculative,
        syncs=system.host_length_sync and speculative, turnaround_s=system.turnaround_s,
    )  # fmt: skip


def assert_equal(found: Run, expected: Run) -> None:
    for name in ("arrival_s", "first_token_s", "finish_s", "gpu_s", "gpu_start_s", "gpu_end_s",
                 "emit_s", "client_s"):  # fmt: skip
        a, b = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-15, err_msg=name)
    for name in ("kind", "batch", "kv_tokens", "cycles", "committed", "after_idle"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


def dearer(system: System, by: float) -> System:
    """The same requests where everything takes a little longer, each in its own measure."""
    step, host = system.step, system.host
    return system.but(
        step=replace(
            step, fixed_s=step.fixed_s * (1 + by), per_token_s=step.per_token_s * (1 - by / 2),
            prefill_fixed_s=step.prefill_fixed_s * (1 + 2 * by),
            prefill_launches_s=step.prefill_launches_s * (1 - by), _tables={},
        ),
        host=replace(
            host, recv_s=host.recv_s * (1 + by), process_s=host.process_s * (1 - by),
            rest_launch_s=host.rest_launch_s * (1 + by / 3), d2h_s=host.d2h_s * (1 - by / 5),
        ),
        turnaround_s=system.turnaround_s * (1 + by),
    )  # fmt: skip


@settings(max_examples=150)
@given(systems(), st.sampled_from([1e-4, 1e-2, 0.3]))
def test_it_is_the_run_that_the_engine_gives(system: System, by: float) -> None:
    other = dearer(system, by)
    found = again(system.leap(), other)
    assume(found is not None)
    assert_equal(found, other.leap())


@settings(max_examples=30)
@given(systems(long=True), st.sampled_from([1e-4, 1e-2, 0.3]))
def test_long_leaps_too(system: System, by: float) -> None:
    other = dearer(system, by)
    found = again(system.leap(), other)
    assume(found is not None)
    assert_equal(found, other.leap())


@settings(max_examples=100)
@given(systems())
def test_what_a_rough_clock_decides_is_what_the_engine_does(system: System) -> None:
    found = decided(LeapEngine(**system.parts))
    if found is not None:
        expected = system.leap()
        assert_equal(found, expected)
        assert found.loops is not None
        assert expected.loops is not None
        for name in ("received", "missed", "after", "first", "last", "looked"):
            assert getattr(found.loops, name) == getattr(expected.loops, name), name
        assert list(found.loops.pauses) == list(expected.loops.pauses)


def _steady(turnaround_s: float) -> LeapEngine:
    step = SyntheticStep(fixed_s=8e-3, per_token_s=1e-7, prefill_fixed_s=4e-3)
    work = closed(np.arange(60, 160), conc=8, isl=40)
    return LeapEngine(**System.of(work, step, turnaround_s=turnaround_s).parts)


def test_a_steady_loop_is_decided_roughly_and_an_open_one_is_not() -> None:
    engine = _steady(3e-3)
    assert decided(engine) is not None
    at = np.arange(100) * 1e-2
    assert decided(replace(engine, workload=replace(engine.workload, arrival_s=at))) is None
