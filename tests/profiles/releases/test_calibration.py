"""What a calibration changes in a prediction: constants, acceptance, builds; and nothing else."""

import math
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_acceptance, load_dataset, load_model, load_published
from dflash_sim.profiles.releases.calibration import (
    Calibration,
    Parameter,
    cell,
    constant_prior,
    load_calibration,
    read_calibration,
)
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.releases.server_levels import FACTORS, Server, together
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.requests.expected import Expectation, calibrated, expected_acceptance
from dflash_sim.simulator.requests.laws import ParametricAcceptance
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.simulator.slopes import Response

ENGINE = load_engine("sglang-0.5.14")
GSM8K: dict[str, Any] = {
    "model": "qwen3-8b",
    "method": "dflash",
    "dataset": "gsm8k",
    "thinking": False,
}
MINE = cell(**GSM8K)
SMALL: dict[str, Any] = {
    "model": "qwen3-8b",
    "tp": 1,
    "isl": 64,
    "osl": 32,
    "num_prompts": 4,
    "runs": 1,
}


def calibration(**found: tuple[Parameter, float]) -> Calibration:
    """A calibration of given means, each known to 10 %."""
    parameters, mean = zip(*found.values(), strict=True)
    return Calibration(
        name="test",
        engine=ENGINE.name,
        parameters=tuple(parameters),
        mean=np.array(mean),
        covariance=np.eye(len(mean)) * 0.01,
        discrepancy=(0.02, 0.01),
    )


TEST = calibration(
    residue=(constant_prior(ENGINE, "cycle_residue"), math.log(4e-4)),
    overlap=(constant_prior(ENGINE, "expert_overlap"), 0.0),
    tied=(Parameter("correlation", "gsm8k", "atanh", 0.0, 0.4), math.atanh(0.5)),
    rejection=(Parameter("rejection", MINE, "linear", 0.0, 0.1), 0.2),
    decay=(Parameter("decay", MINE, "linear", 0.0, 0.05), -0.1),
    time=(Parameter("time", "build=my branch", "log", 0.0, 0.2), math.log(1.5)),
)


# ---- constants ---------------------------------------------------------------------------


def test_fitted_constants_replace_the_sheets_and_say_so() -> None:
    fitted = TEST.applied(ENGINE)
    assert fitted["cycle_residue"] == pytest.approx(4e-4)
    assert fitted["expert_overlap"] == pytest.approx(0.5)
    for name, quantity in fitted.constants.items():
        if name in ("cycle_residue", "expert_overlap"):
            assert quantity.evidence == "fitted"
            assert quantity.unit == ENGINE.constants[name].unit
        else:
            assert quantity == ENGINE.constants[name]
    assert ENGINE["cycle_residue"] != fitted["cycle_residue"]


def test_priors_are_the_sheets_values_and_errors() -> None:
    for name in ENGINE.fit.free:
        prior, quantity = constant_prior(ENGINE, name), ENGINE.constants[name]
        assert prior.value(prior.prior) == pytest.approx(quantity.si)
        # One sigma up is the relative error up, to first order.
        step = 1e-4
        slope = (prior.value(prior.prior + step * prior.sd) / quantity.si - 1) / step
        assert slope == pytest.approx(quantity.rel_err, rel=1e-3)
        low, high = (prior.value(prior.prior + n * prior.sd) for n in (-6, 6))
        assert low > 0
        assert high < 1 or name not in ENGINE.fit.shares


def test_whose_constants_stand() -> None:
    """Asked for none: the sheet's. An engine at hand: its own, whatever was shipped."""
    asked = SMALL | {"acceptance": "fixed:2"}
    none = resolve(Scenario.parse(**asked, calibration="none"))
    assert none.calibration is None
    assert none.engine.constants == ENGINE.constants
    shipped = resolve(Scenario.parse(**asked))
    assert shipped.calibration is load_calibration("shipped", ENGINE)
    assert shipped.calibration is not None
    assert shipped.engine == shipped.calibration.applied(ENGINE)
    own = resolve(Scenario.parse(**asked), engine=ENGINE.with_constants(cycle_residue=1e-3))
    assert own.calibration is None
    assert own.engine["cycle_residue"] == 1e-3
    given_ = resolve(Scenario.parse(**asked), calibration=TEST)
    assert given_.engine["cycle_residue"] == pytest.approx(4e-4)


