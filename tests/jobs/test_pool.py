"""Pools: results are those of a loop, errors travel, and a lost worker is one line."""

import math
import os
import pickle
import re
import signal
import sys
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from multiprocessing.spawn import get_preparation_data
from pathlib import Path
from types import ModuleType

import pytest

from dflash_sim.jobs.pool import Pool
from dflash_sim.jobs.processes import _beginning_of_a_worker
from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.load import load_device
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

OF_MAIN = {"init_main_from_name", "init_main_from_path"}
SQUARES = [(float(i * i),) for i in range(23)]


_BEFORE: set[BaseProcess] = set()


@pytest.fixture(autouse=True)
def _before() -> None:
    """Other tests of this session may have processes that are still there."""
    _BEFORE.update(active_children())


def of_this_test() -> list[BaseProcess]:
    return [child for child in active_children() if child not in _BEFORE]


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
    assert of_this_test() == []


def test_no_more_processes_begin_than_there_are_tasks() -> None:
    with Pool(8) as pool:
        assert of_this_test() == []
        assert list(pool.map(abs, [(-1,), (-2,)])) == [1, 2]
        assert len(of_this_test()) == 2


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
    assert of_this_test() == []


def test_an_error_while_the_tool_is_made_travels_too() -> None:
    with Pool(2, load_device, "b20") as pool, pytest.raises(UsageError, match="'b20'"):
        list(pool.map(str, [()]))
    with pytest.raises(UsageError, match="jobs 0: at least one"):
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
def test_a_task_that_ends_two_workers_is_one_line(
    why: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    work, argument = LOSSES[why]
    with Pool(2) as pool, pytest.raises(DflashSimError) as told:
        list(pool.map(work, [(argument,), (argument,)]))
    said = f"2 workers were lost at task \\d of 2: {why}. Fewer jobs leave each more memory."
    assert re.fullmatch(said, str(told.value))
    assert caplog.messages[0] == f"a worker was lost: {why}; another one does its task again"
    assert capfd.readouterr() == ("", "")
    assert of_this_test() == []


def test_a_lost_worker_is_told_and_its_task_done_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first one that does the middle task ends; no result is missing, and none comes twice."""
    once = f"mkdir {tmp_path}/once 2>/dev/null && kill -9 $PPID; exit 3"
    commands = [("true",), (once,), ("true",), ("exit 1",)]
    with Pool(2) as pool:
        assert list(map(os.waitstatus_to_exitcode, pool.map(os.system, commands))) == [0, 3, 0, 1]
        assert len(of_this_test()) == 1  # the others keep its memory
        assert list(pool.map(abs, [(-1,), (-2,)])) == [1, 2]
    assert [line.partition("; ")[2] for line in caplog.messages] == [
        "another one does its task again"
    ]


def test_the_last_worker_is_replaced(tmp_path: Path) -> None:
    kills = [(f"mkdir {tmp_path}/{i} 2>/dev/null && kill -9 $PPID; true",) for i in range(4)]
    with Pool(2) as pool:
        assert list(pool.map(os.system, kills)) == [0] * 4


def test_one_that_is_lost_while_it_is_free_takes_no_task(caplog: pytest.LogCaptureFixture) -> None:
    with Pool(2) as pool:
        list(pool.map(abs, [(-1,), (-2,)]))
        victim = of_this_test()[0]
        victim.kill()
        victim.join()
        assert list(pool.map(abs, [(-i,) for i in range(9)])) == list(range(9))
    assert len(caplog.messages) == 1


def test_an_error_of_a_map_that_was_left_does_not_disturb_the_next(tmp_path: Path) -> None:
    with Pool(2) as pool:
        left = pool.as_done(os.system, [("true",), (f"until [ -d {tmp_path}/x ]; do :; done",)])
        assert next(left) == (0, 0)
        left.close()
        bugs = pool.as_done(int, [("x",), ("x",), ("x",)])
        with pytest.raises(RuntimeError):
            next(bugs)
        (tmp_path / "x").mkdir()
        assert list(pool.map(abs, [(-1,), (-2,), (-3,)])) == [1, 2, 3]


def test_memory_that_runs_out_here_is_one_line_too() -> None:
    with Pool(1) as pool, pytest.raises(DflashSimError, match="out of memory"):
        list(pool.map(bytes, [(2**62,)]))


def test_a_bug_that_is_met_here_is_itself() -> None:
    with Pool(1) as pool, pytest.raises(ValueError, match="invalid literal"):
        list(pool.map(int, [("x",)]))


def test_what_the_program_holds_is_found_while_a_worker_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another thread may pickle or look up what is in ``__main__`` at that moment."""
    script = ModuleType("__main__")
    script.__file__, value = "script.py", object()
    script.__dict__["of_ours"] = value
    monkeypatch.setitem(sys.modules, "__main__", script)
    assert get_preparation_data("x").keys() & OF_MAIN  # a control: it would be run again
    with _beginning_of_a_worker():
        assert sys.modules["__main__"].of_ours is value
        assert not get_preparation_data("x").keys() & OF_MAIN
    assert sys.modules["__main__"] is script


def test_a_worker_that_does_not_answer_is_ended_all_the_same() -> None:
    with Pool(2) as pool:
        for pid in pool.map(os.getpid, [()] * 4):
            os.kill(pid, signal.SIGSTOP)
            break
    assert of_this_test() == []


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
