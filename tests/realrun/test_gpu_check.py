"""The script for a GPU, as far as a CPU tells: its plan, its limits, what it says of failures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the script asks torch for a GPU")
pytest.importorskip("triton", reason="without it parts are skipped for another reason")
pytest.importorskip("safetensors", reason="without it parts are skipped for another reason")

sys.path.insert(0, str(Path(__file__).parents[1]))
SCRIPT = Path(__file__).parents[1] / "gpu_check.sh"
PARTS = ("tests", "measure", "captured-8b", "captured-35b", "validate", "kernels", "attention")
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def ran(
    folder: Path, *words: str, python: str = sys.executable, **environment: str
) -> "subprocess.CompletedProcess[str]":
    given = {**os.environ, "PYTHON": python, **environment}
    return subprocess.run(
        [str(SCRIPT), *words, str(folder)], capture_output=True, text=True, env=given, check=False
    )


@WITHOUT_GPU
def test_a_dry_run_tells_the_plan(tmp_path: Path) -> None:
    """Every part with its limit and command, eight minutes in all; and why not here."""
    done = ran(tmp_path, "--dry")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if " at most " in line]
    assert [line.split()[0] for line in told] == list(PARTS)
    limits = [int(line.split(" at most ")[1].split(" s: ")[0]) for line in told]
    assert sum(limits) <= 480
    assert done.stdout.count("skipped here: no CUDA device") == len(PARTS)
    assert (tmp_path / "summary.txt").read_text() == done.stdout
    for line in told:  # files that are named are there
        named = [word for word in line.split() if word.startswith("tests/")]
        assert all((SCRIPT.parents[1] / word).exists() for word in named), named
        assert named or "dflash_sim validate --real" in line


@WITHOUT_GPU
def test_without_a_gpu_nothing_is_run(tmp_path: Path) -> None:
    done = ran(tmp_path)
    assert done.returncode == 32
    assert done.stdout.count("skipped: no CUDA device") == len(PARTS)
    assert ran(tmp_path, "--wet").returncode == 64


# Stands in for Python where there is a GPU: some modules are missing, some parts fail.
STUB = """#!/usr/bin/env bash
case "$*" in
    -\\ *simpy*) echo "simpy pydantic" ;;
    -\\ *) echo ;;
    *machine) echo "device: a GPU"; echo "cuda: yes" ;;
    "-m pytest"*tests/bench*) echo "of three kernels, one is slow" ;;
    "-m pytest"*) echo "3 failed"; exit 1 ;;
    *"parts.py measure"*) echo "half of it"; exec sleep 60 ;;
    *"parts.py captured"*) echo "{}" ;;
esac
"""
# What the limit of a part is for, sooner.
HURRY = """#!/usr/bin/env bash
for word; do case $word in 90) word=1 ;; esac; words+=("$word"); done
exec "$REAL_TIMEOUT" "${words[@]}"
"""


def test_what_fails_is_said_by_the_exit_code(tmp_path: Path) -> None:
    """Tests that fail, a measurement cut short: 1 + 2; a part that lacks modules is no failure."""
    real = subprocess.run(["which", "timeout"], capture_output=True, text=True, check=True).stdout
    for name, text in (("python", STUB), ("timeout", HURRY)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    out = tmp_path / "out"
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = ran(out, python=str(tmp_path / "python"), PATH=path, REAL_TIMEOUT=real.strip())
    said = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 3, done.stdout
    assert "FAILED (1)" in said["tests"]
    assert "3 failed" in said["tests"]
    assert "CUT SHORT" in said["measure"]
    assert "passed" in said["captured-35b"]
    assert said["validate"].endswith("skipped: not installed: simpy pydantic")
    assert "one is slow" in said["kernels"]
    assert (out / "tests.log").read_text() == "3 failed\n"
    assert (out / "captured.log").read_text() == "{}\n{}\n"
    assert len(list(out.iterdir())) <= 8


# A machine with torch, triton, numpy, safetensors, pytest and hypothesis, and none of the rest.
ABSENT = (
    "simpy", "pydantic", "pydantic_core", "typer", "rich", "yaml", "pandas", "scipy", "plotly",
    "pyarrow", "transformers", "tokenizers", "starlette", "uvicorn", "httpx", "dash", "xdist",
)  # fmt: skip
SITE = f"""
import sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.split(".")[0] in {ABSENT}
        return None if absent else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""


def bare(folder: Path) -> dict[str, str]:
    """The environment of such a machine, for a process and all that it starts."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}


PARTS_HERE = """
import sys
sys.path.insert(0, sys.argv[1])
import gpu_parts
from pathlib import Path
"""
MEASURE = """
profile = Path(sys.argv[2], "here.profile")
print(gpu_parts.measure("tiny", profile, device="cpu", requests="1", ctx="64"))
print(profile.exists())
"""
CAPTURED = """
small = dict(device="cpu", dtype="float32", isl=12, max_new_tokens=9, block=8)
for row in gpu_parts.captured("tiny", 4, 3.0, (2,), captures=False, **small):
    print(row["same_share"], row["captured"]["accept_length_cycle"])
"""


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param(CAPTURED, "1.0 ", id="captured"),
        pytest.param(MEASURE, "True", id="measure", marks=pytest.mark.slow),
    ],
)
def test_parts_need_no_more_than_torch(tmp_path: Path, script: str, said: str) -> None:
    """On a CPU, with the small pair: they and their workers run without all of the rest."""
    words = [sys.executable, "-c", PARTS_HERE + script, str(SCRIPT.parent), str(tmp_path)]
    environment = bare(tmp_path / "site")
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(said)


# Python as it is, told that there is a GPU; tests are collected, and no other part is begun.
COLLECTS = f"""#!/usr/bin/env bash
case "$*" in
    *machine) "{sys.executable}" "$@"; echo "cuda: yes" ;;
    "-m pytest"*) exec "{sys.executable}" "$@" --collect-only --quiet ;;
    *parts.py*) echo "not here" ;;
    *) exec "{sys.executable}" "$@" ;;
esac
"""


@pytest.mark.slow
@WITHOUT_GPU
def test_the_tests_of_a_gpu_need_no_more_than_torch(tmp_path: Path) -> None:
    """The script finds all of them on a machine that has nothing else, and says what it skips."""
    python = tmp_path / "python"
    python.write_text(COLLECTS)
    python.chmod(0o755)
    done = ran(tmp_path / "out", python=str(python), **bare(tmp_path / "site"))
    said = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 0, done.stdout
    for part in ("tests", "kernels", "attention"):
        assert re.search(r"passed in \d+ s: (\d+/)?\d+ tests collected", said[part]), said[part]
    assert said["validate"].endswith("skipped: not installed: typer rich yaml simpy pydantic")