def test_plain_decoding_rests_on_the_same_constants() -> None:
    scenario = Scenario.parse(**SMALL, acceptance="fixed:2")
    setup = resolve(scenario, calibration=TEST)
    result = predict(scenario, setup=setup, with_interval=False)
    assert result.baseline is not None
    assert result.baseline.setup.calibration is TEST
    assert result.baseline.setup.engine is setup.engine


# ---- builds ------------------------------------------------------------------------------


def test_a_known_level_takes_its_factor() -> None:
    assert TEST.known_levels == {"build=my branch"}
    assert TEST.applied(ENGINE)["time_factor"] == 1
    here, other = (Server((("build", name),)) for name in ("my branch", "another"))
    assert TEST.applied(ENGINE, here)["time_factor"] == pytest.approx(1.5)
    assert TEST.applied(ENGINE, other)["time_factor"] == 1


def test_levels_of_one_factor_go_together() -> None:
    """Shares multiply; times that add to a step add."""
    assert together("time", (1.2, 1.5)) == pytest.approx(1.8)
    assert together("kernel", (1.0, 1.0)) == 1
    five = math.exp(math.asinh(2.5))
    assert together("kernel", (five, five)) == pytest.approx(math.exp(math.asinh(5.0)))
    assert together("kernel", (five, 1 / five)) == pytest.approx(1)


def test_an_unknown_build_warns_and_is_predicted_as_the_sheets() -> None:
    asked = SMALL | {"acceptance": "fixed:2"}

    def speed(build: str | None) -> tuple[float, bool]:
        scenario = Scenario.parse(**asked, build=build)
        setup = resolve(scenario, calibration=TEST)
        result = predict(scenario, setup=setup, with_baseline=False, with_interval=False)
        warned = any(w.startswith("unconfirmed") and str(build) in w for w in result.warnings)
        return result.values["mean_tpot_ms"], warned

    as_is, warned = speed(None)
    assert not warned
    assert speed(ENGINE.fit.build) == (as_is, False)
    assert speed("another") == (as_is, True)
    slower, warned = speed("my branch")
    assert slower == pytest.approx(1.5 * as_is)
    assert not warned


# ---- acceptance --------------------------------------------------------------------------


def published() -> Expectation:
    return expected_acceptance(**GSM8K, law="dflash", block=16)


def law_of(expectation: Expectation) -> ParametricAcceptance:
    assert isinstance(expectation.acceptance, ParametricAcceptance)
    return expectation.acceptance


def test_a_cell_is_refined_by_its_own_parameters() -> None:
    refined = calibrated(published(), TEST, **GSM8K, given=False)
    tied = TEST["correlation:gsm8k"]
    by_hand = published().adjusted(rejection=0.2, decay=-0.1, correlation=tied)
    assert refined.acceptance == by_hand.acceptance
    assert refined.source.startswith(published().source)
    assert "refined by a fit to throughput" in refined.source


def test_a_given_accept_length_is_kept() -> None:
    """What is known about lengths holds for it all the same."""
    given_ = expected_acceptance(**GSM8K, law="dflash", block=16, text="al:5")
    kept = calibrated(given_, TEST, **GSM8K, given=True)
    assert kept.source == given_.source
    assert law_of(kept).params == law_of(given_).params
    assert law_of(kept).length_correlation == pytest.approx(0.5)
    assert kept.acceptance.survival().mean_accept_length == pytest.approx(5, rel=1e-3)


