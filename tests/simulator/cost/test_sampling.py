"""Sampling kernels: nothing where greedy, and what they cost grows with rows and vocabulary."""

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.units import GIGA, MS
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.cost.sampling import Sampling, extra_bytes, sampled_rows, sampled_tokens
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

WARM = Sampling(1.0)
EVERY = [WARM, Sampling(0.6, 0.95), Sampling(1.0, 0.95, 20), Sampling(1.0, 1.0, 20)]
CARD = {"model": "qwen3.5-27b", "gpu": "b200", "block": 16, "conc": 32, "acceptance": "al:4"}


def setup(**fields: object) -> Setup:
    return resolve(Scenario.parse(**CARD | fields))


def added_s(requests: int, **fields: object) -> float:
    """Seconds of the kernels that sampling adds to a cycle."""
    made = setup(**fields)
    return made.step.cost.calls(made.step.cycle.sampled(requests)).seconds


def nbytes(s: Sampling, *, vocab: int = 248_320, requests: int = 32, rows: int = 16) -> float:
    calls = sampled_rows(s, vocab=vocab, requests=requests, rows=rows, proposals="greedy")
    return sum(call.count * call.op.nbytes for call in calls)


# ---- laws ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dflash", "none"])
def test_a_greedy_server_is_priced_as_if_nothing_could_be_sampled(method: str) -> None:
    """Thresholds alone change nothing: to the bit, the host's time included."""
    own = {"method": method} | ({"block": None, "acceptance": None} if method == "none" else {})
    bare, limited = setup(**own), setup(**own, top_p=0.9, top_k=20)
    assert bare.step.table(32).total.tolist() == limited.step.table(32).total.tolist()
    assert bare.host == limited.host
    assert not bare.step.cycle.sampled(32)
    assert any("give --temperature" in warning for warning in limited.warnings)


@pytest.mark.parametrize("method", ["dflash", "none"])
def test_the_likeliest_token_alone_is_greedy(method: str) -> None:
    """``top_k`` 1 is temperature 0, to the bit: kernels, the host's time and memory."""
    own = {"method": method} | ({"block": None, "acceptance": None} if method == "none" else {})
    greedy, one = setup(**own), setup(**own, temperature=0.7, top_k=1, top_p=0.9)
    assert greedy.step.table(32).total.tolist() == one.step.table(32).total.tolist()
    assert greedy.host == one.host
    assert any("predicted as greedy" in warning for warning in one.warnings)
    two = setup(**own, temperature=0.7, top_k=2)
    assert two.step.table(32).total.tolist() != greedy.step.table(32).total.tolist()


@pytest.mark.parametrize("s", EVERY, ids=str)
def test_more_rows_and_a_larger_vocabulary_cost_more(s: Sampling) -> None:
    assert nbytes(s) > nbytes(s, rows=8) > nbytes(s, rows=2) > 0
    assert nbytes(s) > nbytes(s, requests=8)
    assert nbytes(s) > nbytes(s, vocab=151_936)
    few, many = (
        sum(c.op.nbytes for c in sampled_tokens(s, vocab=v, requests=8)) for v in (1000, 2000)
    )
    assert many == 2 * few


def test_thresholds_cost_more_than_none() -> None:
    plain, nucleus, chosen = (nbytes(Sampling(1.0, *x)) for x in ((), (0.9,), (0.9, 20)))
    assert plain < chosen < nucleus
    assert nbytes(Sampling(1.0, 1.0, 248_320)) == plain, "a top-k of everything is none"


def test_passes_over_the_logits_are_those_of_the_source() -> None:
    """About seven matrices at a temperature alone, and fourteen with a top-p."""
    matrix = 32 * 16 * 248_320 * 4
    assert nbytes(WARM) / matrix == pytest.approx(7, abs=1)
    assert nbytes(Sampling(1.0, 0.95)) / matrix == pytest.approx(14, abs=1)


