"""Fits: known constants come back, intervals hold, wrong models and outliers are named."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from straight_lines import Lines

from dflash_sim.calibrate.fit import fit as fit_of_rows
from dflash_sim.calibrate.fit import gaussian as linear
from dflash_sim.calibrate.fit import prior as prior_of_fit
from dflash_sim.calibrate.fit.fit import Fit, fit, solve
from dflash_sim.calibrate.fit.identifiability import open_directions
from dflash_sim.calibrate.fit.parallel_answers import Evaluator
from dflash_sim.calibrate.fit.prior import Prior
from dflash_sim.calibrate.fit.residual_patterns import patterns
from dflash_sim.calibrate.fit.rows import ACCEPT_LENGTH, THROUGHPUT, Row, rows_of, unknowns
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.cli import run
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.calibration import (
    Calibration,
    Parameter,
    load_calibration,
    read_calibration,
)
from dflash_sim.profiles.releases.engine_sheet import EngineSheet, load_engine
from dflash_sim.profiles.releases.server_levels import FACTORS
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.slopes import METRICS
from dflash_sim.studies.compare.fit_page import outliers, remarks, unsettled

ENGINE = load_engine("sglang-0.5.14")
DATA = Path(__file__).parents[2] / "data/readers"
Z90 = 1.645
Floats = npt.NDArray[np.float64]
Fields = dict[str, Any]


def row_of(fields: Fields, logs: Mapping[int, float], *, line: int, noise: float) -> Row:
    """A row that measured ``logs`` by index of ``METRICS``."""
    measured, errors = np.full(len(METRICS), np.nan), np.full(len(METRICS), np.nan)
    for metric, value in logs.items():
        measured[metric], errors[metric] = value, noise
    scenario = Scenario.parse(**fields, calibration="none")
    where = Observation(row=f"t.csv:{line}", source="T", fields=fields, metrics={})
    return Row(where, scenario, measured, errors, scenario.block or 1)


# ---- straight lines: where everything is known --------------------------------------------------

NOISE, SHARED, OWN = 0.01, 0.03, 0.01
SETTINGS = [
    {"model": model, "method": "dflash", "block": block, "conc": conc}
    for model in ("qwen3-8b", "qwen3.5-27b", "qwen3.6-35b-a3b")
    for block in (8, 16)
    for conc in (1, 8, 32)
]
PLACES: list[Fields] = [s | {"dataset": d} for s in SETTINGS for d in ("gsm8k", "mbpp", "math500")]
SETTING = np.repeat(np.arange(len(SETTINGS)), 3)
CONC = np.array([place["conc"] for place in PLACES])
SDS = np.array([0.05, 0.25, 0.5, 0.7, 0.25, 1.0])
UNKNOWN = Prior.independent(
    [Parameter("constant", f"k{i}", "log", 0.0, sd) for i, sd in enumerate(SDS)]
)
TAUGHT = [1.0, 0.3, 0.2, 0.1, 0.3, 0.05]


def _lines() -> Lines:
    rng = np.random.default_rng(1)
    of_setting = -rng.uniform(0, 1, (len(SETTINGS), len(SDS))) * TAUGHT
    return Lines(of_setting[SETTING] + 0.01 * rng.standard_normal((len(PLACES), len(SDS))))


LINES = _lines()


def draw(seed: Sequence[int], bias: Floats | float = 0.0) -> tuple[Floats, list[Row]]:
    """Constants out of their priors, and rows of a model that is right but for ``bias``."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(len(SDS)) * SDS
    y = LINES.matrix @ truth + SHARED * rng.standard_normal(len(SETTINGS))[SETTING]
    y += np.hypot(OWN, NOISE) * rng.standard_normal(len(PLACES)) + bias
    rows = [
        row_of(place, {THROUGHPUT: value}, line=i, noise=NOISE)
        for i, (place, value) in enumerate(zip(PLACES, y.tolist(), strict=True))
    ]
    return truth, rows


