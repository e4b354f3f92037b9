"""Messages are as long as a screen can show, whatever they are about."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.cli import run
from dflash_sim.profiles import errors
from dflash_sim.profiles.errors import UsageError, brief, to_install, unknown

LINE = 1300  # letters
ENDLESS = ("a b ", "x", "a,b,", "1 ", "'", '"a" ')


@pytest.mark.parametrize("typed", ENDLESS)
@pytest.mark.parametrize(
    "flag", ["--model", "--gpu", "--method", "--conc", "--dataset", "--policy", "--calibration"]
)
def test_a_message_repeats_a_line_at_most(
    flag: str, typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", flag, typed * 30_000]) == 2
    assert len(capsys.readouterr().err) < LINE


@given(st.text(max_size=40).map(lambda text: text * 200), st.text(max_size=20))
def test_any_message_is_short_and_begins_as_it_did(long: str, before: str) -> None:
    assert len(str(UsageError(f"{before}: '{long}'."))) <= LINE
    assert brief(before) == before


def test_what_is_allowed_stays_in_a_message_about_a_long_name() -> None:
    told = str(unknown("data set", "a b " * 5000, ["gsm8k", "humaneval"]))
    assert told.startswith("unknown data set 'a b a b")
    assert told.endswith("...'. Have: gsm8k, humaneval.")
    assert len(told) < 200


def test_an_apostrophe_opens_no_quotation() -> None:
    """The words between two genitives are not what somebody typed."""
    told = f"the drafter's layers {'and more ' * 40}the target's"
    assert brief(told) == told


def test_an_extra_is_installed_from_where_the_package_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on no index: from a checkout by its path, from a wheel by the packages' names."""
    root = tmp_path / "dflash_sim"
    root.mkdir()
    (root / "pyproject.toml").touch()
    monkeypatch.setattr(errors, "__file__", str(root / "profiles/errors.py"))
    monkeypatch.chdir(root)
    assert to_install("serve") == 'pip install ".[serve]"'
    monkeypatch.chdir(tmp_path)
    assert to_install("serve") == f'pip install "{root.resolve()}[serve]"'
    (root / "pyproject.toml").unlink()
    needed = ["numpy>=2", "httpx>=0.27; extra == 'serve'", "dash; extra == 'ui'"]
    monkeypatch.setattr(errors.metadata, "requires", lambda _: needed)
    assert to_install("serve") == "pip install 'httpx>=0.27'"