@pytest.mark.parametrize("other", [{"dataset": "math500"}, {"thinking": True}, {"method": "mtp"}])
def test_other_cells_are_left_alone(other: dict[str, Any]) -> None:
    about = GSM8K | other
    found = calibrated(published(), TEST, **about, given=False)
    assert law_of(found).params == law_of(published()).params
    tied = "dataset" not in other
    assert law_of(found).length_correlation == pytest.approx(0.5 if tied else 0.0)


def test_without_a_calibration_nothing_is_refined() -> None:
    found = published()
    assert calibrated(found, None, **GSM8K, given=False) is found


def test_a_prediction_uses_the_refined_acceptance() -> None:
    scenario = Scenario.parse(
        model="qwen3-8b", tp=1, block=16, dataset="gsm8k", thinking=False, num_prompts=8, runs=1
    )
    lengths = []
    for fit in (TEST, replace(TEST, parameters=TEST.parameters[:2], mean=TEST.mean[:2])):
        setup = resolve(scenario, calibration=fit)
        result = predict(scenario, setup=setup, with_baseline=False, with_interval=False)
        assert result.expectation is not None
        lengths.append(result.expectation.acceptance.survival().mean_accept_length)
    assert lengths[0] < 0.95 * lengths[1]


# ---- what is shipped ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> Calibration:
    found = load_calibration("shipped", ENGINE)
    assert found is not None
    return found


def test_what_is_shipped_is_about_what_there_is(shipped: Calibration) -> None:
    assert shipped.engine == ENGINE.name
    assert len({p.name for p in shipped.parameters}) == len(shipped.parameters)
    constants = {p.key for p in shipped.parameters if p.kind == "constant"}
    assert constants <= set(ENGINE.fit.free)
    assert {p.key for p in shipped.parameters if p.kind in ("rejection", "decay")}
    known = {(a.model, a.method) for a in load_acceptance()}
    for p in shipped.parameters:
        if p.kind == "correlation":
            assert load_dataset(p.key).name == p.key
        elif p.kind in ("rejection", "decay"):
            model, method, dataset, mode = p.key.split("/")
            assert load_model(model).name == model
            assert load_dataset(dataset).name == dataset
            assert mode in ("thinking", "plain")
            assert method in {m for _, m in known}
    assert set(shipped.about["sources"]) <= {p.source_id for p in load_published()}
    assert len(shipped.rows) > 100


def test_what_is_shipped_is_a_posterior(shipped: Calibration) -> None:
    """Within its priors, narrower than they are but for builds of few rows, and a covariance."""
    prior = np.array([p.prior for p in shipped.parameters])
    sd = np.array([p.sd for p in shipped.parameters])
    assert (np.abs(shipped.mean - prior) <= 4 * sd).all()
    assert (shipped.sd > 0).all()
    shared = np.array([p.kind not in FACTORS for p in shipped.parameters])
    assert (shipped.sd <= sd * 1.001)[shared].all()
    np.testing.assert_allclose(shipped.covariance, shipped.covariance.T)
    assert np.linalg.eigvalsh(shipped.covariance).min() > -1e-12
    assert 0 < shipped.discrepancy[0] < 0.2
    assert all(math.isfinite(v) for v in shipped.values.values())
    assert all(0 < shipped[f"constant:{n}"] < 1 for n in ENGINE.fit.shares)


def test_its_constants_are_what_its_prior_was(shipped: Calibration) -> None:
    """The fit started from the sheet that is shipped with it, not from an older one."""
    for p in shipped.parameters:
        if p.kind == "constant":
            now = constant_prior(ENGINE, p.key)
            assert p.scale == now.scale
            assert [p.prior, p.sd] == pytest.approx([now.prior, now.sd], abs=1e-6)


def test_a_fitted_row_is_named_as_such(shipped: Calibration) -> None:
    """A published point that the calibration saw proves nothing, and the result says so."""
    asked = {"block": 16, "conc": 1, "num_prompts": 2, "runs": 1}
    fitted = []
    for name in ("shipped", "none"):
        scenario = Scenario.parse(**asked, calibration=name)
        result = predict(scenario, with_baseline=False, with_interval=False)
        assert result.published is not None
        fitted.append(result.published_fitted)
    assert shipped.name in " ".join(fitted[0])
    assert fitted[1] == ()


