"""Files of accepted drafts: what is read, and what is refused in one line."""

from pathlib import Path

import pytest

from dflash_sim.profiles.acceptance.histogram_file import read_histogram
from dflash_sim.profiles.errors import UsageError


def written(folder: Path, text: str, name: str = "counts.json") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    ['{"0": 161, "1": 90, "3": 7}', "[161, 90, 0, 7]", "accepted,steps\n0,161\n1,90\n3,7\n"],
)
def test_three_forms_say_the_same(tmp_path: Path, text: str) -> None:
    assert read_histogram(written(tmp_path, text)) == [161, 90, 0, 7]


def test_shares_may_be_rounded(tmp_path: Path) -> None:
    assert read_histogram(written(tmp_path, "[0.333, 0.333, 0.333]")) == [0.333] * 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[0.5, 0.3]", "add up to 0.8, not 1"),
        ("[]", "it is empty"),
        ("[0, 0]", "counts no step"),
        ("[3, -1]", "-1 steps with 1 accepted"),
        ('{"a": 3}', "'a' and '3' are not numbers"),
        ("[3,", "not valid JSON"),
        ("drafts,steps\n1,2\n", "no columns accepted and steps"),
        ("accepted,steps\n1,\n", "are not numbers"),
        ("[true, false]", "outside"),
        ("[NaN]", "nan steps"),
        ('{"4000": 1}', "outside 0..1023"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        read_histogram(written(tmp_path, text))
    assert "\n" not in str(refused.value)
    assert "counts.json" in str(refused.value)


def test_a_missing_or_binary_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_histogram(tmp_path / "absent.json")
    (tmp_path / "x.bin").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match="is not text"):
        read_histogram(tmp_path / "x.bin")
