"""Who may import whom, room by room.

profiles <- simulator <- calibrate <- studies <- commands, and <- api.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
from parsed_files import parsed

ROOT = Path(__file__).parents[2]

# What a room may import besides itself. A name stands for that folder's own modules alone; with
# /* for its rooms too. Nothing here may be circular: see test_rooms_have_an_order.
ALLOWED: dict[str, set[str]] = {
    "profiles/acceptance": {"profiles"},
    "profiles/networks": {"profiles", "profiles/quantization"},
    "profiles/quantization": {"profiles"},
    "profiles/releases": {"profiles"},
    "profiles/times": {"profiles"},
    "profiles": {"profiles/networks", "profiles/quantization"},
    "jobs": {"profiles"},
    "simulator/requests": {"profiles/*"},
    "simulator/cost": {"profiles/*"},
    "simulator/engine": {"profiles/*", "simulator/requests", "simulator/cost"},
    "simulator/policy": {"profiles/*", "simulator/requests", "simulator/engine"},
    "simulator": {"profiles/*", "jobs"}
    | {f"simulator/{room}" for room in ("requests", "cost", "engine", "policy")},
    "simulator/fleet": {"profiles/*", "simulator", "simulator/engine", "simulator/requests"},
    "kernels/reference": set(),
    "kernels/triton": {"profiles", "kernels/reference"},
    "kernels": {"profiles/*", "kernels/reference", "kernels/triton"},
    "kernels/layers": {"profiles/*", "kernels", "kernels/reference"},
    "kernels/models": {"profiles/*", "kernels", "kernels/layers", "kernels/reference"},
    "realrun/job": {
        "profiles/*",
        "kernels/*",
        "simulator/engine.records",
        "simulator/cost.cycle",
        "simulator/cost.methods",
    },
    "realrun/worker": {"profiles/*", "jobs", "kernels/*", "realrun/job"},
    "realrun/scheduler": {
        "profiles",
        "jobs",
        "realrun/job",
        "realrun/worker",
        "simulator/engine.records",
    },
    "realrun": {"profiles", "kernels/*", "realrun/job", "realrun/scheduler"},
    "calibrate/launches": {"profiles/*", "simulator/*"},
    "calibrate/observations": {"profiles/*", "simulator/*", "calibrate/launches"},
    "calibrate/readers": {
        "profiles/*",
        "simulator/*",
        "calibrate/launches",
        "calibrate/observations",
    },
    "calibrate/compare": {
        "profiles/*",
        "simulator/*",
        "calibrate/observations",
        "calibrate/readers",
    },
    "calibrate/fit": {"profiles/*", "jobs", "simulator/*", "calibrate/observations"},
    "calibrate/live": {
        "profiles/*",
        "simulator/*",
        "calibrate/observations",
        "calibrate/readers",
        "calibrate/fit",
    },
    "calibrate/measure": {"profiles/*", "jobs", "kernels/*", "simulator/cost"},
    "calibrate/realloop": {"profiles/*", "simulator/*", "realrun/*", "calibrate/measure"},
    "calibrate/silicon": {"profiles/*"},
    "studies/ask": {"profiles/*", "jobs", "simulator/*", "calibrate/observations"},
    "studies/show": {"profiles/*", "jobs", "simulator/*"},
    "studies/predict": {"profiles/*", "simulator/*", "studies/ask", "studies/show"},
    "studies/explain": {"profiles/*", "jobs", "simulator/*", "studies/show"},
    "studies/trace": {"profiles/*", "simulator/*", "studies/show"},
    "studies/sweep": {
        "profiles/*",
        "jobs",
        "simulator/*",
        "studies/ask",
        "studies/show",
        "studies/predict",
    },
    "studies/plan": {
        "profiles/*",
        "jobs",
        "simulator/*",
        "calibrate/readers",
        "studies/ask",
        "studies/show",
        "studies/predict",
    },
    "studies/crossover": {"profiles/*", "simulator/*", "studies/ask", "studies/show"},
    "studies/compare": {"profiles/*", "simulator/*", "calibrate/*", "studies/show"},
    "studies/live": {
        "profiles/*",
        "jobs",
        "simulator/*",
        "calibrate/*",
        "studies/show",
        "studies/compare",
    },
    "studies/published": {
        "profiles/*",
        "jobs",
        "simulator/*",
        "calibrate/observations",
        "calibrate/fit",
        "studies/show",
        "studies/compare",
        "studies/crossover",
    },
    "studies/real": {
        "profiles/*",
        "jobs",
        "kernels/*",
        "realrun/*",
        "calibrate/measure",
        "calibrate/realloop",
        "studies/show",
        "studies/trace",
    },
    "serve": {"profiles/*", "simulator/*", "realrun/*"},
    "api": {
        f"{package}/*"
        for package in ("profiles", "jobs", "simulator", "realrun", "calibrate", "studies")
    },
    "ui": {f"{package}/*" for package in ("profiles", "jobs", "simulator", "calibrate", "studies")},
    "commands": {"jobs"}
    | {
        f"{package}/*"
        for package in (
            "profiles",
            "simulator",
            "kernels",
            "realrun",
            "calibrate",
            "studies",
            "serve",
            "ui",
        )
    },
}
# Modules that everything may use, though their folder's others use rooms below them.
LEAVES = {
    "profiles.errors",
    "profiles.formats",
    "profiles.one_look",
    "profiles.precision",
    "profiles.typed_table",
    "profiles.units",
}
NOT_SHIPPED = {"studies/gallery", "studies/training"}
HEAVY = {"torch", "pandas", "scipy", "plotly", "matplotlib", "polars", "pyarrow"}
FILE_CALLS = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "loadtxt", "savetxt"}


def modules(folder: str) -> tuple[tuple[str, ast.Module], ...]:
    """Every module of a folder and of its rooms, as ``simulator/cost/price.py``."""
    names = [p.relative_to(ROOT).as_posix() for p in sorted((ROOT / folder).rglob("*.py"))]
    shipped = [n for n in names if not any(n.startswith(f"{home}/") for home in NOT_SHIPPED)]
    return tuple((n, parsed(ROOT / n)) for n in shipped)


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names imported anywhere in a tree; a relative import starts with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            inner = [f"{source}.{alias.name}" for alias in node.names]
            yield from (name if is_module(name) else source for name in inner)


@cache
def is_module(name: str) -> bool:
    """Whether a dotted name is a module or a folder of ours."""
    path = ROOT.joinpath(*of_ours(name).split("."))
    return bool(of_ours(name)) and (path.is_dir() or path.with_suffix(".py").is_file())


def of_ours(name: str) -> str:
    """``engine.records`` of ``dflash_sim.engine.records``; empty for other people's."""
    return name.removeprefix("dflash_sim.") if name.startswith("dflash_sim.") else ""


