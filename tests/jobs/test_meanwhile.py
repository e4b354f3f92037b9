"""What is done meanwhile is done in another process where that is safe, and here elsewhere."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it forks under Linux alone")

# As on two cores; a test runner has threads, so each script is a process of its own.
PREFIX = """
import os, signal, threading, time
os.sched_getaffinity = lambda pid: {0, 1}
from dflash_sim.jobs.meanwhile import apart, meanwhile
"""


def said(script: str) -> list[str]:
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREFIX + script],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert not found.stderr
    return found.stdout.split()


def test_it_is_done_elsewhere_and_its_result_comes_back() -> None:
    asked = """
with meanwhile(lambda: (os.getpid(), apart(), bytes(10**6))) as later:
    pid, elsewhere, much = later()
print(pid == os.getpid(), elsewhere, apart(), len(much))
"""
    assert said(asked) == ["False", "True", "False", "1000000"]


@pytest.mark.parametrize(
    "why",
    [
        "os.sched_getaffinity = lambda pid: {0}",
        "threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "import multiprocessing.process as p; p.parent_process = lambda: p",
    ],
    ids=["one core", "a thread", "a worker"],
)
def test_it_is_done_here(why: str) -> None:
    asked = f"""
{why}
with meanwhile(os.getpid) as later:
    print(later() == os.getpid())
"""
    assert said(asked) == ["True"]


def test_one_inside_another_is_done_by_whoever_asks() -> None:
    asked = """
def both():
    with meanwhile(os.getpid) as inner:
        return os.getpid(), inner()
with meanwhile(both) as later:
    with meanwhile(os.getpid) as beside:
        here = beside()
    theirs = later()
print(here == os.getpid(), theirs[0] == theirs[1], theirs[0] == os.getpid())
with meanwhile(os.getpid) as later:
    print(later() == os.getpid())
"""
    assert said(asked) == ["True", "True", "False", "False"]


def test_an_error_is_met_again_here() -> None:
    asked = """
def wrong():
    raise ValueError(os.getpid())
try:
    with meanwhile(wrong) as later:
        later()
except ValueError as error:
    print(error.args[0] == os.getpid())
"""
    assert said(asked) == ["True"]


def test_one_that_is_killed_is_done_here() -> None:
    asked = """
def killed():
    if apart():
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()
with meanwhile(killed) as later:
    print(later() == os.getpid())
"""
    assert said(asked) == ["True"]


def test_one_that_is_killed_while_it_sends_is_done_here() -> None:
    asked = """
def much():
    if apart():
        os.set_blocking(1, True)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return list(range(10**6))
with meanwhile(much) as later:
    time.sleep(0.6)
    print(len(later()))
"""
    assert said(asked) == ["1000000"]


@pytest.mark.parametrize("refused", ["fork", "pipe"])
def test_where_nothing_can_be_forked_it_is_done_here_and_no_file_stays_open(refused: str) -> None:
    asked = f"""
def refuse():
    raise BlockingIOError
os.{refused} = refuse
before = len(os.listdir("/proc/self/fd"))
with meanwhile(os.getpid) as later:
    print(later() == os.getpid(), len(os.listdir("/proc/self/fd")) == before)
"""
    assert said(asked) == ["True", "True"]


def test_somebody_else_may_wait_for_it() -> None:
    asked = """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with meanwhile(os.getpid) as later:
    print(later() == os.getpid())
"""
    assert said(asked) == ["False"]


def test_it_ends_with_this_process() -> None:
    asked = """
ours, theirs = os.pipe()
parent = os.fork()
if not parent:
    with meanwhile(lambda: time.sleep(60)):
        os.write(theirs, b"x")
        time.sleep(60)
os.read(ours, 1)
os.close(theirs)
os.kill(parent, signal.SIGKILL)
begun = time.monotonic()
print(os.read(ours, 1), time.monotonic() - begun < 30)  # nobody has the other end
"""
    assert said(asked) == ["b''", "True"]


def test_nothing_is_left_of_one_that_nobody_waits_for() -> None:
    asked = """
begun = time.monotonic()
try:
    with meanwhile(lambda: time.sleep(60)):
        raise KeyError
except KeyError:
    pass
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("nobody", time.monotonic() - begun < 30)
"""
    assert said(asked) == ["nobody", "True"]
