"""Nothing is printed unless it is asked for, and then on stderr."""

from typing import Any

import pytest
from questions import SMALL

import dflash_sim as ds

QUICK: dict[str, Any] = {"baseline": False, "interval": False}


def test_progress_is_told_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    ds.predict(**SMALL, conc=[1, 2], **QUICK)
    ds.sweep(**SMALL, conc=[1, 2], **QUICK)
    assert capsys.readouterr() == ("", "")
    ds.predict(**SMALL, conc=[1, 2], progress=True, **QUICK)
    ds.sweep(**SMALL, conc=[1, 2], progress=True, **QUICK)
    out, told = capsys.readouterr()
    assert out == ""
    assert "\r2 of 2 runs\n" in told
    assert "\r2 of 2 points\n" in told
