"""Traces: every format gives the same three columns, and a bad file says what is wrong with it."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.calibrate.readers.request_trace_formats import FORMATS
from dflash_sim.calibrate.readers.request_traces import Trace, named, read_trace
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.plan.demand import MOST_REQUESTS, busiest, of_trace

DATA = Path(__file__).parents[2] / "data/traces"
EXPECTED = {
    "mooncake.jsonl": ("mooncake", [0, 0, 3, 6.5], [6758, 7322, 1024, 88], [500, 490, 12, 1]),
    "burstgpt.csv": ("burstgpt", [0, 40, 113, 120.5], [472, 1087, 417, 20], [18, 230, 276, 7]),
    "qwen.jsonl": ("qwen", [0, 0.086, 2.886], [521, 2100, 33], [132, 1, 900]),
    "agentx.jsonl": ("agentx", None, [300, 400, 128], [20, 30, 7]),
    "vidur.csv": ("vidur", [0, 0.125, 0.5], [591, 547, 2048], [140, 248, 1]),
    "sglang.jsonl": ("sglang", None, [100, 220, 31], [16, 1, 300]),
    "azure.csv": ("azure", [0, 0.75, 2.5], [480, 318, 110], [10, 8, 27]),
    "ours.csv": ("csv", [0, 0, 2.25], [100, 200, 300], [20, 30, 40]),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_tool_is_read(name: str) -> None:
    form, at, isl, osl = EXPECTED[name]
    trace = read_trace(DATA / name)
    assert trace.form == form
    assert trace.isl.tolist() == isl
    assert trace.osl.tolist() == osl
    if at is None:
        assert trace.arrival_s is None
    else:
        assert trace.arrival_s is not None
        np.testing.assert_allclose(trace.arrival_s, at)
    again = read_trace(DATA / name, form=form)
    assert again.isl.tolist() == isl


def test_every_format_has_a_file() -> None:
    assert {form for form, *_ in EXPECTED.values()} == set(FORMATS)


def test_what_is_left_out_is_said() -> None:
    assert read_trace(DATA / "burstgpt.csv").notes == (
        "1 failed requests (no answer) are left out",
    )
    assert "share what their hash_ids share" in read_trace(DATA / "mooncake.jsonl").sharing[0]


@pytest.mark.parametrize("between", ["\t", ";", ","])
def test_columns_between_other_signs(tmp_path: Path, between: str) -> None:
    rows = ["time_ms prompt_size token_size", "0 100 7", "1500 200 8"]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(row.replace(" ", between) for row in rows), "utf-8")
    trace = read_trace(path)
    assert trace.isl.tolist() == [100, 200]
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == [0, 1.5]


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_seconds_under_names_that_mean_ms_are_asked_about(tmp_path: Path, unit: str) -> None:
    """1.4 requests a second are 1,400 where seconds are taken for milliseconds."""
    scale = 1 if unit == "s" else 1000
    rows = [
        {"timestamp": 0.7 * i * scale, "input_length": 9, "output_length": 9} for i in range(40)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    if unit == "s":
        with pytest.raises(
            UsageError, match=r"it looks like s[.] Say which it is with --time-unit"
        ):
            read_trace(path)
    trace = read_trace(path, time_unit=unit)
    assert trace.arrival_s is not None
    assert trace.arrival_s[-1] == pytest.approx(0.7 * 39)


def test_a_gzipped_trace_is_read(tmp_path: Path) -> None:
    packed = tmp_path / "trace.jsonl.gz"
    packed.write_bytes(gzip.compress((DATA / "mooncake.jsonl").read_bytes()))
    assert read_trace(packed).isl.tolist() == EXPECTED["mooncake.jsonl"][2]


@given(
    gaps=st.lists(st.floats(0, 10), min_size=1, max_size=15),
    lengths=st.lists(st.integers(1, 10**6), min_size=15, max_size=15),
)
def test_our_own_format_comes_back(
    gaps: list[float], lengths: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    at = np.cumsum(gaps)
    rows = [f"{t!r},{n},{m}" for t, n, m in zip(at.tolist(), lengths, lengths[::-1], strict=False)]
    path = tmp_path_factory.mktemp("traces") / "x.csv"
    path.write_text("\n".join(["arrival_s,isl,osl", *rows]) + "\n")
    trace = read_trace(path)
    assert trace.arrival_s is not None
    np.testing.assert_allclose(trace.arrival_s, at - at[0])
    assert trace.isl.tolist() == lengths[: len(gaps)]


HEAD = "arrival_s,isl,osl\n"
LONG = {"arrival_s": [0.3 * i for i in range(40)], "isl": [9] * 40, "osl": [9] * 40}


def table(factor: float, start: float = 0.0) -> str:
    """A trace of 40 requests, its times multiplied."""
    rows = zip(*LONG.values(), strict=True)
    return HEAD + "".join(f"{start + t * factor!r},{i},{o}\n" for t, i, o in rows)


def jsonl(factor: float) -> str:
    """The same in Mooncake's layout."""
    rows = zip(*LONG.values(), strict=True)
    names = ("timestamp", "input_length", "output_length")
    return "".join(
        json.dumps(dict(zip(names, (t * factor, i, o), strict=True))) + "\n" for t, i, o in rows
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        (" \n\n", "it is empty"),
        (HEAD, "a header of csv and no requests"),
        (HEAD + "3,5,6\n1,5,6\n", "x:3: arrival_s goes back from 3 to 1; sort"),
        (HEAD + "3,-5,6\n", "x:2: isl is -5; a length is a whole number"),
        (HEAD + "3,5,0\n", "osl is 0"),
        (HEAD + "3,5.5,6\n", "isl is 5.5"),
        (HEAD + "3,nan,6\n", "isl is 'nan', which is no number"),
        (HEAD + "3,many,6\n", "isl is 'many', which is no number"),
        (HEAD + "3,5\n", "x:2: it has not as many cells as the header (3)"),
        (HEAD + "-3,5,5\n", "times are not below 0"),
        (HEAD + "2024-05-10 00:00:01,5,5\n", "arrival_s is a date (2024-05-10 00:00:01)"),
        ("arrival_s,isl,osl,model\n1,2,3,x\n", "unknown trace field in x 'model'"),
        ("when,in,out\n1,2,3\n", "no known format has the fields"),
        ('{"prompt": "hi"}\n', "no known format has the fields 'prompt'"),
        ('{"conversations": [{"value": "hi"}]}\n', "give lengths in tokens"),
        ('{"timestamp": 0, "input_length": 3, "output_le', "x:1: not JSON, cut off"),
        ("[1, 2]", "1 is no request"),
        (table(1e3), "be in s, but there would be 0.00333 requests a second; it looks like ms"),
        (table(1e6), "it looks like us"),
        (jsonl(1), "be in ms, but there would be 3.33e+03 requests a second; it looks like s"),
        (jsonl(1e6), "it looks like us"),
        (table(1e3, start=1.7e12), "1700000000000 is a date in ms"),
        (table(1).replace("arrival_s", "whenever"), "no known format"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_trace(path)
    assert said in str(error.value)
    assert "Traceback" not in str(error.value)


def test_dates_in_seconds_are_times(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(table(1, start=1.7e9))
    at = read_trace(path).arrival_s
    assert at is not None
    np.testing.assert_allclose(at, LONG["arrival_s"], atol=1e-6)


@pytest.mark.parametrize(("unit", "factor"), [("ms", 1e3), ("us", 1e6), ("s", 1.0)])
def test_a_named_unit_is_believed(unit: str, factor: float, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(table(factor))
    at = read_trace(path, time_unit=unit).arrival_s
    assert at is not None
    np.testing.assert_allclose(at, LONG["arrival_s"], atol=1e-9)
    insisted = read_trace(path, time_unit="s").arrival_s
    assert insisted is not None
    assert insisted[-1] == pytest.approx(factor * LONG["arrival_s"][-1])


def test_a_name_may_follow_a_colon(tmp_path: Path) -> None:
    assert named("a/b.jsonl:qwen") == (Path("a/b.jsonl"), "qwen")
    assert named("a/b.jsonl") == (Path("a/b.jsonl"), None)
    odd = tmp_path / "x:csv"
    odd.write_text(HEAD)
    assert named(str(odd)) == (odd, None)
    with pytest.raises(UsageError, match="unknown trace format 'moonkake'; did you mean mooncake"):
        named("b.jsonl:moonkake")
    with pytest.raises(UsageError, match="qwen was named, but it has no chat_id"):
        read_trace(DATA / "mooncake.jsonl", form="qwen")
    with pytest.raises(UsageError, match="it cannot be read: No such file"):
        read_trace(tmp_path / "nothing")
    with pytest.raises(UsageError, match="unknown --time-unit 'h'"):
        read_trace(DATA / "ours.csv", time_unit="h")


def made(at: list[float] | None, n: int) -> Trace:
    given_s = None if at is None else np.array(at)
    return Trace("t", "csv", given_s, np.full(n, 5), np.arange(1, n + 1))


def test_the_busiest_stretch_is_found() -> None:
    trace = busiest(made([0, 5, 10, 10.5, 11, 11.2, 30], 7), 1.5)
    assert trace.arrival_s is not None
    np.testing.assert_allclose(trace.arrival_s, [0, 0.5, 1, 1.2])
    assert trace.osl.tolist() == [3, 4, 5, 6]
    assert trace.notes == ("the busiest 1.5 s: 4 of 7 requests",)


def test_lengths_alone_need_a_rate() -> None:
    without = Scenario.parse(method="none")
    with pytest.raises(UsageError, match="lengths and no times"):
        of_trace(made(None, 4), without, capped=False)
    with pytest.raises(UsageError, match="so no busiest stretch"):
        busiest(made(None, 4), 10)
    demand = of_trace(made(None, 400), Scenario.parse(method="none", rate=2, runs=2), capped=False)
    assert len(demand.runs) == 2
    assert demand.rate == pytest.approx(2, rel=0.15)
    assert demand.runs[0].osl.tolist() == list(range(1, 401))


def test_answers_may_be_cut() -> None:
    scenario = Scenario.parse(method="none", max_new_tokens=3)
    demand = of_trace(made([0, 1, 2, 3, 4], 5), scenario, capped=True)
    assert demand.runs[0].osl.tolist() == [1, 2, 3, 3, 3]


def test_too_many_requests_are_refused() -> None:
    n = MOST_REQUESTS + 1
    with pytest.raises(UsageError, match="--busiest 3600"):
        of_trace(made(list(range(n)), n), Scenario.parse(method="none"), capped=False)


@pytest.mark.parametrize(
    ("text", "arrival_s"),
    [
        ("arrival_time,prompt_tokens,completion_tokens\n2,100,50\n3.5,200,80\n", [0, 1.5]),
        ("Timestamp,inputTokens,outputTokens,latency\n2026-01-01T00:00:00Z,100,50,9\n"
         "2026-01-01T00:00:02Z,200,80,9\n", [0, 2]),
        ("timestamp_ms,input_len,output_len\n100,100,50\n1100,200,80\n", [0, 1]),
        ('{"created": 1760000000500, "input_tokens": 100, "output_tokens": 50}\n'
         '{"created": 1760000003500, "input_tokens": 200, "output_tokens": 80}\n', [0, 3]),
    ],
)  # fmt: skip
def test_a_file_of_ones_own_is_read_by_its_columns(
    text: str, arrival_s: list[float], tmp_path: Path
) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    trace = read_trace(path)
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == pytest.approx(arrival_s)
    assert (trace.isl.tolist(), trace.osl.tolist()) == ([100, 200], [50, 80])
    assert any(note.startswith("arrivals of ") for note in trace.notes)
    path.write_text("when,input_tokens,output_tokens\n1,2,3\n")
    with pytest.raises(UsageError, match="no known format has the fields"):
        read_trace(path)