def test_a_cycle_on_b200_takes_what_the_passes_take() -> None:
    """1.2 ms for 32 requests and 16 rows with a top-p, 0.6 ms without; little for one request."""
    assert added_s(32, temperature=1.0, top_p=0.95) / MS == pytest.approx(1.2, rel=0.15)
    assert added_s(32, temperature=1.0) / MS == pytest.approx(0.6, rel=0.25)
    assert added_s(1, temperature=1.0) / MS < 0.15


def test_a_kernel_of_few_blocks_has_their_share_of_the_memory() -> None:
    """A search has one block a row: up to as many rows as SMs it takes as long as for one."""
    made = setup(model="qwen3.8-27b", gpu="h200", block=8)
    sms = made.device.sm_count

    def seconds(rows: int) -> float:
        calls = sampled_rows(
            Sampling(1.0, 0.95), vocab=248_320, requests=rows, rows=1, proposals="greedy"
        )
        (search,) = [c for c in calls if c.op.name == "sampling_top_p"]
        return made.step.cost.calls([search]).seconds

    assert seconds(8) == pytest.approx(seconds(1), rel=1e-9)
    assert seconds(sms) == pytest.approx(seconds(1), rel=1e-9)
    assert seconds(4 * sms) == pytest.approx(4 * seconds(sms), rel=0.02)


def test_chains_search_a_top_k_where_blocks_find_it() -> None:
    """``eagle_sample`` renormalises whole rows; ``build_dflash_verify_target_probs`` does not."""
    how = {"vocab": 248_320, "requests": 8, "rows": 8, "proposals": "greedy"}
    chain, block = (
        {c.op.name for c in sampled_rows(Sampling(1.0, 0.95, 20), **how, chain=chain)}  # type: ignore[arg-type]
        for chain in (True, False)
    )
    assert {"sampling_top_k_renorm", "sampling_top_p"} <= chain
    assert not {"sampling_top_k", "sampling_clear"} & chain
    assert "sampling_top_k" in block
    assert not {"sampling_top_k_renorm", "sampling_top_p"} & block
    sizes = {"vocab": 248_320, "requests": 8, "rows": 8}
    cut = Sampling(1.0, 1.0, 20)
    assert extra_bytes(cut, **sizes, chain=True) > extra_bytes(cut, **sizes)


def test_memory_of_a_full_batch() -> None:
    asked = {"vocab": 248_320, "requests": 32, "rows": 16}
    assert not extra_bytes(Sampling(), **asked)
    assert 1.5 <= extra_bytes(WARM, **asked) / GIGA <= 2.5
    assert 1.5 <= extra_bytes(Sampling(1.0, 0.95), **asked) / GIGA <= 2.5


def test_ranks_gather_all_logits_to_sample() -> None:
    """A release that hands on maxima alone has nothing to draw from."""
    found = []
    for degrees in (0.0, 1.0):
        phases = setup(tp=2, engine="0.5.23", temperature=degrees).step.cycle.decode(
            requests=8, ctx=0
        )
        sizes = [c.op.nbytes for p in phases for c in p.calls if c.op.name == "logits_all_gather"]
        found.append(sizes)
    assert found[1][0] > 100 * found[0][0]


# ---- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": -1}, "--temperature -1"),
        ({"top_p": 0}, "--top-p 0"),
        ({"top_p": 1.5}, "--top-p 1.5"),
        ({"top_p": float("nan")}, "--top-p nan"),
        ({"top_k": 0}, "--top-k 0"),
        ({"top_k": 2.5}, "--top-k 2.5"),
        *(
            ({"temperature": 1, "method": m.name}, f"method {m.name} verifies greedily alone")
            for m in METHODS.values()
            if not m.samples
        ),
    ],
)
def test_what_cannot_be_sampled_is_one_line(fields: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as told:
        Scenario.parse(**fields)
    assert said in str(told.value)
    assert "\n" not in str(told.value)
