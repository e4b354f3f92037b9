"""A result in the hand: attributes, a short name, pages, data frames."""

import copy
import doctest
import json
import math
import os
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from questions import SMALL

import dflash_sim as ds
from dflash_sim.api.fit import Fit
from dflash_sim.api.frames import columns, flat, frame
from dflash_sim.profiles.schema import load_schema


@pytest.fixture(scope="module")
def result() -> Any:
    return ds.predict(**SMALL, conc=2)


def test_every_field_of_the_schema_is_an_attribute(result: Any) -> None:
    for field in load_schema():
        assert getattr(result, field.name) == result.row[field.name]
        assert field.name in dir(result)
    own = {n for n in vars(type(result)) if not n.startswith("_")}
    own |= {n for base in type(result).__mro__[1:] for n in vars(base) if not n.startswith("_")}
    assert own & {field.name for field in load_schema()} == set()


def test_so_is_every_field_of_the_scenario_as_it_was_run(result: Any) -> None:
    assert (result.conc, result.tp, result.page_size) == (2, 1, result.page_size)
    assert result.page_size is not None
    assert set(ds.Scenario.model_fields) <= set(dir(result))


@pytest.mark.parametrize(
    ("name", "near"),
    [("output_troughput", "output_throughput"), ("speed_up", "speedup"), ("ttft", "_ttft_ms")],
)
def test_a_wrong_name_is_told_the_right_one(result: Any, name: str, near: str) -> None:
    with pytest.raises(AttributeError, match=f"Result has no '{name}'") as error:
        getattr(result, name)
    assert near in str(error.value)
    assert not hasattr(result, "_no_such")
    assert not hasattr(result, "__no_such__")


def test_intervals(result: Any) -> None:
    low, high = result.interval("output_throughput")
    assert low < result.output_throughput < high
    assert [low, high] == result.output_throughput_ci90
    with pytest.raises(ds.UsageError, match="unknown interval 'output_throughputs'"):
        result.interval("output_throughputs")


def test_its_name_is_one_line(result: Any) -> None:
    text = repr(result)
    assert "\n" not in text
    assert len(text) < 200
    assert "qwen3-8b" in text
    assert "tok/s" in text
    assert "x plain" in text
    assert repr(result.baseline).count("plain decoding") == 1


def test_pages(result: Any) -> None:
    html = result._repr_html_()
    assert len(html) < 20_000
    assert "<script" not in html
    text = re.sub(r"<[^>]+>", "", html)
    assert text.split()[:6] == result.summary().split()[:6]
    assert "Throughput" in text


def test_pages_in_a_notebook_are_the_same(result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rich would display what it is told to print."""
    pages = result.summary(), result._repr_html_()
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert (result.summary(), result._repr_html_()) == pages
    assert "Throughput" in pages[0]


def test_it_can_be_copied(result: Any) -> None:
    assert copy.copy(result).row == result.row
    assert copy.deepcopy(result).row == result.row


def test_memory_is_the_page_as_a_frame(result: Any) -> None:
    steps = result.memory
    assert list(steps.columns) == ["step", "size", "how"]
    assert steps.iloc[0]["step"] == "GPU memory"
    last = steps.iloc[-1]
    assert last["size"] == f"{result.row['max_running_requests']:,}"
    assert last["how"].endswith(result.row["max_running_requests_cause"])


def test_evidence_and_warnings(result: Any) -> None:
    assert sum(result.evidence.values()) == pytest.approx(1, abs=1e-5)
    assert result.warnings == result.row["warnings"]
    assert result.scenario == ds.scenario(**SMALL, conc=2)


def test_an_explained_result_keeps_its_sheets_and_tag(tmp_path: Path) -> None:
    sheet = Path(ds.__file__).parent / "profiles/engines/sglang-0.5.14.toml"
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines/mine.toml").write_bytes(sheet.read_bytes())
    question = SMALL | {"engine": "mine", "calibration": "none", "profiles": tmp_path}
    explained = ds.explain(**question).result
    assert len(explained.phase("host")) > 0
    again = ds.predict(**question, tag="mine").explain().result
    assert again.row["tag"] == "mine"
    assert len(again.phase("host")) > 0


def test_a_temporary_calibration_is_named_by_its_content() -> None:
    """The id of an object may come again, and with it a file that somebody still reads."""

    def made(text: str) -> Path:
        found: Any = SimpleNamespace(calibration=SimpleNamespace(to_toml=lambda: text))
        return Path(os.fspath(Fit(found, found)))

    first, second = made("a = 1"), made("a = 2")
    assert (first.read_text("utf-8"), second.read_text("utf-8")) == ("a = 1", "a = 2")
    assert made("a = 1") == first != second


# ---- data frames


def test_columns_are_those_of_the_schema(result: Any) -> None:
    names = [name for name, _, _ in columns()]
    assert len(names) == len(set(names))
    known = "|".join(f.name.removesuffix("_ci90") for f in load_schema())
    assert all(re.match(f"({known})(_\\w+)?$", name) for name in names)
    found = result.to_frame()
    assert found.columns.tolist() == names
    assert found["output_throughput_low"][0] == result.interval("output_throughput")[0]
    assert found["source_share_measured"][0] == result.evidence["measured"]
    assert json.loads(found["accept_histogram"][0]) == result.accept_histogram
    assert found["warnings"][0] == "; ".join(result.warnings)


def test_a_column_has_one_type_whatever_is_asked(result: Any) -> None:
    """Also where nothing is known, and no cell holds an object."""
    none = ds.predict(**SMALL | {"gpu": ["l40s"], "model": "qwen3.5-27b"})
    both = [result.to_frame(), none, frame([])]
    types = [found.dtypes.astype(str).to_dict() for found in both]
    assert types[0] == types[1] == types[2]
    assert set(types[0].values()) <= {"int64", "Int64", "float64", "bool", "boolean", "string"}
    assert none["output_throughput"].isna().all()
    assert pd.concat(both[:2])["output_throughput"].dtype == "float64"


def test_records_are_flattened() -> None:
    record: dict[str, Any] = {
        "a": 1,
        "b": {"c": {"d": 2}},
        "interval": [1.0, 2.0],
        "x_ci90": None,
        "w": ["p", "q"],
    }
    record["inside_interval"] = True
    found = flat(record)
    assert found["inside_interval"] is True
    assert {n: found[n] for n in ("a", "b_c_d", "low", "high", "w")} == {
        "a": 1, "b_c_d": 2, "low": 1.0, "high": 2.0, "w": "p; q",
    }  # fmt: skip
    assert math.isnan(found["x_low"])


@pytest.mark.parametrize(
    "function",
    [pytest.param(ds.predict, marks=pytest.mark.slow), ds.scenario, ds.lists],
    ids=lambda f: f.__name__,
)
def test_examples_run(function: Any) -> None:
    """Those of the others need files, or take long; predictions are of few requests here."""
    examples = doctest.DocTestParser().get_examples(function.__doc__)
    assert examples
    few = partial(ds.predict, num_prompts=32, runs=1)
    names = {"ds": SimpleNamespace(predict=few, scenario=ds.scenario, lists=ds.lists)}
    for example in examples:
        exec(example.source, names)
