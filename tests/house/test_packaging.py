"""What is installed: the root is the package, and nothing else reaches site-packages."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections import Counter
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOT_SHIPPED = {"tests", "docs", "studies/gallery", "studies/training"}
DATA = {".toml", ".csv", ".json", ".yaml", ".yml"}
MAX_WHEEL_BYTES = 5 * 2**20  # 5 MB as file systems count
LEFTOVERS = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "build", "dist", "*.egg-info"
)


def python(*args: str, cwd: Path, **env: str) -> str:
    """Standard output of this interpreter."""
    done = subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def packages_in_the_tree() -> set[str]:
    """Folders with Python files or Markdown notes, under the names they are installed as."""
    found = {"dflash_sim", "dflash_sim.kernels"}
    for init in ROOT.glob("[a-z]*/**/__init__.py"):
        if not {"tests", "build"} & set(init.relative_to(ROOT).parts):
            found.add(".".join(("dflash_sim", *init.parent.relative_to(ROOT).parts)))
    return found


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """``(wheel, sdist)`` built once; the wheel from the sdist, as a package index would have it.

    From a copy: setuptools leaves ``build/`` behind, and a strict editable install lives there.
    """
    work = tmp_path_factory.mktemp("packaging")
    source = work / "source"
    shutil.copytree(ROOT, source, ignore=LEFTOVERS)
    python("-m", "build", "--no-isolation", "--outdir", str(work), str(source), cwd=work)
    return next(work.glob("*.whl")), next(work.glob("*.tar.gz"))


@pytest.fixture(scope="session")
def wheel_names(archives: tuple[Path, Path]) -> set[str]:
    with zipfile.ZipFile(archives[0]) as wheel:
        return set(wheel.namelist())


def wheel_text(archives: tuple[Path, Path], ending: str) -> str:
    with zipfile.ZipFile(archives[0]) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith(ending))
        return wheel.read(name).decode()


def test_one_top_level_name(archives: tuple[Path, Path], wheel_names: set[str]) -> None:
    assert wheel_text(archives, "top_level.txt").split() == ["dflash_sim"]
    tops = {name.split("/")[0] for name in wheel_names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"dflash_sim"}


def test_every_package_is_listed() -> None:
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == packages_in_the_tree()


def test_every_module_is_shipped(wheel_names: set[str]) -> None:
    here = {
        path.relative_to(ROOT).as_posix()
        for folder in PYPROJECT["tool"]["setuptools"]["packages"]
        for path in (ROOT / folder.removeprefix("dflash_sim").replace(".", "/").strip("/")).glob(
            "*.py"
        )
    }
    shipped = {n.removeprefix("dflash_sim/") for n in wheel_names if n.endswith(".py")}
    assert shipped == here


def test_only_the_package_lives_in_the_root() -> None:
    """Any other ``.py`` here would be shipped, and would shadow its namesake run from the root."""
    assert {p.name for p in ROOT.glob("*.py")} <= {"__init__.py", "__main__.py", "cli.py"}
    assert not list(ROOT.glob("*.sh"))


def test_every_sheet_is_shipped(wheel_names: set[str]) -> None:
    sheets = [p for p in (ROOT / "profiles").rglob("*") if p.suffix in DATA]
    assert len(sheets) > 100
    missing = [
        p.relative_to(ROOT).as_posix()
        for p in sheets
        if f"dflash_sim/{p.relative_to(ROOT).as_posix()}" not in wheel_names
    ]
    assert missing == []


def test_typed_and_licensed(wheel_names: set[str]) -> None:
    assert "dflash_sim/py.typed" in wheel_names
    for text in ("LICENSE", "NOTICE"):
        assert any(n.endswith(f".dist-info/licenses/{text}") for n in wheel_names)


def test_nothing_else_is_shipped(wheel_names: set[str]) -> None:
    """Code, sheets, tables, the tiny pair and what a report is made of; nothing else."""
    inside = {n for n in wheel_names if not n.split("/")[0].endswith(".dist-info")}
    endings = Counter(Path(name).suffix or Path(name).name for name in inside)
    others = {".md", ".jsonl", ".safetensors", ".css", ".js", ".typed", ".py"}
    assert set(endings) <= DATA | others
    assert endings[".safetensors"] <= 6
    about = {Path(n).name for n in wheel_names - inside}
    assert about >= {"METADATA", "RECORD", "LICENSE", "NOTICE", "entry_points.txt"}
    hidden = [n for n in inside if any(part.startswith(".") for part in n.split("/"))]
    assert hidden == []


def test_the_notice_names_whose_work_is_in_it(archives: tuple[Path, Path]) -> None:
    """Folders of operator times say which package they are from, and the notice has its licence."""
    notice = wheel_text(archives, "licenses/NOTICE")
    licence = wheel_text(archives, "licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "License-Expression: Apache-2.0" in wheel_text(archives, "METADATA")
    notes = [p.read_text(encoding="utf-8") for p in ROOT.glob("profiles/ops/*/notes.toml")]
    assert notes
    assert all("aiconfigurator" in text for text in notes)
    assert "aiconfigurator-core" in notice
    assert "Apache License, Version 2.0" in notice


PERMISSIVE = re.compile(r"\b(MIT|BSD|Apache|PSF|Python Software Foundation|ISC|0BSD)\b")


def test_what_it_rests_on_is_permissive() -> None:
    """The licence that each package of the plain install states of itself."""
    for line in PYPROJECT["project"]["dependencies"]:
        about = metadata.metadata(re.split(r"[<>=]", line)[0])
        first = (about.get("License") or "").strip().partition("\n")[0]  # not what it bundles
        said = [about.get("License-Expression"), first]
        said += [c for c in about.get_all("Classifier", []) if c.startswith("License")]
        told = " ".join(filter(None, said))
        assert PERMISSIVE.search(told), f"{line}: {told[:80]}"
        assert not re.search(r"\bA?GPL", told), line


@pytest.mark.parametrize("folder", sorted(NOT_SHIPPED))
def test_left_at_home(wheel_names: set[str], folder: str) -> None:
    assert not [n for n in wheel_names if n.startswith(f"dflash_sim/{folder}/")]


def test_sdist_holds_the_checkout(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[1]) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {
        "README.md",
        "CHANGELOG.md",
        "Makefile",
        "SECURITY.md",
        ".ci/run",
        ".ci/audit",
        ".ci/lowest.txt",
        "tests/house/test_packaging.py",
    }
    wanted |= {p.relative_to(ROOT).as_posix() for p in ROOT.glob("tests/data/**/*") if p.is_file()}
    assert wanted <= inside


def test_wheel_is_small(archives: tuple[Path, Path]) -> None:
    nbytes = archives[0].stat().st_size
    print(f"wheel: {nbytes / 1e6:.2f} MB")
    assert nbytes < MAX_WHEEL_BYTES


def test_versions_agree(archives: tuple[Path, Path]) -> None:
    version = PYPROJECT["project"]["version"]
    assert f'__version__ = "{version}"' in (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert f"\nVersion: {version}\n" in wheel_text(archives, "METADATA")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_installed_wheel_works_alone(archives: tuple[Path, Path], tmp_path: Path) -> None:
    """Unpacked anywhere, it finds its sheets; sources beside it are not needed."""
    with zipfile.ZipFile(archives[0]) as wheel:
        wheel.extractall(tmp_path)
    code = (
        "import dflash_sim, dflash_sim.kernels; from dflash_sim.profiles.find import names; "
        "print(dflash_sim.__file__, len(names('gpus')))"
    )
    where, gpus = python("-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path)).split()
    assert Path(where).parent == tmp_path / "dflash_sim"
    assert int(gpus) == len(list((ROOT / "profiles/devices").glob("*.toml")))


def test_kernels_gives_way_to_hugging_face(tmp_path: Path) -> None:
    """From the root, ``import kernels`` must find an installed regular package of that name."""
    assert not (ROOT / "kernels/__init__.py").exists()
    other = tmp_path / "kernels"
    other.mkdir()
    (other / "__init__.py").write_text("whose = 'theirs'\n", encoding="utf-8")
    code = "import kernels; print(kernels.whose)"
    assert python("-c", code, cwd=ROOT, PYTHONPATH=str(tmp_path)).strip() == "theirs"


def test_an_init_file_in_kernels_would_shadow_it(tmp_path: Path) -> None:
    """The control of the test above: it would fail if the file appeared."""
    for where, whose in (("root", "ours"), ("site", "theirs")):
        package = tmp_path / where / "kernels"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"whose = '{whose}'\n", encoding="utf-8")
    code = "import kernels; print(kernels.whose)"
    found = python("-c", code, cwd=tmp_path / "root", PYTHONPATH=str(tmp_path / "site"))
    assert found.strip() == "ours"


def test_the_lowest_releases_are_those_that_are_tried() -> None:
    """``make lowest`` installs what pyproject.toml allows at least, not something newer."""
    project: dict[str, Any] = PYPROJECT["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    bounds = dict(re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(asked), re.MULTILINE))
    lines = (ROOT / ".ci/lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert bounds
    assert [n for n, low in bounds.items() if not f"{pins[n]}.".startswith(f"{low}.")] == []


def test_the_newest_releases_that_were_tried_are_allowed() -> None:
    """Of each dependency but Ray, which no check installs; the bounds are around what was tried."""
    project: dict[str, Any] = PYPROJECT["project"]
    every = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    lines = (ROOT / ".ci/newest.txt").read_text(encoding="utf-8").splitlines()
    tried = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    asked = [Requirement(one) for one in every]
    assert {r.name.lower() for r in asked} == {*tried, "ray"}
    assert [
        str(r) for r in asked if r.name != "ray" and tried[r.name.lower()] not in r.specifier
    ] == []


def test_dependencies_stay_light() -> None:
    """The plain install is for a laptop: what needs a GPU, a cluster or their data is an extra."""
    project: dict[str, Any] = PYPROJECT["project"]
    heavy = ("torch", "ray", "triton", "pyarrow", "aiconfigurator", "transformers")
    assert not [d for d in project["dependencies"] if d.startswith(heavy)]
    assert {"pandas", "scipy", "plotly"} <= {d.partition(">")[0] for d in project["dependencies"]}


def test_every_import_of_the_core_is_declared() -> None:
    """What a plain install imports, it names; what an extra imports, that extra names."""
    project: dict[str, Any] = PYPROJECT["project"]
    named = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {re.split(r"[<>=\[]", d)[0].lower().replace("-", "_") for d in named}
    declared |= {"yaml"} if "pyyaml" in declared else set()
    imported = {
        name.split(".")[0]
        for package in ("api", "profiles", "simulator", "calibrate", "studies", "serve", "commands")
        for path in (ROOT / package).rglob("*.py")
        if not any(path.is_relative_to(ROOT / home) for home in NOT_SHIPPED)
        for name in imported_by(path)
    }
    ours = {*sys.stdlib_module_names, "dflash_sim"}
    assert {n for n in imported - ours if not declared & {n, n.removesuffix("_core")}} == set()


def imported_by(path: Path) -> set[str]:
    """Modules that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found
