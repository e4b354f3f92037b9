"""After some rows of a server its other numbers are better, and intervals hold them.

Servers are drawn from the priors of their levels, and from further out than these say. Answers are
straight lines in the factors, with the slopes of steps that are bound by kernels, by their number,
by prefills, by the host and by experts.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from straight_lines import Lines

from dflash_sim.calibrate.fit.fit import fit, solve
from dflash_sim.calibrate.fit.held_out import predicted
from dflash_sim.calibrate.fit.prior import Prior, posterior_prior, sheet_prior
from dflash_sim.calibrate.fit.rows import THROUGHPUT, TPOT, Row, rows_of, unknowns
from dflash_sim.calibrate.fit.servers import with_levels
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.calibration import Parameter, load_calibration
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.releases.server_levels import FACTORS, UNSTATED, Server, level_of
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.simulator.slopes import METRICS
from dflash_sim.studies.compare.fit_question import choose, run_fit

ENGINE = load_engine("sglang-0.5.14")
Floats = npt.NDArray[np.float64]
Z90 = 1.645
NOISE = 0.01
COUNTS = (0, 1, 2, 3, 5, 10)
SERVERS = 150


def prior() -> Prior:
    """Every level of a server elsewhere, as the engine sheet has them."""
    levels = ENGINE.fit.priors.levels
    parameters = [
        Parameter(factor, f"{level}=x", FACTORS[factor].scale, 0.0, sd)
        for factor, sds in levels.items()
        for level, sd in sds.items()
    ]
    return replace(
        Prior.independent(parameters), discrepancy=(*ENGINE.fit.discrepancy_elsewhere, 0.5)
    )


PRIOR = prior()


@cache
def slopes() -> Floats:
    """Slopes of 20 settings: shares of host, prefill, wide verification and gaps that differ."""
    rng = np.random.default_rng(3)
    share = {
        "time": np.ones(20),
        "host": rng.uniform(0, 0.2, 20),
        "prefill": rng.uniform(0, 0.3, 20),
        "wide": rng.choice([0.0, 0.6, 0.8], 20),
        "kernel": rng.uniform(0.01, 0.07, 20),
        "experts": rng.uniform(-0.3, 0, 20),
    }
    return -np.column_stack([share[p.kind] for p in PRIOR.parameters])


def settings() -> list[Scenario]:
    base = {"model": "qwen3-8b", "method": "none", "calibration": "none", "isl": 64, "osl": 64}
    return [Scenario.parse(**base, conc=c) for c in range(1, 21)]


SETTINGS = settings()


def row(i: int, value: float) -> Row:
    logs, errors = np.full(len(METRICS), np.nan), np.full(len(METRICS), np.nan)
    logs[THROUGHPUT], errors[THROUGHPUT] = value, NOISE
    where = Observation(row=f"t:{i}", source="T", fields={}, metrics={})
    return Row(where, SETTINGS[i], logs, errors)


@cache
def study(spread: float) -> tuple[dict[int, float], dict[int, float]]:
    """Mean error and coverage on ten settings of a server, by rows of ten others fitted."""
    rng = np.random.default_rng(11)
    matrix, unseen = slopes(), np.arange(10, 20)
    off: dict[int, list[float]] = {k: [] for k in COUNTS}
    inside: dict[int, list[float]] = {k: [] for k in COUNTS}
    parts = np.hypot(*ENGINE.fit.discrepancy_elsewhere)
    for _ in range(SERVERS):
        truth = spread * rng.standard_normal(len(PRIOR.sd)) * PRIOR.sd
        y = matrix @ truth + np.hypot(parts, NOISE) * rng.standard_normal(20)
        for k in COUNTS:
            mean, covariance, own = PRIOR.mean, PRIOR.covariance, parts
            if k:
                found = solve([row(i, y[i]) for i in range(k)], PRIOR, Lines(matrix[:k]))
                mean, covariance = found.calibration.mean, found.calibration.covariance
                own = np.hypot(*found.calibration.discrepancy)
            away = y[unseen] - matrix[unseen] @ mean
            variance = np.einsum("ij,jk,ik->i", matrix[unseen], covariance, matrix[unseen])
            sd = np.sqrt(variance + own**2 + NOISE**2)
            off[k].append(float(np.abs(away).mean()))
            inside[k].append(float((np.abs(away) < Z90 * sd).mean()))
    means = ({k: float(np.mean(v)) for k, v in each.items()} for each in (off, inside))
    return tuple(means)  # type: ignore[return-value]


def test_rows_of_a_server_make_its_other_numbers_better() -> None:
    off, inside = study(1.0)
    errors = [off[k] for k in COUNTS]
    assert errors == sorted(errors, reverse=True)  # never worse than with fewer, or none
    assert off[3] < 0.5 * off[0]
    assert all(0.85 <= share <= 0.95 for share in inside.values())


@pytest.mark.slow
def test_servers_from_beyond_the_prior_are_followed_too() -> None:
    """Two and a half times as far out as the priors say: better all the same, if less sure."""
    off, inside = study(2.5)
    errors = [off[k] for k in COUNTS]
    assert errors == sorted(errors, reverse=True)
    assert off[3] < 0.4 * off[0]
    assert inside[0] < 0.6  # the prior was wrong, and three rows mend most of that
    assert inside[3] > max(0.5, inside[0])


def test_an_empty_prior_would_not_pass() -> None:
    """The control: without rows nothing gets better."""
    off, _ = study(1.0)
    assert off[0] > 0.1


# ---- rows of servers, and levels ---------------------------------------------------------------


def observed(gpu: str, conc: int, slower: float = 1.0, source: str = "A") -> Observation:
    fields = {"model": "qwen3-8b", "method": "none", "gpu": gpu, "tp": 1, "conc": conc,
              "isl": 64, "osl": 64, "num_prompts": 4 * conc}  # fmt: skip
    seen = Observation(row="x", source="x", fields=fields, metrics={"output_throughput": 1.0})
    ((plain,), _) = rows_of([seen], ENGINE)
    (answer,) = predicted([plain], SHIPPED, engine=ENGINE, jobs=1, runs=1, interval=False)
    metrics = {"output_throughput": answer.predicted / slower}
    return Observation(row=f"{source}:{gpu}{conc}", source=source, fields=fields, metrics=metrics)


SHIPPED = load_calibration("shipped", ENGINE)


def test_a_server_that_is_slower_is_predicted_slower() -> None:
    rows, _ = rows_of([observed("h200", c, 1.3) for c in (1, 2, 4, 8)], ENGINE)
    found = fit(rows[:3], engine=ENGINE, name="mine", known=SHIPPED)
    assert found.converged
    (before,) = predicted(rows[3:], SHIPPED, engine=ENGINE, jobs=1, runs=1)
    (after,) = predicted(rows[3:], found.calibration, engine=ENGINE, jobs=1, runs=1)
    assert before.error == pytest.approx(0.3, abs=0.02)
    assert abs(after.error) < 0.05
    assert after.inside
    assert np.log(after.high / after.low) < 0.8 * np.log(before.high / before.low)


def test_an_open_loop_tells_of_its_server_by_the_time_per_token() -> None:
    """Clients that happen to come faster make the throughput higher, and no server faster."""
    fields = {"model": "qwen3-8b", "method": "none", "gpu": "h200", "tp": 1, "isl": 64, "osl": 64,
              "num_prompts": 24}  # fmt: skip
    metrics = {"output_throughput": 1.0, "mean_tpot_ms": 1.0}
    rows = []
    for rate in (1.0, 2.0, 4.0):
        seen = Observation(
            row=f"{rate}", source="A", fields=fields | {"rate": rate}, metrics=metrics
        )
        ((plain,), _) = rows_of([seen], ENGINE)
        answer = np.exp(plain.response(ENGINE, {}).answer(SHIPPED.values, runs=1))
        lucky = {"output_throughput": 1.3 * answer[0], "mean_tpot_ms": 1.3e3 * answer[TPOT[0]]}
        rows.append(replace(seen, metrics=lucky))
    found = fit(rows_of(rows, ENGINE)[0], engine=ENGINE, name="mine", known=SHIPPED)
    assert found.converged
    assert np.abs(found.errors).max() < 0.05


def test_a_median_gap_tells_of_the_step_alone() -> None:
    """It is fitted for plain decoding, and prefills do not move it."""
    fields = {"model": "qwen3-8b", "gpu": "h200", "tp": 1, "conc": 8, "isl": 2048, "osl": 64}
    metrics = {"output_throughput": 500.0, "median_itl_ms": 7.5, "mean_itl_ms": 8.0}
    seen = Observation(row="x", source="x", fields=fields | {"method": "none"}, metrics=metrics)
    drafts = {"method": "dflash", "block": 8, "acceptance": "al:4"}
    both, refused = rows_of([seen, replace(seen, fields=fields | drafts)], ENGINE)
    assert not refused
    itl, tpot = METRICS.index("median_itl_ms"), METRICS.index("mean_tpot_ms")
    assert [bool(np.isfinite(row.logs[itl])) for row in both] == [True, False]
    assert both[0].logs[itl] == pytest.approx(np.log(7.5e-3))

    response = both[0].response(ENGINE, {})
    slower = {"prefill:gpu=h200": 2.0}
    usual, long = (response.answer(values, runs=1) for values in ({}, slower))
    assert long[tpot] - usual[tpot] > 0.05
    assert abs(long[itl] - usual[itl]) < 0.01


def test_a_build_that_nobody_states_may_be_any(tmp_path: Path) -> None:
    """Its factors are as free as a build's are, and predictions with the fit are of that build."""
    file = tmp_path / "bench.csv"
    cells = "qwen3-8b,none,b200,1,64,64"
    lines = [f"{cells},{c},{tok_s}" for c, tok_s in ((1, 200), (2, 390), (4, 770))]
    file.write_text("\n".join(("model,method,gpu,tp,isl,osl,conc,output_tok_s", *lines)))
    asked = {"fit_on": None, "assume": []}
    open_, stated = (choose([file], engine=name, **asked) for name in (None, "sglang-0.5.14"))  # type: ignore[arg-type]
    dated = choose([file], engine=None, fit_on=None, assume=["build=0.5.9"])
    assert [c.rows[0].scenario.build for c in (open_, stated, dated)] == [UNSTATED, None, "0.5.9"]
    assert any("name no release" in note for note in open_.read.notes)
    assert not any("name no release" in note for note in stated.read.notes)
    unheard = choose([file], engine=None, fit_on=None, assume=["build=9.9.9"])
    assert any("build 9.9.9" in note and "read as" in note for note in unheard.read.notes)
    assert not any("read as" in note for note in dated.read.notes)

    free, tied = ({p.name for p in unknowns(c.rows, ENGINE)} for c in (open_, stated))
    assert {n.split("=")[0] for n in free - tied} >= {"time:build", "kernel:build"}
    fitted = run_fit(open_, name="mine", jobs=1).calibration
    setup = resolve(Scenario.parse(model="qwen3-8b", tp=1, conc=1), calibration=fitted)
    assert setup.server.keys == ("build=unstated", "deployment=b200/qwen3-8b", "server=b200")
    assert not any("unconfirmed" in warning for warning in setup.warnings)


