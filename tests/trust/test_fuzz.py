"""A share of ``make fuzz``, the same every time: 20,000 inputs, used or refused in a line."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trust.fuzz import fault_of, inputs, kind, shares
from trust.mutations import smallest
from trust.target import Target
from trust.targets import all_targets, at, calibration, observations, profile, trace

INPUTS, SEED, PARTS = 20_000, 0, 2
ALL = all_targets()
TARGETS = [target for target in ALL if not target.heavy]
COUNTS = shares(TARGETS, INPUTS)
KEYS = st.sampled_from(
    (
        *("completed", "duration", "output_throughput", "request_rate", "max_concurrency", "model"),
        *("backend", "timestamp", "input_length", "output_length", "TIMESTAMP", "results", "title"),
        *("benchmarks", "metrics", "parameters", "kind", "key", "mean", "sd", "prior", "value"),
        *("scale", "posterior", "correlation", "rows", "about", "format", "version", "ops", "tp"),
        *("passes", "scope", "device", "machine", "made", "skipped", "shape", "seconds", "0", "1"),
    )
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
DOCUMENTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6)
)


def test_there_are_as_many_as_are_promised() -> None:
    assert sum(COUNTS.values()) >= INPUTS
    assert len(COUNTS) == len(TARGETS) > 25
    assert len({target.name for target in ALL}) == len(ALL)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name.replace(" ", "-"))
def test_nothing_breaks_it(target: Target, part: int, tmp_path: Path) -> None:
    tried = inputs(target, SEED, COUNTS[target.name])[part::PARTS]
    faults = [(fault, data[:300]) for data in tried if (fault := fault_of(target, data, tmp_path))]
    assert faults == []


@pytest.mark.slow
@pytest.mark.parametrize("target", [t for t in ALL if t.heavy], ids=lambda target: target.name)
def test_nothing_breaks_what_takes_its_time(target: Target, tmp_path: Path) -> None:
    tried = inputs(target, SEED, 50)
    faults = [(fault, data[:300]) for data in tried if (fault := fault_of(target, data, tmp_path))]
    assert faults == []


@pytest.mark.parametrize("read", [observations, trace, profile, calibration])
def test_documents_of_any_structure(read: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Values of every kind under the keys that readers look for."""
    folder = tmp_path_factory.mktemp("documents")
    target = Target("documents", at("file.json", read), lambda _: b"", 1)  # type: ignore[arg-type]

    @given(DOCUMENTS)
    @settings(max_examples=150)
    def tried(document: object) -> None:
        data = json.dumps(document).encode()
        assert fault_of(target, data, folder) is None

    tried()


def divides(data: bytes, _: Path) -> None:
    """A reader with a bug."""
    1 // (b"bug" not in data)


def test_a_fault_is_found_and_made_small(tmp_path: Path) -> None:
    """The control: what breaks a reader is noticed, and the rest of the input is left out."""
    target = Target("broken", divides, lambda _: b"", 1)
    data = b"x" * 500 + b"bug" + b"y" * 300
    fault = fault_of(target, data, tmp_path)
    assert fault is not None
    assert fault.startswith("ZeroDivisionError at tests/trust/test_fuzz.py")
    small = smallest(data, lambda part: kind(fault_of(target, part, tmp_path)) == kind(fault))
    assert small == b"bug"
    assert fault_of(target, b"x", tmp_path) is None


def test_inputs_are_those_of_their_seed() -> None:
    target = TARGETS[0]
    assert inputs(target, 7, 20) == inputs(target, 7, 20) != inputs(target, 8, 20)
