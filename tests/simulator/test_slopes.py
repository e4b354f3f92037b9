"""Answers for other constants: the simulator's own numbers, and slopes that are known."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.profiles.releases.calibration import Parameter, constant_prior
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.releases.server_levels import FACTORS, level_of
from dflash_sim.simulator.intervals import misfit, unmodelled
from dflash_sim.simulator.predict import doubts, predict
from dflash_sim.simulator.requests.expected import expected_acceptance
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.simulator.slopes import METRICS, Response, requests_of, slope_steps
from dflash_sim.simulator.trial import with_engine

ENGINE = load_engine("sglang-0.5.14")
TOK_S, AL, TPOT = (METRICS.index(m) for m in ("output_throughput", "accept_length", "mean_tpot_ms"))
CARD = {"model": "qwen3-8b", "tp": 1, "dataset": "gsm8k", "thinking": False, "num_prompts": 12}


def setup(fields: dict[str, Any], **constants: float) -> Setup:
    return resolve(Scenario.parse(**fields), engine=ENGINE.with_constants(**constants))


SCENARIOS: dict[str, dict[str, Any]] = {
    "one client": CARD | {"block": 16, "runs": 1},
    "clients, two runs": CARD | {"block": 8, "conc": 4, "runs": 2},
    "plain": CARD | {"method": "none", "conc": 4, "runs": 1},
    "two turns, warm-down": {"model": "qwen3-8b", "tp": 1, "dataset": "mt-bench", "block": 16,
        "acceptance": "al:3", "max_new_tokens": 64, "conc": 8, "runs": 1},
    "open loop": {"model": "qwen3-8b", "tp": 1, "isl": 200, "osl": 40, "rate": 20.0,
        "acceptance": "al:4", "num_prompts": 60, "runs": 1},
    "build": CARD | {"block": 16, "build": "my branch", "runs": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_answers_are_those_of_predict(name: str) -> None:
    """Metric by metric: one definition each, and the same requests and draws."""
    found = setup(SCENARIOS[name])
    result = predict(found.scenario, setup=found, with_baseline=False, with_interval=False)
    logs = Response(found, waves=2).answer({}, runs=found.scenario.runs)
    for i, metric in enumerate(METRICS):
        unit = 1e3 if metric.endswith("_ms") else 1.0
        if metric == "accept_length" and not found.speculative:
            continue
        expected = np.mean([np.log(run[metric] / unit) for run in result.per_run])
        assert logs[i] == pytest.approx(expected, abs=1e-9), metric


def test_a_sheet_that_is_slower_stays_slower() -> None:
    """The levels of its server multiply the sheet's own time factor, or the fitted one."""
    slow = Response(setup(SCENARIOS["build"], time_factor=1.4), waves=2)
    mine, other = {"time:build=my branch": 1.1}, {"time:build=other": 1.1}
    assert slow.engine({})["time_factor"] == 1.4
    assert slow.engine(mine)["time_factor"] == pytest.approx(1.54)
    assert slow.engine(mine | {"time:server=b200": 2.0})["time_factor"] == pytest.approx(3.08)
    assert slow.engine(other)["time_factor"] == 1.4
    assert slow.engine(mine | {"constant:time_factor": 2.0})["time_factor"] == pytest.approx(2.2)


def test_the_slope_of_a_build_is_minus_one() -> None:
    """All times x k, throughput / k; accept lengths stay. Clients that wait would soften it."""
    found = setup(SCENARIOS["build"], client_turnaround=0.0)
    build = Parameter("time", "build=my branch", "log", 0.0, 0.2)
    other = Parameter("time", "build=other", "log", 0.0, 0.2)
    slopes = Response(found, waves=2).slopes([build, other], np.zeros(2), np.full(2, 0.05))
    assert slopes[TOK_S, 0] == pytest.approx(-1)
    assert slopes[TPOT, 0] == pytest.approx(1)
    assert slopes[AL, 0] == 0
    assert not slopes[:, 1].any()  # another build is none of its business


