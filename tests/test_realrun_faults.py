"""Workers that die, fall over or hang: who, why, what was done, and nothing left running."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from real_engine import setup  # noqa: E402

from dflash_sim.kernels.cache import Placement  # noqa: E402
from dflash_sim.kernels.cycle import Plain, Running  # noqa: E402
from dflash_sim.realrun.faults import RunFailedError  # noqa: E402
from dflash_sim.realrun.launch import serve  # noqa: E402
from dflash_sim.realrun.requests import Request  # noqa: E402

ASKED = [Request(prompt=(3, 1, 4), max_new_tokens=n) for n in (4, 60, 60)]
STEPS = 12  # cycles that a worker does before it fails: the first request is answered by then


def failing(rank: int, how: Callable[[], None]) -> Callable[[Plain], Plain]:
    """A wrapper: after some cycles one rank does ``how``."""

    def wrap(method: Plain) -> Plain:
        if method.target.vocabulary.comm.rank != rank:
            return method
        own, left = method.draft, [STEPS]

        def draft(running: Running, at: Placement) -> object:
            left[0] -= 1
            if left[0] < 0:
                how()
            return own(running, at)

        method.draft = draft  # type: ignore[assignment]
        return method

    return wrap


def fall() -> None:
    msg = "rank fell over"
    raise ValueError(msg)


def use_up_memory() -> None:
    raise MemoryError


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(3600)


def children() -> set[int]:
    listed = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "pid=", "-o", "comm="],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split() for line in listed.stdout.splitlines()]
    return {int(pid) for pid, name in rows if name != "ps"}


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (fall, "ValueError: rank fell over"),
        (use_up_memory, "out of memory"),
        (die, "was killed by SIGKILL"),
        (hang, "no answer within 1.5 s"),
    ],
)
def test_a_failure_names_its_rank(how: Callable[[], None], said: str, tp: int) -> None:
    """The last rank fails; with two, the first only waits for it, or complains of it."""
    before, cores = children(), os.sched_getaffinity(0)
    made = setup(tp=tp, wrap=failing(tp - 1, how), timeout_s=1.5)
    with pytest.raises(
        RunFailedError, match=f"rank {tp - 1}: .*{said}.*; 1 of 3 requests"
    ) as caught:
        serve(made, ASKED, conc=3)
    run = caught.value.run
    assert run is not None
    assert [len(a.output) for a in run.answers] == [4]
    assert len(run.decodes) >= 4
    assert children() == before
    assert os.sched_getaffinity(0) == cores


def test_a_worker_that_cannot_start() -> None:
    def wrap(method: Plain) -> Plain:
        fall()
        return method

    with pytest.raises(RunFailedError, match=r"rank 0: ValueError.*nothing had been answered"):
        serve(setup(wrap=wrap), ASKED, conc=3)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from real_engine import setup
from dflash_sim.realrun.faults import InterruptedRunError
from dflash_sim.realrun.launch import serve
from dflash_sim.realrun.requests import Request

asked = [Request(prompt=(3, 1, 4), max_new_tokens=n) for n in (4, 100_000)]
try:
    serve(setup(tp=2), asked, conc=2, on_answer=lambda answer: print("answered", flush=True))
except InterruptedRunError as stop:
    print(stop, len(stop.run.answers), stop.exit_code)
"""


def alive_in_group(group: int) -> bool:
    listed = subprocess.run(
        ["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in listed.stdout.splitlines()]
    return any(int(pgid) == group and not stat.startswith("Z") for pgid, stat in rows)


def gone(group: int) -> bool:
    """Whether the process group dies within some seconds."""
    for _ in range(100):
        if not alive_in_group(group):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_scheduler(stop: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group and ends with what was done; a kill leaves no orphan."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        start_new_session=True,
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "answered\n"
        if stop == signal.SIGINT:
            os.killpg(started.pid, stop)
            said, _ = started.communicate(timeout=20)
            assert said == "stopped; 1 of 2 requests had been answered 1 130\n"
        else:
            started.kill()
        assert gone(started.pid)
