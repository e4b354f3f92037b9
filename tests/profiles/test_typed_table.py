"""Tables of sheets and rows of tables become records, or a line that says why not."""

from dataclasses import dataclass

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.sheets import SurvivalPoint
from dflash_sim.profiles.typed_table import read_row, read_table

ROW: dict[str, str | None] = {
    "model": "m", "drafter": "d", "method": "dflash", "block": "16", "dataset": "gsm8k",
    "thinking": "yes", "position": "1", "survival": "0.9", "kind": "survival", "source_id": "s",
    "url": "",
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    name: str
    sizes: tuple[int, ...]
    keep_share: float
    flag: bool = False


def test_a_row_is_a_record() -> None:
    found = read_row(SurvivalPoint, ROW, "x.csv, line 2")
    assert (found.block, found.thinking, found.survival) == (16, True, 0.9)
    assert read_row(SurvivalPoint, ROW | {"thinking": ""}, "x").thinking is None


@pytest.mark.parametrize(
    ("name", "cell", "why"),
    [
        ("survival", "1.5", "survival is 1.5; it must be from 0 to 1"),
        ("survival", "nan", "survival is nan; it must be from 0 to 1"),
        ("position", "0", "position is 0; it must be from 1 to 1024"),
        ("position", "x", "invalid literal"),
        ("block", "", "it lacks 'block'"),
        ("url", None, "it lacks 'url'"),
        ("thinking", "perhaps", "thinking is 'perhaps'; it must be yes or no"),
    ],
)
def test_a_cell_that_means_nothing_is_refused(name: str, cell: str | None, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_row(SurvivalPoint, ROW | {name: cell}, "x.csv, line 2")
    assert str(refused.value).startswith(f"x.csv, line 2: {why}")
    assert "expected columns model, drafter" in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("keep_share", 1.5, "keep_share is 1.5; it must be a finite number from 0 to 1"),
        ("keep_share", float("nan"), "keep_share is nan"),
        ("keep_share", True, "keep_share is True; it must be a finite number"),
        ("sizes", [1, -1], "sizes is -1"),
        ("sizes", 3, "sizes is 3; it must be a list"),
        ("name", 3, "name is 3; it must be a text"),
        ("nosuch", 3, "unknown key of here 'nosuch'"),
    ],
)
def test_a_key_that_means_nothing_is_refused(key: str, value: object, why: str) -> None:
    table = {"name": "x", "sizes": [1, 2], "keep_share": 0.5}
    assert read_table(Record, table, "here", least=0.0) == Record("x", (1, 2), 0.5)
    with pytest.raises(UsageError, match="here") as refused:
        read_table(Record, table | {key: value}, "here", least=0.0)
    assert why in str(refused.value)
    with pytest.raises(UsageError, match="here lacks 'name'"):
        read_table(Record, {"sizes": [], "keep_share": 1.0}, "here")