def test_slopes_have_the_signs_they_must() -> None:
    found = setup(CARD | {"block": 8, "conc": 4, "num_prompts": 256})
    response = Response(found, waves=40)
    where = response.cell
    assert where == "qwen3-8b/dflash/gsm8k/plain"
    parameters = [
        constant_prior(ENGINE, "table_factor"),
        constant_prior(ENGINE, "cycle_residue"),
        constant_prior(ENGINE, "chain_step_gap"),
        constant_prior(ENGINE, "expert_skew"),
        Parameter("rejection", where, "linear", 0.0, 0.1),
        Parameter("rejection", "qwen3-8b/dflash/math500/plain", "linear", 0.0, 0.1),
        Parameter("correlation", "gsm8k", "atanh", 0.0, 0.4),
    ]
    at = np.array([p.prior for p in parameters])
    slopes = response.slopes(parameters, at, np.array([0.1] * 6 + [0.5]))
    table, residue, gap, skew, rejection, elsewhere, tied = slopes[TOK_S]
    assert -1 < table < -0.3  # most of a cycle is kernels, not all
    assert -0.3 < residue < 0
    assert gap == skew == elsewhere == 0  # no sequential draft, no experts, another data set
    assert rejection < -0.1
    assert slopes[AL, 4] < -0.1
    assert tied > 0  # tokens over cycles rise with it


def test_slopes_are_those_of_whole_runs() -> None:
    """The short workload stands for the whole one: within a fifth of the slope."""
    found = setup(CARD | {"block": 16, "conc": 4, "num_prompts": 96, "runs": 1})
    response = Response(found, waves=4)
    prior = constant_prior(ENGINE, "table_factor")
    short = response.slopes([prior], np.array([prior.prior]), np.array([0.05]))[TOK_S, 0]
    ends = [
        response.answer({prior.name: prior.value(prior.prior + h)}, runs=1)[TOK_S]
        for h in (0.0, 0.05)
    ]
    assert short == pytest.approx((ends[1] - ends[0]) / 0.05, rel=0.2)


def test_requests_are_those_of_the_run() -> None:
    """Each run its own; the first few of them are whole ones, drawn alike."""
    found = setup(SCENARIOS["clients, two runs"])
    one, two = (requests_of(found, run) for run in (0, 1))
    assert (one.workload.osl != two.workload.osl).any()
    few = one.first(4)
    assert len(few.workload) < len(one.workload)
    expectation = Response(found, waves=2).expectation
    n = len(few.workload)
    whole, part = one.draws(expectation), few.draws(expectation)
    assert part.commits.shape[0] == n
    assert len(whole.cycles) == len(one.workload)


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        (CARD | {"method": "none"}, ()),
        (CARD | {"block": 16}, ("correlation", "decay", "rejection")),
        (CARD | {"block": 16, "acceptance": "al:5"}, ("correlation",)),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_unknown_about_a_scenario(fields: dict[str, Any], kinds: tuple[str, ...]) -> None:
    own = Response(setup(fields), waves=2).own_parameters()
    assert {p.kind for p in own} == {*kinds, *FACTORS}
    assert all(p.sd > 0 and p.prior == 0 for p in own)


@pytest.mark.parametrize(
    ("fields", "levels"),
    [
        ({}, ("server", "deployment")),  # at home a server may differ by itself alone
        ({"build": ENGINE.fit.build}, ("server", "deployment")),
        ({"build": "my branch"}, ("build", "server", "deployment")),
        ({"gpu": "b300"}, ("gpu", "server", "deployment")),
        ({"gpu": "h200"}, ("arch", "gpu", "backend", "server", "deployment")),
    ],
    ids=str,
)
def test_a_server_is_told_from_home_level_by_level(
    fields: dict[str, Any], levels: tuple[str, ...]
) -> None:
    response = Response(setup(CARD | {"block": 16} | fields), waves=2)
    for name, factor in FACTORS.items():
        keys = {p.key for p in response.server_parameters() if p.kind == name}
        assert {level_of(key) for key in keys} == set(levels) & set(factor.levels)