def test_a_response_starts_where_the_prediction_is() -> None:
    """The calibration's own values, given to the response, are the prediction."""
    scenario = Scenario.parse(
        model="qwen3-8b", tp=1, block=16, dataset="gsm8k", thinking=False, num_prompts=8, runs=2,
        build="my branch",
    )  # fmt: skip
    setup = resolve(scenario, calibration=TEST)
    result = predict(scenario, setup=setup, with_baseline=False, with_interval=False)
    own = {n: v for n, v in TEST.values.items() if not n.startswith("time:")}  # in the sheet
    found = Response(setup, waves=2).answer(own, runs=1)
    assert math.exp(found[0]) == pytest.approx(result.per_run[0]["output_throughput"])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (r"^mean = .*$", "mean = nan", r"mean is nan; it must be from -30 to 30"),
        (r"^mean = .*$", "mean = 1e9", r"mean is 1000000000\.0; it must be from"),
        (r"^sd = .*$", "sd = -5", r"sd is -5; it must be from 0 to 30"),
        (r"^sd = .*$", "sd = true", r"sd is True; it must be from 0 to 30"),
        (r"^prior = \[.*$", "prior = [nan, 1]", r"prior mean is nan; it must be from"),
        (r"^prior = \[.*$", "prior = [0, 0]", r"prior sd is 0; it must be from"),
        (r"^discrepancy = .*$", "discrepancy = [0.1, -1]", r"discrepancy is -1; it must be from"),
        (r"^correlation = \[$", "correlation = [[2]]\nx = [", r"a value is 2; it must be from"),
        (r"^name = .*$", "name = 3", r"name is 3; it must be a text"),
        (r"^key = .*$", "key = 3", r"key 3; it must be a text"),
        (r"^value = .*$", "value = 3.0", r"value 3\.0 is not that of mean .*; change both"),
        (r"^kind = .*$", "", "it lacks 'kind'"),
    ],
)
def test_a_number_that_no_fit_writes_is_refused(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    shipped = Path(str(files("dflash_sim.profiles"))) / "calibrations" / "sglang-0.5.14.toml"
    text = shipped.read_text(encoding="utf-8")
    mine = tmp_path / "mine.toml"
    mine.write_text(re.sub(old, new, text, count=1, flags=re.MULTILINE), encoding="utf-8")
    with pytest.raises(UsageError, match=says):
        read_calibration(mine)
    mine.write_text(text, encoding="utf-8")
    assert read_calibration(mine).parameters


def test_levels_of_a_server_are_multiplied_in_one_order() -> None:
    """Products in another order differ in the last digit, and a seed gives the same bytes."""
    levels = (("gpu", "h200"), ("backend", "fa3"), ("release", "sglang-0.5.9"))
    assert Server(levels).keys == Server(levels[::-1]).keys
    assert Server(levels).keys == ("backend=fa3", "gpu=h200", "release=sglang-0.5.9")


@pytest.mark.parametrize("written", [r"\g<1>0.\2_\3],", r"\1\2.\3e-3],", r"\g<1>0.\2\3], # of"])
def test_correlations_are_read_however_they_are_written(tmp_path: Path, written: str) -> None:
    """As a fit writes them they are JSON; a hand may write what only TOML knows."""
    shipped = Path(str(files("dflash_sim.profiles"))) / "calibrations" / "sglang-0.5.14.toml"
    mine, text = tmp_path / "mine.toml", shipped.read_text(encoding="utf-8")
    changed, times = re.subn(r"(-?)0\.([1-9]\d\d)(\d{3})\],", written, text, count=1)
    assert times == 1
    mine.write_text(changed, encoding="utf-8")
    found, kept = read_calibration(mine).covariance, read_calibration(shipped).covariance
    assert found == pytest.approx(kept, rel=1e-12)
    assert found[1, 0] < 0 < found[2, 0]
