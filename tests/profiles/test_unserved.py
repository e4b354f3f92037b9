"""GPUs and models that are refused with a reason: none of them has a sheet."""

import csv
from importlib.resources import files

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_device, load_model, names
from dflash_sim.profiles.unserved import refuse_unmodelled, refuse_unserved, why_unserved


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


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("deepseek-ai/DeepSeek-V4.1-Flash", "sizes of layers that could not be read"),
        ("meituan-longcat/LongCat-Flash-Chat", "two attentions a layer"),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", "cross attention"),
    ],
)
def test_a_model_of_a_family_that_is_not_modelled_says_what_is_not(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' is known but not modelled yet: .*{why}"):
        load_model(name)


def test_no_model_with_a_sheet_is_refused() -> None:
    with pytest.raises(UsageError):
        refuse_unmodelled("longcat-flash")
    for name in names("models"):
        refuse_unmodelled(name)


@pytest.mark.parametrize("name", ["kimi-k30", "longcat-flash2", "anything"])
def test_another_number_is_another_model(name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown model '{name}'"):
        load_model(name)
