"""The laws of acceptance, fitted again to the tables that they are of."""

import csv
import math
from collections import defaultdict

import numpy as np
import pytest
from acceptance_laws import (
    CARDS,
    FOLDER,
    KINDS,
    Row,
    context_slopes,
    fit_content,
    rows,
    temperature_pairs,
    thinking_pairs,
)

from dflash_sim.profiles.acceptance.conditions import load_conditions
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.requests.survival import FrailtyWeibull

LAWS = load_conditions()
ROWS = rows()
PAIRS = [(r, d) for r, d in temperature_pairs(ROWS) if r.method == "dflash"]
Z90 = 1.645


def test_elsewhere_is_a_table_of_sources_with_an_address() -> None:
    with (FOLDER.parent / "published" / "sources.csv").open(encoding="utf-8", newline="") as f:
        known = {r["source_id"]: r["url"] for r in csv.DictReader(f)}
    with (FOLDER / "elsewhere.csv").open(encoding="utf-8", newline="") as f:
        found = list(csv.DictReader(f))
    assert len(found) > 150
    for r in found:
        assert known[r["source_id"]].startswith("https://")
        assert 1 <= float(r["accept_len"]) <= int(r["block"]), r


# ---- content ------------------------------------------------------------------------------


def test_content_is_what_an_additive_model_finds() -> None:
    fit = fit_content(ROWS)
    assert math.fsum(fit.effects[d] for d in CARDS) == pytest.approx(0, abs=1e-6)
    for name, effect in fit.effects.items():
        if name not in KINDS:
            assert LAWS.content[name].effect == pytest.approx(effect, abs=0.01), name
            assert LAWS.content[name].drafters == fit.drafters(name)


def test_every_kind_has_a_law_and_every_data_set_a_kind() -> None:
    for kind, names in KINDS.items():
        assert LAWS.content[kind].kind == kind
        assert any(n in LAWS.content for n in names) or kind in LAWS.content
    assert {law.kind for law in LAWS.content.values()} == set(KINDS)


@pytest.mark.slow
def test_effects_of_content_left_out_drafter_by_drafter() -> None:
    """A drafter's other data sets predict each of its data sets, by effects of all others."""
    errors, covered = [], []
    whole = fit_content(ROWS)
    for whose in sorted({w[:2] for w, _, _ in whole.cells}):
        rest = fit_content([r for r in ROWS if r.whose != whose])
        mine: dict[tuple[object, ...], dict[str, float]] = defaultdict(dict)
        for w, dataset, left in whole.cells:
            if w[:2] == whose:
                mine[w][dataset] = whole.levels[w] + whole.effects[dataset] + left
        for values in mine.values():
            for dataset, value in values.items():
                others = [values[d] - rest.effects[d] for d in values if d != dataset
                          and d in rest.effects]  # fmt: skip
                if not others or dataset not in rest.effects:
                    continue
                own = np.sqrt(np.mean([LAWS.content[d].sd ** 2 for d in values if d in
                                       LAWS.content])) / math.sqrt(len(others))  # fmt: skip
                error = np.mean(others) + rest.effects[dataset] - value
                sd = math.hypot(LAWS.content[dataset].sd, own)
                errors.append(error)
                covered.append(abs(error) < Z90 * sd)
    assert len(errors) > 150
    assert np.sqrt(np.mean(np.square(errors))) < 0.33
    assert abs(np.mean(errors)) < 0.05
    assert 0.85 < np.mean(covered) <= 1


# ---- temperature --------------------------------------------------------------------------


def test_temperature_is_the_mean_of_published_pairs() -> None:
    rises = [d for _, d in PAIRS]
    assert len(rises) == 30
    assert LAWS.temperature.mean == pytest.approx(np.mean(rises), abs=0.03)
    assert LAWS.temperature.sd == pytest.approx(np.std(rises, ddof=1), abs=0.02)
    assert min(rises) > 0, "sampling never helped"


