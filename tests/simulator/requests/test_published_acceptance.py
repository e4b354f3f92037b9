"""Published accept lengths and per-position tables against the model of acceptance."""

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from closed_forms import hazards

import dflash_sim
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.simulator.requests.survival import (
    Floats,
    Survival,
    fit_many,
    fit_one,
    fit_two,
)

DATA = Path(__file__).parents[2] / "data"
PROFILES = Path(dflash_sim.__file__).parent / "profiles" / "acceptance"
BETA_SOURCES = {
    "HF_Q36_35B_retrain",
    "HF_Q36_35B_orig",
    "HF_Q35_4B_retrain",
    "HF_Q35_27B_orig",
    "AMD_ROCM_MI355X",
}
PRIORS = load_acceptance_priors()


def published_lengths(method: str, sources: set[str]) -> list[dict[int, float]]:
    """Accept length by block, one dictionary per drafter, dataset and setting."""
    curves: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    same = ("source_id", "model", "drafter", "dataset", "thinking", "temperature")
    for row in table(PROFILES / "accept_length.csv"):
        if row["method"] == method and row["source_id"] in sources:
            curve = curves[tuple(row[name] for name in same)]
            curve[int(row["block"])] = float(row["accept_len"])
    return list(curves.values())


def dflash_cells() -> list[dict[int, float]]:
    """The pairs behind the prior on beta of DFlash."""
    cells = published_lengths("dflash", BETA_SOURCES)
    return [cell for cell in cells if {8, 16} <= cell.keys()]


def published_positions(source: str) -> dict[tuple[str, str, str, int], Floats]:
    """Survival by (method, dataset, thinking, block)."""
    cells: dict[tuple[str, str, str, int], list[float]] = defaultdict(list)
    for row in table(PROFILES / "positions.csv"):
        if row["source_id"] == source:
            key = (row["method"], row["dataset"], row["thinking"], int(row["block"]))
            cells[key].append(float(row["survival"]))
    return {key: np.array(s) for key, s in cells.items()}


def beside_positions(source: str) -> list[tuple[Floats, float]]:
    """Survival and the accept length printed with it."""
    positions = {key[:2]: s for key, s in published_positions(source).items()}
    rows = table(DATA / "accept_length_beside_positions.csv")
    return [
        (positions[row["method"], row["dataset"]], float(row["accept_len"]))
        for row in rows
        if row["source_id"] == source
    ]


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def rms(x: list[float]) -> float:
    return math.sqrt(np.mean(np.square(x)))


def test_weibull_from_blocks_8_and_16_predicts_block_4() -> None:
    cells = [c for c in dflash_cells() if 4 in c]
    weibull = [fit_two(c[8], 8, c[16], 16).accept_length(4) / c[4] - 1 for c in cells]
    geometric = [fit_one(c[8], 8, beta=1.0).accept_length(4) / c[4] - 1 for c in cells]
    assert len(cells) == 20
    assert rms(weibull) < 0.025
    assert rms(geometric) > 0.028


def test_geometric_from_block_8_overshoots_block_16() -> None:
    excess = [fit_one(c[8], 8, beta=1.0).accept_length(16) / c[16] - 1 for c in dflash_cells()]
    assert np.mean(excess) > 0.05


def test_prior_on_beta_is_the_spread_of_published_pairs() -> None:
    betas = [fit_two(c[8], 8, c[16], 16).beta for c in dflash_cells()]
    prior = PRIORS.beta["dflash"]
    assert len(betas) == 31
    assert (np.mean(betas), np.std(betas, ddof=1)) == pytest.approx(
        (prior.mean, prior.sd), abs=0.01
    )


def test_golden_mtp_curve_gives_its_prior() -> None:
    curve = max(golden_mtp(), key=lambda c: c[9])  # thinking on
    fit = fit_many([(b, al, 0.03) for b, al in curve.items()], beta_prior=(1.0, 100.0))
    assert fit.params.beta == pytest.approx(PRIORS.beta["mtp"].mean, abs=0.03)
    assert max(abs(fit.params.accept_length(b) - al) for b, al in curve.items()) < 0.05


def test_golden_accept_lengths_difference_to_a_survival_within_noise() -> None:
    for curve in golden_mtp():
        raw = np.diff([1.0, *(curve[b] for b in sorted(curve))])
        assert np.all((raw >= -0.05) & (raw <= 1))
        assert np.abs(Survival.from_accept_lengths(curve).s - raw).max() < 0.05


def golden_mtp() -> list[dict[int, float]]:
    """Qwen3.5-397B-A17B, thinking on and off, k = 1..8."""
    curves = published_lengths("mtp", {"INFERENCEX_GOLDEN_AL"})
    return [c for c in curves if c[2] in (1.93, 1.92) and c[9] in (5.21, 4.71)]


def test_full_block_share_of_the_paper() -> None:
    """The DFlash paper (arXiv 2602.06036): 35.7 % full blocks at accept length 5.21, block 8."""
    prior = PRIORS.beta["dflash"]
    weibull = fit_one(5.21, 8, beta=prior.mean).survival(7).s[-1]
    geometric = fit_one(5.21, 8, beta=1.0).survival(7).s[-1]
    assert weibull == pytest.approx(0.357, abs=0.015)
    assert geometric != pytest.approx(0.357, abs=0.015)


def test_vllm_per_position_acceptance_is_survival() -> None:
    cells = beside_positions("RH_GEMMA4_DFLASH")
    assert len(cells) == 9
    for rates, accept_length in cells:
        assert Survival.table(rates).mean_accept_length == pytest.approx(accept_length, abs=0.01)
        assert 1 + np.cumprod(rates).sum() < accept_length - 0.3


def test_conditionals_of_the_dspark_figure_multiply_to_its_accept_lengths() -> None:
    cells = beside_positions("DEEPSPEC")
    assert len(cells) == 6
    for product, accept_length in cells:
        survival = Survival.table(product)
        assert survival.mean_accept_length == pytest.approx(accept_length, rel=0.01)
        assert 1 + hazards(survival.s).sum() > accept_length * 1.05


def test_a_measured_block_8_beats_block_16_cut_to_8() -> None:
    """That a block only truncates is an approximation: more masks cost a drafter accuracy.

    Qwen3.5-4B on a GH200, per-position counts at both blocks. The two-parameter family takes this
    up in beta: accept lengths are right at the blocks fitted, early ``S`` at 16 too high.
    """
    cells = published_positions("VP_GH200_PANEL")
    pairs = [
        (s, cells[method, dataset, thinking, 8])
        for (method, dataset, thinking, block), s in cells.items()
        if block == 16 and (method, dataset, thinking, 8) in cells
    ]
    gain = [(1 + eight.sum()) / (1 + sixteen[:7].sum()) - 1 for sixteen, eight in pairs]
    assert len(pairs) == 5
    assert min(gain) > 0.04
    assert max(gain) < 0.12
    for sixteen, eight in pairs:
        fit = fit_two(1 + eight.sum(), 8, 1 + sixteen.sum(), 16)
        assert 0.03 < (fit.survival(15).s - sixteen).max() < 0.15
