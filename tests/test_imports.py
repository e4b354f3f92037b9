"""Who may import whom: profiles <- simulator <- calibrate <- studies <- commands <- cli."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "profiles": set[str](),
    "simulator": {"profiles"},
    "kernels": {"profiles"},
    "realrun": {"profiles", "kernels", "simulator.records"},
    "calibrate": {"profiles", "simulator", "kernels", "realrun"},
    "studies": {"profiles", "simulator", "calibrate"},
    "commands": {"profiles", "simulator", "kernels", "realrun", "calibrate", "studies"},
}
HEAVY = {"torch", "pandas", "scipy", "plotly", "matplotlib", "polars", "pyarrow"}
FILE_CALLS = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "loadtxt", "savetxt"}


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / package).glob("*.py")):
        yield f"{package}/{path.name}", ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names imported anywhere in a tree; a relative import starts with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            if source == "dflash_sim":
                yield from (f"dflash_sim.{alias.name}" for alias in node.names)
            else:
                yield source


def of_ours(name: str) -> str:
    """``simulator.records`` of ``dflash_sim.simulator.records``; empty for other people's."""
    return name.removeprefix("dflash_sim.") if name.startswith("dflash_sim") else ""


def forbidden(package: str, tree: ast.AST) -> list[str]:
    """Imports of ours that the package may not make."""
    may = ALLOWED[package] | {package}
    ours = [of_ours(name) for name in imports(tree)]
    return [o for o in ours if o and not any(f"{o}.".startswith(f"{m}.") for m in may)]


def calls(tree: ast.AST) -> set[str]:
    """Names of called functions and methods."""
    called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {f.id if isinstance(f, ast.Name) else getattr(f, "attr", "") for f in called}


@pytest.mark.parametrize("package", ALLOWED)
def test_direction(package: str) -> None:
    wrong = {name: forbidden(package, tree) for name, tree in modules(package)}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("profiles", "import dflash_sim.simulator.cost"),
        ("profiles", "from dflash_sim import simulator"),
        ("simulator", "def f():\n    from dflash_sim.studies.present import show"),
        ("simulator", "import dflash_sim.cli"),
        ("realrun", "from dflash_sim.simulator.engine import EventEngine"),
        ("calibrate", "import dflash_sim.studies"),
    ],
)
def test_a_wrong_direction_is_seen(package: str, line: str) -> None:
    assert forbidden(package, ast.parse(line))


def test_no_relative_imports() -> None:
    trees = [item for package in ALLOWED for item in modules(package)]
    assert [name for name, tree in trees if any(i.startswith(".") for i in imports(tree))] == []
    assert list(imports(ast.parse("from . import x"))) == ["."]


@pytest.mark.parametrize("package", ["simulator", "profiles"])
def test_predict_path_is_light(package: str) -> None:
    loaded = {name: {i.split(".")[0] for i in imports(tree)} for name, tree in modules(package)}
    assert {name: found & HEAVY for name, found in loaded.items() if found & HEAVY} == {}


def test_simulator_opens_no_file() -> None:
    found = {name: calls(tree) & FILE_CALLS for name, tree in modules("simulator")}
    assert {name: names for name, names in found.items() if names} == {}
    assert calls(ast.parse("Path('x').read_text(); open('y')")) >= {"read_text", "open"}


@pytest.mark.parametrize("path", [ROOT / "cli.py", *sorted((ROOT / "commands").glob("*.py"))])
def test_commands_import_late(path: Path) -> None:
    """At their top the commands import typer, the standard library and one another."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    names = set(imports(ast.Module(body, [])))
    others = {n for n in names if n.split(".")[0] not in sys.stdlib_module_names}
    assert {n for n in others if not n.startswith("dflash_sim.commands.")} <= {"typer"}


def loaded_by(code: str) -> set[str]:
    """Top-level packages in memory after running ``code`` in a fresh interpreter."""
    show = "import sys; print('\\n' + ' '.join({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"],
        env=os.environ | {"PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_nothing_heavy() -> None:
    code = """
from dflash_sim.cli import main
import sys
sys.argv = ["dflash-sim", "predict", "--help"]
try:
    main()
except SystemExit:
    pass
"""
    loaded = loaded_by(code)
    assert "typer" in loaded
    assert loaded & (HEAVY | {"numpy", "simpy", "yaml"}) == set()


def test_predict_loads_no_scipy() -> None:
    loaded = loaded_by("import dflash_sim.simulator.predict")
    assert "numpy" in loaded
    assert loaded & HEAVY == set()
