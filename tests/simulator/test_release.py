"""The release of a question, and the method that its drafter makes of ``dflash``."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import FOLDERS, find_sheet
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve


def asked(**fields: Any) -> Scenario:
    return Scenario.parse(gpu="h200", acceptance="al:4", **fields)


@pytest.mark.parametrize(
    ("fields", "method", "engine"),
    [
        ({"model": "qwen3.6-27b"}, "dflash", "sglang-0.5.14"),
        ({"model": "qwen3.8-27b"}, "dflash2", "sglang-0.5.20"),
        ({"model": "qwen3.8-27b", "method": "dspark"}, "dspark", "sglang-0.5.16"),
        ({"model": "qwen3.6-27b", "draft_model": "Huang2020/qwen3.6-27B-domino"}, "domino", None),
        ({"model": "qwen3-4b", "draft_model": "qwen3-4b-dspark"}, "dspark", "sglang-0.5.16"),
        ({"model": "qwen3.8-27b", "build": "2026-08"}, "dflash2", "sglang-0.5.16"),
        ({"model": "qwen3.8-27b", "engine": "sglang-0.5.23"}, "dflash2", "sglang-0.5.23"),
        ({"model": "no such model"}, "dflash", "sglang-0.5.14"),  # which resolve refuses
    ],
)
def test_the_checkpoint_says_what_it_is(
    fields: dict[str, Any], method: str, engine: str | None
) -> None:
    s = asked(**fields)
    assert s.method == method
    assert engine in (s.engine, None)
    assert s.engine_mode == "v2"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"model": "qwen3.8-27b", "engine": "sglang-0.5.14"},
            "SGLang 0.5.17 and before have no DFlash2, and sglang-0.5.14 is one of them; give "
            "--engine sglang-0.5.20 or a later one.",
        ),
        ({"model": "qwen3.8-27b", "method": "dspark", "build": "0.5.13"}, "have no DSpark, and"),
        ({"model": "qwen3.6-27b", "method": "domino", "build": "2026-06"}, "have no Domino, and"),
    ],
)
def test_an_older_release_is_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked(**fields)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "drafter", "says"),
    [
        ("dspark", "qwen3.6-27b-dflash", "is a DFlash drafter, and method dspark runs another"),
        ("dflash", "qwen3.6-27b-dspark", "give --method dspark, or another --draft-model"),
        ("injection-only", "qwen3.6-27b-dflash2", "is a DFlash2 drafter"),
    ],
)
def test_a_drafter_of_another_kind_is_never_priced(method: str, drafter: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        resolve(asked(model="qwen3.6-27b", method=method, draft_model=drafter))


def test_a_width_above_what_it_was_trained_for_is_refused() -> None:
    asked_for = asked(model="qwen3.8-27b", method="dspark", block=9)
    with pytest.raises(UsageError, match=r"block 9 is above the 8 that .*-dspark.*it drafts 7"):
        resolve(asked_for)


def test_a_drafter_that_was_replaced_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind of a drafter is remembered, and not beyond the next change of its folder."""
    monkeypatch.setenv("DFLASH_SIM_PROFILES", str(tmp_path))
    folder = tmp_path / "drafters"
    folder.mkdir()
    assert asked(model="qwen3-8b").method == "dflash"
    shipped = find_sheet(FOLDERS["drafters"][0], "qwen3-8b-domino", ".json")
    assert shipped is not None
    config = json.loads(shipped.read_text(encoding="utf-8"))
    (folder / "mine-dflash.json").write_text(json.dumps({**config, "_aliases": []}))
    assert asked(model="qwen3-8b", draft_model="mine-dflash").method == "domino"


@pytest.mark.parametrize("by_path", [False, True])
def test_a_drafter_that_was_rewritten_in_place_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, by_path: bool
) -> None:
    """The folder's own time does not change then, and a path is in no folder of ours."""
    monkeypatch.setenv("DFLASH_SIM_PROFILES", str(tmp_path))
    folder = tmp_path / ("elsewhere" if by_path else "drafters")
    folder.mkdir()
    mine = folder / "mine-dflash.json"
    for number, kind in enumerate(("dflash", "domino", "dflash")):
        shipped = find_sheet(FOLDERS["drafters"][0], f"qwen3-8b-{kind}", ".json")
        assert shipped is not None
        config = json.loads(shipped.read_text(encoding="utf-8"))
        mine.write_text(json.dumps({**config, "_aliases": []}))
        os.utime(mine, (number, number + 10))
        name = str(mine) if by_path else "mine-dflash"
        assert asked(model="qwen3-8b", draft_model=name).method == kind
