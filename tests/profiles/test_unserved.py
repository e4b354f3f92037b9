"""GPUs that are refused with a reason: none of them has a sheet, and no sheet is refused."""

import csv
from importlib.resources import files

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_device, names
from dflash_sim.profiles.unserved import refuse_unserved, why_unserved


def test_every_reason_is_said() -> None:
    text = files("dflash_sim.profiles").joinpath("devices/unserved.csv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) >= 10
    for row in rows:
        with pytest.raises(UsageError) as caught:
            refuse_unserved(row["name"].upper())
        assert row["why"] in str(caught.value)


def test_no_gpu_with_a_sheet_is_refused() -> None:
    for name in names("gpus"):
        device = load_device(name)
        for text in (device.name, device.title, *device.aliases):
            assert why_unserved(text) is None


@pytest.mark.parametrize("text", ["", "T400", "M40X", "T4G", "V1000", "H100", "anything"])
def test_others_are_left_to_be_unknown(text: str) -> None:
    assert why_unserved(text) is None