def solved(rows: Sequence[Row]) -> Fit:
    return solve(rows, UNKNOWN, LINES)


@pytest.fixture(scope="module")
def right() -> list[tuple[Floats, Fit]]:
    """Fits to 120 data sets of a model that is right."""
    sets = [draw([5, k]) for k in range(120)]
    return [(truth, solved(rows)) for truth, rows in sets]


def undefended(rows: list[Row], without: Fit) -> Floats:
    """How far outliers drag constants that take every row for what it says."""
    problem = linear.Problem(rows, UNKNOWN)
    line = linear.Linear(problem, problem.prior.mean, 0 * problem.y, LINES.matrix)
    mean, _ = line.posterior(linear.Spread(without.calibration.discrepancy, 0 * problem.y))
    return np.abs(mean - without.calibration.mean)


class TestStraightLines:
    def test_intervals_hold_what_is_true(self, right: list[tuple[Floats, Fit]]) -> None:
        away = np.array([np.abs(x - f.calibration.mean) / f.calibration.sd for x, f in right])
        inside = (away < Z90).mean(axis=0)
        assert all(0.80 < share < 0.97 for share in inside)
        assert 0.84 < inside.mean() < 0.94
        assert all(f.settled for _, f in right)
        # Settings differ by more here than they usually do: few call the model wrong for it.
        assert np.mean([f.converged for _, f in right]) > 0.8

    def test_discrepancy_comes_back(self, right: list[tuple[Floats, Fit]]) -> None:
        shared, own = np.mean([f.calibration.discrepancy for _, f in right], axis=0)
        assert shared == pytest.approx(SHARED, rel=0.15)
        assert own == pytest.approx(OWN, rel=0.15)

    def test_a_right_model_is_not_suspect(self, right: list[tuple[Floats, Fit]]) -> None:
        assert np.mean([bool(f.suspect) for _, f in right]) < 0.08
        named = sum(len(f.outliers) for _, f in right)
        assert named < 0.005 * len(right) * len(PLACES)

    def test_a_wrong_model_is_suspect(self) -> None:
        """A bias by concurrency that no constant can mimic."""
        bias = np.select([CONC == 1, CONC == 32], [0.08, -0.08], 0.0)
        fits = [solved(draw([6, k], bias)[1]) for k in range(30)]
        first = [f.suspect[0].factor if f.suspect else "" for f in fits]
        assert first.count("concurrency") > 25
        groups = {f.suspect[0].group: f.suspect[0] for f in fits if f.suspect}
        assert set(groups) <= {"1", "32"}
        assert groups["1"].offset < -0.04
        assert groups["1"].rows == 18

    def test_a_row_of_two_speeds_is_one_row(self) -> None:
        """Its time per token is predicted as much too slow as its throughput."""
        bias = np.where(CONC == 32, -0.2, 0.0)
        rows, tpot = draw([8, 1], bias)[1], METRICS.index("mean_tpot_ms")
        for row in rows:
            row.logs[tpot], row.errors[tpot] = -row.logs[THROUGHPUT], NOISE
        problem = linear.Problem(rows, UNKNOWN)
        both = np.concatenate([LINES.matrix, -LINES.matrix])
        line = linear.Linear(problem, UNKNOWN.mean, 0 * problem.y, both)
        found = patterns(rows, line, linear.Spread((SHARED, OWN), 0 * problem.y))
        (one,) = [p for p in found if "concurrency" in p.factor]
        assert (one.group, one.rows) == ("32", 18)

    def test_outliers_are_named_and_do_not_drag(self) -> None:
        """Three rows of other settings, a third off: as good as left out."""
        bad = [4, 20, 40]
        for k in range(10):
            rows = draw([7, k])[1]
            for i, by in zip(bad, (0.3, -0.35, 0.4), strict=True):
                rows[i] = replace(rows[i], logs=rows[i].logs + by)
            found = solved(rows)
            keep = [i for i in range(len(rows)) if i not in bad]
            without = solve([rows[i] for i in keep], UNKNOWN, Lines(LINES.matrix[keep]))
            named = {row.observation.row for row, _ in found.outliers}
            assert named >= {f"t.csv:{i}" for i in bad}
            assert len(named) <= 4
            drag = np.abs(found.calibration.mean - without.calibration.mean)
            assert max(drag / without.calibration.sd) < 0.6
            assert max(undefended(rows, without)) > 3 * max(drag)

    def test_left_out_errors_are_those_of_fits_without_the_row(self) -> None:
        """One inverse stands for as many fits as there are rows."""
        _, rows = draw([8])
        found = solved(rows)
        problem = linear.Problem(rows, UNKNOWN)
        slack = np.zeros(len(rows))
        spread = linear.Spread(found.calibration.discrepancy, slack)
        line = linear.Linear(problem, problem.prior.mean, slack, LINES.matrix)
        i, others = 11, [k for k in range(len(rows)) if k != 11]
        total = line.covariance(spread)
        gain = np.linalg.solve(total[np.ix_(others, others)], total[others, i])
        expected = problem.y[i] - gain @ problem.y[others]
        away, sd = line.apart(spread)
        assert away[i] == pytest.approx(expected, rel=1e-9)
        assert sd[i] ** 2 == pytest.approx(total[i, i] - gain @ total[others, i], rel=1e-9)

    def test_what_is_not_told_apart(self) -> None:
        """Two constants with the same slopes: their difference stays as it was."""
        lines = Lines(LINES.matrix[:, [0, 0, 1]])
        three = Prior.independent([Parameter("constant", n, "log", 0.0, 0.3) for n in "abc"])
        found = solve(draw([9])[1], three, lines)
        (direction,) = open_directions(found.calibration)
        (one, first), (other, second) = direction.parts
        assert {one, other} == {"constant:a", "constant:b"}
        assert first == pytest.approx(-second)
        assert direction.learned == pytest.approx(0, abs=1e-9)
        assert ("constant:a", "constant:b") in [pair[:2] for pair in found.undetermined]
        assert found.learned["constant:c"] > 0.5

    def test_answers_correct_slopes(self) -> None:
        """Slopes of half the size lead to the same constants, only later, and that is said."""

        class Flat(Lines):
            def slopes(self, x: Floats, of: Sequence[int] | None = None) -> Floats:
                return super().slopes(x, of) / 2

        rows = draw([10])[1]
        right, hasty, patient = (
            solve(rows, UNKNOWN, price, iterations=most)
            for price, most in ((LINES, 9), (Flat(LINES.matrix), 1), (Flat(LINES.matrix), 30))
        )
        assert not hasty.converged
        assert hasty.steps[-1] > 0.2
        assert hasty.calibration.about["converged"] is False
        assert patient.converged
        assert len(patient.steps) > len(right.steps)
        away = np.abs(patient.calibration.mean - right.calibration.mean)
        assert max(away / right.calibration.sd) < 0.5

    def test_a_fit_rests_where_runs_are_rough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Answers that jump by a third of their error: control, without that rule it goes on."""

        class Rough(Lines):
            def answers(self, x: Floats) -> Floats:
                seed = np.abs(x * 1e9).astype(np.uint64).tolist()
                jump = np.random.default_rng(seed).standard_normal(len(self.matrix))
                return super().answers(x) + 0.004 * jump[:, None]

        rng = np.random.default_rng(15)
        many = 24
        price = Rough(LINES.matrix @ rng.standard_normal((len(SDS), many)) / 4)
        price.matrix[:] += 0.05 * rng.standard_normal(price.matrix.shape)
        prior = Prior.independent(
            [Parameter("constant", f"k{i}", "log", 0.0, 0.5) for i in range(many)]
        )
        rows = draw([16])[1]
        early = solve(rows, prior, price)
        exact = solve(rows, prior, Lines(price.matrix))
        monkeypatch.setattr(fit_of_rows, "_EACH", 0.0)
        late = solve(rows, prior, price)
        assert early.settled
        assert len(early.steps) < 8 < len(late.steps)
        away = np.abs(early.calibration.mean - exact.calibration.mean) / exact.calibration.sd
        assert np.sqrt(np.mean(away**2)) < 0.3

    def test_slopes_are_near_their_parameters_though_others_were_renewed(self) -> None:
        """Renewing those of a factor does not make those of a constant any newer."""
        sds, bend = np.array([0.1, 0.5]), np.array([0.08, -0.22])

        class Curved(Lines):
            taken = np.full(2, np.nan)  # where the slopes of each were
            partly = False

            def answers(self, x: Floats) -> Floats:
                return super().answers(x + bend * x**2 / sds)

            def slopes(self, x: Floats, of: Sequence[int] | None = None) -> Floats:
                every = [0, 1] if of is None else list(of)
                self.taken[every] = x[every]
                Curved.partly |= every == [0]
                return (super().slopes(x) * (1 + 2 * bend * x / sds))[:, :, every]

        price = Curved(LINES.matrix[:, [0, 1]])
        prior = Prior.independent(
            [Parameter("time", "a", "log", 0, 0.1), Parameter("constant", "b", "log", 0, 0.5)]
        )
        y = price.answers(np.array([-3.86, 1.53]) * sds)[:, THROUGHPUT]
        rows = [
            row_of(place, {THROUGHPUT: value}, line=i, noise=0.003)
            for i, (place, value) in enumerate(zip(PLACES, y.tolist(), strict=True))
        ]
        found = solve(rows, prior, price, iterations=30)
        assert price.partly
        assert max(np.abs(found.calibration.mean - price.taken) / sds) < 1


# ---- the simulator itself -----------------------------------------------------------------------

EXACT = 1e-4
FREE = (
    "table_factor", "collective_factor", "expert_skew", "cycle_residue", "v1_accept_per_request",
)  # fmt: skip


def small_engine() -> EngineSheet:
    """The shipped sheet, with those constants free that a dozen small rows determine."""
    sheet = load_engine("sglang-0.5.14")
    return replace(sheet, fit=replace(sheet.fit, free=FREE))


def places() -> list[Fields]:
    """Scenarios that take milliseconds."""
    common = {"gpu": "b200", "isl": 64, "osl": 32, "max_new_tokens": 32}
    drafted = {"method": "dflash", "acceptance": "al:3"}
    found: list[Fields] = []
    for conc in (1, 4, 16):
        load = common | {"conc": conc, "num_prompts": 2 * conc, "tp": 1}
        dense, sparse = load | {"model": "qwen3-8b"}, load | {"model": "qwen3.6-35b-a3b"}
        found += [
            dense | {"method": "none"},
            dense | {"method": "none", "tp": 4},
            dense | drafted | {"block": 16},
            dense | drafted | {"block": 8, "engine_mode": "v1"},
            sparse | {"method": "none"},
            sparse | drafted | {"block": 8},
        ]
    return found


def observed(values: Sequence[float]) -> list[Observation]:
    return [
        Observation(
            row=f"t.csv:{i + 2}", source="T", fields=place, metrics={"output_throughput": value}
        )
        for i, (place, value) in enumerate(zip(places(), values, strict=True))
    ]


def measure(engine: EngineSheet, x: Floats | None = None, *, noise: float = EXACT) -> list[Row]:
    """What a server of this model would show, with ``noise`` as the error it is given."""
    rows, refused = rows_of(observed([1.0] * len(places())), small_engine())
    assert not refused
    parameters = unknowns(rows, small_engine(), at_home=False)
    x = np.array([p.prior for p in parameters]) if x is None else x
    with Evaluator(rows, engine, parameters, jobs=1) as price:
        seen = price.answers(x)[:, THROUGHPUT]
    seen = (
        seen
        + (np.random.default_rng(4).standard_normal(len(rows)) if noise > 1e-3 else 0.0) * noise
    )
    out = []
    for row, value in zip(rows, seen.tolist(), strict=True):
        logs, errors = row.logs.copy(), row.errors.copy()
        logs[THROUGHPUT], errors[THROUGHPUT] = value, noise
        out.append(replace(row, logs=logs, errors=errors))
    return out


class TestSimulator:
    def test_known_constants_come_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without noise, of a model known to be right, from a prior sd away each."""
        monkeypatch.setattr(prior_of_fit, "_USUAL", (1e-6, 1e-6, 1.0))
        engine = small_engine()
        rows = measure(engine)
        parameters = unknowns(rows, engine, at_home=False)
        assert [p.key for p in parameters] == list(FREE)
        prior = np.array([p.prior for p in parameters])
        sds = np.array([p.sd for p in parameters])
        truth = prior + np.array([1, -1, 1, -1, 1]) * sds
        found = fit(measure(engine, truth), engine=engine, name="t")
        assert (found.calibration.mean - prior) / sds == pytest.approx(
            (truth - prior) / sds, abs=0.02
        )
        assert max(np.abs(found.errors)) < 1e-3
        assert min(found.learned.values()) > 0.99

    @pytest.mark.slow
    def test_a_constant_that_may_not_move_is_missed(self) -> None:
        """A cost per request that the fit takes for granted, twenty times too small there."""
        engine, name = small_engine(), "cycle_residue_per_request"
        right = fit(measure(engine, noise=0.01), engine=engine, name="t")
        assert right.suspect == []
        wrong = engine.with_constants(**{name: 20 * engine[name]})
        found = fit(measure(wrong, noise=0.01), engine=engine, name="t")
        assert "concurrency" in [p.factor for p in found.suspect]
        assert max(found.calibration.discrepancy) > 2 * max(right.calibration.discrepancy)

    @pytest.mark.slow
    def test_processes_do_not_matter(self) -> None:
        rows = measure(small_engine(), noise=0.01)
        one, two = (fit(rows, engine=small_engine(), name="t", jobs=j) for j in (1, 2))
        assert one.calibration.to_toml() == two.calibration.to_toml()
        assert one.steps == two.steps

    def test_the_engine_s_own_version_is_no_other_build(self) -> None:
        builds = [None, "0.5.14", "2026-06", "my branch"]
        same = [replace(o, build=b) for o, b in zip(observed([1.0] * 18), builds, strict=False)]
        rows, _ = rows_of(same, load_engine("sglang-0.5.14"))
        assert [row.scenario.build for row in rows] == [None, None, None, "my branch"]
        assert [row.elsewhere for row in rows] == [False, False, False, True]
        assert "time:build=my branch" in [p.name for p in rows[3].own]

    def test_fixed_lengths_have_an_acceptance_to_fit(self) -> None:
        """No data set is named, so what the server logged says how many drafts it accepted."""
        place = places()[2]
        del place["acceptance"]
        metrics = {"output_throughput": 900.0, "accept_length_cycle": 3.1}
        seen = Observation(row="t.csv:2", source="T", fields=place, metrics=metrics)
        ((row,), _) = rows_of([seen], load_engine("sglang-0.5.14"))
        assert [p.kind for p in row.own if p.kind not in FACTORS] == ["rejection", "decay"]
        assert row.logs[ACCEPT_LENGTH] == pytest.approx(np.log(3.1))
        found = fit([row], engine=small_engine(), name="t").calibration
        where = "rejection:qwen3-8b/dflash/no data set"
        assert found[where] != 0
        scenario = Scenario.parse(**place, runs=1, calibration="none")
        assert predict(scenario, with_interval=False).expectation is not None


