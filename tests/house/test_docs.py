"""The documentation runs: examples, generated pages, links, the map of rooms, named tests."""

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
EXAMPLES = generate.example_pages()
GUIDES = ROOT / "docs"


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] * p.is_relative_to(GUIDES)) for p in EXAMPLES],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_examples(page: Path) -> None:
    """Every console block is what its commands print now."""
    text = page.read_text(encoding="utf-8")
    commands = [c for b in generate.CONSOLE.findall(text) for c, _ in generate.sessions(b)]
    assert [c for c in commands if not c.startswith("dflash-sim ")] == []
    assert generate.with_outputs(page) == text, "run `make docs`"


def test_pages_have_examples() -> None:
    names = {page.name for page in EXAMPLES}
    assert {
        "README.md",
        "01_first_prediction.md",
        "02_your_benchmark.md",
        "03_a_plan.md",
        "04_ten_questions.md",
    } <= names


def test_a_page_is_compared_with_what_is_printed_now(tmp_path: Path) -> None:
    """The control: an output that is no longer right is not kept."""
    page = tmp_path / "page.md"
    page.write_text("Before.\n```console\n$ dflash-sim list presets\nnothing\n```\nAfter.\n")
    text = generate.with_outputs(page)
    assert text.startswith("Before.\n```console\n$ dflash-sim list presets\n")
    assert text.endswith("\n```\nAfter.\n")
    assert "lmsys-2026-06-15" in text
    assert "nothing" not in text


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


def rooms() -> set[str]:
    """Folders that hold Python files, the package's and those beside it."""
    found = {p.parent.relative_to(ROOT) for p in ROOT.glob("[a-z]*/**/*.py")}
    return {room.as_posix() for room in found if room.parts[0] not in ("build", "dist", "tests")}


def test_every_room_is_on_the_map() -> None:
    """A new room needs its line; a line of a room that is gone is wrong."""
    text = (ROOT / "docs/explanation/structure.md").read_text(encoding="utf-8")
    text = text.partition("## Rooms")[2]
    named = set(re.findall(r"^\| `([\w/]+)` \|", text, re.MULTILINE)) - {"tests"}
    assert len(named) > 30
    inner = {room for room in rooms() if room.startswith("docs/")}  # scripts beside their pages
    assert rooms() - inner == named


def test_files_on_the_map_exist() -> None:
    text = (ROOT / "docs/explanation/structure.md").read_text(encoding="utf-8")
    path = re.findall(r"^([a-z]+/[\w/]+\.py) ", text, re.MULTILINE)
    named = re.findall(r"`((?:simulator|calibrate|studies|docs)/[\w/]+\.py)`", text)
    assert len(path) > 10
    assert [name for name in (*path, *named) if not (ROOT / name).is_file()] == []
    loop = "def event_loop_overlap"
    assert loop in (ROOT / "simulator/engine/events.py").read_text(encoding="utf-8")


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs/index.md"
    linked = {(index.parent / t).resolve() for t in LINK.findall(index.read_text(encoding="utf-8"))}
    assert {p for p in ROOT.glob("docs/**/*.md") if p != index} - linked == set()


def test_the_gallery_is_in_the_readme() -> None:
    studies = {p.with_suffix(".out").name for p in ROOT.glob("studies/gallery/[0-9]*.py")}
    assert set(re.findall(r"studies/gallery/(\w+\.out)", README)) == studies


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
