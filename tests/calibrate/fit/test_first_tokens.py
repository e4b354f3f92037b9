"""First tokens that no factor explains leave the other numbers of a server as good as they were.

Servers are drawn from two factors, on all time and on prefills, and nearer to home in the latter
than its prior says. Each row is disturbed by what the simulator has no factor for: how much its
requests wait for each other, which moves first tokens one way and times per token the other, so
that a latency stays (Little), and on which side of a gap in first tokens its median lies.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from dflash_sim.calibrate.fit.first_tokens import exchanged, unsure_medians
from dflash_sim.calibrate.fit.gaussian import Linear, Problem
from dflash_sim.calibrate.fit.prior import Prior
from dflash_sim.calibrate.fit.rows import THROUGHPUT, Row, rows_of
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.profiles.releases.calibration import Parameter
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.slopes import METRICS

ENGINE = load_engine("sglang-0.5.14")
FIT = ENGINE.fit
Floats = npt.NDArray[np.float64]
TPOT, TTFT, MEDIAN, LATENCY = (
    METRICS.index(f"{name}_ms")
    for name in ("mean_tpot", "mean_ttft", "median_ttft", "mean_e2e_latency")
)
SERVERS, TOLD, ROWS, Z90 = 40, 10, 16, 1.645
COUNTS = (0, 1, 3)
GAP = 0.9  # of the log of a mean first token over the median, in rows that are fitted
NEAR = np.array([1.0, 0.3])
SERVER = Prior(
    tuple(Parameter(f, "server=x", "log", 0.0, sd) for f, sd in (("time", 0.1), ("prefill", 0.5))),
    np.diag([0.1**2, 0.5**2]),
    (*FIT.discrepancy_elsewhere, 0.5),
    prefills=FIT.ttft_rel_err,
)
SHARE = np.random.default_rng(4).uniform(0.01, 0.1, ROWS)  # of first tokens in a latency
APART = np.where(np.arange(ROWS) < TOLD, GAP, 0.0)


def scenario(**fields: object) -> Scenario:
    asked = {"model": "qwen3-8b", "method": "none", "calibration": "none", "isl": 64, "osl": 64}
    return Scenario.parse(**asked, **fields)


SETTINGS = [scenario(conc=c) for c in range(2, 2 + ROWS)]


def row(where: Scenario, logs: dict[int, float], *, tpot: float = FIT.tpot_rel_err) -> Row:
    measured, errors = np.full(len(METRICS), np.nan), np.full(len(METRICS), np.nan)
    sure = {THROUGHPUT: FIT.observation_rel_err, TPOT: tpot}
    for metric, value in logs.items():
        measured[metric], errors[metric] = value, sure.get(metric, FIT.ttft_rel_err)
    return Row(Observation(row="t:1", source="T", fields={}, metrics={}), where, measured, errors)


@cache
def straight() -> tuple[Floats, Floats]:
    """Answers and slopes by row and metric; c clients get c answers in a latency."""
    f, s = np.zeros((ROWS, len(METRICS))), np.zeros((ROWS, len(METRICS), 2))
    f[:, LATENCY], f[:, MEDIAN] = -np.log(SHARE), -APART
    s[:, [TTFT, MEDIAN], :] = 1.0
    s[:, TPOT] = np.column_stack([np.ones(ROWS), 0.3 * SHARE / (1 - SHARE)])
    s[:, THROUGHPUT] = -(SHARE * s[:, TTFT].T + (1 - SHARE) * s[:, TPOT].T).T
    return f, s


def measured(truth: Floats, rng: np.random.Generator) -> Floats:
    f, s = straight()
    y, draw = f + s @ truth, lambda: rng.standard_normal(ROWS)
    waits, slower = FIT.ttft_rel_err * draw(), np.hypot(*FIT.discrepancy_elsewhere) * draw()
    y[:, MEDIAN] += waits * (1 - SHARE) + APART * draw()
    y[:, TPOT] += slower - waits * SHARE + FIT.tpot_rel_err * draw()
    y[:, THROUGHPUT] += -slower + FIT.observation_rel_err * draw()
    return np.asarray(y)


def study(*, doubted: bool) -> tuple[dict[int, float], dict[int, float]]:
    """Mean error of first tokens of calm rows, and coverage, by how many others were fitted."""
    rng = np.random.default_rng(11)
    f, s = straight()
    off: dict[int, list[float]] = {k: [] for k in COUNTS}
    inside: dict[int, list[float]] = {k: [] for k in COUNTS}
    tpot = FIT.tpot_rel_err if doubted else FIT.observation_rel_err
    for _ in range(SERVERS):
        y = measured(rng.standard_normal(2) * SERVER.sd * NEAR, rng)
        rows = [
            row(where, {m: y[i, m] for m in (THROUGHPUT, TPOT, MEDIAN)}, tpot=tpot)
            for i, where in enumerate(SETTINGS)
        ]
        for k in COUNTS:
            mean, covariance = SERVER.mean, SERVER.covariance
            if k:
                problem = Problem(rows[:k], SERVER, f[:k] if doubted else None)
                line = Linear(problem, SERVER.mean, problem.take(f), problem.take(s))
                mean, covariance = line.posterior(line.likely())
            there = s[TOLD:, MEDIAN]
            away = np.abs(y[TOLD:, MEDIAN] - f[TOLD:, MEDIAN] - there @ mean)
            sd = np.sqrt(np.einsum("ij,jk,ik->i", there, covariance, there) + FIT.ttft_rel_err**2)
            off[k].append(float(away.mean()))
            inside[k].append(float((away < Z90 * sd).mean()))
    return ({k: float(np.mean(v)) for k, v in each.items()} for each in (off, inside))  # type: ignore[return-value]


def test_disturbed_first_tokens_make_those_of_other_rows_no_worse() -> None:
    off, inside = study(doubted=True)
    assert all(off[k] < 1.05 * off[0] for k in COUNTS)
    assert off[3] < 0.9 * off[0]
    assert all(inside[k] > 0.85 for k in COUNTS)


def test_taken_at_their_word_they_would() -> None:
    """The control: one row makes the others worse, and intervals are too sure of it."""
    off, inside = study(doubted=False)
    assert off[1] > 1.2 * off[0]
    assert all(inside[k] < 0.85 for k in COUNTS[1:])


def test_what_is_waited_less_for_one_is_waited_for_others() -> None:
    """A latency stays, a client alone waits for nobody, and arrivals at a rate keep no balance."""
    f, _ = straight()
    logs = {THROUGHPUT: 0.0, TPOT: 0.0, TTFT: 0.0}
    rows = [row(scenario(**load), logs) for load in ({"conc": 8}, {"conc": 1}, {"rate": 1.0})]
    index = [(i, m) for m in logs for i in range(3)]
    found = exchanged(rows, index, f)
    throughput, tpot, ttft = (index.index((0, m)) for m in logs)
    joint = FIT.ttft_rel_err**2 * (1 - 1 / 8) * (1 - SHARE[0])
    assert found[tpot, tpot] == pytest.approx(joint * SHARE[0] ** 2)
    assert found[tpot, ttft] == pytest.approx(-joint * SHARE[0] * (1 - SHARE[0]))
    assert found[ttft, ttft] == 0.0  # it is among the errors of the row
    assert not found[throughput].any()
    others = [k for k, (i, _) in enumerate(index) if i]
    assert not found[others].any()
    whole = found + np.diag([rows[i].errors[m] ** 2 for i, m in index])
    assert np.linalg.eigvalsh(whole).min() > 0


def test_a_median_is_as_sure_as_the_mean_is_near() -> None:
    f, _ = straight()
    index = [(0, MEDIAN), (0, TTFT), (0, THROUGHPUT), (TOLD, MEDIAN)]
    assert unsure_medians(index, f).tolist() == [GAP, 0.0, 0.0, 0.0]


def test_a_time_per_token_is_less_sure_beside_a_throughput() -> None:
    fields = {"model": "qwen3-8b", "method": "none", "gpu": "h200", "tp": 1, "conc": 8}
    alone = {"mean_tpot_ms": 8.0}
    seen = [
        Observation(row="x", source="x", fields=fields | {"isl": 64, "osl": 64}, metrics=metrics)
        for metrics in (alone, alone | {"output_throughput": 900.0})
    ]
    rows, _ = rows_of(seen, ENGINE)
    assert [r.errors[TPOT] for r in rows] == [FIT.observation_rel_err, FIT.tpot_rel_err]
