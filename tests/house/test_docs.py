"""The documentation runs: README examples, generated pages, links, named tests."""

import ast
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from dflash_sim.studies.published.page_slots import all_found, slots_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
NAMED_TEST = re.compile(r"`([\w/]*test_\w+\.py)::(\w+)`")


def load_generator() -> ModuleType:
    spec = spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generator()
EXAMPLES = [s for block in generate.CONSOLE.findall(README) for s in generate.sessions(block)]


@pytest.mark.parametrize(("command", "output"), EXAMPLES, ids=[c for c, _ in EXAMPLES])
def test_readme_examples(command: str, output: str) -> None:
    assert command.startswith("dflash-sim ")
    assert generate.run(command) == output


def test_readme_has_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_a_wrong_example_is_seen() -> None:
    with pytest.raises(RuntimeError, match="exit code 2"):
        generate.run("dflash-sim predict --gpu abacus")


def test_console_blocks_are_split_at_prompts() -> None:
    text = "```console\n$ a \\\n  b\nout\n$ c\n```\n\n```sh\n$ no\n```\n"
    (block,) = generate.CONSOLE.findall(text)
    assert list(generate.sessions(block)) == [("a \\\n  b", "out\n"), ("c", "")]


@pytest.mark.parametrize("name", generate.PAGES)
def test_generated_pages_are_current(name: str) -> None:
    on_disk = (ROOT / "docs/reference" / name).read_text(encoding="utf-8")
    assert generate.PAGES[name]() == on_disk, "run `make docs`"


def test_readme_quotes_what_the_studies_found() -> None:
    found = all_found(ROOT)
    quoted = slots_of(README)
    assert {"held MAPE", "held coverage"} <= quoted.keys()
    assert {name: found[name] for name in quoted} == quoted, "run `make docs`"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    targets = [t.partition("#")[0] for t in LINK.findall(path.read_text(encoding="utf-8"))]
    files = [t for t in targets if t and "://" not in t and not t.startswith("mailto:")]
    assert [t for t in files if not (path.parent / t).exists()] == []


def test_invariants_name_tests_that_exist() -> None:
    text = (ROOT / "docs/explanation/invariants.md").read_text(encoding="utf-8")
    named = NAMED_TEST.findall(text)
    assert len(named) > 20
    missing = [f"{file}::{name}" for file, name in named if name not in functions_of(file)]
    assert missing == []
    assert functions_of("test_of_nothing.py") == set()


def functions_of(file: str) -> set[str]:
    """Names of the functions of a test file, methods included."""
    path = ROOT / "tests" / file
    if not path.is_file():
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_invariants_are_numbered_through() -> None:
    text = (ROOT / "docs/explanation/invariants.md").read_text(encoding="utf-8")
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
