"""Workers that die, fall over or hang: who, why, what was done, and nothing left running."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from real_engine import setup  # noqa: E402

from dflash_sim.kernels.cache import Placement  # noqa: E402
from dflash_sim.kernels.models.cycle import Plain, Running  # noqa: E402
from dflash_sim.profiles.errors import DflashSimError, UsageError  # noqa: E402
from dflash_sim.realrun.job.faults import RunFailedError, WorkerLostError  # noqa: E402
from dflash_sim.realrun.job.requests import Request  # noqa: E402
from dflash_sim.realrun.launch import fit_requests, serve  # noqa: E402
from dflash_sim.realrun.row import observed_row  # noqa: E402
from dflash_sim.realrun.scheduler import torchrun  # noqa: E402
from dflash_sim.realrun.scheduler.crew import Crew  # noqa: E402
from dflash_sim.realrun.scheduler.torchrun import Torchrun  # noqa: E402

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
    fitted = fit_requests(made, ASKED, 3)
    row = observed_row(fitted, run, ASKED, conc=3, machine="cpu", failure=caught.value)
    [warning] = row["warnings"]
    assert said in warning
    assert "1 of 3 requests had been answered" in warning
    assert children() == before
    assert os.sched_getaffinity(0) == cores


def test_a_hang_among_ranks_of_torchrun_is_nobodys() -> None:
    """Only rank 0's count is seen: the others' silence is not held against them."""
    crew = Crew(fit_requests(setup(tp=3), ASKED, 3))
    crew.beats = [7, 0, 0]
    crew.links = cast("list[Connection]", [None] * 3)
    crew.processes = dict.fromkeys(range(3), cast("BaseProcess", None))
    with pytest.raises(WorkerLostError, match=r"^rank 1: no answer within 2 s"):
        crew._silent(2.0)
    del crew.processes[1], crew.processes[2]
    with pytest.raises(WorkerLostError, match=r"^a rank: no answer within 2 s"):
        crew._silent(2.0)


def test_ranks_that_never_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is missing, how long it was waited for, and what to look at."""
    monkeypatch.setattr(torchrun, "PATIENCE_S", 0.3)
    group = Torchrun(0, 3, tmp_path / "meeting")
    caller = threading.Thread(target=lambda: Torchrun(2, 3, group.folder).call().close())
    caller.start()
    with pytest.raises(
        DflashSimError, match=r"waited 0\.3 s in .*; not heard from: 1\. .*TMPDIR"
    ) as caught:
        group.callers()
    caller.join()
    assert not isinstance(caught.value, UsageError)


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
from dflash_sim.realrun.job.faults import InterruptedRunError
from dflash_sim.realrun.launch import serve
from dflash_sim.realrun.job.requests import Request

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


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_scheduler(stop: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group and ends with what was done; a kill leaves no orphan."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parents[2])],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        start_new_session=True,
    ) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "answered\n"
            if stop == signal.SIGINT:
                os.killpg(started.pid, stop)
                said, _ = started.communicate(timeout=20)
                assert said == "stopped; 1 of 2 requests had been answered 1 130\n"
            else:
                started.kill()
            assert gone(started.pid)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
