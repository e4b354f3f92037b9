"""Profiles hold what a measurement can find, and are refused by place and value otherwise."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.times.machine_profile import load_measured
from dflash_sim.profiles.times.profile_ranges import check_profile

OP = {"seconds": 1e-5, "mean_s": 1e-5, "spread": 0.02, "nbytes": 1e6, "flops": 1e6}
PASS = {"requests": 1, "rows": 4, "ctx": 64.0, "seconds": 1e-3, "ops_s": 9e-4, "unmeasured": 0}


def document() -> dict[str, Any]:
    return {
        "format": "dflash-sim profile",
        "version": 1,
        "machine": {"device": "cpu"},
        "device": {"title": "mine", "mem_bytes": 6e10, "copy_byte_s": 2e10, "matmul_flop_s": 1e11},
        "scope": {"model": "qwen3-8b", "tp": 1},
        "made": {"on": "2026-11-22"},
        "ops": [{"kind": "Gemm", "shape": {"n": 64, "k": 32, "m": 1}, **OP}],
        "passes": [{"phase": "verify", **PASS}],
        "skipped": [],
    }


NUMBERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    **dict.fromkeys(("seconds", "mean_s", "spread", "nbytes", "flops"), lambda d: d["ops"][0]),
    **dict.fromkeys(("requests", "rows", "ctx", "ops_s"), lambda d: d["passes"][0]),
    **dict.fromkeys(("mem_bytes", "copy_byte_s", "matmul_flop_s"), lambda d: d["device"]),
    "tp": lambda d: d["scope"],
}


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), "x", None, [], True])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_means_nothing_is_refused(name: str, wrong: object, tmp_path: Path) -> None:
    changed = document()
    NUMBERS[name](changed)[name] = wrong
    path = tmp_path / "mine.profile"
    path.write_text(json.dumps(changed))
    with pytest.raises(UsageError, match=f"{name} is .*; it must be"):
        load_measured(path)


def test_what_was_measured_is_taken(tmp_path: Path) -> None:
    check_profile(document())
    path = tmp_path / "mine.profile"
    path.write_text(json.dumps(document()))
    assert load_measured(path).as_device().mem_bytes == 6e10


@pytest.mark.parametrize(("seconds", "fine"), [(9e-4, True), (90.0, False), (1e-9, False)])
def test_a_pass_takes_about_what_its_ops_take(seconds: float, fine: bool) -> None:
    changed = document()
    changed["passes"][0]["seconds"] = seconds
    if fine:
        check_profile(changed)
        return
    with pytest.raises(ValueError, match="no pass differs from its ops"):
        check_profile(changed)
