"""The closed loop: what is rehearsed prices a step, what was seen is drawn, errors add up."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="runs torch layers")
pytest.importorskip("safetensors", reason="layers are built from checkpoints")

from instant_clock import InstantClock  # noqa: E402
from tiny_networks import BASE, EXTRA, drafter_spec, target_spec  # noqa: E402

from dflash_sim.calibrate.measure import measure as measuring  # noqa: E402
from dflash_sim.calibrate.measure.measure import Measurement, to_text  # noqa: E402
from dflash_sim.calibrate.measure.subject import Sizes, Subject  # noqa: E402
from dflash_sim.calibrate.realloop import directed_workers  # noqa: E402
from dflash_sim.calibrate.realloop.engine_sheet import HostStages, real_engine  # noqa: E402
from dflash_sim.calibrate.realloop.forecast import Forecast, again_and_again  # noqa: E402
from dflash_sim.calibrate.realloop.loop import ClosedLoop, Part, halves, portions  # noqa: E402
from dflash_sim.calibrate.realloop.outcomes import (  # noqa: E402
    Config,
    Outcome,
    grid,
    machine_scalar,
)
from dflash_sim.calibrate.realloop.rehearsal import (  # noqa: E402
    Overheads,
    Probe,
    Probes,
    Rehearsed,
    TimedPass,
    line,
    pooled,
)
from dflash_sim.commands.validate_real import validate_real  # noqa: E402
from dflash_sim.profiles.errors import UsageError  # noqa: E402
from dflash_sim.profiles.times.machine_profile import load_measured  # noqa: E402
from dflash_sim.realrun.job.journal import Iteration, Run  # noqa: E402
from dflash_sim.realrun.job.networks import Network  # noqa: E402
from dflash_sim.realrun.job.setup import Setup  # noqa: E402
from dflash_sim.studies.compare.real_tables import figures, tables  # noqa: E402
from dflash_sim.studies.real.loop_question import RealOptions  # noqa: E402

FAMILY = "qwen3_5_text"
TARGET = BASE | EXTRA[FAMILY] | {"model_type": FAMILY, "layer_types": ["full_attention"] * 4}
DRAFTER = BASE | {
    "model_type": "qwen3",
    "num_hidden_layers": 3,
    "block_size": 5,
    "dflash_config": {"target_layer_ids": [0, 2], "mask_token_id": 95},
}
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pair of random networks, its profile of a few sizes, and all of one small grid."""
    folder = tmp_path_factory.mktemp("profiles")
    for part, config in (("target", TARGET), ("dflash", DRAFTER)):
        (folder / "pairs/small" / part).mkdir(parents=True)
        text = json.dumps(config)
        (folder / "pairs/small" / part / "config.json").write_text(text, encoding="utf-8")
    sizes = Sizes(requests=(1, 2), blocks=(4,), steps=(2,), ctx=(24, 120), prefills=((2, 16),))
    target = target_spec(FAMILY, layer_types=["full_attention"] * 4)
    subject = Subject(target, drafter_spec(), 1, sizes)
    name = {"model": "small", "drafter": "small-dflash"}
    path = folder / "here.profile"
    patch = pytest.MonkeyPatch()
    patch.setattr(measuring, "clock_for", lambda *_, **__: InstantClock())
    job = Measurement(subject, "cpu", torch.float32, name, quick=True, sweeps=1)
    path.write_text(to_text(job.run(path).profile), encoding="utf-8")
    real = Setup(target=Network.random(TARGET, "small"), drafter=Network.random(DRAFTER, "d"))
    prompts = [tuple(range(10, 10 + n)) for n in (8, 8, 12, 12, 20, 20, 16, 16)]
    patch.setenv("DFLASH_SIM_PROFILES", str(folder))
    for name, steps in (("STEPS", 4), ("ALONE", 3), ("PREFILLS", 2)):
        patch.setattr(directed_workers, name, steps)
    for name in ("PROBE_STEPS", "PROBE_STEPS_ALONE"):
        patch.setattr(directed_workers, name, 2)
    yield ClosedLoop("small", real, prompts, NEW_TOKENS, load_measured(path))
    patch.undo()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("concs", "modes", "rounds"), [([2], ["v2"], 1), ([1, 2], ["v1", "v2"], 2)]
)
def test_every_configuration_is_measured_predicted_and_run(
    loop: ClosedLoop, concs: list[int], modes: list[str], rounds: int
) -> None:
    configs = grid(blocks=[4], steps=[2], concs=concs, modes=modes)
    told = list(loop.rounds(configs, rounds=rounds))
    found = loop.outcomes()
    assert len(told) == rounds * len(found) == rounds * len(configs)
    assert {o.config for o in found} == set(configs)
    for o in found:
        assert min(o.predicted_tok_s, o.profile_tok_s) > 0
        assert o.observed_tok_s > 0
        assert 1 <= o.accept_observed <= o.config.rows
    text = "\n".join(t.text() for t in tables(found))
    assert "MAPE, passes of the profile" in text


