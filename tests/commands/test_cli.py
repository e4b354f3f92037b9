"""The command as a user meets it: answers, grids, layers, files, and one line per mistake."""

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from csv import reader
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

import dflash_sim
from dflash_sim.cli import app, main, run
from dflash_sim.commands.listing import KINDS
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.presets import load_preset, preset_names
from dflash_sim.profiles.schema import load_schema
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.names import ENGINE_NAMES
from dflash_sim.studies.ask.question import SWEEPABLE, ask, layered, scenarios
from dflash_sim.studies.ask.ranges import MOST, real_numbers, whole_numbers, words
from dflash_sim.studies.show.sheet_lists import KINDS as LISTED

SMALL = "--model qwen3-8b --isl 64 --osl 64 --num-prompts 8 --runs 1"
Answer = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No user profiles, and none left behind by --profiles; pages as wide as in a file."""
    monkeypatch.setenv("DFLASH_SIM_PROFILES", "")
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Answer:
    """Run the command in this process: exit code, stdout, stderr."""

    def call(line: str, *more: str) -> tuple[int, str, str]:
        code = run([*line.split(), *more])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def test_profiles_are_searched_until_the_command_ends(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "devices").mkdir()
    sheet = Path(dflash_sim.__file__).parent / "profiles/devices/b200.toml"
    text = sheet.read_text(encoding="utf-8").replace('title = "', 'title = "My own ')
    (tmp_path / "devices/b200.toml").write_text(text, encoding="utf-8")
    before = dict(os.environ)
    code, out, _ = answer("list gpus --profiles", str(tmp_path))
    assert (code, "My own" in out) == (0, True)
    assert dict(os.environ) == before
    assert "My own" not in answer("list gpus")[1]


class TestAnswers:
    def test_a_pipe_gets_what_a_terminal_shows(self, answer: Answer) -> None:
        asked = f"predict {SMALL}"
        assert answer(asked)[1] == answer(f"{asked} --format table")[1]
        code, out, err = answer(f"{asked} --format jsonl")
        (row,) = rows_of(out)
        assert (code, err) == (0, "")
        assert list(row) == [field.name for field in load_schema()]
        assert row["output_throughput"] > row["baseline_output_throughput"] > 0

    def test_same_seed_same_bytes(self, answer: Answer) -> None:
        line = f"predict {SMALL} --rate 40 --seed 7 --format json"
        assert answer(line) == answer(line)
        assert answer(line)[1] != answer(line.replace("--seed 7", "--seed 8"))[1]

    def test_csv_has_the_columns_of_the_schema(self, answer: Answer) -> None:
        code, out, _ = answer(f"predict {SMALL} --conc 1,2 --format csv")
        table = list(csv.DictReader(io.StringIO(out)))
        assert code == 0
        names = [field.name for field in load_schema()]
        assert [n for n in table[0] if n in names] == [n for n in names if n in table[0]]
        assert [line["max_concurrency"] for line in table] == ["1", "2"]
        assert float(table[0]["source_share_measured"]) > 0
        low, high = (float(table[0][f"output_throughput_{end}"]) for end in ("low", "high"))
        assert low < float(table[0]["output_throughput"]) < high
        assert not any(set(cell or "") & set("[]{}") for line in table for cell in line.values())
        assert table[0]["error"] == ""

    def test_json_of_one_is_an_object_and_of_many_a_list(self, answer: Answer) -> None:
        one = json.loads(answer(f"predict {SMALL} --format json")[1])
        many = json.loads(answer(f"predict {SMALL} --conc 1,2 --format json")[1])
        assert isinstance(one, dict)
        assert [row["max_concurrency"] for row in many] == [1, 2]
        assert many[0] == one | {"scenario_hash": many[0]["scenario_hash"]}

    def test_every_page_has_the_same_warnings(self, answer: Answer) -> None:
        asked = "predict --model Qwen/Qwen3-8B-FP8 --gpu h200 --method none --conc 2 --isl 100 "
        for form in ("--format table", "--brief --format table", "--format json"):
            assert "unconfirmed" in answer(f"{asked} --osl 20 --runs 1 {form}")[1], form

    @pytest.mark.parametrize("columns", [60, 80, 100, 140])
    def test_the_page_fits_its_terminal(
        self, answer: Answer, monkeypatch: pytest.MonkeyPatch, columns: int
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        line = "predict --preset pr23000-v2-c1 --num-prompts 4 --runs 2 --format table"
        code, page, _ = answer(line)
        assert code == 0
        assert max(map(len, page.splitlines())) <= columns
        assert "\x1b" not in page
        assert "\nsources: measured " in page
        for word in ("Throughput", "Speed-up", "Published", "TTFT", "TPOT", "ITL", "E2E", "GPU",
            "request mean", "per step", "token weighted", "harmonic", "draft", "verify", "outside",
            "KV injection", "exposed", "communication", "hidden", "Memory", "Capacity", "Cost",
            "Acceptance", "Scenario", "SGL_PR23000"):  # fmt: skip
            assert word in page, word
        if columns >= 100:
            assert len(page.splitlines()) <= 46
            absent = ["steps", "isl", "osl", "range_ratio", "rate", "burstiness", "acceptance"]
            absent += [n for n in Scenario.model_fields if "mamba" in n or "linear_" in n]
            absent += ["content", "top_k", "cache_hit", "context_length"]
            for name in Scenario.model_fields:
                # Every field that applies is shown, with its default.
                if name not in absent:
                    assert f"{name} " in page, name

    def test_a_source_is_shown_with_its_link(self, answer: Answer) -> None:
        line = "predict --model qwen3.6-35b-a3b --tp 1 --num-prompts 8 --runs 1 --interval none"
        page = answer(f"{line} --conc 7 --no-baseline --format table")[1]
        assert "published: HF_Q36_35B_retrain" in page
        link = "https://huggingface.co/z-lab/Qwen3.6-35B-A3B-DFlash"
        assert page.count(link) == 1
        same = answer(f"{line} --conc 1 --no-baseline --format table")[1]
        assert same.count(link) == 1  # once, though it has the throughput too

    def test_shares_add_up_to_a_hundred(self, answer: Answer) -> None:
        page = answer(f"predict {SMALL} --format table")[1]
        shares = [int(w) for w in page.splitlines()[-1].split() if w.isdigit()]
        assert len(shares) == 4
        assert sum(shares) == 100

    def test_given_values_are_marked(self, answer: Answer) -> None:
        page = answer(f"predict {SMALL} --conc 2 --format table")[1]
        assert {"conc 2*", "isl 64*", "tp 1", "seed 0"} <= {
            cell.strip() for line in page.splitlines() for cell in line.split("  ")
        }

    def test_without_a_published_point_it_says_so(self, answer: Answer) -> None:
        page = answer(f"predict {SMALL} --format table --no-baseline")[1]
        assert "no published point for this scenario" in page
        assert "Speed-up" not in page

    def test_event_engine(self, answer: Answer) -> None:
        leap, event = (
            rows_of(answer(f"predict {SMALL} --conc 2 --simulator {name} --format jsonl")[1])[0]
            for name in ("leap", "event")
        )
        assert (leap["simulator"], event["simulator"]) == ("leap", "event")
        assert event["output_throughput"] == pytest.approx(leap["output_throughput"], rel=1e-6)


class TestBrief:
    PUBLISHED = "predict --preset pr23000-v2-c1 --num-prompts 4 --runs 1"

    def test_the_numbers_are_those_of_the_page(self, answer: Answer) -> None:
        page = answer(f"{self.PUBLISHED} --format table")[1].splitlines()
        code, out, err = answer(f"{self.PUBLISHED} --brief")
        short = out.splitlines()
        assert (code, err) == (0, "")
        assert len(short) <= 12
        assert short[0] == page[0]
        assert short[-1] == page[-1]
        for label in ("Throughput", "Speed-up"):
            (line,) = (line for line in short if line.startswith(label))
            assert line in page
        assert "tok/s at github.com (used for fitting); we are " in out
        for word in ("TTFT", "TPOT", "tokens per verify step", "KV injection", "in flight (cap "):
            assert word in out, word

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            ("--conc 8 --max-running-requests 2", "at most 2 of the 8 at once (--max-running-req"),
            ("--rate 40", "at most 48 (engine default"),
            ("--conc 2", "limited by the 2 in flight (cap 48: "),
        ],
    )
    def test_it_says_what_limits_the_batch(self, answer: Answer, flags: str, said: str) -> None:
        assert said in answer(f"predict {SMALL} {flags} --brief --interval none")[1]

    def test_it_goes_to_a_file(self, answer: Answer, tmp_path: Path) -> None:
        file = tmp_path / "short.txt"
        code, out, _ = answer(f"predict {SMALL} --brief --interval none -o {file}")
        assert (code, out) == (0, "")
        assert file.read_text(encoding="utf-8").startswith("qwen3-8b")

    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            ("--conc 1,2", "--brief answers one scenario, and 2 are asked for"),
            ("--format json", "--brief is a page for people, and --format json is not"),
            ("-o rows.csv", "--brief is a page for people, and --format csv is not"),
        ],
    )
    def test_rows_are_not_shortened(self, answer: Answer, flags: str, told: str) -> None:
        code, out, err = answer(f"predict {SMALL} {flags} --brief")
        assert (code, out) == (2, "")
        assert told in err
        assert len(err.splitlines()) == 1

    def test_what_does_not_fit_is_an_error(self, answer: Answer) -> None:
        code, out, err = answer("predict --gpu l40s --runs 1 --brief")
        assert (code, out) == (1, "")
        assert "does not fit" in err


class TestMemory:
    HYBRID = "predict --memory --model qwen3.5-27b --tp 1 --block 8"

    def test_the_page_is_a_sum(self, answer: Answer) -> None:
        """The signed lines are in GB, and add up to those with an equals sign."""
        code, out, err = answer(f"{self.HYBRID} --format table")
        assert (code, err) == (0, "")
        lines = [re.match(r"([-=]) .*? ([\d.]+) GB", line) for line in out.splitlines()]
        total = float(re.search(r"= static +([\d.]+) GB", out)[1])  # type: ignore[index]
        after = [m for m in lines if m][2:]  # behind static
        for sign, size in (m.groups() for m in after):
            if sign == "-":
                total -= float(size)
            else:
                assert total == pytest.approx(float(size), abs=0.2)
        for said in (
            "109 slots of 153.9 MB each (float32",
            "extra_buffer",
            "x 0.9248 for the vision",
            "limited by: GDN state slots",
        ):
            assert said in out, said

    def test_rows_are_the_plan(self, answer: Answer) -> None:
        row = json.loads(answer(f"{self.HYBRID} --format json")[1])
        beside = row["weight_bytes"] + row["draft_weight_bytes"] + row["rest_bytes"]
        assert beside == pytest.approx(row["static_bytes"])
        assert row["gdn_bytes"] + row["kv_bytes"] == pytest.approx(row["rest_bytes"])
        assert (row["max_running_requests"], row["slots_per_request"]) == (21, 5)
        wide = json.loads(answer(f"{self.HYBRID} --mamba-ssm-dtype bfloat16 --format json")[1])
        assert wide["max_running_requests"] == 42
        csv = answer(f"{self.HYBRID},16 --format csv")[1].splitlines()
        assert len(csv) == 3
        columns = next(reader(csv))  # of values: an object has several, a null none
        assert all(any(c == n or c.startswith(f"{n}_") for n in row) for c in columns)
        assert set(columns) >= {n for n, value in row.items() if isinstance(value, int | float)}

    def test_a_model_without_states_has_none(self, answer: Answer) -> None:
        code, out, _ = answer("predict --memory --model qwen3-8b --method none --format table")
        assert code == 0
        assert "slots" not in out
        assert "74 prefill graphs" in out

    def test_what_does_not_fit_does_not_hide_the_rest(self, answer: Answer) -> None:
        flags = "--disable-radix-cache --format table"
        code, out, err = answer(f"{self.HYBRID.removesuffix(' 8')} 2,16 {flags}")
        assert code == 0
        assert "48 slots of 153.9 MB" in out
        assert "1 of 2 scenarios do not fit: qwen3.5-27b on b200 at tp 1: 48 state slots" in err
        code, out, err = answer(f"{self.HYBRID.removesuffix(' 8')} 16 {flags}")
        assert (code, out) == (1, "")
        assert len(err.splitlines()) == 1

    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            ("--brief", "--brief and --memory are two pages"),
            ("--mamba-ssm-dtype fp16", "unknown mamba ssm dtype 'fp16'"),
            ("--mamba-scheduler-strategy lazy", "unknown mamba radix cache strategy 'lazy'"),
            ("--mamba-radix-cache-strategy no_buffer", "without the overlap scheduler alone"),
            ("--mamba-full-memory-ratio 0", "--mamba-full-memory-ratio 0: input should be greater"),
            ("--max-mamba-cache-size 0", "--max-mamba-cache-size 0: input should be greater"),
            ("--linear-attn-decode-backend cuda", "unknown linear attn decode backend 'cuda'"),
            (
                "--linear-attn-decode-backend flashinfer --mamba-ssm-dtype float32",
                "takes states in bfloat16 alone, not float32",
            ),
        ],
    )
    def test_mistakes_are_one_line(self, answer: Answer, flags: str, told: str) -> None:
        code, out, err = answer(f"{self.HYBRID} {flags}")
        assert (code, out) == (2, "")
        assert told in err
        assert len(err.splitlines()) == 1


class TestGrids:
    def test_points_in_order(self, answer: Answer) -> None:
        rows = rows_of(
            answer(
                f"predict {SMALL} --method none,dflash --block 8,16 --conc 1-4:x2 --format jsonl"
            )[1]
        )
        assert [(r["method"], r["block"], r["max_concurrency"]) for r in rows] == [
            ("none", 1, 1), ("none", 1, 2), ("none", 1, 4),
            ("dflash", 8, 1), ("dflash", 8, 2), ("dflash", 8, 4),
            ("dflash", 16, 1), ("dflash", 16, 2), ("dflash", 16, 4),
        ]  # fmt: skip
        # Plain decoding was predicted once, and is every block's baseline.
        plain = {r["max_concurrency"]: r["output_throughput"] for r in rows[:3]}
        for row in rows[3:]:
            assert row["baseline_output_throughput"] == plain[row["max_concurrency"]]

    def test_grid_points_are_the_single_answers(self, answer: Answer) -> None:
        rows = rows_of(answer(f"predict {SMALL} --block 8,16 --conc 2,4 --format jsonl")[1])
        for row in rows:
            line = f"predict {SMALL} --block {row['block']} --conc {row['max_concurrency']}"
            assert rows_of(answer(f"{line} --format jsonl")[1]) == [row]

    def test_duplicates_are_dropped(self) -> None:
        asked = layered([("flag", {"method": "none,dflash", "block": "8,16", "conc": "1,1"})])
        assert [(s.method, s.block) for s in scenarios(asked)] == [
            ("none", None), ("dflash", 8), ("dflash", 16),
        ]  # fmt: skip

    def test_every_method_takes_what_applies_to_it(self) -> None:
        fields = {"method": "none,mtp,eagle3,dflash", "block": "8,16", "steps": "3", "window": 512,
            "engine_mode": "v1,v2"}  # fmt: skip
        found = scenarios(layered([("flag", fields)]))
        told = {(s.method, s.block, s.steps, s.window, s.engine_mode) for s in found}
        assert told == {
            ("none", None, None, None, "v2"),
            ("mtp", None, 3, None, "v1"), ("mtp", None, 3, None, "v2"),
            ("eagle3", None, 3, None, "v1"), ("eagle3", None, 3, None, "v2"),
            ("dflash", 8, None, 512, "v1"), ("dflash", 8, None, 512, "v2"),
            ("dflash", 16, None, 512, "v1"), ("dflash", 16, None, 512, "v2"),
        }  # fmt: skip
        assert len(found) == len(told)

    @pytest.mark.parametrize("fields", [{"topk": -1}, {"steps": 0}, {"window": "x"}])
    def test_what_none_of_them_takes_is_looked_at_all_the_same(self, fields: Any) -> None:
        with pytest.raises(UsageError, match=f"{next(iter(fields))} "):
            scenarios(layered([("flag", {"method": "none,dflash", **fields})]))

    @pytest.mark.parametrize(
        ("line", "modes", "told"),
        [
            ("--method none,dflash --engine-mode v1", ["v2", "v1"], True),
            ("--method none,dflash --engine-mode v2,v2-sync", ["v2", "v2", "v2-sync"], True),
            ("--method none,dflash --engine-mode v2", ["v2", "v2"], False),
            ("--method dflash,mtp --steps 3 --engine-mode v1", ["v1", "v1"], False),
            ("--method none --engine-mode v1,v2", ["v1", "v2"], False),
        ],
    )
    def test_plain_decoding_has_its_own_mode_beside_others(
        self, answer: Answer, line: str, modes: list[str], told: bool
    ) -> None:
        """And it is said where a mode that was given does not hold for it."""
        fast = "--model qwen3.5-4b --acceptance al:2 --isl 64 --osl 32 --num-prompts 4 --runs 1"
        if "dflash" not in line:
            fast = fast.replace("--acceptance al:2 ", "")
        code, out, err = answer(
            f"predict {fast} {line} --interval none --no-baseline --format jsonl"
        )
        assert code == 0, err
        assert [r["engine_mode"] for r in rows_of(out)] == modes
        assert ("beside them method none runs in v2" in err) is told

    def test_alone_plain_decoding_has_the_mode_that_is_given(self) -> None:
        """Without overlap it is slower, in v1 as much as in v2-sync."""
        small = {"model": "qwen3-8b", "isl": 64, "osl": 64, "conc": 8, "num_prompts": 16, "runs": 1}

        def tok_s(mode: str) -> float:
            scenario = Scenario.parse(method="none", engine_mode=mode, **small)
            return predict(scenario, with_interval=False).values["output_throughput"]

        assert tok_s("v1") == tok_s("v2-sync") < 0.95 * tok_s("v2")

    def test_what_does_not_fit_is_a_row(self, answer: Answer) -> None:
        line = "predict --tp 4,8 --isl 64 --osl 64 --num-prompts 8 --runs 1"
        code, out, err = answer(f"{line} --format jsonl")
        short, fine = rows_of(out)
        assert code == 0
        assert "does not fit on b200 at tp 4" in short["error"]
        assert (short["output_throughput"], fine["error"]) == (None, None)
        assert fine["output_throughput"] > 0
        assert err.startswith("dflash-sim: warning: 1 of 2 scenarios have no answer: ")
        code, page, _ = answer(f"{line} --format table")
        assert code == 0
        assert "cannot run [1]" in page
        assert "[1] qwen3.5-397b-a17b does not fit on b200 at tp 4" in page

    def test_exit_code_1_when_nothing_fits(self, answer: Answer) -> None:
        code, out, err = answer("predict --gpu l40s,h100 --runs 1 --format jsonl")
        assert code == 1
        assert [r["gpu"] for r in rows_of(out)] == ["l40s", "h100"]
        assert len(err.splitlines()) == 1

    def test_a_mistake_in_one_point_stops_all(self, answer: Answer) -> None:
        code, out, err = answer(f"predict {SMALL} --block 8,32")
        assert (code, out) == (2, "")
        assert "block 32 is above the 16" in err

    def test_constants_move_above_the_table(self, answer: Answer) -> None:
        page = answer(f"predict {SMALL} --conc 1,2 --format table")[1].splitlines()
        assert page[0].startswith("qwen3-8b · gpu b200 · tp 1 · method dflash · block 16")
        assert page[2].split()[:4] == ["conc", "tok/s", "+-", "x"]

    def test_a_table_without_intervals_has_no_column_for_them(self, answer: Answer) -> None:
        page = answer(f"predict {SMALL} --conc 1,2 --format table --interval none")[1].splitlines()
        assert page[2].split()[:3] == ["conc", "tok/s", "x"]


class TestRanges:
    @pytest.mark.parametrize(
        ("text", "values"),
        [
            ("16", [16]),
            ("1,2,4", [1, 2, 4]),
            ("4,2,4", [4, 2]),
            ("1-32:x2", [1, 2, 4, 8, 16, 32]),
            ("1-48:x2", [1, 2, 4, 8, 16, 32]),
            ("8-16:4", [8, 12, 16]),
            ("8-15:4", [8, 12]),
            ("1-8", [1, 2, 3, 4, 5, 6, 7, 8]),
            ("1-4:x2, 32", [1, 2, 4, 32]),
            ("7-7", [7]),
            ("1e3", [1000]),
        ],
    )
    def test_whole_numbers(self, text: str, values: list[int]) -> None:
        assert whole_numbers("--conc", text) == values

    def test_real_numbers(self) -> None:
        assert real_numbers("--rate", "0.1-0.3:0.1") == [0.1, 0.2, 0.3]
        assert real_numbers("--rate", ".5,1e-3,2-8:x2") == [0.5, 0.001, 2, 4, 8]

    @given(st.integers(1, 400), st.integers(0, 400), st.integers(1, 50))
    def test_steps_are_a_range(self, first: int, more: int, step: int) -> None:
        expected = list(range(first, first + more + 1, step))
        assert whole_numbers("--conc", f"{first}-{first + more}:{step}") == expected

    @given(st.text(alphabet="0123456789.,-:xeE+nai f", max_size=20))
    def test_any_text_is_values_or_one_line(self, text: str) -> None:
        for read in (whole_numbers, real_numbers):
            try:
                values = read("--conc", text)
            except UsageError as error:
                assert "\n" not in str(error)  # noqa: PT017
            else:
                assert 0 < len(values) <= MOST
                assert all(0 < value < float("inf") for value in values)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("0", "0 is not a whole number above 0"),
            ("-4", "'-4' is not a whole number above 0"),
            ("nan", "'nan' is not"),
            ("inf", "'inf' is not"),
            ("1.5", "1.5 is not a whole number"),
            ("", "'' is not"),
            ("1,,2", "'' is not"),
            ("8-1", "the range 8-1 runs backwards"),
            ("1-8:x1", "times 1 from 1 never arrives"),
            ("0-8:x2", "times 2 from 0 never arrives"),
            ("1-8:0", "a step of 0 never arrives"),
            ("0-8", "0 is not a whole number"),
            ("1-1000000", "more than 1000 values"),
            ("1-8:y2", "'1-8:y2' is not"),
            ("1:8", "'1:8' is not"),
        ],
    )
    def test_refusals_name_flag_value_and_forms(self, text: str, why: str) -> None:
        with pytest.raises(UsageError) as caught:
            whole_numbers("--conc", text)
        assert why in str(caught.value)
        assert str(caught.value).startswith("--conc ")
        assert "1-32:x2 (times 2)" in str(caught.value)

    def test_words(self) -> None:
        assert words("--gpu", "b200, h100,b200") == ["b200", "h100"]
        with pytest.raises(UsageError, match="a name is missing"):
            words("--gpu", "b200,")

    def test_a_grid_has_a_limit(self) -> None:
        fields = {"conc": "1-500", "num_prompts": "1-3"}
        with pytest.raises(UsageError, match="1,500 points"):
            scenarios(layered([("flag", fields)]))


class TestLayers:
    def test_flag_over_launch_over_preset_over_default(self) -> None:
        command = "sglang serve --model-path Qwen/Qwen3-8B --tp 2 --speculative-algorithm DFLASH"
        asked, ignored = ask(
            {"tp": "1", "conc": None},
            preset="pr23000-v1-c32",
            from_launch=f"{command} --enable-mixed-chunk",
        )
        told = {name: (given.value, given.origin) for name, given in asked.items()}
        assert told["tp"] == (1, "flag")
        assert told["model"] == ("Qwen/Qwen3-8B", "--from-launch")
        assert told["engine_mode"] == ("v1", "preset pr23000-v1-c32")
        assert told["conc"] == (32, "preset pr23000-v1-c32")
        assert "seed" not in told
        assert [words.partition(" ")[0] for words in ignored] == ["--enable-mixed-chunk"]

    @pytest.mark.parametrize(
        ("near", "far", "merged"),
        [
            ({"isl": "64", "osl": "32"}, {"dataset": "gsm8k"}, {"isl": 64, "osl": 32}),
            ({"dataset": "mbpp"}, {"isl": 64, "osl": 32}, {"dataset": "mbpp"}),
            ({"rate": "2"}, {"conc": 8}, {"rate": 2.0}),
            ({"tp": "4"}, {"num_gpus": 8}, {"tp": 4}),
            ({"steps": "3"}, {"block": 8}, {"steps": 3}),
            ({"method": "none"}, {"method": "dflash", "block": 8}, {"method": "none"}),
            ({"method": "mtp"}, {"method": "mtp", "steps": 3}, {"method": "mtp", "steps": 3}),
            ({"gpu": "h200"}, {"gpu": "b200", "attention_backend": "trtllm_mha"}, {"gpu": "h200"}),
            ({"gpu": "h200"}, {"page_size": 64}, {"gpu": "h200", "page_size": 64}),
            ({"model": "qwen3-4b"}, {"model": "a", "draft_model": "b"}, {"model": "qwen3-4b"}),
        ],
    )  # fmt: skip
    def test_a_nearer_value_drops_what_it_rules_out(
        self, near: dict[str, Any], far: dict[str, Any], merged: dict[str, Any]
    ) -> None:
        asked = layered([("flag", near), ("preset", far)])
        assert {name: given.value for name, given in asked.items()} == merged

    def test_print_config_reads_back(self, answer: Answer, tmp_path: Path) -> None:
        line = f"{SMALL} --conc 1,4 --seed 3 --mem-fraction-static 0.7"
        code, text, _ = answer(f"predict {line} --print-config")
        assert code == 0
        assert "  conc: [1, 4] " in text
        assert "# flag\n" in text
        assert "  engine_mode: v2 " in text
        assert "# default: the drafter's\n" in text
        shown = {line.split(":")[0].strip() for line in text.splitlines()[1:]}
        assert shown == set(Scenario.model_fields)
        saved = tmp_path / "mine.yaml"
        saved.write_text(text)
        assert answer(f"predict --preset {saved}") == answer(f"predict {line}")

    def test_presets_stand(self) -> None:
        assert len(preset_names()) == 6
        for name in preset_names():
            preset = load_preset(name)
            (scenario,) = scenarios(ask({}, preset=name, from_launch=None)[0])
            assert preset.title
            assert preset.source
            assert scenario.gpu == "b200"
        c32 = load_preset("pr23000-v2-c32").scenario
        assert (c32["num_prompts"], c32["max_new_tokens"]) == (1024, 2048)

    def test_engine_names_are_ours(self) -> None:
        ours = {param.name for param in predict_options()}
        assert set(ENGINE_NAMES.values()) <= ours
        assert set(SWEEPABLE) <= ours
        assert ours >= set(Scenario.model_fields) - {"dtype"}

    def test_engine_names_work(self, answer: Answer) -> None:
        long = "--speculative-dflash-block-size=8 --max_concurrency 2 --tp-size 1"
        assert answer(f"predict {SMALL} {long}") == answer(
            f"predict {SMALL} --block 8 --conc 2 --tp 1"
        )
        assert "--speculative-dflash-block-size" not in answer("predict --help")[1]

    def test_a_launch_command_answers(self, answer: Answer) -> None:
        command = (
            "python -m sglang.launch_server --model-path Qwen/Qwen3-8B --enable-mixed-chunk "
            "--speculative-algorithm DFLASH --speculative-dflash-block-size 8"
        )
        flags = "--isl 64 --osl 64 --num-prompts 8 --runs 1 --format jsonl"
        code, out, err = answer(f"predict {flags}", "--from-launch", command)
        assert code == 0
        again = answer(f"predict {SMALL} --block 8 --format jsonl")[1]
        (row,), (same,) = rows_of(out), rows_of(again)
        assert row == same | {"scenario_hash": row["scenario_hash"]}  # it holds the model's id
        why = "(prefill and decode are simulated in steps of their own)"
        said = f"dflash-sim: warning: --from-launch: not modelled: --enable-mixed-chunk {why}\n"
        assert err == said


def predict_options() -> list[Any]:
    command: Any = typer.main.get_command(app)
    return list(command.commands["predict"].params)


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "starts"),
        [
            ("a.json", "{\n"),
            ("a.jsonl", '{"schema'),
            ("a.csv", "schema_version,"),
            ("a.txt", "qwen3-8b"),
            ("a", '{"schema'),
        ],
    )
    def test_format_by_suffix(self, answer: Answer, tmp_path: Path, name: str, starts: str) -> None:
        code, out, err = answer(f"predict {SMALL} -o {tmp_path / name}")
        assert (code, out) == (0, "")
        assert err == f"wrote {tmp_path / name}\n"
        assert (tmp_path / name).read_text().startswith(starts)
        assert [p.name for p in tmp_path.iterdir()] == [name]

    def test_a_failure_leaves_the_old_file(
        self, answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text("old")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        code, out, err = answer(f"predict {SMALL} -o {path}")
        assert (code, out) == (2, "")
        assert "No space left on device" in err
        assert len(err.splitlines()) == 1
        assert path.read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]

    def test_links_and_modes_are_kept(self, answer: Answer, tmp_path: Path) -> None:
        target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
        target.write_text("old")
        target.chmod(0o640)
        link.symlink_to(target)
        assert answer(f"predict {SMALL} -o {link}")[0] == 0
        assert link.is_symlink()
        assert target.read_text().startswith("{")
        assert target.stat().st_mode & 0o777 == 0o640

    def test_a_device_is_written_not_replaced(self, answer: Answer, tmp_path: Path) -> None:
        fifo = tmp_path / "pipe"
        os.mkfifo(fifo)
        reader = subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE, text=True)
        assert answer(f"predict {SMALL} -o {fifo}")[0] == 0
        assert reader.communicate(timeout=10)[0].startswith('{"schema_version"')
        assert fifo.is_fifo()

    def test_nothing_is_computed_for_a_target_that_cannot_be_written(
        self, answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dflash_sim.studies.ask.answers.answers", pytest.fail)
        for target in (tmp_path, tmp_path / "missing/rows.csv"):
            code, out, err = answer(f"predict {SMALL} -o {target}")
            assert (code, out) == (2, "")
            assert f"cannot write {target}" in err


BAD_CONFIGS = {
    "broken": "{",
    "list": "[1]",
    "nothing": "{}",
    "part": '{"model_type": "qwen3", "hidden_size": 4096}',
    "odd": json.dumps(
        {
            "model_type": "qwen3",
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "vocab_size": 1000,
            "num_hidden_layers": 2,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 128,
        }
    ),
}
# What is typed, the exit code, and what the one line must hold: thing, value, allowed, next step.
MISTAKES = [
    ("--gpu b20", 2, ["unknown GPU 'b20'.", "Nearest of", "b200", "list gpus"]),
    ("--gpu b200,h2O", 2, ["unknown GPU 'h2O'", ": h20, "]),
    ("--model qwen3.5-397", 2, ["unknown model", "did you mean qwen3.5-397b-a17b?", "list models"]),
    ("--draft-model qwen3-8b-dflsh", 2, ["unknown drafter", "qwen3-8b-dflash", "config.json"]),
    ("--dataset humanevl", 2, ["unknown dataset 'humanevl'", "mean humaneval?", "mt-bench"]),
    ("--method dflsh", 2, ["unknown method 'dflsh'", "did you mean dflash?", "eagle3"]),
    ("--engine sglang", 2, ["unknown engine", "did you mean sglang-0.5"]),
    ("--quantization gguf", 2, ["GGUF, whose kernels are in no table", "AWQ or GPTQ checkpoint"]),
    ("--quantization bitsandbytes", 2, ["bitsandbytes, whose kernels are in no table"]),
    ("--engine-mode v3", 2, ["unknown engine mode 'v3'", "Have: v1, v2, v2-sync"]),
    ("--attention-backend flashinfr", 2, ["unknown attention backend", "did you mean flashinfer?"]),
    ("--preset lmsys", 2, ["unknown preset", "did you mean lmsys-2026-06-15"]),
    ("--preset {tmp}/absent.yaml", 2, ["cannot read preset", "absent.yaml"]),
    ("--preset {tmp}/broken.yaml", 2, ["cannot read preset", "broken.yaml"]),
    ("--preset {tmp}/flat.yaml", 2, ["no 'scenario:'", "such as 'gpu: b200'"]),
    ("--preset {tmp}/typo.yaml", 2, ["unknown field 'blok'", "did you mean block"]),
    ("--preset {tmp}/empty.yaml", 2, ["--conc: an empty list", "leave it out"]),
    ("--acceptance 0.7", 2, ["unknown acceptance '0.7'", "Such as geometric:0.7"]),
    ("--acceptance 3.2", 2, ["Such as al:3.2"]),
    ("--acceptance foo:3", 2, ["unknown acceptance 'foo'", "Have: al", "Such as al:6.6"]),
    ("--acceptance al:nan", 2, ["'al:nan'", "not a finite number", "Write it as al:6.6"]),
    ("--tp 3", 2, ["tp 3", "qwen3.5-397b-a17b", "allowed: 1, 2, 4, 8", "--tp"]),
    ("--tp 2 --method none --model {tmp}/odd", 2, ["tp 2", "odd", "allowed: 1.", "--tp"]),
    ("--num-gpus 4 --tp 8", 2, ["num_gpus 4 and tp 8 differ", "--tp 4"]),
    ("--gpu h100", 1, ["does not fit on h100 at tp 8", "37.0 GB short", "--gpu h200"]),
    ("--model qwen3.5-27b --draft-model qwen3-8b-dflash", 2, ["qwen3-8b-dflash", "4096", "5120"]),
    ("--conc 1 -o {tmp}/x.parquet", 2, ["parquet", ".jsonl", "--format"]),
    ("--conc 1 --num-prompts 40000", 2, ["40,000 requests", "at most", "--num-prompts"]),
    ("--tp 4", 1, ["48.6 GB short", "--tp 8 would"]),
    ("--block 32", 2, ["block 32", "16 that qwen3.5-397b-a17b-dflash", "2 to 16", "--block 16"]),
    ("--block 1", 2, ["--block 1", "greater than or equal to 2", "the drafter's trained block"]),
    ("--conc 0", 2, ["--conc 0", "whole number above 0", "1-32:x2"]),
    ("--conc -4", 2, ["--conc -4", "whole number above 0"]),
    ("--conc nan", 2, ["--conc nan", "whole number above 0"]),
    ("--conc 99999999999", 2, ["--conc 99999999999", "less than or equal to 10000000"]),
    ("--rate nan", 2, ["--rate nan", "a number above 0"]),
    ("--rate inf", 2, ["--rate inf", "a number above 0"]),
    ("--rate -1", 2, ["--rate -1", "a number above 0"]),
    ("--burstiness nan", 2, ["--burstiness nan", "greater than 0", "Left out, it is 1.0"]),
    ("--burstiness -2", 2, ["--burstiness -2", "greater than 0"]),
    ("--mem-fraction-static 1.5", 2, ["--mem-fraction-static 1.5", "less than 1", "the engine's"]),
    ("--max-new-tokens 0", 2, ["--max-new-tokens 0", "or equal to 1", "Left out, it is 4096"]),
    ("--runs 0", 2, ["--runs 0", "or equal to 1", "Left out, it is 5"]),
    ("--seed -1", 2, ["--seed -1", "or equal to 0"]),
    ("--temperature warm", 2, ["--temperature warm", "a number, at least 0 and at most 10"]),
    ("--window many", 2, ["--window many", "a whole number", "the drafter's"]),
    ("--isl 64", 2, ["isl and osl go together", "give both"]),
    ("--isl 64 --osl 64 --dataset gsm8k", 2, ["dataset and isl/osl exclude", "give one"]),
    ("--conc 4 --rate 2", 2, ["conc (closed loop) and rate (open loop) exclude", "give one"]),
    ("--method none --block 8", 2, ["method none takes no block", "drop"]),
    ("--method dflash --steps 4", 2, ["method dflash takes no steps; give block"]),
    ("--method mtp", 2, ["method mtp needs its draft steps", "--steps 3"]),
    ("--method mtp --steps 3 --model qwen3-8b", 2, ["no native MTP", "Try --method dflash"]),
    ("--method eagle3 --steps 3", 3, ["no accept length is published", "--acceptance"]),
    ("--model qwen3-4b --no-thinking --dataset mbpp --method injection-only", 3,
     ["no accept length is published for qwen3-4b", "--acceptance al:8.5"]),
    ("--model {tmp}/absent.json", 2, ["cannot read", "absent.json", "dflash-sim list models"]),
    ("--model {tmp}", 2, ["cannot read", "config.json", "its folder", "dflash-sim list models"]),
    ("--model {tmp}/broken", 2, ["cannot read", "broken", "correct it"]),
    ("--model {tmp}/list", 2, ["expected an object, got list"]),
    ("--model {tmp}/nothing", 2, ["unknown model_type of nothing", "gpt_oss"]),
    ("--model {tmp}/part", 2, ["config of part", "'num_hidden_layers' is missing", "expected"]),
    ("--from-launch train.py", 2, ["'train.py' is not an SGLang launch command", "such as"]),
    ("--format xml", 2, ["unknown --format 'xml'", "Have: csv, json, jsonl, table"]),
    ("--simulator fast", 2, ["unknown --simulator 'fast'", "Have: auto, event, leap"]),
    ("--profiles {tmp}/none", 2, ["--profiles", "no such directory"]),
    ("--blok 8", 2, ["--blok", "--block", 'Try "dflash-sim predict --help"']),
    ("--enable-dp-attention", 2, ["--enable-dp-attention: ", "Ask for one server: its --tp"]),
    ("--dp-attention", 2, ["--enable-dp-attention: ", "is not simulated"]),
    ("--pp-size 2", 2, ["--pp-size: ", "Ask for tensor parallelism, --tp"]),
    ("--moe-runner-backend triton", 2, ["is no option here: experts have", "Leave it out"]),
    ("--conc", 2, ["--conc", "requires an argument", "--help"]),
    ("stray", 2, ["unexpected", "stray", "--help"]),
    ("-o {tmp}", 2, ["cannot write", "it is a directory", "name a file"]),
    ("-o {tmp}/a/b", 2, ["cannot write", "mkdir -p"]),
]  # fmt: skip
OTHER_MISTAKES = [
    ("list gpu", 2, ["'gpu'", "did you mean gpus?", "Have: checkpoints"]),
    ("serve --port", 2, ["'--port' requires an argument"]),  # a flag of SGLang's server too
    ("predct", 2, ["No such command 'predct'", "--help"]),
    ("calibrate import-silicon", 2, ["--system", "--help"]),
    ("calibrate import-silicon --system b20", 2, ["unknown system 'b20'"]),
    ("calibrate import-silicon --system l40s --data-dir {tmp}/none", 2, ["l40s", "--data-dir"]),
]


class TestMistakes:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name, text in BAD_CONFIGS.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.json").write_text(text)
        (tmp_path / "broken.yaml").write_text("a: [1\nb: :")
        (tmp_path / "flat.yaml").write_text("gpu: b200")
        (tmp_path / "typo.yaml").write_text("scenario: {blok: 8}")
        (tmp_path / "empty.yaml").write_text("scenario: {conc: []}")
        return tmp_path

    @pytest.mark.parametrize(("typed", "code", "told"), MISTAKES, ids=lambda v: str(v)[:40])
    def test_predict(
        self, answer: Answer, folder: Path, typed: str, code: int, told: list[str]
    ) -> None:
        self.check(answer(f"predict {typed.replace('{tmp}', str(folder))}"), code, told)

    @pytest.mark.parametrize(("typed", "code", "told"), OTHER_MISTAKES, ids=lambda v: str(v)[:40])
    def test_others(
        self, answer: Answer, folder: Path, typed: str, code: int, told: list[str]
    ) -> None:
        self.check(answer(typed.replace("{tmp}", str(folder))), code, told)

    @staticmethod
    def check(outcome: tuple[int, str, str], code: int, told: list[str]) -> None:
        got, out, err = outcome
        assert (got, out) == (code, "")
        assert len(err.splitlines()) == 1
        assert err.startswith("dflash-sim: ")
        assert [words for words in told if words not in err] == []

    def test_truncated_parquet(self, answer: Answer, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow")
        file = tmp_path / "data/b200_sxm/gemm/sglang/0.5.14/gemm_perf.parquet"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"PAR1 and no more")
        line = f"--system b200_sxm --data-dir {tmp_path / 'data'} --out {tmp_path / 'out'}"
        outcome = answer(f"calibrate import-silicon {line}")
        self.check(outcome, 2, ["cannot read", "gemm_perf.parquet"])
        assert not (tmp_path / "out").exists()

    def test_debug_shows_the_cause(self, answer: Answer, folder: Path) -> None:
        code, out, err = answer(f"predict --model {folder / 'broken'} --debug")
        assert (code, out) == (2, "")
        assert "Traceback" in err
        assert "JSONDecodeError" in err
        assert err.splitlines()[-1].startswith("dflash-sim: cannot read")

    def test_a_bug_is_a_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def bug(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("dflash_sim.studies.ask.question.ask", bug)
        with pytest.raises(ZeroDivisionError):
            run(["predict"])

    def test_interrupted(self, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("dflash_sim.studies.ask.question.ask", interrupt)
        assert answer("predict")[:2] == (130, "")


class TestListing:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_kind(self, answer: Answer, kind: str) -> None:
        code, out, err = answer(f"list {kind} --format jsonl")
        assert (code, err) == (0, "")
        assert all("name" in row or "gpu" in row for row in rows_of(out))
        page = answer(f"list {kind} --format table")[1]
        assert max(map(len, page.splitlines())) <= 100
        assert tuple(LISTED) == KINDS

    def test_what_is_listed_can_be_named(self, answer: Answer) -> None:
        for kind, flag in (("gpus", "--gpu"), ("models", "--model"), ("presets", "--preset")):
            for row in rows_of(answer(f"list {kind} --format jsonl")[1]):
                assert answer(f"predict {flag} {row['name']} --print-config")[0] == 0

    def test_formats_say_where_they_run(self, answer: Answer) -> None:
        rows = {row["name"]: row for row in rows_of(answer("list formats --format jsonl")[1])}
        assert rows["fp8"]["elsewhere_as"] == "fp8_w8a16"
        assert "ampere" not in rows["fp8"]["kernels_on"]
        assert "h100" in rows["mxfp8"]["not_on"]
        assert rows["bfloat16"]["not_on"] is None

    def test_checkpoints_name_their_model(self, answer: Answer) -> None:
        rows = {row["name"]: row for row in rows_of(answer("list checkpoints --format jsonl")[1])}
        assert rows["qwen3-8b-fp8"]["model"] == "qwen3-8b"
        assert rows["qwen3-8b-fp8"]["weights"] == ["fp8_block"]

    def test_own_profiles_come_first(self, answer: Answer, tmp_path: Path) -> None:
        (tmp_path / "presets").mkdir()
        (tmp_path / "presets/mine.yaml").write_text("title: T\nscenario: {gpu: h100}")
        listed = rows_of(answer(f"list presets --profiles {tmp_path} --format jsonl")[1])
        assert {"mine", "lmsys-2026-06-15"} <= {row["name"] for row in listed}
        out = answer(f"predict --preset mine --profiles {tmp_path} --print-config")[1]
        assert "gpu: h100" in out


ENDLESS = "a" * 10_000
LONG_NAMES = {
    "predict --model": "unknown model 'aaa",
    "predict --model ./": "cannot read aaa",
    "predict --draft-model": "unknown drafter 'aaa",
    "predict --gpu": "unknown GPU 'aaa",
    "predict --preset": "unknown preset 'aaa",
    "predict --calibration": "calibration aaa",
    "predict --profiles": "File name too long",
    "predict --output": "File name too long",
    "explain --model": "unknown model 'aaa",
    "trace -o t.json --model": "unknown model 'aaa",
    "plan --jobs 1 --rate 1 --model": "unknown model 'aaa",
    "plan --trace": "File name too long",
    "sweep -o runs": "File name too long",
    "run --drafter": "File name too long",
    "list gpus --profiles": "File name too long",
    "calibrate import-silicon --system": "unknown system 'aaa",
}
PRINTING = [
    "--help",
    "--version",
    "predict --help",
    "predict --print-config",
    "list models",
    f"predict {SMALL}",
    f"explain {SMALL}",
    f"trace {SMALL} -o -",
    "plan --jobs 1 --rate 1 --model qwen3-8b --gpu h200 --tp 1 --isl 64 --osl 64",
]


class TestSystem:
    """What the operating system refuses is a mistake in one line too."""

    @pytest.mark.parametrize(("line", "said"), LONG_NAMES.items())
    def test_a_name_that_no_file_can_have(
        self,
        answer: Answer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        line: str,
        said: str,
    ) -> None:
        if line.startswith("run "):
            pytest.importorskip("torch", reason="run asks for torch first")
        monkeypatch.chdir(tmp_path)
        *words, last = line.split()
        end = [last + ENDLESS] if last == "./" else [last, ENDLESS]
        code, out, err = answer(" ".join(words), *end)
        assert (code, out) == (2, "")
        assert err.startswith("dflash-sim: ")
        assert said in err
        assert len(err.splitlines()) == 1
        assert len(err) < 800  # a screen, not the ten thousand letters
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("line", ["compare", "calibrate fit -o x.toml"])
    def test_of_several_files_one_that_cannot_be_is_refused(
        self, answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
    ) -> None:
        """As one that is not there is: the others may do."""
        monkeypatch.chdir(tmp_path)
        code, out, err = answer(line, ENDLESS)
        assert (code, out) == (2, "")
        assert "aaa...: it cannot be read: File name too long" in err
        assert max(map(len, err.splitlines())) < 800
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
    @pytest.mark.parametrize("line", PRINTING)
    def test_a_full_disk_behind_the_answer(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["dflash-sim", *line.split()])
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            monkeypatch.setattr(sys, "stdout", full)
            with pytest.raises(SystemExit) as stopped:
                main()
        assert stopped.value.code == 1
        reason = "No space left on device; choose another place for it."
        assert capsys.readouterr().err == f"dflash-sim: cannot write the answer: {reason}\n"

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
    def test_the_interpreter_adds_nothing_at_its_exit(self) -> None:
        code = "import sys; from dflash_sim.cli import main; main()"
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            done = subprocess.run(
                [sys.executable, "-c", code, "list", "models"],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1

    def test_a_bug_is_no_mistake_of_the_user(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A control: what is neither ours nor the system's keeps its traceback."""

        def broken(*_: object) -> None:
            raise KeyError

        monkeypatch.setattr("dflash_sim.studies.show.sheet_lists.rows", broken)
        with pytest.raises(KeyError):
            run(["list", "models"])


