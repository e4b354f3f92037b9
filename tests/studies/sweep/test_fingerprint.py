"""Whatever a row depends on changes the fingerprint, a byte of it being enough."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dflash_sim.studies.sweep import fingerprint as module
from dflash_sim.studies.sweep.fingerprint import PACKAGE, fingerprint

KINDS = [
    "simulator/engine/events.py",
    "calibrate/observations/launch_command.py",
    "studies/ask/answers.py",
    "studies/predict/table.py",
    "studies/sweep/workers.py",
    "profiles/load.py",
    "profiles/policies.toml",
    "profiles/schema.csv",
    "profiles/devices/b200.toml",
    "profiles/acceptance/accept_length.csv",
]
# Folders that modules of a worker come from, once it has answered.
LOADED = """
import sys
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.sweep.workers import How, Worker
for policy in ("fixed", "confidence"):
    asked = Scenario.parse(model="qwen3-8b", num_prompts=2, max_new_tokens=8, policy=policy)
    assert Worker(How()).answer((), asked)["error"] is None
names = [name.split(".") for name in sys.modules if name.startswith("dflash_sim.")]
print(*sorted({name[1] for name in names if len(name) > 2}))
"""


@pytest.fixture(autouse=True)
def _no_sheets_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFLASH_SIM_PROFILES", "")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = tmp_path_factory.mktemp("copy")
    for name in ("profiles", *module._CODE):
        skip = shutil.ignore_patterns("__pycache__", "gallery", "training")
        shutil.copytree(PACKAGE / name, package / name, ignore=skip)
    return package


def test_a_copy_is_the_same_program(copy: Path) -> None:
    assert fingerprint(package=copy) == fingerprint()


@pytest.mark.parametrize("name", KINDS)
def test_one_byte_makes_another_program(name: str, copy: Path) -> None:
    path, before = copy / name, fingerprint(package=copy)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    try:
        assert fingerprint(package=copy) != before
    finally:
        path.write_bytes(whole)
    assert fingerprint(package=copy) == before


def test_another_numpy_makes_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    before, version = fingerprint(), module.version
    monkeypatch.setattr(module, "version", lambda n: "0.1" if n == "numpy" else version(n))
    assert fingerprint() != before


def test_sheets_and_files_of_the_user_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {fingerprint()}
    monkeypatch.setenv("DFLASH_SIM_PROFILES", str(tmp_path))
    sheet = tmp_path / "devices/mine.toml"
    sheet.parent.mkdir()
    for text in ("a = 1", "a = 2"):
        sheet.write_text(text)
        seen.add(fingerprint())
    (tmp_path / "notes.txt").write_text("no sheet")
    assert len(seen) == 3
    assert fingerprint() in seen
    assert fingerprint([sheet]) not in seen


def test_every_module_behind_a_row_is_in_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"profiles", *module._CODE}
