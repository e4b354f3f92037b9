"""Which experts a batch touches: popularity, what one text repeats, and the price of it."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.profiles.load import load_device, load_model
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.times.op_tables import OpTables
from dflash_sim.simulator.cost import passes as graph
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.ops import Moe, experts_touched
from dflash_sim.simulator.cost.price import CostModel

ENGINE = load_engine("sglang-0.5.14")
EXPERTS, TOP_K = 512, 10  # Qwen3.5-397B
skews = st.floats(0.0, 2.0)


def touched(tokens: float, skew: float) -> float:
    return experts_touched(EXPERTS, TOP_K, tokens=tokens, skew=skew)


@cache
def cost_model(gpu: str, *, measured: bool = True, **constants: float) -> CostModel:
    tables = OpTables.load(gpu) if measured else None
    return CostModel(load_device(gpu), ENGINE.with_constants(**constants), tables)


def routed(tokens: int, *, rows: int = 1) -> Moe:
    """The routed experts of one layer of the 397B model at TP 8."""
    return Moe("e", tokens, EXPERTS, TOP_K, 4096, 1024, 8, rows=rows)


# ---- coverage ----------------------------------------------------------------------------


@given(
    experts=st.integers(2, 1024),
    top_k=st.integers(1, 16),
    tokens=st.integers(1, 10_000),
)
def test_uniform_popularity_is_exact(experts: int, top_k: int, tokens: int) -> None:
    """``E(1 - (1 - k/E)^T)``, for a choice without replacement."""
    k = min(top_k, experts)
    expected = experts * (1 - (1 - k / experts) ** tokens)
    assert experts_touched(experts, k, tokens=tokens, skew=0.0) == pytest.approx(expected, rel=1e-9)
    assert Moe("m", tokens, experts, k, 64, 64, 1).uniformly_touched == pytest.approx(expected)


@pytest.mark.parametrize(
    ("skew", "at_32", "at_128"), [(0.5, 226.5, 440.8), (1.0, 191.7, 370.7), (1.5, 149.3, 288.6)]
)
def test_coverage_by_log_normal_popularity(skew: float, at_32: float, at_128: float) -> None:
    """512 experts, top 10, means over simulated routings. Band: 2 %."""
    assert touched(32, skew) == pytest.approx(at_32, rel=0.02)
    assert touched(128, skew) == pytest.approx(at_128, rel=0.02)


def drawn(tokens: int, skew: float, *, times: int = 60) -> tuple[float, float]:
    """``(mean, standard error)`` of distinct experts; tokens draw ten without replacement."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(times):
        log_popularity = skew * rng.standard_normal(EXPERTS)
        scores = log_popularity + rng.gumbel(size=(tokens, EXPERTS))
        found.append(np.unique(np.argpartition(-scores, TOP_K, axis=1)[:, :TOP_K]).size)
    return float(np.mean(found)), float(np.std(found) / times**0.5)


@pytest.mark.parametrize(("skew", "band"), [(0.0, 0.0), (0.5, 0.01), (1.0, 0.02), (1.5, 0.05)])
@pytest.mark.parametrize("tokens", [4, 32, 128])
def test_coverage_against_drawn_routing(tokens: int, skew: float, band: float) -> None:
    """Tokens choose ten experts each, by popularity; more is touched than ten draws would."""
    mean, error = drawn(tokens, skew)
    assert abs(touched(tokens, skew) - mean) < band * mean + 4 * error


def test_uniform_routing_is_not_what_skewed_routing_draws() -> None:
    """Control: the band above is not so wide that it would not tell."""
    mean, error = drawn(32, 1.0)
    assert touched(32, 0.0) > 1.15 * mean + 4 * error


@given(tokens=st.floats(1, 1e5), skew=skews)
def test_coverage_against_a_fine_sum(tokens: float, skew: float) -> None:
    """24 nodes stand for a log-normal popularity to 1 %."""
    z = np.linspace(-9, 9, 20_001)
    density = np.exp(-(z**2) / 2)
    chosen = np.minimum(np.exp(skew * z - skew**2 / 2) * TOP_K / EXPERTS, 1)
    mean = (density * (1 - (1 - chosen) ** tokens)).sum() / density.sum()
    assert touched(tokens, skew) == pytest.approx(max(EXPERTS * mean, TOP_K), rel=0.01)