def test_all_levels_of_a_factor_have_one_slope() -> None:
    response = Response(setup(CARD | {"method": "none", "gpu": "h200"}), waves=2)
    own = [p for p in response.server_parameters() if p.kind == "time"]
    slopes = response.slopes(own, np.zeros(len(own)), slope_steps(own))
    assert (slopes == slopes[:, :1]).all()
    assert slopes[0, 0] == pytest.approx(-1, abs=0.05)


def test_a_cell_is_as_free_as_its_accept_length_is_uncertain() -> None:
    """One sigma of the rejection rate moves the accept length by its relative error."""
    response = Response(setup(CARD | {"block": 16}), waves=2)
    expectation = response.expectation
    assert expectation is not None
    (rejection,) = (p for p in response.own_parameters() if p.kind == "rejection")
    lengths = [
        expectation.adjusted(rejection=x).acceptance.survival().mean_accept_length
        for x in (-rejection.sd, rejection.sd)
    ]
    assert math.log(lengths[0] / lengths[1]) / 2 == pytest.approx(expectation.rel_err, rel=0.05)


@pytest.mark.parametrize("model", ["qwen3-4b", "qwen3-8b", "qwen3.5-397b-a17b"])
def test_prompts_of_no_data_set_are_less_certain_than_any(model: str) -> None:
    """One published data set says nothing of the spread between data sets."""
    about: dict[str, Any] = {"model": model, "method": "dflash", "block": 16, "thinking": True}
    least = load_acceptance_priors().data_set_spread
    assert expected_acceptance(**about, law="dflash", dataset=None).rel_err > least


@pytest.mark.parametrize(
    "name", ["table_factor", "collective_factor", "cycle_residue", "prefill_factor", "norm_kernel"]
)
def test_prices_that_are_shared_are_those_made_anew(name: str) -> None:
    """A sheet in which one constant differs: what rests on it moves, and nothing is left behind."""
    found = setup(CARD | {"block": 8, "tp": 2})
    for batch in (1, 3):
        found.step.table(batch)
    found.step.prefill_s(requests=2, tokens=300)
    changed = found.engine.with_constants(**{name: 1.25 * found.engine[name]})
    shared, anew = with_engine(found, changed).step, replace(found, engine=changed).step
    for batch in (1, 2, 3):
        np.testing.assert_array_equal(shared.table(batch).parts, anew.table(batch).parts)
    asked = {"requests": 2, "tokens": 300}
    assert shared.prefill_s(**asked) == anew.prefill_s(**asked)
    moved = shared.table(3).total[0] / found.step.table(3).total[0]
    assert (moved > 1) == (name != "prefill_factor")


def test_kernels_without_a_table_widen_an_interval_by_their_share() -> None:
    """A GPU without tables is the whole share; a step whose kernels were timed says nothing."""
    prior = ENGINE.fit.priors.roofline_gpu
    asked = {"method": "none", "conc": 4, "runs": 1, "isl": 64, "osl": 64}
    part = resolve(Scenario.parse(model="glm-4.6", gpu="h200", tp=8, **asked))
    share = part.step.untimed(4)
    assert 0.3 < share < 0.9
    assert part.step.untimed_ops(4)[0] == "routed_experts"
    assert unmodelled(part) == pytest.approx(misfit(part) + (prior * share) ** 2)
    said = f"unconfirmed: up to {100 * share:.0f} % of a step is a roofline"
    assert [w for w in doubts(part) if said in w]
    timed = resolve(Scenario.parse(model="qwen3-8b", gpu="b200", tp=1, **asked))
    assert unmodelled(timed) == pytest.approx(misfit(timed), rel=0.01)
    assert not [w for w in doubts(timed) if "roofline" in w]
    bare = resolve(Scenario.parse(model="qwen3-8b", gpu="mi355x", tp=1, **asked))
    assert unmodelled(bare) == pytest.approx(misfit(bare) + prior**2)