class TestShell:
    @pytest.mark.parametrize(
        ("flag", "typed", "offered"),
        [
            ("gpu", "b", ["b200", "b300"]),
            ("gpu", "b200,h1", ["b200,h100", "b200,h100_nvl", "b200,h100_pcie"]),
            ("dataset", "m", ["math500", "mbpp", "mt-bench"]),
            ("model", "qwen3-8", ["qwen3-8b"]),
            ("preset", "pr23000-v1", ["pr23000-v1-c1", "pr23000-v1-c32"]),
            ("method", "d", ["dflash", "dflash2", "dspark", "domino", "diffusion-only"]),
            ("form", "j", ["json", "jsonl"]),
        ],
    )
    def test_completion(self, flag: str, typed: str, offered: list[str]) -> None:
        (option,) = (param for param in predict_options() if param.name == flag)
        context: Any = None
        found = option.shell_complete(context, typed)
        assert [getattr(item, "value", item) for item in found] == offered

    def test_completion_survives_broken_profiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DFLASH_SIM_PROFILES", "/nowhere")
        (option,) = (param for param in predict_options() if param.name == "gpu")
        context: Any = None
        assert option.shell_complete(context, "b") == []

    def test_version(self, answer: Answer) -> None:
        assert answer("--version")[:2] == (0, "dflash-sim 0.1.0\n")

    def test_no_arguments_show_help(self, answer: Answer) -> None:
        code, out, err = answer("")
        assert code in (0, 2)
        assert "predict" in out + err

    def test_help_has_its_panels(self, answer: Answer) -> None:
        code, out, _ = answer("predict --help")
        assert code == 0
        places = [out.index(f"─ {panel} ") for panel in
            ("Hardware", "Model", "Speculation", "Engine", "Workload", "Output")]  # fmt: skip
        assert places == sorted(places)

    def test_help_loads_nothing_heavy(self) -> None:
        code = (
            "import sys\nfrom dflash_sim.cli import run\nrun(['--help'])\n"
            "heavy = {'numpy', 'pydantic', 'yaml', 'simpy'} & set(sys.modules)\n"
            "sys.exit(' '.join(heavy) or None)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")

    def test_a_closed_pipe_is_quiet(self) -> None:
        code = f"import sys\nfrom dflash_sim.cli import main\nsys.argv[1:] = {SMALL.split()!r}\n"
        code = code.replace("sys.argv[1:] = ", "sys.argv[1:] = ['predict'] + ") + "main()"
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True
        )
        os.close(write)
        assert done.stderr == ""

    @pytest.mark.parametrize("no_color", ["", "1"])
    def test_a_terminal_gets_the_table(self, no_color: str) -> None:
        """On a pseudo-terminal: the page by default, bold, in colour unless NO_COLOR is set."""
        ours, theirs = pty.openpty()
        code = "import sys; from dflash_sim.cli import main; main()"
        environment = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR")}
        environment |= {"TERM": "xterm-256color", "COLUMNS": "80"}
        if no_color:
            environment["NO_COLOR"] = no_color
        done = subprocess.Popen(
            [sys.executable, "-c", code, "predict", *SMALL.split()],
            stdout=theirs,
            stderr=subprocess.PIPE,
            env=environment,
        )
        os.close(theirs)
        page = read_all(ours)
        assert done.wait(timeout=30) == 0
        assert done.stderr is not None
        assert done.stderr.read() == b""
        done.stderr.close()
        assert "Throughput" in page
        assert ("\x1b[36m" in page) is not bool(no_color)


def read_all(terminal: int) -> str:
    """What a pseudo-terminal shows until its other end is closed."""
    parts = []
    try:
        while part := os.read(terminal, 4096):
            parts.append(part)
    except OSError:  # the end of a pseudo-terminal
        pass
    os.close(terminal)
    return b"".join(parts).decode()
