"""Files of every kind are read, refused in a line, and never waited for."""

import csv
import gzip
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.cli import run
from dflash_sim.profiles import ways_in
from dflash_sim.profiles.ways_in import (
    UnreadableError,
    csv_table,
    parse_json,
    parse_toml,
    parse_yaml,
    read_bytes,
    read_text,
    there,
)

NESTED = 100_000
WRONG = ("!!int abc", "!!bool abc", "!!timestamp abc", "9" * 5000)
BOMB = "\n".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


def test_text_is_read_packed_or_not(tmp_path: Path) -> None:
    """Also several members of gzip one after the other, as log rotation leaves them."""
    plain, packed = tmp_path / "a.txt", tmp_path / "a.gz"
    plain.write_bytes("\ufeffgrün\n".encode())
    packed.write_bytes(gzip.compress("grün".encode()) + gzip.compress(b"\n"))
    assert read_text(plain) == read_text(packed) == "grün\n"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "it cannot be read: No such file"),
        (lambda path: path.mkdir(), "it is a folder"),
        (lambda path: os.mkfifo(path), "it is a pipe"),
        (lambda path: path.symlink_to(path), "it cannot be read: Too many levels"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a pipe, a socket or a device"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "it is not text (byte 0)"),
        (lambda path: path.write_bytes(b"a\0"), "it holds zero bytes"),
        (lambda path: path.write_bytes(gzip.compress(b"a" * 99)[:-9]), "gzip, and cut off"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08\0" + b"\xff" * 30), "gzip, and damaged"),
        (lambda path: path.write_bytes(b"a" * 2001), "it holds more than 0 MiB; give"),
        (lambda path: path.write_bytes(gzip.compress(b"a" * 10**6)), "it holds more than"),
    ],
)
def test_what_is_no_text_is_said(make: Callable[[Path], object], why: str, tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(UnreadableError) as refused:
        read_text(tmp_path / "x", most=2000)
    assert why in str(refused.value)


def test_paths_that_no_file_can_have() -> None:
    for path in ("x" * 5000, "a\0b", "~nobody-is-called-so/x"):
        assert not ways_in.is_there(path)
        with pytest.raises(UnreadableError, match="it cannot be read"):
            read_bytes(Path(path))


def test_no_file_of_the_kernel_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some say that they are files and let readers wait for news, such as /proc/kmsg."""
    receive, send = os.pipe()
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result((stat.S_IFREG, *[0] * 9)))
    with pytest.raises(UnreadableError, match="it cannot be read"):
        read_bytes(Path(f"/dev/fd/{receive}"))
    os.close(receive)
    os.close(send)


def test_a_pipe_of_the_shell_is_read() -> None:
    """As in ``compare <(zcat rows.gz)``."""
    receive, send = os.pipe()
    os.write(send, b"rows")
    os.close(send)
    try:
        assert read_bytes(Path(f"/dev/fd/{receive}")) == b"rows"
    finally:
        os.close(receive)


@pytest.mark.parametrize(
    ("parse", "text", "why"),
    [
        (parse_json, "[" * NESTED, "nested too deeply"),
        (parse_json, "9" * 5000, "thousands of digits"),
        (parse_json, "{", "not JSON"),
        (parse_toml, "a = " + "[" * NESTED, "nested too deeply"),
        (parse_toml, "a = " + "9" * 5000, "thousands of digits"),
        (parse_toml, "= 1", "not TOML"),
        (parse_yaml, "a: &a [x, x]\n" + BOMB, "aliases"),
        *((parse_yaml, f"a: {x}", "not of the kind") for x in WRONG),
        (parse_yaml, "[" * 5000, "nested too deeply"),
        (parse_yaml, "a: !!python/object:os.system x", "not YAML"),
        (parse_yaml, "a: [", "not YAML"),
        (parse_yaml, "a: 1\nb: 2\na: 3", "'a' is said twice"),
        (parse_yaml, "- {a: 1, 'a': 1}", "'a' is said twice"),
    ],
    ids=count(),
)
def test_what_parsers_refuse_is_one_line(
    parse: Callable[[str], object], text: str, why: str
) -> None:
    with pytest.raises(UnreadableError) as refused:
        parse(text)
    assert why in str(refused.value)
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


def test_a_date_is_text_and_a_few_aliases_are_allowed() -> None:
    assert parse_yaml("a: 2024-13-45") == {"a": "2024-13-45"}
    assert parse_yaml("a: &a [1, 2]\nb: *a") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", "010"), ("1:30", "1:30"), ("1_0", "1_0"), ("0x10", "0x10"), ("0b11", "0b11"),
     ("1:30.5", "1:30.5"), ("12", 12), ("-3", -3), ("0.5", 0.5), ("1.5e3", 1500.0), ("0", 0),
     ("1e3", "1e3"), (".5", 0.5), (".inf", inf), ("2.", 2.0), ("true", True)],
)  # fmt: skip
def test_numbers_are_those_that_flags_take(text: str, value: object) -> None:
    """Not eight for 010, ninety for 1:30 or ten for 1_0."""
    assert parse_yaml(f"a: {text}") == {"a": value}


def test_keys_of_a_merge_are_no_second_time() -> None:
    text = "a: &a {x: 1}\nb: &b\n  <<: *a\n  x: 2\nc: {<<: *b, y: 3}"
    assert parse_yaml(text) == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 2, "y": 3}}


def test_rows_are_by_column_and_a_short_one_is_left_to_its_reader() -> None:
    assert csv_table("a,b\n1,2\n\n3,4\n") == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert csv_table("a,b\n1\n") == [{"a": "1", "b": None}]


def test_long_cells_are_read_and_endless_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert csv_table("n\n" + "a" * 200_000) == [{"n": "a" * 200_000}]
    monkeypatch.setattr(ways_in, "_LONGEST_CELL", 100)
    before = csv.field_size_limit()
    with pytest.raises(UnreadableError, match="not CSV"):
        csv_table("n\n" + "a" * 101)
    csv.field_size_limit(before)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_json, parse_toml, parse_yaml):
        try:
            parse(text)
        except UnreadableError as error:
            assert str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "command",
    [
        "predict --preset x.yaml",
        "sweep x.yaml -o out",
        "predict --acceptance file:x",
        "plan --trace x --gpu b200",
        "predict --gpu ./x.profile",
        "predict --calibration x",
    ],
)
def test_no_command_waits_for_a_pipe(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "x")
    os.mkfifo(tmp_path / "x.yaml")
    os.mkfifo(tmp_path / "x.profile")
    assert run(command.split()) == 2
    assert "it is a pipe, a socket or a device; name a file" in capsys.readouterr().err


def test_a_name_that_is_no_file_is_told_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = tmp_path / "bench.csv"
    bench.write_text("model,output_tok_s\n")
    assert there(bench) == bench
    for command in (["compare"], ["calibrate", "fit", "-o", str(tmp_path / "mine.toml")]):
        assert run([*command, str(tmp_path / "bnech.csv")]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert f"there is no such file; did you mean {bench}?" in told


def test_a_process_reads_from_its_own_pipe(tmp_path: Path) -> None:
    line = '{"timestamp": 0, "input_length": 10, "output_length": 5}\n'
    code = (
        "from pathlib import Path;from dflash_sim.profiles.ways_in import read_text;"
        "print(len(read_text(Path('/dev/stdin'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=line, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == len(line)