# ---- files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> Calibration:
    """A calibration whose name is not plain ASCII."""
    c = solved(draw([11])[1]).calibration
    about = {"fit_on": "all rows", "converged": True}
    return replace(c, name="mine \u00e9\U0001f600", engine="sglang-0.5.14", about=about)


class TestFiles:
    def test_what_is_written_reads_back(self, found: Calibration, tmp_path: Path) -> None:
        path = tmp_path / "c.toml"
        path.write_text(found.to_toml(), encoding="utf-8")
        again = read_calibration(path)
        assert again.parameters == found.parameters
        assert again.mean == pytest.approx(found.mean, rel=1e-6)
        assert again.covariance == pytest.approx(found.covariance, rel=1e-4, abs=1e-9)
        assert again.discrepancy == pytest.approx(found.discrepancy, rel=1e-4)
        assert (again.name, again.engine, again.rows) == (found.name, found.engine, found.rows)
        assert again.about == found.about

    def test_a_narrow_direction_survives(self, tmp_path: Path) -> None:
        """Two constants known by their sum: its error is a hundredth of theirs."""
        parameters = tuple(Parameter("constant", k, "log", 0.0, 1.0) for k in "ab")
        covariance = np.array([[1.0, -0.9999], [-0.9999, 1.0]])
        c = Calibration("t", "sglang-0.5.14", parameters, np.zeros(2), covariance, (0.01, 0.01))
        path = tmp_path / "c.toml"
        path.write_text(c.to_toml(), encoding="utf-8")
        again = read_calibration(path).covariance
        assert again.sum() == pytest.approx(covariance.sum(), rel=0.02)

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("format = 1", "format = 7", "this version reads 1"),
            ("format = 1", "", "no calibration"),
            ('kind = "constant"', 'kind = "wish"', "kind 'wish'"),
            ("[posterior]", "[posterior", "no calibration"),
        ],
    )
    def test_files_of_something_else_are_refused(
        self, found: Calibration, tmp_path: Path, old: str, new: str, words: str
    ) -> None:
        path = tmp_path / "c.toml"
        path.write_text(found.to_toml().replace(old, new, 1), encoding="utf-8")
        with pytest.raises(UsageError, match=words):
            read_calibration(path)

    def test_another_engine_is_refused(self, found: Calibration, tmp_path: Path) -> None:
        path = tmp_path / "c.toml"
        path.write_text(found.to_toml(), encoding="utf-8")
        elsewhere = replace(ENGINE, name="sglang-9", fit=replace(ENGINE.fit, home={}))
        with pytest.raises(UsageError, match=r"give --engine sglang-0\.5\.14"):
            load_calibration(str(path), elsewhere)
        with pytest.raises(UsageError, match="make one with"):
            load_calibration(str(tmp_path / "none.toml"), ENGINE)