def test_levels_travel_and_owners_stay() -> None:
    """Rows of two owners teach what a GPU is like, and nothing of their own is kept."""
    seen = [observed("h200", c, 1.3, source) for source in "AB" for c in (1, 8)]
    rows, _ = rows_of(seen, ENGINE, owners=True)
    assert SHIPPED is not None
    found = with_levels(SHIPPED, fit(rows, engine=ENGINE, name="t", known=SHIPPED))
    kept = {level_of(key) for key in found.known_levels - SHIPPED.known_levels}
    assert kept <= {"arch", "gpu", "backend"}
    assert found.about["server_sources"] == ["A", "B"]
    n = len(SHIPPED.parameters)
    assert np.array_equal(found.mean[:n], SHIPPED.mean)
    assert np.array_equal(found.covariance[:n, :n], SHIPPED.covariance)
    h200 = Server((("arch", "hopper"), ("gpu", "h200"), ("backend", "fa3")))
    slower = found.applied(ENGINE, h200)["time_factor"]
    assert 1.02 < slower < 1.3  # part of it may be the owners'


def test_rows_that_shipped_constants_know_are_not_fitted_again() -> None:
    assert SHIPPED is not None
    (source, *_) = SHIPPED.about["sources"]
    rows, _ = rows_of([observed("b200", 1, source=source)], ENGINE)
    with pytest.raises(UsageError, match=r"would count twice; .* --prior sheet"):
        posterior_prior(rows, ENGINE, SHIPPED)
    assert all(p.kind not in FACTORS for p in sheet_prior(rows, ENGINE).parameters)


def test_a_posterior_is_the_prior_of_what_it_speaks_of() -> None:
    assert SHIPPED is not None
    rows, _ = rows_of([observed("h200", 1)], ENGINE)
    found = posterior_prior(rows, ENGINE, SHIPPED)
    by_name = dict(zip(SHIPPED.values, SHIPPED.mean, strict=True))
    for p, variance in zip(found.parameters, np.diagonal(found.covariance), strict=True):
        assert p.sd**2 == pytest.approx(variance)
        if p.kind == "constant":
            assert p.prior == by_name[p.name]
    assert found.covariance[0, 1] != 0  # constants hang together
    np.testing.assert_allclose(found.precision @ found.covariance, np.eye(len(found.sd)), atol=1e-6)
