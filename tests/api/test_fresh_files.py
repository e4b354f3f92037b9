"""A process that lives on gets what the files say now."""

import os
from pathlib import Path

import pytest
from questions import SMALL

import dflash_sim as ds

QUICK = {"baseline": False, "interval": False}
PROFILES = Path(ds.__file__).parent / "profiles"


def calibration(path: Path, factor: float) -> Path:
    """The shipped constants with other operator times; the file keeps its size and its date."""
    text = (PROFILES / "calibrations/sglang-0.5.14.toml").read_text(encoding="utf-8")
    before, key, after = text.partition('key = "table_factor"')
    lines = after.splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith("mean = "))
    lines[at] = f"mean = {factor:.4f}\n"
    del lines[next(i for i, line in enumerate(lines) if line.startswith("value = "))]
    path.write_text(before + key + "".join(lines), encoding="utf-8")
    os.utime(path, ns=(10**18, 10**18))
    return path


def tok_s(path: Path) -> float:
    return float(ds.predict(**SMALL, calibration=path, **QUICK).output_throughput)


def test_a_calibration_that_was_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    first = tok_s(calibration(path, 0.1))
    assert tok_s(path) == first
    size = path.stat().st_size
    slower = tok_s(calibration(path, 0.4))
    assert path.stat().st_size == size
    assert slower < 0.95 * first
    path.write_text("format = ", encoding="utf-8")
    with pytest.raises(ds.UsageError, match=r"mine\.toml is no calibration"):
        tok_s(path)
    path.unlink()
    with pytest.raises(ds.UsageError, match="No such file"):
        tok_s(path)
    assert tok_s(calibration(path, 0.1)) == first


def test_the_shipped_one_is_looked_up_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another folder of sheets may hold another calibration of that name."""
    monkeypatch.delenv("DFLASH_SIM_PROFILES", raising=False)
    first = ds.predict(**SMALL, **QUICK).output_throughput
    (tmp_path / "calibrations").mkdir()
    calibration(tmp_path / "calibrations/sglang-0.5.14.toml", 0.4)
    monkeypatch.setenv("DFLASH_SIM_PROFILES", str(tmp_path))
    assert ds.predict(**SMALL, **QUICK).output_throughput < 0.95 * first
    monkeypatch.delenv("DFLASH_SIM_PROFILES")
    assert ds.predict(**SMALL, **QUICK).output_throughput == first


@pytest.mark.parametrize(
    ("file", "old", "new", "field"),
    [
        ("devices/b200.toml", 'title = "', 'title = "My ', "gpu"),
        ("engines/sglang-0.5.14.toml", "[constants.table_factor]\nvalue = 1.0",
         "[constants.table_factor]\nvalue = 1.5", "none"),
    ],
)  # fmt: skip
def test_sheets_that_were_rewritten(
    tmp_path: Path, file: str, old: str, new: str, field: str
) -> None:
    """Sheets of a user's folder are read anew; a broken one is told."""
    path = tmp_path / file
    path.parent.mkdir()
    text = (PROFILES / file).read_text(encoding="utf-8")
    question = SMALL | {"calibration": "none", "profiles": tmp_path}
    path.write_text(text, encoding="utf-8")
    first = ds.predict(**question, **QUICK)
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    second = ds.predict(**question, **QUICK)
    if field == "gpu":
        assert second.prediction.setup.device.title == f"My {first.prediction.setup.device.title}"
    else:
        assert second.output_throughput < 0.9 * first.output_throughput
    path.write_text("[", encoding="utf-8")
    with pytest.raises(ds.UsageError, match=path.name):
        ds.predict(**question, **QUICK)
