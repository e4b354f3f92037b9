"""Sweeps: the same rows whoever answers, nothing lost or repeated, and one line per mistake."""

import csv
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.cli import run
from dflash_sim.jobs.processes import Processes
from dflash_sim.jobs.worker import Bug, Done, Lost, Word
from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.profiles.schema import load_schema
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.answers import answers
from dflash_sim.studies.ask.question import SWEEPABLE
from dflash_sim.studies.ask.study import Point, Study, load_study
from dflash_sim.studies.sweep.folder import Journal, Shard, SweepFolder
from dflash_sim.studies.sweep.lock import Lock
from dflash_sim.studies.sweep.progress import SweepProgress, pace
from dflash_sim.studies.sweep.rows import write_rows
from dflash_sim.studies.sweep.run import Queue, answer_all, part
from dflash_sim.studies.sweep.workers import How, Worker

GALLERY = Path(__file__).parents[3] / "studies/gallery"
FIXED = {"model": "qwen3-8b", "isl": 64, "osl": 64, "num_prompts": 8, "runs": 1}
FIXED |= {"acceptance": "al:3"}
SMALL = [f"--set={name}={value}" for name, value in FIXED.items()]
GRID = ["--set=block=4,8", "--set=conc=1-4:x2"]
QUICK = ["--no-baseline", "--interval=none", "--jobs=1"]
POINTS = 6
Call = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFLASH_SIM_PROFILES", "")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sweep(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command in this process: exit code and stderr; stdout has the fastest rows."""

    def call(*words: str) -> tuple[int, str]:
        code = run(["sweep", *words])
        told = capsys.readouterr()
        assert told.out == "" or told.out.startswith("== the fastest ")
        return code, " ".join(told.err.split())

    return call


def files(folder: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(Path(folder).glob("rows.*"))}


def numbers(folder: str) -> list[int]:
    """Of every point that was written, in every shard."""
    parts = sorted(Path(folder).glob("points-*.jsonl"))
    return [json.loads(line)["point"] for p in parts for line in p.read_text().splitlines()]


def study_file(text: str, name: str = "study.yaml") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