def by_dataset(pairs: list[tuple[Row, float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for r, d in pairs:
        found[r.dataset].append(d)
    return found


def test_data_sets_with_four_pairs_have_a_rise_of_their_own() -> None:
    for name, rises in by_dataset(PAIRS).items():
        law = LAWS.content[name]
        own = len(rises) >= 4
        mean = np.mean(rises) if own else LAWS.temperature.mean
        assert law.temperature == pytest.approx(mean, abs=0.01), name


def test_accept_length_at_temperature_left_out_model_by_model() -> None:
    """The rise of a data set on the other model, else the pooled one, foretells a pair."""
    misses, covered = [], []
    for row, rise in PAIRS:
        rest = [(r, d) for r, d in PAIRS if r.model != row.model]
        same = by_dataset(rest).get(row.dataset, [])
        law = LAWS.content[row.dataset]
        mean = np.mean(same) if len(same) >= 2 else np.mean([d for _, d in rest])
        sd = law.temperature_sd if len(same) >= 2 else LAWS.temperature.sd
        lam = math.exp(row.rejection)
        beta = 1.17
        there = [
            FrailtyWeibull(lam * math.exp(x), beta, 0.05).accept_length(row.block)
            for x in (rise, mean, mean - Z90 * sd, mean + Z90 * sd)
        ]
        misses.append(there[1] / there[0] - 1)
        covered.append(there[3] * 0.99 < there[0] < there[2] * 1.01)
    assert np.mean(np.abs(misses)) < 0.06
    assert abs(np.mean(misses)) < 0.02
    assert np.mean(covered) > 0.8


# ---- context, thinking --------------------------------------------------------------------


def test_context_slopes_are_those_of_published_sweeps() -> None:
    def trained(r: Row) -> int:
        return LAWS.of_context(r.method, "full").trained

    slopes = {k: float(np.mean(v)) for k, v in context_slopes(ROWS, trained).items()}
    first = [s for (src, who, _), s in slopes.items() if src == "PAPER_T4" and "tuned" not in who]
    assert len(first) == 3
    assert LAWS.context["dflash"].slope == pytest.approx(np.mean(first), abs=0.02)
    eagle = slopes["SPECULATORS_PR684", "speculators EAGLE-3", "longbench-v2"]
    assert LAWS.context["eagle3"].slope == pytest.approx(eagle, abs=0.02)
    window = [s for (_, who, _), s in slopes.items() if "window" in who or "DFlash2" in who]
    window += [s for (_, who, _), s in slopes.items() if "tuned" in who]
    assert len(window) == 6
    law = LAWS.context["windowed"]
    assert all(abs(s - law.slope) < 2.5 * law.sd for s in window)
    assert law.slope == pytest.approx(np.mean(window), abs=0.03)


def test_a_long_context_left_out_sweep_by_sweep() -> None:
    """Each sweep of a first DFlash lies inside the interval that the other two give."""
    slopes = context_slopes(ROWS, lambda r: 4096)
    own = {k: v for k, v in slopes.items() if k[0] == "PAPER_T4" and "tuned" not in k[1]}
    sd = LAWS.context["dflash"].sd
    for name, each in own.items():
        others = np.mean([x for k, v in own.items() if k != name for x in v])
        assert all(abs(x - others) < Z90 * sd for x in each), name


def test_thinking_is_what_pairs_say() -> None:
    by_model: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for r, d in thinking_pairs(ROWS):
        by_model[r.method, r.model, r.dataset].append(d)
    other = [float(np.mean(v)) for (m, *_), v in by_model.items() if m != "dflash"]
    dflash = [float(np.mean(v)) for (m, *_), v in by_model.items() if m == "dflash"]
    assert (len(other), len(dflash)) == (4, 2)
    law = LAWS.thinking["other"]
    assert (law.mean, law.sd) == pytest.approx((np.mean(other), np.std(other, ddof=1)), abs=0.02)
    assert LAWS.thinking["dflash"].mean == pytest.approx(np.mean(dflash) / 2, abs=0.02)


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True))


def rejections(sharpest: float, noise: float, trust: float) -> dict[str, float]:
    """Log rejection of a first draft at temperature 1 over greedy, by how it is drawn and verified.

    A target of Gumbel logits, from flat to ``sharpest``; its drafter reads them through ``noise``,
    and is as sure of them as ``trust`` times what that noise allows.
    """
    rng = np.random.default_rng(0)
    scale = np.exp(rng.uniform(np.log(2.0), np.log(sharpest), 8000))[:, None]
    logits = rng.gumbel(size=(8000, 150)) * scale
    heard = logits + rng.normal(size=logits.shape) * noise * scale
    p, q = softmax(logits), softmax(trust * heard / (1 + noise**2 * 6 / np.pi**2))
    every, likeliest = np.arange(len(p)), q.argmax(1)
    kept = {
        "greedy": float(np.mean(likeliest == p.argmax(1))),
        "likeliest": float(p[every, likeliest].mean()),
        "drawn": float(np.minimum(p, q).sum(1).mean()),
        "drawn for greedy": float(q[every, p.argmax(1)].mean()),
    }
    level = {name: math.log(-math.log(kept[name])) for name in kept}
    return {name: level[name] - level["greedy"] for name in level}


@pytest.mark.parametrize("sharpest", [20.0, 60.0])
@pytest.mark.parametrize("noise", [0.1, 0.4])
def test_a_calibrated_drafter_gets_back_what_a_temperature_takes(
    sharpest: float, noise: float
) -> None:
    """min(1, p/q) is as greedy drafts of a greedy target, however much the temperature takes.

    The control: the likeliest drafts lose that much, and drafts that are drawn for a greedy target.
    """
    found = rejections(sharpest, noise, trust=1.0)
    assert abs(found["drawn"] - LAWS.drawn["sampled"].mean) < 0.15 < LAWS.drawn["sampled"].sd
    assert found["likeliest"] > found["drawn"] + 0.05
    assert found["drawn for greedy"] == pytest.approx(found["likeliest"], abs=0.1)


def test_a_drafter_that_is_too_sure_or_too_timid_gets_back_less() -> None:
    right, sure, timid = (rejections(20.0, 0.2, trust)["drawn"] for trust in (1.0, 2.0, 0.5))
    assert right < min(sure, timid)


def test_an_unknown_content_is_one_line_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean translation"):
        LAWS.check_content("translations")
    assert LAWS.of_content("my prompts").sd == LAWS.unknown_content.sd