class TestPage:
    def test_what_is_wrong_is_said(self) -> None:
        bias = np.select([CONC == 1, CONC == 32], [0.12, -0.12], 0.0)
        rows = draw([12], bias)[1]
        rows[7] = replace(rows[7], logs=rows[7].logs + 0.5)
        wrong = solve(rows, UNKNOWN, LINES, iterations=0)
        said = " ".join(remarks(wrong))
        assert "PATTERN: the 18 rows of concurrency" in said
        assert "NOT CONVERGED" in said
        assert outliers(wrong).rows[0][0].startswith("t.csv:7: qwen3-8b dflash 8 mbpp c=32 b200")
        right = " ".join(remarks(solved(draw([13])[1])))
        assert "no pattern is left over by" in right
        assert "converged: " in right

    def test_what_trades_off_is_signed(self) -> None:
        """Two constants with the same slopes: one up, the other down."""
        two = Prior.independent([Parameter("constant", n, "log", 0.0, 3.0) for n in "ab"])
        found = solve(draw([14])[1], two, Lines(LINES.matrix[:, [0, 0]]))
        table = unsettled(found)
        assert [words for words, _ in table.rows] == ["a - b", "a - b"]
        assert table.rows[0][1].startswith("correlation -1")


# ---- the command --------------------------------------------------------------------------------

