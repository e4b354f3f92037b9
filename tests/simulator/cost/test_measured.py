"""Measured profiles: what they say between points, how they price a pass, what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.times.machine_profile import AXES, Grid, is_profile, load_measured, parsed
from dflash_sim.simulator.cost import ops
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

ROW = {"seconds": 1e-5, "mean_s": 1.1e-5, "spread": 0.02, "nbytes": 1e6, "flops": 1e6}


def gemm(m: int, seconds: float, *, n: int = 64, k: int = 32) -> dict[str, Any]:
    return {"kind": "Gemm", "shape": {"n": n, "k": k, "m": m}, **ROW, "seconds": seconds}


def document(**changes: Any) -> dict[str, Any]:
    """A profile of two products and a verify pass that takes 1.5 times its ops."""
    base: dict[str, Any] = {
        "format": "dflash-sim profile",
        "version": 1,
        "machine": {"device": "cpu"},
        "device": {
            "title": "a machine",
            "mem_bytes": 6.4e10,
            "copy_byte_s": 2e10,
            "matmul_flop_s": 1e11,
            "sheet": None,
        },
        "host": {"eager_launch_s": 1e-6},
        "scope": {"model": "qwen3-8b", "drafter": None, "tp": 1, "dtype": "float32"},
        "made": {"on": "2026-11-22", "seconds": 1.0, "quick": True, "drift": 0.0},
        "ops": [gemm(1, 1e-5), gemm(4, 4e-5)],
        "passes": [],
        "skipped": [],
    }
    return base | changes


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "mine.profile"
    path.write_text(json.dumps(document(**changes)), encoding="utf-8")
    return path


# ---- between points ----------------------------------------------------------------------


@given(st.floats(1, 64), st.floats(0, 4096), st.floats(1, 16))
def test_a_grid_gives_back_what_is_linear_in_each_axis(
    requests: float, ctx: float, rows: float
) -> None:
    def truth(b: float, n: float, c: float) -> float:
        return 3.0 + b * n * (2.0 + c / 100)

    nodes = [(b, n, c) for b in (1, 8, 16) for n in (1, 4, 64) for c in (0, 512, 4096)]
    grid = Grid({tuple(map(float, node)): truth(*node) for node in nodes})
    asked = (rows, requests, ctx)
    assert grid.nearest(asked) == asked
    assert grid.value(asked) == pytest.approx(truth(*asked), rel=1e-9)


def test_outside_its_points_a_grid_gives_the_nearest() -> None:
    grid = Grid({(1.0,): 2.0, (2.0,): 3.0})
    assert [grid.value((x,)) for x in (0.5, 1.5, 4.0)] == [2.0, 2.5, 3.0]
    assert [grid.nearest((x,)) for x in (0.5, 1.5, 4.0)] == [(1.0,), (1.5,), (2.0,)]
    wide = Grid({(1.0, 5.0): 1.0, (2.0, 9.0): 2.0})  # each row has its own points
    assert wide.nearest((1.0, 7.0)) == (1.0, 5.0)
    assert wide.nearest((1.5, 8.0)) == (1.5, 9.0)


def test_every_kind_of_op_has_axes() -> None:
    kinds = {c.__name__: c for c in ops.Op.__args__}
    assert set(AXES) == set(kinds)
    for name, (same, axes) in AXES.items():
        assert all(hasattr(kinds[name], field) for field in (*same, *axes))


# ---- what predicts -----------------------------------------------------------------------


def test_a_profile_answers_for_its_shapes_and_no_others(tmp_path: Path) -> None:
    profile = load_measured(write(tmp_path))
    found = profile.timing(ops.Gemm("any", 2, 64, 32))
    assert found is not None
    assert (found.seconds, found.evidence) == (pytest.approx(2e-5), "measured")
    beyond = ops.Gemm("any", 8, 64, 32)
    further = profile.timing(beyond)
    assert further is not None
    assert further.evidence == "fitted"
    assert further.seconds == pytest.approx(4e-5 * beyond.flops / ops.Gemm("any", 4, 64, 32).flops)
    assert profile.timing(ops.Gemm("any", 64, 64, 32)) is None  # 16 times the work is not read off
    assert profile.timing(ops.Gemm("any", 2, 64, 33)) is None


@given(st.lists(st.integers(1, 4096), min_size=2, max_size=6, unique=True), st.floats(1, 9))
def test_more_work_never_takes_less_time(sizes: list[int], noise: float) -> None:
    """Beyond the points, whatever the noise between them."""
    rows = [gemm(m, 1e-5 * (1 + noise * (i % 2))) for i, m in enumerate(sorted(sizes))]
    profile = parsed(Path("x.profile"), document(ops=rows), "")
    last, before = max(sizes), 0.0
    for m in (last, last + 1, 2 * last, 3 * last):
        found = profile.timing(ops.Gemm("any", m, 64, 32))
        assert found is not None
        assert found.seconds >= before
        before = found.seconds


def test_a_window_is_looked_up_by_what_it_sees() -> None:
    shape = {"heads": 8, "kv_heads": 2, "head_dim": 64, "window": 4096, "requests": 1}
    rows = [
        {"kind": "Attention", "shape": {**shape, "rows": 16, "kv_len": kv}, **ROW, "seconds": t}
        for kv, t in ((2064.0, 5e-6), (4112.0, 9e-6))
    ]
    profile = parsed(Path("x.profile"), document(ops=rows), "")
    far = profile.timing(ops.Attention("attention", 1, 16, 65536.0, 8, 2, 64, 4096))
    assert far is not None
    assert far.seconds == pytest.approx(9e-6)


def test_experts_are_priced_at_what_they_touch(tmp_path: Path) -> None:
    """The profile routes by chance; rows of one text share experts, so fewer are read."""
    shape = {"experts": 64, "top_k": 4, "hidden": 64, "inter": 64, "tp": 1, "dtype": "bfloat16"}
    rows = [
        {"kind": "Moe", "shape": {**shape, "tokens": n}, **ROW, "seconds": 1e-6 * n}
        for n in (1, 2, 4, 8, 16, 64)
    ]
    setup = resolve(small_scenario(str(write(tmp_path, ops=rows))))
    cost = setup.step.cost
    one_text = ops.Moe("routed", 16, 64, 4, 64, 64, 1, rows=16)
    many = ops.Moe("routed", 16, 64, 4, 64, 64, 1, rows=1)
    assert cost.op(one_text).seconds < cost.op(many).seconds
    touched = cost.touched(one_text)
    tokens = math.log1p(-touched / 64) / math.log1p(-4 / 64)
    assert cost.op(one_text).seconds == pytest.approx(1e-6 * tokens, rel=1e-6)


def small_scenario(gpu: str) -> Scenario:
    return Scenario(
        gpu=gpu, model="qwen3-8b", method="none", tp=1, conc=1, isl=8, osl=8, num_prompts=2, runs=1
    )


def test_a_profile_prices_what_it_holds_and_a_pass_by_its_own_time(tmp_path: Path) -> None:
    plain = resolve(small_scenario("h200"))
    calls = plain.step.cycle.decode(requests=1, ctx=64)[0].calls
    rows = {c.op: c for c in calls if isinstance(c.op, ops.Gemm)}
    timed = [gemm(op.m, 1e-4, n=op.n, k=op.k) for op in rows]
    shape = {"requests": 1, "rows": 1, "ctx": 64.0, "unmeasured": 0}
    verify = {"phase": "verify", **shape, "seconds": 3.0, "ops_s": 2.0}
    device = document()["device"] | {"sheet": "h200"}
    once = write(tmp_path, ops=timed, device=device)
    setup = resolve(small_scenario(str(once)))
    gemm_s = sum(1e-4 * c.count for c in rows.values())
    measured = setup.step.table(1).parts[:, 0].sum(axis=0)
    assert measured[0] >= gemm_s
    assert setup.device.name == "h200"
    assert setup.tables is not None  # for what was not measured

    slower = resolve(
        small_scenario(str(write(tmp_path, ops=timed, device=device, passes=[verify])))
    )
    more = slower.step.table(1).total - setup.step.table(1).total
    assert more == pytest.approx(0.5 * gemm_s * setup.engine["time_factor"])


def test_an_unknown_machine_is_its_own_gpu(tmp_path: Path) -> None:
    result = predict(small_scenario(str(write(tmp_path))), with_interval=False)
    assert result.setup.device.name == "mine"
    assert result.setup.node.num_gpus == 1


def test_another_model_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, device=document()["device"] | {"sheet": "b200"})
    setup = resolve(small_scenario(str(path)).model_copy(update={"model": "qwen3-4b"}))
    assert any("was measured for qwen3-8b" in w for w in setup.warnings)
    assert setup.measured is not None
    assert not setup.measured.covers(model="qwen3-4b", tp=1)


# ---- bad files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "something"}, "is no profile"),
        ({"version": 9}, "version 9"),
        ({"ops": [gemm(1, -1.0)]}, "missing or wrong value"),
        ({"ops": [{**gemm(1, 1e-5), "kind": "Gem"}]}, "missing or wrong value"),
        ({"passes": [{"phase": "verify"}]}, "missing or wrong value"),
    ],
)
def test_a_wrong_profile_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(UsageError, match=said):
        load_measured(path)


def test_a_missing_or_cut_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="calibrate measure"):
        load_measured(tmp_path / "none.profile")
    path = write(tmp_path)
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    with pytest.raises(UsageError, match="is no profile"):
        load_measured(path)


def test_a_gpu_is_told_from_a_profile(tmp_path: Path) -> None:
    assert not is_profile("b200")
    assert is_profile("my.profile")
    assert is_profile(str(write(tmp_path)))


def test_the_spread_is_its_error(tmp_path: Path) -> None:
    profile = load_measured(write(tmp_path))
    assert profile.rel_err == 0.02
    assert replace(profile, ops=()).rel_err == 0.0