@pytest.mark.slow
def test_a_shape_without_weights_is_run_with_imposed_acceptance(
    loop: ClosedLoop, tmp_path: Path
) -> None:
    """As it would be on a GPU."""
    asked = RealOptions(
        model="small",
        device="cpu",
        accept_length=2.5,
        isl=12,
        blocks="4",
        steps="2",
        concs="2",
        modes="v2",
        prompts=12,
        new_tokens=12,
        host_work_ms=0.0,
        rounds=1,
        profile=loop.profile.path,
    )
    with pytest.raises(UsageError, match="--accept-length 4"):
        validate_real(replace(asked, accept_length=None), shape="jsonl", output=None, report=None)
    out = tmp_path / "rows.jsonl"
    validate_real(asked, shape="jsonl", output=out, report=None)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["method"] for row in rows] == ["none", "dflash", "mtp"]
    for row in rows[1:]:
        assert row["accept_length_observed"] == pytest.approx(2.5, abs=0.5)
        assert row["accept_length_predicted"] == pytest.approx(2.5, abs=0.5)


PHASES = {"none": ("verify",), "dflash": ("draft", "verify", "materialise")}
PHASES["mtp"] = PHASES["dflash"]


@pytest.mark.parametrize(("method", "rows"), [("none", 1), ("dflash", 4), ("mtp", 3)])
def test_a_simulated_step_takes_what_was_rehearsed(
    loop: ClosedLoop, method: str, rows: int
) -> None:
    """With ``accept`` times too: they are of the verify pass."""

    def seconds(n: int, ctx: float) -> float:
        return 1e-3 + 1e-4 * n + 1e-6 * ctx

    passes = [
        TimedPass("v2", phase, n, rows, float(ctx), seconds(n, ctx))
        for phase in (*PHASES[method], "accept")
        for n in (1, 2, 4)
        for ctx in (0, 128, 256)
    ]
    passes += [TimedPass("", "prefill", n, s, 0.0, 1e-4 * n * s) for n in (1, 2) for s in (8, 16)]
    overheads = Overheads(queued={1: 2e-4, 4: 5e-4}, alone={1: 3e-4, 4: 6e-4}, v1={})
    forecast = Forecast(
        model="small",
        config=Config(method, rows, 2, "v2"),
        profile=loop.profile,
        rehearsed=Rehearsed(tuple(passes), overheads),
        stages=HostStages({}),
        commits=(),
        longest_prompt=20,
        new_tokens=NEW_TOKENS,
    )
    step = forecast.simulated().step
    parts = len(PHASES[method]) + 1
    for n in (1, 2, 4):
        for ctx in (0, 128):
            expected = parts * seconds(n, ctx) + 1e-4 + 1e-4 * n
            assert step.decode_s(n, n * ctx) == pytest.approx(expected, rel=1e-5)  # fused: 1 ns
    assert step.prefill_s(requests=2, tokens=32) == pytest.approx(1e-4 * 32, rel=1e-6)


