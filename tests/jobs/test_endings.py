"""How a program with workers ends: interrupted, killed or by itself, no process of it is left.

Each is tried with our pool and, as a control, with the standard library's, where it fails.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Program

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")

OURS = """
from dflash_sim.jobs.pool import Pool

def each(work, tasks):
    with Pool(2) as pool:
        yield from pool.map(work, [(task,) for task in tasks])
"""
THEIRS = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

def each(work, tasks):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, tasks)
"""
BUSY = """
import sys, time
try:
    print("begun", flush=True)
    for _ in each(time.sleep, [0, 0, 0, 0] + 8 * [600]):
        print("done", flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""
PATIENCE_S = 20.0
linux = pytest.mark.skipif(sys.platform != "linux", reason="a death signal of Linux")


@pytest.fixture
def busy(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A program whose workers are in the middle of long tasks."""
    program = Program("-c", request.param + BUSY)
    program.heard("done", 4)
    assert len(program.processes()) >= 3
    yield program
    program.end()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
class TestKilled:
    @pytest.mark.parametrize("busy", [OURS], indirect=True, ids=["ours"])
    def test_no_worker_outlives_it(self, busy: Program, how: signal.Signals) -> None:
        busy.process.send_signal(how)
        assert busy.process.wait() == -how
        assert busy.left(PATIENCE_S) == set()

    @pytest.mark.parametrize("busy", [THEIRS], indirect=True, ids=["theirs"])
    def test_control(self, busy: Program, how: signal.Signals) -> None:
        busy.process.send_signal(how)
        assert busy.process.wait() == -how
        assert busy.left(patience_s=1.0)


# Workers that cannot look for their parent: some are stopped, some keep the interpreter.
# They are stopped when all tasks are done: one of them may have been given every task.
STOPPED = """
import os, signal, sys
with Pool(2) as pool:
    for pid in set(pool.map(os.getpid, [()] * 2)):
        os.kill(pid, signal.SIGSTOP)
    print("done", flush=True)
    signal.pause()
"""
KEEPS_THE_INTERPRETER = """
import sys
from threading import Timer
with Pool(2) as pool:
    list(pool.map(abs, [(0,)] * 4))
    Timer(0.5, print, ["done"], {"flush": True}).start()
    list(pool.map(max, [(range(10**15),)] * 2))
"""
# The parent ends at one moment of the beginning of a worker.
AT = {
    "once there is a process": ("multiprocessing.util", "spawnv_passfds"),
    "once it is told what to do": ("multiprocessing.context.SpawnProcess", "start"),
    "once it has its tool": ("dflash_sim.jobs.processes.Processes", "_send"),
}
DIES = """
import os, pkgutil, signal
where = pkgutil.resolve_name({where!r})
real = where.{name}
def dying(*arguments):
    real(*arguments)
    if "resource_tracker" not in str(arguments):  # which is begun in the same way
        os.kill(os.getpid(), signal.SIGKILL)
where.{name} = dying
list(each(sum, [range(10**15)] * 2))
"""


@linux
@pytest.mark.parametrize("code", [STOPPED, KEEPS_THE_INTERPRETER], ids=["stopped", "busy"])
def test_a_deaf_worker_does_not_outlive_it(code: str) -> None:
    program = Program("-c", OURS + code)
    try:
        program.heard("done")
        assert len(program.processes()) >= 3
        program.process.kill()
        assert program.left(PATIENCE_S) == set()
    finally:
        program.end()


@pytest.mark.parametrize("when", AT)
def test_a_worker_that_begins_does_not_outlive_it(when: str) -> None:
    where, name = AT[when]
    program = Program("-c", OURS + DIES.format(where=where, name=name))
    assert program.process.wait(PATIENCE_S) == -signal.SIGKILL
    assert program.left(PATIENCE_S) == set()
    assert program.end() == ""


ASKED = """
import multiprocessing.util, os, signal
from dflash_sim.jobs.stopping import leave, listen
listen()
real = multiprocessing.util.spawnv_passfds
def asked(*arguments):
    found = real(*arguments)
    os.kill(os.getpid(), signal.{signal})
    return found
multiprocessing.util.spawnv_passfds = asked
try:
    list(each(sum, [range(10**15)] * 2))
except KeyboardInterrupt:
    leave(130)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", -signal.SIGTERM), ("SIGINT", 130)])
def test_asked_while_a_worker_begins_it_ends_without_a_word(name: str, code: int) -> None:
    """What interrupts the beginning leaves a process that nobody knows, and that complains."""
    program = Program("-c", OURS + ASKED.format(signal=name))
    assert program.process.wait(PATIENCE_S) == code
    assert program.left(PATIENCE_S) == set()
    assert program.end() == ""


def interrupted(program: Program) -> tuple[int, str]:
    """Press Ctrl-C, which a terminal sends to every process; return exit code and stderr."""
    os.killpg(program.process.pid, signal.SIGINT)
    _, told = program.process.communicate(timeout=PATIENCE_S)
    return program.process.returncode, told


class TestInterrupted:
    @pytest.mark.parametrize("seed", range(8))
    def test_at_any_moment_it_ends_without_a_word(self, seed: int) -> None:
        """Before there are workers, while they begin, and while they work."""
        program = Program("-c", OURS + BUSY)
        program.heard("begun")
        time.sleep(random.Random(seed).uniform(0, 0.4))
        assert interrupted(program) == (130, "")
        assert program.left(PATIENCE_S) == set()

    @pytest.mark.parametrize("busy", [OURS], indirect=True, ids=["ours"])
    def test_twice_in_a_row_leaves_no_worker(self, busy: Program) -> None:
        busy.process.send_signal(signal.SIGINT)
        interrupted(busy)
        assert busy.left(PATIENCE_S) == set()

    @pytest.mark.parametrize("busy", [THEIRS], indirect=True, ids=["theirs"])
    def test_control(self, busy: Program) -> None:
        """It hangs in what is left to do, or its workers print where they were."""
        os.killpg(busy.process.pid, signal.SIGINT)
        assert busy.left(patience_s=3.0) or "Traceback" in busy.end()


SCRIPT = """
print("read")
print(sum(each(abs, range(-9, 0))))
"""


@pytest.mark.parametrize(("pool", "code"), [(OURS, 0), (THEIRS, 1)], ids=["ours", "theirs"])
def test_a_script_needs_no_guard(pool: str, code: int, tmp_path: Path) -> None:
    """The standard library's workers run the script again, and fail at it."""
    path = tmp_path / "script.py"
    path.write_text(pool + SCRIPT)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert done.returncode == code
    assert (done.stdout == "read\n45\n") == (pool is OURS)