@cache
def room_of(module: str) -> str:
    """``simulator/cost`` of ``simulator.cost.price``, and of itself."""
    parts = module.split(".")
    is_file = ROOT.joinpath(*parts).with_suffix(".py").is_file()
    return "/".join(parts[:-1] if is_file else parts)


def may(room: str, module: str) -> bool:
    """Whether a module may be imported from a room."""
    home = room_of(module)
    if home == room or module in LEAVES:
        return True
    for allowed in ALLOWED[room]:
        if home == allowed or module == allowed.replace("/", "."):
            return True
        if allowed.endswith("/*") and f"{home}/".startswith(allowed[:-1]):
            return True
    return False


def forbidden(room: str, tree: ast.AST) -> list[str]:
    """Imports of ours that a room may not make."""
    ours = [of_ours(name) for name in imports(tree)]
    return [o for o in ours if o and not may(room, o)]


def calls(tree: ast.AST) -> set[str]:
    """Names of called functions and methods."""
    called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {f.id if isinstance(f, ast.Name) else getattr(f, "attr", "") for f in called}


def packages() -> list[str]:
    """The folders of the root that hold code."""
    return sorted({room.split("/")[0] for room in ALLOWED})


def test_every_room_has_a_direction() -> None:
    here = {
        room_of(name.removesuffix(".py").replace("/", "."))
        for package in packages()
        for name, _ in modules(package)
        if not name.endswith("/__init__.py")
    }
    assert here == set(ALLOWED)


@pytest.mark.parametrize("room", ALLOWED)
def test_direction(room: str) -> None:
    here = [item for item in modules(room) if item[0].rpartition("/")[0] == room]
    wrong = {name: forbidden(room, tree) for name, tree in here}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("profiles", "import dflash_sim.simulator.cost.price"),
        ("profiles", "from dflash_sim import simulator"),
        ("simulator", "def f():\n    from dflash_sim.studies.show.titles import title"),
        ("simulator", "import dflash_sim.cli"),
        ("simulator/cost", "from dflash_sim.simulator import predict"),
        ("simulator/engine", "from dflash_sim.simulator.policy.parse import parse"),
        ("realrun/job", "from dflash_sim.simulator.engine.events import EventEngine"),
        ("calibrate/fit", "import dflash_sim.studies"),
        ("studies/show", "from dflash_sim.studies.predict.page import present"),
    ],
)
def test_a_wrong_direction_is_seen(room: str, line: str) -> None:
    assert forbidden(room, ast.parse(line))


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Names along a circle of a graph; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := visit(other, (*path, name)):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := visit(name, ()))), [])


def graph_of_modules() -> dict[str, set[str]]:
    """What each module imports, wherever in its text."""
    trees = {
        name.removesuffix(".py").replace("/", "."): tree
        for package in packages()
        for name, tree in modules(package)
    }
    return {
        name: {o for i in imports(tree) if (o := of_ours(i)) in trees}
        for name, tree in trees.items()
    }


def test_no_module_imports_itself_through_others() -> None:
    assert circle(graph_of_modules()) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


def test_rooms_have_an_order() -> None:
    rooms: dict[str, set[str]] = {}
    for name, others in graph_of_modules().items():
        home = room_of(name)
        found = {room_of(o) for o in others - LEAVES}
        rooms.setdefault(home, set()).update(found - {home})
    assert circle(rooms) == []


def test_no_relative_imports() -> None:
    trees = [item for package in packages() for item in modules(package)]
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