def test_passes_are_told_as_of_the_quickest_probes() -> None:
    """A machine twice as slow in the second of three rehearsals, and in the third by half."""
    probes = Probes()
    overheads = Overheads({1: 1e-4}, {1: 2e-4}, {1: (1e-5, 2e-5, 3e-5)})
    found = []
    for slow in (1.0, 2.0, 1.5):
        probe = probes.note(Probe(1, 1e-3 * slow))
        timed = TimedPass("v2", "verify", 1, 4, 20.0, 5e-3 * slow, probe)
        found.append(Rehearsed((timed,), overheads))
    together = pooled(found, probes)
    assert [p.seconds for p in together.of("v2")] == pytest.approx([5e-3])
    assert together.overheads == overheads
    assert not together.of("v1")
    assert probes.slowdown(Probe(1, 1e-3), Probe(1, 2e-3)) == pytest.approx(1.5)
    assert probes.slowdown(Probe(1, 0.5e-3)) == 1.0


def test_what_ran_while_the_machine_changed_is_left_out(
    loop: ClosedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config("none", 1, 2, "v2")
    if config not in loop._parts:
        list(loop.rounds([config], rounds=1))
    good = loop._parts[config][0]
    steady = replace(good, after=good.before)
    moved = replace(steady, after=replace(good.before, seconds=2 * good.before.seconds))
    three = [replace(p, key=(i, 0)) for i, p in enumerate((steady, moved, steady))]
    monkeypatch.setattr(loop, "_parts", {config: three})
    found = loop.outcome(config)
    assert (found.runs, found.kept, found.drift) == (3, 2, 0.0)
    # What another mode ran meanwhile counts too: the same prompts are compared.
    other = [replace(p, key=(i, 0)) for i, p in enumerate((moved, steady, steady))]
    loop._parts[replace(config, mode="v1")] = other
    assert loop.outcome(config).kept == 1
    monkeypatch.setattr(loop, "_parts", {config: [moved]})
    assert not loop.outcome(config).steady


def test_other_work_of_the_host_does_not_slow_down(loop: ClosedLoop) -> None:
    """Half of a run is a wait of the host; the rest took twice as long as it can."""
    part = Part((0, 0), 3.0, 1.0, 10, (), Probe(1, 1.0), Probe(1, 1.0))
    assert part.quick_s(2.0) == pytest.approx(2.0)
    busy = replace(loop, real=replace(loop.real, host_work_s=0.25))
    steps = [Iteration(index=i, kind=0, batch=2, tokens=2) for i in range(4)]
    assert busy._idle_s(Run((), tuple(steps), 0, 2.0, "v1")) == pytest.approx(1.0)
    assert busy._idle_s(Run((), tuple(steps), 0, 2.0, "v2")) == 0.0


def test_portions_are_all_of_the_prompts() -> None:
    prompts = [(i,) for i in range(80)]
    for conc, count in ((1, 20), (4, 6), (8, 3), (64, 1)):
        found = list(portions(prompts, conc))
        assert len(found) == count
        assert [p for portion in found for p in portion] == prompts


def test_halves_are_alike() -> None:
    """Five kinds of openings: each half has equally many of each, and none is in both."""
    prompts = [(kind, i) for i in range(32) for kind in range(5)]
    seen, held_out = halves(prompts, 0)
    assert sorted(seen + held_out) == sorted(prompts)
    for half in (seen, held_out):
        assert [sum(p[0] == kind for p in half) for kind in range(5)] == [16] * 5
    assert halves(prompts, 1) != (seen, held_out)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=30), min_size=1), st.integers(0))
def test_draws_are_what_was_seen(seen: list[list[int]], seed: int) -> None:
    forecast: Any = Forecast.__new__(Forecast)
    vars(forecast).update({"new_tokens": 40, "commits": [tuple(row) for row in seen]})
    draws = forecast.draws(5, again_and_again(forecast.commits, np.random.default_rng(seed)))
    for i, used in enumerate(draws.cycles):
        row = draws.commits[i, :used]
        assert row.sum() >= 39 > row[:-1].sum()
        assert any(tuple(row[: len(s)]) == tuple(s[: len(row)]) for s in seen)


def outcome(config: Config, predicted: float, observed: float) -> Outcome:
    return Outcome(config, predicted, predicted, observed, 1.0, 1.0, 0.0)


