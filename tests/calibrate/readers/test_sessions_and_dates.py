"""Traces with dates for times, and sessions whose later turns have a delay."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dflash_sim.calibrate.readers.request_traces import read_trace
from dflash_sim.profiles.errors import UsageError
from dflash_sim.studies.plan.over_long import within

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def azure(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "azure.csv"
    path.write_text(HEAD + "\n".join(rows))
    return path


def turns(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    path = tmp_path / "sessions.jsonl"
    path.write_text("\n".join(json.dumps({"output_length": 8, **row}) for row in rows))
    return path


def test_dates_are_times_from_the_first(tmp_path: Path) -> None:
    trace = read_trace(
        azure(
            tmp_path,
            "2023-11-16 23:59:59.5000000,100,5",
            "2023-11-17 00:00:00.7512345,200,0",
            "2023-11-17 00:01:01.25,300,7",
        )
    )
    assert trace.form == "azure"
    assert trace.arrival_s is not None
    np.testing.assert_allclose(trace.arrival_s, [0, 61.75], atol=1e-6)
    assert trace.isl.tolist() == [100, 300]
    assert "1 failed requests (no answer) are left out" in trace.notes


def test_a_zone_is_read(tmp_path: Path) -> None:
    trace = read_trace(
        azure(tmp_path, "2024-05-10 00:00:00.5+00:00,1,1", "2024-05-10T02:00:01+02:00,1,1")
    )
    assert trace.arrival_s is not None
    np.testing.assert_allclose(trace.arrival_s, [0, 0.5], atol=1e-6)


@pytest.mark.parametrize("cell", ["yesterday", "2024-13-40 00:00:00", ""])
def test_what_is_no_date_is_one_line(tmp_path: Path, cell: str) -> None:
    with pytest.raises(UsageError, match=r"azure.csv:2: TIMESTAMP") as caught:
        read_trace(azure(tmp_path, f"{cell},1,1"))
    assert "\n" not in str(caught.value)


def test_turns_follow_by_their_delay_in_order_of_time(tmp_path: Path) -> None:
    trace = read_trace(
        turns(
            tmp_path,
            {"session_id": "a", "timestamp": 0, "input_length": 10},
            {"session_id": "a", "delay": 3000, "input_length": 20},
            {"session_id": "b", "timestamp": 1000, "input_length": 30},
            {"session_id": "b", "delay": 500, "input_length": 40},
            {"session_id": "a", "delay": 1000, "input_length": 50},
        )
    )
    assert trace.arrival_s is not None
    np.testing.assert_allclose(trace.arrival_s, [0, 1, 1.5, 3, 4])
    assert trace.isl.tolist() == [10, 30, 40, 20, 50]
    assert any("3 follow-up turns" in note for note in trace.notes)


def test_a_delay_without_a_turn_before_it(tmp_path: Path) -> None:
    path = turns(
        tmp_path,
        {"session_id": "a", "timestamp": 0, "input_length": 10},
        {"session_id": "b", "delay": 10, "input_length": 10},
    )
    with pytest.raises(UsageError, match="no request of its session_id comes before it"):
        read_trace(path)


class TestOverLong:
    @pytest.fixture
    def trace(self, tmp_path: Path) -> Any:
        rows = [(0, 100, 10), (1, 900, 500), (2, 5000, 20)]
        text = "\n".join(f"{at},{isl},{osl}" for at, isl, osl in rows)
        path = tmp_path / "mine.csv"
        path.write_text(f"arrival_s,isl,osl\n{text}\n")
        return read_trace(path)

    def test_are_refused_with_the_remedy(self, trace: Any) -> None:
        with pytest.raises(UsageError, match=r"1 of 3 prompts .* --over-long drop.*truncate"):
            within(trace, 1000, "m", "refuse")

    def test_are_left_out(self, trace: Any) -> None:
        kept = within(trace, 1000, "m", "drop")
        assert kept.isl.tolist() == [100, 900]
        assert kept.osl.tolist() == [10, 100]  # an answer ends where the context does
        assert kept.arrival_s.tolist() == [0, 1]
        assert any("1 of 3 prompts do not fit 1,000 tokens: left out" in n for n in kept.notes)

    def test_are_cut(self, trace: Any) -> None:
        cut = within(trace, 1000, "m", "truncate")
        assert cut.isl.tolist() == [100, 900, 980]
        assert cut.osl.tolist() == [10, 100, 20]

    def test_all_fit_in_silence(self, trace: Any) -> None:
        assert within(trace, 10**6, "m", "refuse") is trace

    def test_none_fits(self, trace: Any) -> None:
        with pytest.raises(UsageError, match="no prompt fits"):
            within(trace, 50, "m", "drop")
