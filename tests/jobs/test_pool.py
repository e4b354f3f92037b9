"""Pools: results are those of a loop, errors travel, and a lost worker is one line."""

import math
import os
import pickle
import signal
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from dflash_sim.jobs.pool import Pool
from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.load import load_device
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

SQUARES = [(float(i * i),) for i in range(23)]


@pytest.mark.parametrize("together", [1, 4, 100])
@pytest.mark.parametrize("jobs", [1, 2])
def test_results_are_those_of_a_loop(jobs: int, together: int) -> None:
    counted: list[int] = []
    with Pool(jobs) as pool:
        found = list(pool.map(math.sqrt, SQUARES, together=together, on_done=counted.append))
        numbered = sorted(pool.as_done(math.sqrt, SQUARES, together=together))
    assert found == list(range(23))
    assert numbered == list(enumerate(found))
    assert counted == list(range(1, 24))


def test_one_job_is_done_here_and_several_elsewhere() -> None:
    with Pool(1) as alone, Pool(2) as two:
        assert set(alone.map(os.getpid, [()] * 3)) == {os.getpid()}
        assert os.getpid() not in set(two.map(os.getpid, [()] * 9))
    assert active_children() == []


def test_no_more_processes_begin_than_there_are_tasks() -> None:
    with Pool(8) as pool:
        assert active_children() == []
        assert list(pool.map(abs, [(-1,), (-2,)])) == [1, 2]
        assert len(active_children()) == 2


def test_each_worker_makes_its_tool_once() -> None:
    """A list that every task appends to: as many entries as tasks, in as many lists as workers."""
    for jobs in (1, 2):
        with Pool(jobs, list) as pool:
            list(pool.map(list.append, [(i,) for i in range(20)]))
            kept = set(pool.map(tuple, [()] * 20))
        assert sorted(i for each in kept for i in each) == list(range(20))
        assert len(kept) <= jobs


def test_what_is_done_first_comes_first(tmp_path: Path) -> None:
    there = tmp_path / "there"
    waits = f"until [ -d {there} ]; do sleep 0.01; done"
    with Pool(2) as pool:
        done = pool.as_done(os.system, [(waits,), ("true",)])
        assert next(done) == (1, 0)
        there.mkdir()
        assert list(done) == [(0, 0)]


def test_a_map_that_was_left_does_not_disturb_the_next() -> None:
    with Pool(2) as pool:
        left = pool.map(math.sqrt, SQUARES)
        assert next(left) == 0
        assert list(pool.map(abs, [(-i,) for i in range(9)])) == list(range(9))


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_of_ours_travels_whole(jobs: int) -> None:
    with Pool(jobs) as pool, pytest.raises(UsageError, match="unknown GPU 'b20'") as told:
        list(pool.map(load_device, [("b200",), ("b20",)]))
    assert told.value.exit_code == 2
    assert active_children() == []


def test_an_error_while_the_tool_is_made_travels_too() -> None:
    with Pool(2, load_device, "b20") as pool, pytest.raises(UsageError, match="'b20'"):
        list(pool.map(str, [()]))
    with pytest.raises(UsageError, match="--jobs 0"):
        Pool(0)


def test_a_bug_keeps_its_traceback() -> None:
    with Pool(2) as pool, pytest.raises(RuntimeError, match=r"worker process(.|\n)*in _several"):
        list(pool.map(int, [("7",), ("x",)]))
    with Pool(2) as pool, pytest.raises(RuntimeError, match="cannot pickle"):
        list(pool.map(open, [(os.devnull,)]))


LOSSES = {
    "killed by SIGKILL, as when memory runs out": (signal.raise_signal, signal.SIGKILL),
    "killed by SIGTERM": (signal.raise_signal, signal.SIGTERM),
    "out of memory": (bytes, 2**62),
    "exit code 3": (os._exit, 3),
}


@pytest.mark.parametrize("why", LOSSES)
def test_a_lost_worker_is_one_line(why: str, capfd: pytest.CaptureFixture[str]) -> None:
    work, argument = LOSSES[why]
    with Pool(2) as pool, pytest.raises(DflashSimError) as told:
        list(pool.map(work, [(argument,), (argument,)]))
    said = f"one of 2 worker processes was lost: {why}. Give fewer, such as --jobs 1."
    assert str(told.value) == said
    assert capfd.readouterr() == ("", "")
    assert active_children() == []


def test_a_worker_that_is_killed_from_outside_is_noticed() -> None:
    with Pool(2) as pool:
        done = pool.as_done(time.sleep, [(0,), *[(600,)] * 4])
        next(done)
        active_children()[0].kill()
        with pytest.raises(DflashSimError, match="SIGKILL"):
            next(done)


def test_a_worker_that_does_not_answer_is_ended_all_the_same() -> None:
    with Pool(2) as pool:
        for pid in pool.map(os.getpid, [()] * 4):
            os.kill(pid, signal.SIGSTOP)
            break
    assert active_children() == []


def test_linear_algebra_has_one_thread_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    names = [("OMP_NUM_THREADS",), ("OPENBLAS_NUM_THREADS",)]
    with Pool(2) as pool:
        assert list(pool.map(os.getenv, names)) == ["1", "1"]
    assert [os.environ.get(name) for (name,) in names] == ["4", None]


def test_a_server_travels_between_processes() -> None:
    """A method is functions, which do not; its name does, and stands for the same row there."""
    setup = resolve(Scenario.parse(model="qwen3-8b"))
    there = pickle.loads(pickle.dumps(setup))
    assert there.step.cycle.method is METHODS["dflash"]
    assert there.step.decode_s(8, 8e3) == setup.step.decode_s(8, 8e3)