def test_one_scalar_mends_a_machine_that_is_slower_throughout() -> None:
    found = [
        outcome(c, 120.0 * (1 + c.rows), 100.0 * (1 + c.rows))
        for c in grid(blocks=[4, 8], steps=[3], concs=[1, 4], modes=["v1", "v2"])
    ]
    assert machine_scalar(found) == pytest.approx(1 / 1.2)
    f = figures(found)
    assert f["mape"] == f["mape_profile"] == pytest.approx(0.2)
    assert f["mape_scaled"] == pytest.approx(0.0, abs=1e-12)
    assert f["speedup_mape"] == pytest.approx(0.0, abs=1e-12)
    assert f["pairs_right"] == f["pairs"] > 0
    assert len(tables(found)[1].rows) == 12


def test_a_wrong_order_and_a_wrong_gain_show() -> None:
    fast, slow = Config("dflash", 8, 1, "v2"), Config("none", 1, 1, "v2")
    f = figures([outcome(slow, 100, 100), outcome(fast, 90, 200)])
    assert (f["pairs"], f["pairs_right"]) == (1, 0)
    before = Config("none", 1, 1, "v1")
    f = figures([outcome(before, 100, 100), outcome(slow, 130, 110)])
    assert f["overlap_gap"] == pytest.approx(0.2)


def test_lines_have_no_negative_part() -> None:
    assert line({1: 3.0, 2: 5.0, 4: 9.0}) == pytest.approx((1.0, 2.0))
    fixed, slope = line({1: 5.0, 2: 4.0, 8: 3.0})
    assert (fixed, slope) == (pytest.approx(4.0), 0.0)
    assert line({4: 2.0}) == (2.0, 0.0)


def test_our_engine_has_nothing_of_sglang_s_times() -> None:
    stages = HostStages({"process_batch_result": (1e-4, 1e-5), "recv_requests": (2e-6, 0.0)})
    overheads = Overheads(queued={1: 1e-4, 2: 1e-4}, alone={1: 3e-4, 2: 3e-4}, v1={})
    engine = real_engine(stages, overheads)
    assert engine["graph_launch_gap"] == engine["client_turnaround"] == engine["small_kernel"] == 0
    assert engine["process_batch_result"] == 1e-4
    assert engine["d2h_sync"] == pytest.approx(2e-4)
    assert engine["cycle_residue"] == pytest.approx(1e-4)
    assert engine.graph_sizes["spec"][:3] == (1, 2, 3)  # nothing is padded


def test_the_page_of_a_closed_loop_is_written(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="reports have plots")
    from dflash_sim.studies.compare.real_tables import write_report

    found = [
        outcome(c, 110.0 * c.rows, 100.0 * c.rows)
        for c in grid(blocks=[4], steps=[3], concs=[1, 4], modes=["v1", "v2"])
    ]
    write_report(found, tmp_path / "real.html", machine="a laptop", model="tiny")
    page = (tmp_path / "real.html").read_text(encoding="utf-8")
    assert "The closed loop" in page
    assert "a laptop" in page


@pytest.mark.slow
def test_what_broke_off_leaves_what_was_done(
    loop: ClosedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the runs of the second method: the first's are told."""
    fresh = ClosedLoop("small", loop.real, loop.prompts, NEW_TOKENS, loop.profile)
    configs = grid(blocks=[4], steps=[], concs=[1], modes=["v2"])
    run = ClosedLoop._run

    def broken(self: ClosedLoop, number: int, asked: Any, stage: Any) -> None:
        run(self, number, asked, stage)
        if asked[0].method == "dflash":
            raise KeyboardInterrupt

    monkeypatch.setattr(ClosedLoop, "_run", broken)
    with pytest.raises(KeyboardInterrupt):
        list(fresh.rounds(configs, rounds=1))
    assert [o.config.method for o in fresh.outcomes()] == ["none", "dflash"]


def test_other_work_of_the_host_is_not_measured_and_added(loop: ClosedLoop) -> None:
    """It is in the forecast once: the scheduler's own stages are timed without it."""
    config = Config("none", 1, 1, "v1")
    busy = ClosedLoop(
        loop.model,
        replace(loop.real, host_work_s=5e-3),
        loop.prompts,
        NEW_TOKENS,
        loop.profile,
    )
    busy._time_host([config])
    fixed, _ = busy._stages[config.drafting, "v1"].at("process_batch_result")
    assert fixed < 2e-3
