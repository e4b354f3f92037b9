"""What whole commands cost, beside another release: ``pytest -m bench -s tests/bench``.

``BASE`` names the folder that holds another release's ``dflash_sim``. Both then run at the same
time, so that a busy machine slows both alike; processor seconds are printed, and never asserted.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench

OURS = str(Path(__file__).parents[3])
CHAT = ["--model", "qwen3-8b", "--isl", "500", "--osl", "100", "--tpot", "20", "--jobs", "1"]
SERVERS = ["--gpu", "b200,h200,h100", "--tp", "1,2,4", "--method", "none,dflash"]
COMMANDS = {
    "README": ["predict", "--gpu", "b200", "--block", "16", "--conc", "32"],
    "table of 24 rows": ["predict", "--block", "4,8,12,16", "--conc", "1-32:x2", "--jobs", "1"],
    "explain": ["explain", "--gpu", "b200", "--block", "16", "--conc", "32"],
    "validate": ["validate", "--jobs", "1"],
    "plan of 18": ["plan", *CHAT, *SERVERS, "--rate", "20", "--duration", "60"],
    "most of 2 GPUs": ["plan", *CHAT, "--gpus", "2", "--maximise", "rate", "--gpu", "b200", "--tp",
                       "1"],
}  # fmt: skip
TIMED = """
import resource, subprocess, sys
command = [sys.executable, "-m", "dflash_sim", *sys.argv[1:]]
code = subprocess.run(command, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
sys.exit(code.returncode)
"""


def started(folder: str, command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TIMED, *command],
        env=os.environ | {"PYTHONPATH": folder},
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )


def cpu_s(process: subprocess.Popen[str]) -> float:
    out, _ = process.communicate()
    assert process.returncode == 0
    return float(out)


@pytest.mark.parametrize("name", COMMANDS)
def test_processor_time_of_a_command(name: str) -> None:
    folders = [OURS, *filter(None, [os.environ.get("BASE")])]
    seconds = [cpu_s(p) for p in [started(folder, COMMANDS[name]) for folder in folders]]
    beside = f", {seconds[1]:.2f} s there, {seconds[0] / seconds[1]:.2f} x" if seconds[1:] else ""
    print(f"\n{name}: {seconds[0]:.2f} s{beside}")