@given(
    experts=st.integers(2, 600),
    top_k=st.integers(1, 12),
    tokens=st.floats(1, 1e5),
    more=st.floats(0, 1e4),
    skew=skews,
)
def test_coverage_grows_with_tokens(
    experts: int, top_k: int, tokens: float, more: float, skew: float
) -> None:
    k = min(top_k, experts)
    few, many = (experts_touched(experts, k, tokens=t, skew=skew) for t in (tokens, tokens + more))
    assert few <= many * (1 + 1e-12)
    assert k <= few
    assert many <= experts * (1 + 1e-12)
    assert few <= max(k, tokens * k) * (1 + 1e-3)


@given(tokens=st.floats(1, 1e5), skew=skews, more=st.floats(0.01, 1.0))
def test_coverage_falls_with_skew(tokens: float, skew: float, more: float) -> None:
    """A few nodes bend at the most popular experts: 0.1 % of slack."""
    assert touched(tokens, skew + more) <= touched(tokens, skew) * 1.001


# ---- rows of one text --------------------------------------------------------------------


@given(requests=st.integers(1, 256), rows=st.integers(1, 32), overlap=st.floats(0, 1))
def test_a_text_counts_between_one_token_and_all_its_rows(
    requests: int, rows: int, overlap: float
) -> None:
    op = routed(requests * rows, rows=rows)
    assert op.independent(0.0) == pytest.approx(requests * rows)
    assert op.independent(1.0) == pytest.approx(requests)
    mix = overlap * op.independent(1.0) + (1 - overlap) * op.independent(0.0)
    assert op.independent(overlap) == pytest.approx(mix)
    assert routed(requests).independent(overlap) == requests  # one row each: nothing to share


@pytest.mark.parametrize("measured", [True, False])
def test_overlap_ends_are_unrelated_tokens_and_one_row_per_request(measured: bool) -> None:
    """48 tokens keep no expert busy twice, so that only what is read is priced in the tables."""
    none, whole = (cost_model("b200", measured=measured, expert_overlap=x) for x in (0.0, 1.0))
    texts, unrelated, three = routed(48, rows=16), routed(48), routed(3)
    assert none.op(texts).seconds == none.op(unrelated).seconds
    assert whole.op(unrelated).seconds == none.op(unrelated).seconds
    if measured:
        assert whole.op(texts).seconds == pytest.approx(none.op(three).seconds, rel=1e-12)
    assert none.op(three).seconds <= whole.op(texts).seconds < none.op(texts).seconds


def test_passes_say_whose_rows_they_are() -> None:
    big = load_model("qwen3.5-397b-a17b")
    for size in (Rows(4, 16, 10.0), Rows(64, 1, 10.0), Rows(2, 500, prefill=True)):
        calls = graph.target_forward(big, tp=8, size=size)
        (op,) = {c.op for c in calls if isinstance(c.op, Moe)}
        assert (op.tokens, op.rows) == (size.tokens, size.rows)


# ---- prices ------------------------------------------------------------------------------

LAYERS = {
    "397B": {"experts": 512, "top_k": 10, "hidden": 4096, "inter": 1024, "tp": 8},
    "35B": {"experts": 256, "top_k": 8, "hidden": 2048, "inter": 512, "tp": 1},
    "gpt-oss-20b": {"experts": 32, "top_k": 4, "hidden": 2880, "inter": 2880, "tp": 1},
}


@pytest.mark.parametrize("rows", [1, 8, 16])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("gpu", ["b200", "h200", "mi300x"])
def test_more_tokens_are_not_cheaper(gpu: str, layer: str, rows: int) -> None:
    """Measured tables are given 2 % of noise; a roofline has none."""
    cm = cost_model(gpu)
    tokens = [rows * n for n in (*range(1, 65), 80, 96, 128, 192, 256, 512)]
    times = [cm.op(Moe("m", tokens=t, rows=rows, **LAYERS[layer])).seconds for t in tokens]
    dearest = np.maximum.accumulate(times)
    assert (np.array(times) >= (0.98 if cm.tables else 1.0) * dearest).all()
    assert times[-1] > times[0]


@pytest.mark.parametrize("gpu", ["b200", "mi300x"])
def test_popular_experts_and_shared_ones_are_cheaper(gpu: str) -> None:
    """With tables and without."""
    op = routed(128, rows=16)
    by_skew = [cost_model(gpu, expert_skew=x).op(op).seconds for x in (0.0, 0.5, 1.0, 1.5)]
    by_overlap = [cost_model(gpu, expert_overlap=x).op(op).seconds for x in (0.0, 0.5, 1.0)]
    for times in (by_skew, by_overlap):
        assert times == sorted(times, reverse=True)
        assert times[-1] < 0.9 * times[0]
