"""The table of methods is asked, not the name of a method: a new row must not be met by an `else`.

Looked for are comparisons with a literal that is a method's name, patterns of ``match``, and tables
keyed by such names. A name as a value, such as a default or a question that a study asks, is fine.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from dflash_sim.simulator.cost.methods import METHODS, algorithms

ROOT = Path(__file__).parents[2]
PACKAGES = ("profiles", "jobs", "simulator", "calibrate", "studies", "kernels", "realrun", "api",
    "commands")  # fmt: skip
NOT_SHIPPED = ("studies/gallery", "studies/training")
NAMES = {*METHODS, *algorithms()}

# Words that are spelled like a method and mean something else.
SPELLED_ALIKE: dict[str, dict[str, str]] = {
    "calibrate/measure/subjects.py": {"drafter == 'none'": "no drafter is measured"},
    "calibrate/launches/flags.py": {"flag.takes == 'none'": "a flag without a value"},
    "calibrate/launches/python_text.py": {"known.flag.takes == 'none'": "a flag without a value"},
    "calibrate/observations/row_filter.py": {"'none' in kinds": "no value of a condition"},
    "calibrate/readers/inferencex.py": {
        "str(raw.get(key, 'false')).lower() not in ('false', 'none', '0', '')": "a switch is off"
    },
    "commands/compare.py": {"interval != 'none'": "no interval is asked for"},
    "commands/predict.py": {"interval != 'none'": "no interval is asked for"},
    "commands/sweep.py": {"interval != 'none'": "no interval is asked for"},
    "profiles/networks/drafter_shapes.py": {
        "{'dflash': 'DFlash', 'dflash2': 'DFlash2', 'dspark': 'DSpark', 'domino': 'Domino'}": (
            "kinds of drafters, which methods are called by"
        )
    },
    "profiles/networks/drafters.py": {
        "{'dspark': _DSPARK, 'domino': _DOMINO}": "what configs call a head"
    },
    "profiles/networks/quantized.py": {"m != 'mtp'": "a module of a network"},
    "profiles/releases/calibration.py": {"name == 'none'": "no calibration is asked for"},
    "simulator/cost/cycle.py": {"self.drafts != 'none'": "how a method drafts"},
    "simulator/requests/parse.py": {"'none'": "an acceptance law"},
}


def said(node: ast.AST) -> set[str]:
    """Words that an expression is, or that its tuple, list or set holds."""
    inner = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return {str(n.value) for n in inner if isinstance(n, ast.Constant)}


def by_name(tree: ast.AST) -> Iterator[str]:
    """Expressions that decide by the name of a method."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            if any(said(side) & NAMES for side in (node.left, *node.comparators)):
                yield ast.unparse(node)
        elif isinstance(node, ast.MatchValue) and said(node.value) & NAMES:
            yield ast.unparse(node)
        elif isinstance(node, ast.Dict):
            keys = set[str]().union(*(said(key) for key in node.keys if key is not None))
            if len(keys & NAMES) > 1:
                yield ast.unparse(node)


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(NOT_SHIPPED):
                yield name, ast.parse(path.read_text(encoding="utf-8"))


def test_only_the_table_knows_a_method_by_its_name() -> None:
    found = {name: set(by_name(tree)) for name, tree in modules()}
    assert {name: there for name, there in found.items() if there} == {
        name: set(words) for name, words in SPELLED_ALIKE.items()
    }


@pytest.mark.parametrize(
    "line",
    [
        "if method == 'dflash': ...",
        "plain = 'none' != s.method",
        "chain = method in ('mtp', 'eagle3')",
        "drafts = errors['method'] not in ['none']",
        "block = [m for m in methods if m == 'injection-only']",
        "known = algorithm == 'NEXTN'",
        "match method:\n    case 'mtp' | 'turbo': ...",
        "titles = {'none': 'plain', 'dflash': 'DFlash'}",
    ],
)
def test_a_decision_by_name_is_seen(line: str) -> None:
    assert len(list(by_name(ast.parse(line)))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "method = 'dflash'",
        "asked = {'method': ['none', 'dflash'], 'none': 1}",
        "plain = not METHODS['none'].speculative",
        "turbo = method == 'turbo'",
    ],
)
def test_a_name_as_a_value_is_fine(line: str) -> None:
    assert list(by_name(ast.parse(line))) == []
