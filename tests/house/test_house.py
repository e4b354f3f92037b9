"""House rules that a linter does not know: sizes, names, prints, numbers, docstrings, units."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from parsed_files import parsed

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "profiles",
    "jobs",
    "simulator",
    "calibrate",
    "studies",
    "kernels",
    "realrun",
    "serve",
    "api",
    "ui",
)
NOT_SHIPPED = ("studies/gallery", "studies/training")
LONG, TOO_LONG = 250, 420
CROWDED = 20  # modules side by side
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc", "manager"}

# Numbers that simulator/ may hold besides 0, 1 and 2. None has a unit that could be measured.
PURE_NUMBERS: dict[str, dict[str, set[float]]] = {
    "requests/laws": {"requests that share a random stream, smallest exponent": {1024, 10}},
    "cost/passes": {
        "tensors a kernel reads and writes": {4},
        "features of an EAGLE-3 head: three layers": {3},
    },
    "draft_shape": {"rows that pad a vocabulary, at most": {0.01}},
    "cost/layers": {"tensors a kernel reads and writes": {3, 4}},
    "cost/mla_layers": {"tensors a kernel reads and writes": {3}},
    "cost/latent_ops": {"products of a state: forgotten, written, read": {3}},
    "intervals": {
        "90 % point of the normal law": {1.645},
        "turns per client in a short run": {4},
    },
    "engine/leap": {"array growth": {14}},
    "memory": {
        "TP sizes that kernels are built for": {4, 8},
    },
    "engine/live": {"iterations that are remembered": {64}},
    "engine/metrics": {
        "quantiles": {0.5, 0.9, 0.95, 0.99},
        "quarters of an open loop": {3, 4},
    },
    "cost/draft_parts": {"passes and copies of a head": {3, 4, 6}},
    "cost/sampling": {"passes over a matrix": {1.5, 3, 4, 8, 12}, "rows of a split softmax": {128}},
    "requests/numerics": {"iterations, nodes and brackets of solvers": {0.5, 6, 32, 64}},
    "cost/ops": {
        "FLOPs per element: two products, three matrices": {4, 6},
        "matrices of an MLP, projections of a scan": {3, 4},
        "nodes of a quadrature": {24},
    },
    "cost/expert_ranks": {"reach and points of a quadrature": {8, 1601}},
    "engine/leap_memory": {"tokens looked up, to begin with": {14}},
    "engine/leap_clock": {"columns, leaps worth a numpy call": {4, 5}},
    "requests/draws": {"requests summed at once, sums kept": {3, 4}},
    "predict": {"random streams: lengths, arrivals, acceptance": {3}},
    "engine/records": {"columns of an iteration": {6}},
    "requests/renewal": {"third power of a mean": {3}},
    "slopes": {
        "random streams: lengths, arrivals, acceptance": {3},
        "iterations of a run that is kept": {17},
        "steps of a slope": {0.05, 0.1, 0.3},
    },
    "row": {"decimals of a rounded figure": {6}},
    "scenario": {
        "the card's cap and number of runs": {4096, 5},
        "bounds of what a user may type": {1000, 1023, 1024, 10, 7, 63},
        "digits of a hash": {12},
    },
    "cost/step_table": {"first context of a grid, models whose prices are kept": {7, 3}},
    "requests/other_laws": {"log of the power of a survival, at most": {20}},
    "requests/mixtures": {"rounding of shares": {1e-6}},
    "requests/published_lengths": {
        "third root of a rounding error": {3},
        "90 % point of the normal law": {1.645},
    },
    "requests/survival": {
        "beyond it a step function": {64},
        "variance of a factor of mean one, and what is none": {4, 1e-9},
    },
    "requests/expected": {"exponent of e that a float holds": {700.0}},
}  # fmt: skip

# Float arguments whose name is not a unit suffix, and what they are in.
UNITS_BY_NAME = {
    "1": """
        accept_len accept_length accept_length_error accept_observed accept_predicted al1 al2
        al_cycle al_harmonic al_request_mean al_token_weighted alpha beta between bias burstiness
        chance correlation coverage data_set_spread decay drift error knee lam learned
        length_correlation load mape mem_bw_eff mem_fraction new_token_ratio new_token_ratio_decay
        new_token_ratio_init new_token_ratio_min offset others overlap p90 p95 prior_sd pull q
        range_ratio rejection rel_err scale share skew slowdown smoothing spread survival
        temperature theta top_p touched build keeps_up_share weight_share_for_default_tp
        mamba_full_memory_ratio new_token_ratio_min_factor decay_borrowed unconfirmed_gpu
        growth roofline_gpu observation_rel_err tpot_rel_err ttft_rel_err noise prefills
        first_factor piece least most kept per_tower ratio sliding_share vision_share
        full_memory_ratio degrees drawn effect slope temperature_sd
    """,
    "token/second": "predicted",
    "token": """
        batch context ctx cycles length down_hysteresis isl kv_len kv_tokens osl own_down_hysteresis
        own_up_hysteresis prefix seq tokens up_hysteresis
    """,
    "second": "copy gpu host publish seconds until",
    "byte": "kv_bytes_per_token nbytes",
    "MiB": "base draft image_cache least_on_large_gpu per_chunk_token per_graph_request "
    "per_prefill_graph per_tp",
    "GiB": "below_gib large_gpu_gib",
    "value": "elements",
    "bit": "bits",
    "FLOP": "flops",
    "1/second": "rate",
    "USD/hour": "high low typical",
    "of the quantity it belongs to": "a across along b k m mean median n prior sd value x",
}
SUFFIXES = ("_s", "_bytes", "_byte_s", "_flops", "_flop_s", "_tok_s", "_usd", "_ms", "_w")


def files(*packages: str) -> list[Path]:
    """Every module of these packages and of their rooms, but what is not shipped."""
    found = [p for package in packages for p in sorted((ROOT / package).rglob("*.py"))]
    return [p for p in found if not any(ROOT / home in p.parents for home in NOT_SHIPPED)]


def room_and_name(path: Path) -> str:
    """``cost/price`` of simulator/cost/price.py."""
    return path.relative_to(ROOT / "simulator").with_suffix("").as_posix()


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Public functions and classes of a module."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def float_names(tree: ast.Module) -> Iterator[str]:
    """Public names annotated as float: arguments of functions and methods, fields of classes."""
    for node in public(tree):
        body = node.body if isinstance(node, ast.ClassDef) else [node]
        for item in body:
            if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                arguments = item.args.posonlyargs + item.args.args + item.args.kwonlyargs
                yield from (a.arg for a in arguments if is_float(a.annotation))
            elif isinstance(item, ast.AnnAssign) and is_float(item.annotation):
                yield ast.unparse(item.target)


def is_float(annotation: ast.expr | None) -> bool:
    return annotation is not None and ast.unparse(annotation) in ("float", "float | None")


def numbers(tree: ast.Module) -> set[float]:
    """Numeric literals other than 0, 1 and 2."""
    found = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
    return {v for v in found if type(v) in (int, float) and v not in (0, 1, 2)}


def unexplained(path: Path) -> set[float]:
    allowed = PURE_NUMBERS.get(room_and_name(path), {}).values()
    return numbers(parsed(path)) - set[float]().union(*allowed)


def prints(tree: ast.Module) -> bool:
    called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(isinstance(f, ast.Name) and f.id == "print" for f in called)


@pytest.fixture(scope="module")
def lengths() -> dict[str, int]:
    paths = [*files(*PACKAGES), *files("commands"), ROOT / "cli.py"]
    return {name_of(p): len(p.read_text(encoding="utf-8").splitlines()) for p in paths}


def test_files_are_short(lengths: dict[str, int]) -> None:
    for name, lines in sorted(lengths.items(), key=lambda item: -item[1]):
        if lines > LONG:
            print(f"{lines:4d} lines: {name}")
    assert {name: lines for name, lines in lengths.items() if lines > TOO_LONG} == {}


def test_rooms_are_not_crowded() -> None:
    rooms = Counter(path.parent for path in files(*PACKAGES, "commands") if path.stem != "__init__")
    assert {name_of(room): n for room, n in rooms.items() if n > CROWDED} == {}
    assert len(rooms) > len(PACKAGES)  # rooms are seen at all


def test_names_say_something(lengths: dict[str, int]) -> None:
    assert [name for name in lengths if Path(name).stem in VAGUE] == []


def test_only_the_cli_prints() -> None:
    assert [name_of(p) for p in files(*PACKAGES) if prints(parsed(p))] == []
    assert prints(ast.parse("print(1)"))


@pytest.mark.parametrize("path", files("simulator"), ids=lambda p: room_and_name(p))
def test_simulator_holds_no_numbers_of_its_own(path: Path) -> None:
    assert unexplained(path) == set()


def test_every_excuse_is_used() -> None:
    for module, reasons in PURE_NUMBERS.items():
        held = numbers(parsed(ROOT / f"simulator/{module}.py"))
        for reason, values in reasons.items():
            assert values <= held, f"{module}: {reason}"


def test_a_number_with_a_unit_is_seen() -> None:
    assert numbers(ast.parse("gap_s = 0.9e-6\nkernels = n * 2 - 1")) == {0.9e-6}


def test_public_things_are_documented() -> None:
    paths = [*files(*PACKAGES), *files("commands"), ROOT / "cli.py"]
    bare = [
        f"{name_of(path)}: {node.name}"
        for path in paths
        for node in public(parsed(path))
        if not ast.get_docstring(node)
    ]
    assert bare == []
    assert [name_of(p) for p in paths if not ast.get_docstring(parsed(p))] == []


def test_floats_name_their_unit() -> None:
    known = {name for names in UNITS_BY_NAME.values() for name in names.split()}
    silent = {
        f"{name_of(path)}: {name}"
        for path in files("profiles", "simulator", "calibrate")
        for name in float_names(parsed(path))
        if not name.endswith(SUFFIXES) and name not in known
    }
    assert silent == set()
    assert list(float_names(ast.parse("def f(gap: float, n: int) -> None: ..."))) == ["gap"]
