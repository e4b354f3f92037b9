"""Every test can fail: it checks something, and nothing that is true of any text or number."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from parsed_files import parsed

TESTS = Path(__file__).parents[1]
# Of other packages; ``interpret`` runs a check of the file in another process.
CHECKS = {"raises", "warns", "fail", "assert_allclose", "assert_array_equal", "interpret"}
# That nothing is raised is all they say.
RAISES_NOTHING = {"test_any_text_is_parsed_or_refused", "test_the_engine_needs_no_simulator"}


def trees() -> dict[Path, ast.Module]:
    paths = sorted(TESTS.rglob("*.py"))
    return {p: parsed(p) for p in paths if "bench" not in p.parts}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def called(function: ast.AST) -> set[str]:
    names = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
    return {ast.unparse(name).rpartition(".")[2] for name in names}


def checking(tree: ast.Module, known: set[str]) -> set[str]:
    """Functions of a file that check something, by themselves or through one another."""
    own = list(functions(tree))
    found = {f.name for f in own if any(isinstance(n, ast.Assert) for n in ast.walk(f))}
    while more := {f.name for f in own if f.name not in found and called(f) & (found | known)}:
        found |= more
    return found


def unchecked(tree: ast.Module, known: set[str]) -> list[str]:
    """Tests that neither assert nor call what does; ``known`` is what others' functions do."""
    tests = {f.name for f in functions(tree) if f.name.startswith("test_")}
    return sorted(tests - checking(tree, known) - RAISES_NOTHING)


def compared_with_itself(tree: ast.Module) -> list[str]:
    """Comparisons of an expression with itself; two calls may differ, so they may be compared."""
    pairs = (n for n in ast.walk(tree) if isinstance(n, ast.Compare) and len(n.comparators) == 1)
    return [
        ast.unparse(n)
        for n in pairs
        if ast.dump(n.left) == ast.dump(n.comparators[0]) and not called(n)
    ]


def never_reached(tree: ast.Module) -> list[str]:
    """Functions with a statement behind their ``return`` or ``raise``."""
    return [f.name for f in functions(tree)
            if any(isinstance(n, (ast.Return, ast.Raise)) for n in f.body[:-1])]  # fmt: skip


def test_every_test_checks_something() -> None:
    found = trees()
    known = set(CHECKS)
    for path, tree in found.items():
        if not path.name.startswith("test_"):  # what tests share
            known |= checking(tree, CHECKS)
    silent = {p.name: names for p, t in found.items() if (names := unchecked(t, known))}
    assert silent == {}
    assert sum(f.name.startswith("test_") for t in found.values() for f in functions(t)) > 1000


@pytest.mark.parametrize("look", [compared_with_itself, never_reached])
def test_no_check_is_idle(look) -> None:  # type: ignore[no-untyped-def]
    assert {p.name: found for p, tree in trees().items() if (found := look(tree))} == {}


def test_what_cannot_fail_is_seen() -> None:
    text = "def test_a():\n    run()\n\ndef test_b():\n    same()\n    return\n    x\n\n"
    idle = ast.parse(text + "def same():\n    deeper()\n\ndef deeper():\n    assert 1 < x")
    assert unchecked(idle, CHECKS) == ["test_a"]
    assert unchecked(idle, {"run"}) == []
    assert never_reached(idle) == ["test_b"]
    assert compared_with_itself(ast.parse("assert a.b == a.b\nassert f() == f()")) == ["a.b == a.b"]