class TestTheSameRows:
    def test_as_predict_has_them(self, sweep: Call, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["--set=block=4,8", "--set=conc=1,4", "--set=method=none,dflash", *SMALL]
        assert sweep(*words, "-o", "runs", "--jobs=1", "--tag=x")[0] == 0
        flags = [word.removeprefix("--set=").replace("_", "-") for word in words]
        run(["predict", *(f"--{flag}" for flag in flags), "--tag=x", "--format=jsonl"])
        assert capsys.readouterr().out.encode() == files("runs")["rows.jsonl"]

    def test_by_processes_and_by_shards(self, sweep: Call) -> None:
        words = [*GRID, *SMALL, "--interval=none"]
        for folder, more in {"one": ["--jobs=1"], "two": ["--jobs=2"]}.items():
            assert sweep(*words, *more, "-o", folder)[0] == 0
        for shard in ("2/3", "3/3", "1/3"):
            assert not files("three")
            assert sweep(*words, "--jobs=1", f"--shard={shard}", "-o", "three")[0] == 0
        assert files("one") == files("two") == files("three")
        assert {"rows.jsonl", "rows.csv"} <= files("one").keys()
        assert all(sorted(numbers(f)) == list(range(POINTS)) for f in ("one", "two", "three"))

    def test_of_a_file_and_of_words(self, sweep: Call) -> None:
        fixed = "".join(f"  {name}: {value}\n" for name, value in FIXED.items())
        path = study_file(f"scenario:\n{fixed}grid:\n  conc: 1-4:x2\n  block: [4, 8]\n")
        assert sweep(path, "-o", "file", *QUICK)[0] == 0
        assert sweep(*GRID, *SMALL, "-o", "words", *QUICK)[0] == 0
        assert files("file") == files("words")

    @pytest.mark.slow
    def test_another_seed_gives_other_rows(self, sweep: Call) -> None:
        for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
            sweep(
                *GRID, *SMALL, f"--set=seed={seed}", "--set=range_ratio=0.5", "-o", folder, *QUICK
            )
        assert files("a") == files("b") != files("c")

    def test_parquet_has_the_types_of_the_schema(self, sweep: Call) -> None:
        pq = pytest.importorskip("pyarrow.parquet")
        assert sweep(*GRID, *SMALL, "-o", "runs", *QUICK)[0] == 0
        table = pq.read_table("runs/rows.parquet")
        rows = [json.loads(line) for line in files("runs")["rows.jsonl"].splitlines()]
        found = table.to_pylist(maps_as_pydicts="strict")
        assert found == rows
        assert [field.name for field in load_schema()] == table.column_names
        assert str(table.schema.field("error").type) == "string"  # although all are null
        assert table.schema.field("duration").metadata[b"unit"] == b"s"

    def test_what_does_not_fit_is_a_row(self, sweep: Call) -> None:
        words = ["--set=gpu=b200,l40s", "--set=tp=1", "--set=model=qwen3.5-397b-a17b,qwen3-8b"]
        code, told = sweep(*words, *SMALL[1:], "-o", "runs", *QUICK)
        lines = list(csv.DictReader(files("runs")["rows.csv"].decode().splitlines()))
        assert code == 0
        assert [bool(line["error"]) for line in lines] == [True, True, False, False]
        assert "2 of 4 points have no answer" in told
        code, told = sweep(*words[:2], *SMALL[1:], "-o", "none", *QUICK)
        assert (code, len(numbers("none"))) == (1, 2)


class TestStopAndGoOn:
    def test_nothing_is_answered_twice(self, sweep: Call) -> None:
        words = [*GRID, *SMALL, *QUICK, "-o", "runs"]
        sweep(*words)
        whole, journal = files("runs"), Path("runs/points-1-of-1.jsonl")
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[:4]) + lines[4][:100])  # torn in the middle of a line
        code, told = sweep(*words)
        assert (code, "holds 4 of the 6 points" in told, "--resume" in told) == (2, True, True)
        assert sweep(*words, "--resume")[0] == 0
        assert journal.read_bytes().startswith(b"".join(lines[:4]))
        assert sorted(numbers("runs")) == list(range(POINTS))
        assert files("runs") == whole
        written = journal.stat().st_mtime_ns
        assert sweep(*words, "--resume")[0] == 0
        assert journal.stat().st_mtime_ns == written

    @pytest.mark.slow
    @pytest.mark.parametrize(("most", "seeds"), [(1, 2), (8, 12)])
    def test_killed_at_any_moment(self, most: int, seeds: int) -> None:
        words = [*GRID, f"--set=seed=0-{seeds - 1}", *SMALL, *QUICK[:2], "-o", "runs"]
        command = [sys.executable, "-m", "dflash_sim", "sweep", *words, "--jobs=2"]
        kills, before, more = 0, 0, list[str]()
        while True:
            child = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True)
            while kills < most and written() < before + 2 and child.poll() is None:
                time.sleep(0.005)
            if kills < most:
                child.kill()
            told = child.communicate()[1]
            if child.returncode == 0:
                break
            assert child.returncode == -signal.SIGKILL, told
            assert written() >= before  # nothing is lost
            kills, before, more = kills + 1, written(), ["--resume"]
        assert kills == most
        assert "took over" in told
        assert sorted(numbers("runs")) == list(range(seeds * POINTS))
        left = [*words, "--jobs=1"]
        left[left.index("runs")] = "straight"
        assert run(["sweep", *left]) == 0
        assert files("runs") == files("straight")

    @settings(max_examples=40)
    @given(cut=st.integers(0, 2000), count=st.integers(1, 8))
    def test_a_journal_cut_anywhere(self, cut: int, count: int, tmp_path_factory: Any) -> None:
        folder = SweepFolder(tmp_path_factory.mktemp("cut"), STUDY, about={})
        folder.claim(resume=False)
        path = folder.path / "points-1-of-1.jsonl"
        with folder.journal(Shard()) as journal:
            for number in range(count):
                journal.add(number, fake_row(folder, number))
        whole = path.read_bytes()
        path.write_bytes(whole[:cut])
        there = whole[:cut].count(b"\n")
        assert sorted(folder.done()) == list(range(there))
        with folder.journal(Shard()) as journal:
            for number in range(there, count):
                journal.add(number, fake_row(folder, number))
        assert path.read_bytes() == whole

    def test_ctrl_c_keeps_what_is_there(self, sweep: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        add = Journal.add

        def stop(journal: Journal, number: int, row: Any) -> None:
            add(journal, number, row)
            if journal.path.read_bytes().count(b"\n") == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(Journal, "add", stop)
        code, told = sweep(*GRID, *SMALL, *QUICK, "-o", "runs")
        assert code == 130
        assert "are kept, for --resume" in told
        assert len(numbers("runs")) == 2
        assert not Path("runs/points-1-of-1.lock").exists()

    def test_merge_writes_the_files_again(self, sweep: Call) -> None:
        words = [*GRID, *SMALL, *QUICK]
        for number in (1, 2):
            sweep(*words, "-o", f"machine{number}", f"--shard={number}/2")
        code, told = sweep("-o", "machine1", "--merge")
        assert (code, "holds 3 of 6 points" in told) == (1, True)
        Path("machine2/points-2-of-2.jsonl").rename("machine1/points-2-of-2.jsonl")
        assert sweep("-o", "machine1", "--merge", "--format=csv")[0] == 0
        sweep(*words, "-o", "one", "--format=csv")
        assert files("machine1") == files("one")


def written() -> int:
    journal = Path("runs/points-1-of-1.jsonl")
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


STUDY = Study(dict(FIXED), {"conc": list(range(1, 9))})


def fake_row(folder: SweepFolder, number: int) -> Any:
    nothing = {"str": "", "int": 0, "bool": False, "float": 0.0, "list[str]": []}
    row = {f.name: None if f.type.endswith("?") else nothing[f.type] for f in load_schema()}
    return row | {"scenario_hash": folder.names[number], "warnings": ["é" * number]}


class TestDisk:
    def test_a_full_disk_keeps_what_is_there(self) -> None:
        """A limit on the size of files cuts a line in two, as a full disk does."""
        words = [*GRID, *SMALL, *QUICK, "-o", "runs"]
        limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
        code = f"{limit}; from dflash_sim.cli import run; sys.exit(run(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", code, "sweep", *words], capture_output=True, text=True
        )
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "cannot write runs/points-1-of-1.jsonl: File too large" in done.stderr
        assert "--resume" in done.stderr
        kept = Path("runs/points-1-of-1.jsonl").read_bytes()
        assert kept.endswith(b"\n")
        assert kept.count(b"\n") == 2
        assert run(["sweep", *words, "--resume"]) == 0
        assert sorted(numbers("runs")) == list(range(POINTS))
        assert Path("runs/points-1-of-1.jsonl").read_bytes().startswith(kept)

    def test_no_space_for_the_rows(self, sweep: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        from dflash_sim.studies.sweep import rows as sweep_rows

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(sweep_rows._Text, "add", full)
            code, told = sweep(*GRID, *SMALL, *QUICK, "-o", "runs")
        assert code == 1
        assert "No space left on device" in told
        assert "All 6 points are kept; --merge" in told
        assert [p.name for p in Path("runs").iterdir() if p.name.startswith(".")] == []
        assert not files("runs")
        assert sweep("-o", "runs", "--merge")[0] == 0
        assert files("runs")

    def test_no_space_for_a_point(self, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = SweepFolder(Path("runs"), STUDY, about={})
        folder.claim(resume=False)
        with folder.journal(Shard()) as journal:
            journal.add(0, fake_row(folder, 0))
            file = journal.file
            monkeypatch.setattr(journal, "file", HalfFull(file))
            with pytest.raises(DflashSimError, match="No space left on device; the points before"):
                journal.add(1, fake_row(folder, 1))
            monkeypatch.setattr(journal, "file", file)
        assert sorted(folder.done()) == [0]
        assert numbers("runs") == [0]

    def test_rows_are_not_held(self) -> None:
        """Assembling ten times the rows takes no more memory."""

        def peak(count: int) -> int:
            rows: Iterator[Any] = ({"error": None, "text": "x" * 10_000} for _ in range(count))
            tracemalloc.start()
            write_rows(rows, Path(), ["jsonl", "csv"])
            held = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return held

        peak(1)
        assert peak(500) < 1.2 * peak(50)


class HalfFull:
    """A file on a disk that holds ten bytes more."""

    def __init__(self, file: Any) -> None:
        self.file, self.room = file, 10

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: memoryview) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        room, self.room = self.room, 0
        return int(self.file.write(data[:room]))


class TestTwoAtOnce:
    def test_a_live_one_is_left_alone(self, sweep: Call) -> None:
        words = [*GRID, *SMALL, *QUICK, "-o", "runs"]
        sweep(*words, "--shard=1/2")
        with Lock(Path("runs/points-2-of-2.lock"), pytest.fail):
            before = {p.name: p.read_bytes() for p in Path("runs").iterdir()}
            code, told = sweep(*words, "--shard=2/2")
            assert code == 2
            assert f"process {os.getpid()} on {socket.gethostname()} is writing it" in told
            code, told = sweep(*words, "--resume")  # all points: overlaps with every shard
            assert (code, "is writing it already" in told) == (2, True)
            assert before == {p.name: p.read_bytes() for p in Path("runs").iterdir()}
            assert sweep(*words, "--shard=1/2", "--resume")[0] == 0
        assert sweep(*words, "--resume")[0] == 0
        assert sorted(numbers("runs")) == list(range(POINTS))

    def test_a_dead_one_is_taken_over(self, sweep: Call) -> None:
        words = [*GRID, *SMALL, *QUICK, "-o", "runs"]
        sweep(*words, "--shard=1/2")
        lock, me = Path("runs/points-1-of-1.lock"), {"host": socket.gethostname(), "pid": 99999999}
        lock.write_text(json.dumps(me))
        code, told = sweep(*words, "--resume")
        assert code == 0
        assert "took over runs/points-1-of-1.lock of process 99999999, which is gone" in told
        assert not lock.exists()

    def test_another_machine_cannot_be_judged(self, sweep: Call) -> None:
        words = [*GRID, *SMALL, *QUICK, "-o", "runs"]
        sweep(*words, "--shard=1/2")
        lock = Path("runs/points-1-of-1.lock")
        lock.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
        code, told = sweep(*words, "--resume")
        assert code == 2
        assert "process 1 on elsewhere" in told
        assert f"remove {lock}" in told


CLUSTER = re.compile(r"\[cluster\]|'ray")  # from a checkout, or from a wheel


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "nothing to sweep"),
            (["--set=blok=4,8"], "unknown field 'blok'; did you mean block?"),
            (["--set=block"], "no value"),
            (["--set=block="], "--set block"),
            (["--set=block=8-4"], "runs backwards"),
            (["--set=block=4", "--set=block=8"], "comes twice"),
            (["--set=gpu=b200,b20"], "unknown GPU 'b20'. Nearest of "),
            (["--set=acceptance=al:6,la:7"], "unknown acceptance 'la'"),
            (["--set=thinking=maybe"], "neither true nor false"),
            (["--set=conc=1-999", "--set=seed=0-999"], "at most 100,000"),
            (["--set=block=4", "--shard=0/3"], "--shard 0/3"),
            (["--set=block=4", "--shard=4/3"], "--shard 4/3"),
            (["--set=block=4", "--shard=x"], "--shard x"),
            (["--set=block=4", "--resume"], "no sweep was begun in runs"),
            (["--merge"], "no sweep was begun there"),
            (["--set=block=4", "--merge"], "the folder knows its study"),
            (["--set=block=4", "--format=xlsx"], "unknown --format 'xlsx'"),
            (["--set=block=4", "--simulator=x"], "unknown --simulator 'x'"),
            (["--set=block=4", "--cluster=slurm"], "the only kind is ray"),
            (["--set=block=4", "--address=a:1"], "Give --cluster ray with it"),
            (["--set=block=4", "--cluster=ray://a:1", "--address=b:1"], "two addresses"),
            (["--set=block=4", "--preset=lmsys"], "unknown preset 'lmsys'"),
            (["nowhere.yaml"], "cannot read study nowhere.yaml"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_words(self, sweep: Call, words: list[str], said: str) -> None:
        code, told = sweep(*words, "-o", "runs")
        assert code == 2
        assert said in told
        assert not Path("runs").exists()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("grid: {block: [4", "cannot read study"),
            ("- 1\n", "no 'scenario:' or 'grid:'"),
            ("", "no 'scenario:' or 'grid:'"),
            ("grid: {}\n", "grid: nothing below it"),
            ("grid:\n  block: []\n", "block: an empty list"),
            ("grid: [4, 8]\n", "grid: nothing below it"),
            ("grid:\n  blok: [4, 8]\n", "unknown field 'blok'; did you mean block?"),
            ("grd:\n  block: [4, 8]\n", "unknown key of a study 'grd'; did you mean grid?"),
            ("block: [4, 8]\n", "'block' stands alone"),
            ("scenario: {block: 4}\ngrid: {block: [4, 8]}\n", "block is below 'scenario:' already"),
            ("grid:\n  block: [{a: 1}]\n", "is no value"),
            ("grid:\n  block: [4, x]\n", "'x' is not a whole number"),
            ("preset: lmsys\ngrid: {block: [4, 8]}\n", "unknown preset 'lmsys'"),
            ("grid: {conc: [1, 2], rate: [1, 2]}\n", "exclude each other"),
            ("grid: {block: [1, 4]}\n", "--block 1"),
        ],
        ids=str,
    )
    def test_files(self, sweep: Call, text: str, said: str) -> None:
        code, told = sweep(study_file(text), "-o", "runs")
        assert code == 2
        assert said in told
        assert not Path("runs").exists()

    def test_no_folder(self, sweep: Call) -> None:
        code, told = sweep("--set=block=4,8")
        assert (code, "such as -o runs" in told) == (2, True)

    def test_parquet_without_pyarrow(self, sweep: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dflash_sim.studies.sweep.rows.find_spec", lambda _: None)
        code, told = sweep(*GRID, "-o", "runs", "--format=parquet")
        assert (code, "pip install" in told and CLUSTER.search(told) is not None) == (2, True)
        assert sweep(*GRID, *SMALL, *QUICK, "-o", "runs")[0] == 0
        assert list(files("runs")) == ["rows.csv", "rows.jsonl"]

    def test_ray_that_is_not_installed(self, sweep: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        code, told = sweep(*GRID, "-o", "runs", "--cluster=ray")
        assert (code, "pip install" in told and CLUSTER.search(told) is not None) == (2, True)

    def test_a_folder_of_something_else(self, sweep: Call) -> None:
        Path("runs").mkdir()
        Path("runs/mine.txt").write_text("precious")
        code, told = sweep(*GRID, *SMALL, *QUICK, "-o", "runs")
        assert (code, "holds files, but no sweep" in told) == (2, True)
        assert [p.name for p in Path("runs").iterdir()] == ["mine.txt"]
        code, told = sweep(*GRID, *SMALL, *QUICK, "-o", "runs/mine.txt")
        assert (code, "cannot write runs/mine.txt" in told) == (2, True)
        assert Path("runs/mine.txt").read_text() == "precious"

    def test_a_folder_of_another_study(self, sweep: Call) -> None:
        sweep(*GRID, *SMALL, *QUICK, "-o", "runs")
        before = {p.name: p.read_bytes() for p in Path("runs").iterdir()}
        code, told = sweep("--set=block=4,16", GRID[1], *SMALL, *QUICK, "-o", "runs", "--resume")
        assert code == 2
        assert "grid.block is [4, 8] there and [4, 16] here" in told
        code, told = sweep(*GRID, *SMALL, *QUICK[1:], "-o", "runs", "--resume")
        assert "baseline is false there and true here" in told
        assert "grid" not in told
        # The same points in other words are the same study.
        default = f"--set=seed={Scenario.model_fields['seed'].default}"
        assert sweep(*GRID, *SMALL, default, *QUICK, "-o", "runs", "--resume")[0] == 0
        assert before == {p.name: p.read_bytes() for p in Path("runs").iterdir()}

    def test_another_program(self, sweep: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        sweep(*GRID, *SMALL, *QUICK, "-o", "runs")
        Path("sheets/devices").mkdir(parents=True)
        Path("sheets/devices/mine.toml").write_text("")
        code, told = sweep(*GRID, *SMALL, *QUICK, "-o", "runs", "--resume", "--profiles=sheets")
        assert (code, "program is" in told) == (2, True)

    def test_points_of_another_study(self, sweep: Call) -> None:
        for folder, seed in (("a", 0), ("b", 1)):
            sweep(*GRID, *SMALL, *QUICK, f"--set=seed={seed}", "-o", folder, "--shard=1/2")
        Path("b/points-1-of-2.jsonl").rename("a/points-2-of-2.jsonl")
        code, told = sweep("-o", "a", "--merge")
        assert (code, "a line that is no point of this study" in told) == (2, True)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{", "cannot read runs/study.json"),
            ("[]", "describes no study"),
            ('{"scenario": {}, "grid": [1]}', "describes no study"),
            ('{"scenario": {"blok": 1}, "grid": {}}', "unknown field 'blok'"),
            ('{"scenario": {}, "grid": {}, "program": "9.9"}', "was begun by dflash-sim 9.9"),
        ],
    )
    def test_a_study_that_was_edited(self, sweep: Call, text: str, said: str) -> None:
        Path("runs").mkdir()
        Path("runs/study.json").write_text(text)
        code, told = sweep("-o", "runs", "--merge")
        assert code == 2
        assert said in told
        assert sweep(*GRID, *SMALL, *QUICK, "-o", "runs")[0] == 2


class TestStudy:
    def test_the_one_of_the_gallery(self) -> None:
        study = load_study(GALLERY / "block_by_concurrency.yaml", [])
        points = study.points()
        assert len(points) == 4 * 6
        assert study.scenario(points[0]).tp == 8
        assert {study.scenario(p).conc for p in points} == {1, 2, 4, 8, 16, 32}

    def test_the_nearest_wins(self) -> None:
        path = GALLERY / "block_by_concurrency.yaml"
        study = load_study(path, ["rate=0.5,1", "block=8", "tp=4"])
        assert study.axes == {"rate": [0.5, 1.0]}
        assert (study.fields["block"], study.fields["tp"], study.fields["runs"]) == (8, 4, 2)
        assert "conc" not in study.fields

    def test_every_field_can_be_swept(self) -> None:
        words = [
            "seed=0-2",
            "thinking=true,false",
            "mem_fraction_static=0.7-0.8:0.1",
            "acceptance=table:0.9,0.8,al:8=5,16=6,beta=1.1,none",
            "min-free-slots-delay=0,4",
        ]
        study = load_study(None, words)
        assert study.axes == {
            "acceptance": ["table:0.9,0.8", "al:8=5,16=6,beta=1.1", "none"],
            "mem_fraction_static": [0.7, 0.8],
            "min_free_slots_delay": [0, 4],
            "thinking": [True, False],
            "seed": [0, 1, 2],
        }
        assert len(study.points()) == 3 * 2 * 2 * 2 * 3
        assert set(SWEEPABLE) < set(Scenario.model_fields)

    def test_methods_take_what_applies_to_them(self) -> None:
        study = load_study(None, ["method=none,dflash", "block=4,8", "conc=1"])
        asked = [study.scenario(p) for p in study.points()]
        assert [(s.method, s.block) for s in asked] == [
            ("none", None),
            ("dflash", 4),
            ("dflash", 8),
        ]

    @given(n=st.integers(1, 9), blocks=st.integers(1, 5), concs=st.integers(1, 20))
    def test_shards_part_the_points(self, n: int, blocks: int, concs: int) -> None:
        points = [
            Point(i, (i % blocks, i // blocks), (i // blocks,)) for i in range(blocks * concs)
        ]
        parts = [part(points, Shard(i, n)) for i in range(1, n + 1)]
        assert sorted(p.number for found in parts for p in found) == list(range(len(points)))
        if concs >= 2 * n:  # then no group is split
            groups = [{p.group for p in found} for found in parts]
            assert sum(map(len, groups)) == concs


class Fickle:
    """A crew of whom some are lost with the point they hold; some points are bugs for all."""

    def __init__(self, size: int, losses: list[bool], bugs: Collection[int] = ()) -> None:
        self.words: list[tuple[int, Word]] = [(worker, None) for worker in range(size)]
        self.losses, self.alive, self.bugs = iter(losses), size, bugs
        self.given: list[int] = []

    def reach(self, count: int) -> None:
        pass

    def close(self) -> None:
        pass

    def give(self, worker: int, _work: Any, _group: Any, asked: Scenario) -> None:
        assert asked.conc is not None
        number = asked.conc - 1
        self.given.append(number)
        if number in self.bugs:
            self.words.append((worker, Bug(f"Traceback: boom {number}")))
        elif self.alive > 1 and next(self.losses, False):
            self.alive -= 1
            self.words.append((worker, Lost("gone")))
        else:
            self.words.append((worker, Done({"point": number})))

    def heard(self) -> tuple[int, Word]:
        return self.words.pop(0)


class Deadly(Processes):
    """Processes that end whenever they are given a certain concurrency."""

    deadly = 0

    def give(self, worker: int, work: Any, *arguments: Any) -> None:
        if arguments[1].conc == self.deadly:
            self.workers[worker][0].kill()
        else:
            super().give(worker, work, *arguments)


class Stillborn(Processes):
    """Processes that are killed before they are ready."""

    def reach(self, count: int) -> None:
        super().reach(count)
        for process, _ in self.workers.values():
            process.kill()


class TestCrews:
    @given(
        size=st.integers(1, 6),
        losses=st.lists(st.booleans(), max_size=12),
        bugs=st.sets(st.integers(0, 7)),
    )
    def test_every_point_is_written_once_or_told(
        self, size: int, losses: list[bool], bugs: set[int]
    ) -> None:
        points, rows = STUDY.points(), list[int]()
        crew = Fickle(size, losses, bugs)
        told = ""
        try:
            answer_all(STUDY, points, crew, write=lambda number, _: rows.append(number))
        except (DflashSimError, RuntimeError) as error:
            told = str(error)
        assert set(crew.given) == set(range(8))  # whatever happened, each was tried
        assert len(rows) == len(set(rows))
        assert not bugs & set(rows)
        aside = 8 - len(rows)
        assert aside >= len(bugs)
        assert told.startswith(f"{aside} of 8 points were set aside") == bool(aside)
        assert ("a bug" in told.lower()) == bool(bugs)
        assert ("2 workers were lost at" in told) == (aside > 0 and not bugs)
        assert max(map(crew.given.count, crew.given)) <= 2

    def test_a_worker_stays_with_its_group(self) -> None:
        points = [Point(i, (), (i // 3,)) for i in range(9)]
        queue = Queue(points)
        taken = [queue.take(worker) for worker in (0, 1, 0, 1, 0, 1)]
        assert [p.number for p in taken if p] == [6, 3, 7, 4, 8, 5]
        left = [queue.take(worker) for worker in (0, 1, 0, 1)]
        assert [p.number if p else None for p in left] == [0, 1, 2, None]

    def test_a_bug_is_not_hidden(self) -> None:
        crew = Fickle(1, [], bugs={3, 5})
        with pytest.raises(RuntimeError, match=r'2 of 8 .*"conc":\d(.|\n)*Traceback: boom [35]'):
            answer_all(STUDY, STUDY.points(), crew, write=lambda *_: None)

    def test_a_bug_is_set_aside_and_tried_again(
        self, sweep: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last group is begun first; a bug in it keeps no other from being answered."""
        words = [*GRID, *SMALL, *QUICK, "-o", "runs"]
        asked = list[tuple[int, int]]()

        def with_bug(scenarios: list[Scenario], **options: Any) -> Any:
            asked.extend((s.block or 0, s.conc or 0) for s in scenarios)
            if asked[-1] == broken:
                raise ZeroDivisionError
            return answers(scenarios, **options)

        monkeypatch.setattr("dflash_sim.studies.sweep.workers.answers", with_bug)
        broken = (8, 4)
        with pytest.raises(RuntimeError, match=r'1 of 6 (.|\n)*"conc":4(.|\n)*ZeroDivision'):
            run(["sweep", *words])
        assert sorted(asked) == [(b, c) for b in (4, 8) for c in (1, 2, 4)]
        assert len(numbers("runs")) == POINTS - 1
        asked.clear()
        with pytest.raises(RuntimeError, match="1 of 1 points were set aside"):
            run(["sweep", *words, "--resume"])
        broken = (0, 0)
        assert sweep(*words, "--resume")[0] == 0
        assert asked == [(8, 4)] * 2
        assert sorted(numbers("runs")) == list(range(POINTS))
        assert sweep(*GRID, *SMALL, *QUICK, "-o", "straight")[0] == 0
        assert files("runs") == files("straight")

    def test_a_point_that_kills_its_worker_twice_is_set_aside(self) -> None:
        """The last worker is replaced, so that the other points are answered all the same."""
        crew, rows = Deadly(2, Worker, How(baseline=False, interval=False)), list[int]()
        crew.deadly = 8
        with pytest.raises(DflashSimError) as told:
            answer_all(STUDY, STUDY.points(), crew, write=lambda number, _: rows.append(number))
        assert sorted(rows) == list(range(7))
        assert str(told.value).startswith("1 of 8 points were set aside")
        assert '"conc":8' in str(told.value)
        assert "killed by SIGKILL" in str(told.value)

    def test_a_killed_process_gives_its_point_back(self) -> None:
        how, rows = How(baseline=False, interval=False), dict[int, Any]()
        crew = Processes(2, Worker, how)

        def write(number: int, row: Any) -> None:
            if not rows:
                victim = crew.workers[0][0]
                assert victim.pid is not None
                os.kill(victim.pid, signal.SIGKILL)
            rows[number] = row

        answer_all(STUDY, STUDY.points(), crew, write=write)
        assert sorted(rows) == list(range(8))
        assert all(row["output_throughput"] > 0 for row in rows.values())
        assert list(crew.workers) == [1]

    def test_no_worker_is_left(self) -> None:
        """All are gone before they were ready; the advice is that of a sweep."""
        crew = Stillborn(2, Worker, How())
        with pytest.raises(DflashSimError, match=r"no worker is left; .*SIGKILL.* --resume"):
            answer_all(STUDY, STUDY.points(), crew, write=lambda *_: None)


class TestProgress:
    def test_in_a_log(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with SweepProgress(total=4, done=1) as progress:
            progress.advance()
            assert capsys.readouterr().err == ""  # not yet
            monkeypatch.setattr("dflash_sim.studies.sweep.progress._LOG_EVERY_S", 0)
            progress.advance()
        assert re.fullmatch(r"3 of 4 points, .* points/s, 0 s left\n", capsys.readouterr().err)

    def test_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = Screen()
        monkeypatch.setattr(sys, "stderr", screen)
        with SweepProgress(total=4, done=1) as progress:
            progress.advance()
            progress.advance()
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
        assert "3/4" in shown
        assert re.search(r"points/s, 0 s left", shown)


class Screen(io.StringIO):
    """What a terminal would show."""

    def isatty(self) -> bool:
        return True


def test_pace() -> None:
    assert pace(done=30, left=600, elapsed_s=20) == "1.5 points/s, 6 min 40 s left"
    assert pace(done=10, left=9000, elapsed_s=20) == "30.0 points/min, 5 h 00 min left"