COLUMNS = ("model", "method", "block", "gpu", "tp", "isl", "osl", "conc", "num_prompts")
Answer = Callable[..., tuple[int, str, str]]


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Run the command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("DFLASH_SIM_PROFILES", "")

    def call(*words: object) -> tuple[int, str, str]:
        code = run([str(word) for word in words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def table(path: Path, *changes: Fields, rows: int = 4) -> Path:
    """A file of plain decoding, four loads; ``changes`` of the first rows."""
    lines: list[Fields] = [
        {"model": "qwen3-8b", "method": "none", "block": 1, "gpu": "b200", "tp": 1, "isl": 64,
         "osl": 32, "conc": conc, "num_prompts": 2 * conc, "output_tok_s": 250.0 * conc**0.9}
        for conc in (1, 2, 4, 8)[:rows]
    ]  # fmt: skip
    for line, change in zip(lines, changes, strict=False):
        line |= change
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*COLUMNS, "output_tok_s"])
        writer.writeheader()
        writer.writerows(lines)
    return path


class TestCommand:
    @pytest.mark.slow
    def test_a_user_s_benchmark(self, answer: Answer, tmp_path: Path) -> None:
        """From bench_serving's own file to a prediction with its constants."""
        bench, out = DATA / "sglang_bench_serving" / "runs.jsonl", tmp_path / "mine.toml"
        words = ("calibrate", "fit", bench, "-o", out, "--jobs", "1", "--format", "table")
        code, page, told = answer(*words)
        assert code == 4  # one of its rows was made up, and no server is like that
        assert "NOT FOLLOWED" in page
        assert "3 rows read: 3 used, 0 refused by the reader, 0 by the fit" in told
        assert "not in the files, so assumed (rows): gpu (1)" in told
        for text in ("mine: 3 rows fitted", "table_factor", "not an accuracy", "discrepancy"):
            assert text in page
        first = out.read_bytes()
        assert answer(*words) == (code, page, told)
        assert out.read_bytes() == first
        about = read_calibration(out).about
        assert about["sources"] == about["files"] == ["runs.jsonl"]
        small = ["predict", "--model", "qwen3-8b", "--isl", 64, "--osl", 64, "--num-prompts", 8]
        small += ["--format", "json"]
        mine, none = (
            json.loads(answer(*small, "--calibration", c, "--runs", 1)[1]) for c in (out, "none")
        )
        assert mine["output_throughput"] != none["output_throughput"]

    def test_as_data(self, answer: Answer, tmp_path: Path) -> None:
        out = tmp_path / "c.toml"
        words = ("calibrate", "fit", table(tmp_path / "t.csv"), "-o", out, "--format", "json")
        code, text, _ = answer(*words)
        row = json.loads(text, parse_constant=pytest.fail)
        assert (code, row["rows"]["used"], row["kind"]) == (4, 4, "fit")
        assert row["not_followed"]  # a throughput that grows less than any server's would
        values = {p["key"]: p["value"] for p in row["parameters"]}
        assert values["table_factor"] == pytest.approx(
            read_calibration(out)["constant:table_factor"], rel=1e-5
        )

    def test_only_the_rows_asked_for(self, answer: Answer, tmp_path: Path) -> None:
        out = tmp_path / "c.toml"
        words = ("calibrate", "fit", table(tmp_path / "t.csv"), "-o", out)
        code, _, told = answer(*words, "--fit-on", "concurrency>=2", "--name", "big")
        assert code == 0
        assert "4 rows read: 3 used, 1 not selected" in told
        found = read_calibration(out)
        assert found.name == "big"
        assert found.rows == ("t.csv:3", "t.csv:4", "t.csv:5")
        assert found.about["fit_on"] == "concurrency>=2"

    @pytest.mark.parametrize(
        ("changes", "more", "words"),
        [
            ([{"output_tok_s": ""}], (), ["1 refused", "t.csv:2", "nothing was measured"]),
            ([{"conc": ""}], (), ["t.csv:2", "no concurrency", "--allow-partial"]),
            ([{"conc": 2, "num_prompts": 4, "output_tok_s": 250.0 * 2**0.9}], (),
             ["t.csv:3", "the same as t.csv:2"]),
            ([{"block": 8}], (), ["t.csv:2", "block"]),
            ([{"osl": ""}], (), ["t.csv:2", "isl"]),
            ([{"model": "gpt-9"}], (), ["t.csv:2", "gpt-9"]),
            ([], ("--fit-on", "concurrency>99"), ["no row to fit", "passes over 4"]),
            ([], ("--fit-on", "concurrency<4"), ["2 of 3 rows", "--allow-partial"]),
            ([], ("--fit-on", "conc==1 or"), ["cannot select rows"]),
            ([], ("--assume", "gpu"), ["KEY=VALUE"]),
            ([], ("--assume", "colour=red"), ["colour"]),
            ([], ("--engine", "vllm-1"), ["vllm-1", "sglang-0.5.14"]),
            ([], ("--format", "csv"), ["no table of rows"]),
            ([], ("--jobs", "0"), ["--jobs"]),
        ],
    )  # fmt: skip
    def test_bad_input_is_named(
        self,
        answer: Answer,
        tmp_path: Path,
        changes: list[Fields],
        more: tuple[str, ...],
        words: list[str],
    ) -> None:
        path, out = table(tmp_path / "t.csv", *changes), tmp_path / "c.toml"
        code, page, told = answer("calibrate", "fit", path, "-o", out, *more)
        assert (code, page) == (2, "")
        assert not out.exists()
        for word in words:
            assert word in told, told

    def test_what_is_left_can_be_fitted(self, answer: Answer, tmp_path: Path) -> None:
        path, out = (
            table(tmp_path / "t.csv", {"conc": ""}, {"output_tok_s": ""}),
            tmp_path / "c.toml",
        )
        code, _, told = answer("calibrate", "fit", path, "-o", out, "--allow-partial")
        assert code == 0
        assert "4 rows read: 2 used, 2 refused by the reader, 0 by the fit" in told
        assert told.count("refused t.csv:") == 2
        assert read_calibration(out).rows == ("t.csv:4", "t.csv:5")

    def test_files_that_are_none(self, answer: Answer, tmp_path: Path) -> None:
        empty = tmp_path / "e.csv"
        empty.write_text("")
        for path in (empty, tmp_path):
            code, _, told = answer("calibrate", "fit", path, "-o", tmp_path / "c.toml")
            assert code == 2
            assert "1 row read: 0 used, 1 refused by the reader" in told
            assert "no row to fit" in told
        code, _, told = answer("calibrate", "fit", tmp_path / "no.jsonl", "-o", tmp_path / "c.toml")
        assert code == 2
        assert "no.jsonl: there is no such file" in told

    def test_nowhere_to_write_is_said_first(self, answer: Answer, tmp_path: Path) -> None:
        path = table(tmp_path / "t.csv")
        code, _, told = answer("calibrate", "fit", path, "-o", tmp_path / "no" / "c.toml")
        assert code == 2
        assert "rows read" not in told
        assert answer("calibrate", "fit", path)[0] == 2

    def test_interrupted_it_leaves_nothing(
        self, answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: object) -> Floats:
            raise KeyboardInterrupt

        monkeypatch.setattr(Evaluator, "answers", stop)
        out = tmp_path / "c.toml"
        out.write_text("before")
        code, page, told = answer(
            "calibrate", "fit", table(tmp_path / "t.csv"), "-o", out, "--jobs", 1
        )
        assert (code, page) == (130, "")
        assert told.endswith("stopped; nothing was written\n")
        assert out.read_text() == "before"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["c.toml", "t.csv"]
