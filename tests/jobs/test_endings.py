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
