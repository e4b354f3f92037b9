"""Commands stopped at some moment: nothing of them lives on, and nothing half is left.

``make kill`` does this at 200 random moments; here are a few.
"""

import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
from programs import Program
from trust.kills import COMMANDS, HOWS, Ended, resumed, stopped, stopped_never

from dflash_sim.cli import run
from dflash_sim.jobs import stopping

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
NEED_TORCH = {"run", "validate --real", "measure"}
NEED_HTTP = {"live": "httpx", "serve": "starlette", "ui": "dash"}
AFTER_S = {"run": 6.0, "validate --real": 8.0, "live": 9.0}
# Every command is stopped in one way, and those with processes of different kinds in all ways that
# do not take minutes; ``make kill`` stops all of them in every way.
ONE_WAY = {
    "plan": "interrupt", "fit": "worker", "validate": "terminate", "validate --real": "interrupt",
    "measure": "kill", "ui": "terminate",
}  # fmt: skip
ENOUGH = [
    (name, how)
    for name in COMMANDS
    for how in HOWS
    if ONE_WAY.get(name, how) == how and (name, how) != ("live", "worker")
]
BUSY = """
import sys, time
sys.argv[0] = "dflash-sim"
from dflash_sim import __main__, cli
cli.main = lambda: print("begun", flush=True) or time.sleep(600)
__main__.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "how"), ENOUGH)
def test_a_command_that_is_stopped(name: str, how: str, tmp_path: Path) -> None:
    if name in NEED_TORCH and find_spec("torch") is None:
        pytest.skip("needs torch")
    if find_spec(NEED_HTTP.get(name, "sys")) is None:
        pytest.skip(f"needs {NEED_HTTP[name]}")
    ended = stopped(name, how, AFTER_S.get(name, 3.0), tmp_path)
    assert ended.wrong == (), str(ended)


@pytest.mark.slow
def test_a_sweep_goes_on_to_the_same_rows(tmp_path: Path) -> None:
    stopped_never("sweep", tmp_path / "whole")
    rows = (tmp_path / "whole/runs/rows.jsonl").read_text().splitlines()
    for how in ("terminate", "kill"):
        assert stopped("sweep", how, 4.0, tmp_path / how).wrong == ()
        assert resumed(tmp_path / how) == rows


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_as_shells_expect(how: signal.Signals) -> None:
    heard = f"import signal; signal.signal({int(how)}, signal.default_int_handler)\n"
    if how != signal.SIGINT:  # one that was begun under nohup would ignore it
        heard = f"import signal; signal.signal({int(how)}, signal.SIG_DFL)\n"
    program = Program("-c", heard + BUSY)
    program.heard("begun")
    program.process.send_signal(how)
    said = program.process.communicate(timeout=20)[1]
    assert program.process.returncode == (130 if how == signal.SIGINT else -how)
    assert said == ""


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As under ``nohup``."""
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    program = Program("-c", ignoring + BUSY)
    program.heard("begun")
    program.process.send_signal(signal.SIGHUP)
    program.process.send_signal(signal.SIGTERM)
    program.process.communicate(timeout=20)
    assert program.process.returncode == -signal.SIGTERM


LOST_IN_A_DESTRUCTOR = """
import os, signal, sys, time
sys.argv[0] = "dflash-sim"
from dflash_sim import __main__, cli

class Ends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

def main():
    Ends()
    time.sleep(20)

cli.main = main
__main__.main()
"""


def test_a_signal_is_not_lost_where_it_cannot_be_raised() -> None:
    program = Program("-c", LOST_IN_A_DESTRUCTOR)
    said = program.process.communicate(timeout=15)[1]
    assert (program.process.returncode, said) == (130, "")


def test_an_error_after_a_signal_is_its_effect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library whose import was interrupted says that it cannot be imported."""
    monkeypatch.setattr(stopping, "_heard", [signal.SIGINT])
    assert run(["predict", "--gpu", "nosuch"]) == 130
    assert capsys.readouterr().err == "stopped\n"
    monkeypatch.setattr(stopping, "_heard", [])
    assert run(["predict", "--gpu", "nosuch"]) == 2


def test_what_is_left_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a program that leaves a process and a half file is found out."""
    code = (
        "import subprocess,sys,pathlib;pathlib.Path('rows.jsonl').write_text('{\"a\"');"
        "pathlib.Path('.rows.jsonl-x').write_text('');subprocess.Popen(['sleep','60']);"
        "sys.exit('Traceback')"
    )

    def broken(*words: str, **options: object) -> Program:
        return Program("-c", code, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("trust.kills.Program", broken)
    found: Ended = stopped("predict", "terminate", 1.5, tmp_path)
    told = " ".join(found.wrong)
    assert "1 processes are left" in told
    assert "it said" in told
    assert ".rows.jsonl-x is left" in told
    assert "rows.jsonl is not whole" in told


def test_workers_are_forked_deaf_and_end_when_told() -> None:
    """Between a fork and its first line neither signal may run what the parent does at it."""
    code = (
        "import os,signal,time\n"
        "from dflash_sim.jobs.stopping import forked,forking,listen\n"
        "listen()\n"
        "with forking():\n"
        "    pid=os.fork()\n"
        "    if not pid:\n"
        "        time.sleep(0.2); forked(); time.sleep(60); os._exit(3)\n"
        "for how in (signal.SIGINT, signal.SIGTERM): os.kill(pid, how)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid,0)[1]))\n"
    )
    program = Program("-c", code)
    assert program.process.communicate(timeout=20) == (f"{-signal.SIGTERM}\n", "")
