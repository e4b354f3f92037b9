"""Sampling kernels: nothing where greedy, and what they cost grows with rows and vocabulary."""

from dataclasses import replace
from typing import Any

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_device
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.units import GIGA, MS, US
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.cost.ops import Call, Elementwise
from dflash_sim.simulator.cost.parts import Priced
from dflash_sim.simulator.cost.sampling import Sampling, extra_bytes, sampled_rows, sampled_tokens
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

WARM = Sampling(1.0)
EVERY = [WARM, Sampling(0.6, 0.95), Sampling(1.0, 0.95, 20), Sampling(1.0, 1.0, 20)]
VOCAB = 248_320
ENGINE = load_engine("sglang-0.5.14")
CARD = {"model": "qwen3.5-27b", "gpu": "b200", "block": 16, "conc": 32, "acceptance": "al:4"}


def setup(**fields: object) -> Setup:
    return resolve(Scenario.parse(**CARD | fields))


def added_s(requests: int, **fields: object) -> float:
    """Seconds of the kernels that sampling adds to a cycle."""
    made = setup(**fields)
    return made.step.cost.calls(made.step.cycle.sampled(requests)).seconds


def rows_of(s: Sampling, *, requests: int, rows: int, **how: Any) -> dict[str, Elementwise]:
    """The ops of a verification by name."""
    asked = {"vocab": VOCAB, "proposals": "greedy"} | how
    calls = sampled_rows(s, requests=requests, rows=rows, **asked)
    return {c.op.name: c.op for c in calls if isinstance(c.op, Elementwise)}


def nbytes(s: Sampling, *, vocab: int = VOCAB, requests: int = 32, rows: int = 16) -> float:
    calls = sampled_rows(s, vocab=vocab, requests=requests, rows=rows, proposals="greedy")
    return sum(call.count * call.op.nbytes for call in calls)


def alone_s(op: Elementwise, gpu: str = "h200", **device: Any) -> float:
    """Seconds of a kernel, with the gap that follows it."""
    made = setup(model="qwen3.8-27b", gpu=gpu, block=8)
    cost = replace(made.step.cost, device=replace(made.device, **device), _known=Priced())
    return cost.calls([Call(op, 1)]).seconds


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
    """A search of whole rows above all; a top-k of everything is none."""
    plain, nucleus, chosen = (
        added_s(32, temperature=1.0, **x) for x in ({}, {"top_p": 0.9}, {"top_p": 0.9, "top_k": 20})
    )
    assert plain < nucleus
    assert plain < chosen
    assert nbytes(Sampling(1.0, 1.0, VOCAB)) == nbytes(WARM)


def test_passes_over_the_logits_are_those_of_the_source() -> None:
    """PyTorch: ``div`` 2, ``softmax`` 4 and zeros 1; FlashInfer's softmax has 3 for both."""
    matrix = 32 * 16 * VOCAB * 4
    assert nbytes(WARM) / matrix == pytest.approx(2 + 4 + 1 + 4 / 16, abs=0.01)
    online = {
        c: o.nbytes / matrix
        for c, o in rows_of(WARM, requests=32, rows=16, proposals="selected").items()
    }
    assert online["sampling_softmax"] == pytest.approx(3)
    assert "sampling_scale" not in online
    few = rows_of(WARM, requests=4, rows=16, proposals="selected")
    assert few["sampling_softmax_sum"].blocks is None
    assert few["sampling_softmax"].blocks == 4 * 16


def test_a_cycle_on_b200_takes_what_the_passes_take() -> None:
    """2.6 ms for 32 requests and 16 rows with a top-p, 0.6 ms without; little for one request."""
    assert added_s(32, temperature=1.0, top_p=0.95) / MS == pytest.approx(2.6, rel=0.15)
    assert added_s(32, temperature=1.0) / MS == pytest.approx(0.6, rel=0.25)
    assert added_s(1, temperature=1.0) / MS < 0.3


def test_a_kernel_of_few_blocks_has_their_share_of_the_memory() -> None:
    """A softmax has one block a row: up to as many rows as SMs it takes as long as for one."""
    sms = load_device("h200").sm_count

    def seconds(rows: int) -> float:
        return alone_s(rows_of(WARM, requests=rows, rows=1)["sampling_softmax"])

    assert seconds(8) == pytest.approx(seconds(1), rel=1e-9)
    assert seconds(sms) == pytest.approx(seconds(1), rel=1e-9)
    assert seconds(4 * sms) == pytest.approx(4 * seconds(sms), rel=0.02)


@pytest.mark.parametrize(
    ("op", "kernel"), [("top_k", "top_k_kernels"), ("top_k_renorm", "top_k_renorm_kernel")]
)
def test_a_search_has_a_fixed_time_and_a_rate_of_each_sm(op: str, kernel: str) -> None:
    """``fixed + bytes / (rate x SMs)``: half the SMs take twice as long over the bytes."""
    for sms in (66, 132):
        none, some = (alone_s(Elementwise("", n, op, blocks=8), sm_count=sms) for n in (0.0, 1e6))
        assert none == pytest.approx(ENGINE[kernel], abs=3 * US), "and a gap behind it"
        assert some - none == pytest.approx(1e6 / (ENGINE[f"{op}_rate"] * sms))


def test_a_row_of_a_nucleus_has_a_block_of_its_own_at_the_end() -> None:
    """As many bytes in more rows are sooner done, by the row of each."""
    wide, narrow = (alone_s(Elementwise("", 8e6, "top_p_renorm", blocks=n)) for n in (8, 16))
    assert wide - narrow == pytest.approx((1e6 - 0.5e6) / ENGINE["top_p_renorm_row_rate"])


@pytest.mark.parametrize(
    ("kind", "rows", "vocab", "published_us"),
    [
        ("top_k", 64, 16_384, 102),
        ("top_k", 64, 131_072, 178),
        ("top_k", 256, 262_144, 881),
        ("top_k", 2048, 131_072, 3010),
        ("radix_top_k", 64, 131_072, 45),
        ("radix_top_k", 256, 262_144, 179),
        ("radix_top_k", 2048, 131_072, 703),
        ("top_k_renorm", 32, 128_256, 39),
        ("top_k_renorm", 989, 128_256, 759),
        ("top_p_renorm", 32, 128_256, 136),
        ("top_p_renorm", 256, 163_840, 701),
        ("top_p_renorm", 989, 128_256, 1870),
    ],
)
def test_published_times_of_searches(kind: str, rows: int, vocab: int, published_us: float) -> None:
    """FLASHINFER_PR3009 and SGL_PR38565, on as many SMs as a B200 has."""
    op = Elementwise("search", 4.0 * rows * vocab, kind, blocks=rows)
    assert alone_s(op, sm_count=148) / US == pytest.approx(published_us, rel=0.2)


def test_chains_search_a_top_k_where_blocks_find_it() -> None:
    """``eagle_sample`` renormalises whole rows; ``build_dflash_verify_target_probs`` does not."""
    how = {"vocab": 248_320, "requests": 8, "rows": 8, "proposals": "greedy"}
    chain, block = (
        {c.op.name for c in sampled_rows(Sampling(1.0, 0.95, 20), **how, chain=chain)}  # type: ignore[arg-type]
        for chain in (True, False)
    )
    assert {"sampling_top_k_renorm", "sampling_top_p_renorm"} <= chain
    assert not {"sampling_top_k", "sampling_clear"} & chain
    assert "sampling_top_k" in block
    assert not {"sampling_top_k_renorm", "sampling_top_p_renorm"} & block
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


# ---- drafts that are drawn ----------------------------------------------------------------

CHAIN = {"method": "mtp", "block": None, "steps": 3}
DRAWN = CHAIN | {"speculative_use_rejection_sampling": True}


def cycle_of(requests: int = 8, **fields: Any) -> dict[str, dict[str, list[Elementwise]]]:
    """Element-wise kernels of a cycle, as often as they run, by phase and name."""
    found: dict[str, dict[str, list[Elementwise]]] = {}
    for phase in setup(**fields).step.cycle.decode(requests=requests, ctx=100):
        names = found.setdefault(phase.name, {})
        for call in phase.calls:
            if isinstance(call.op, Elementwise):
                names.setdefault(call.op.name, []).extend([call.op] * call.count)
    return found


@pytest.mark.parametrize("engine", ["0.5.14", "0.5.20", "0.5.23"])
def test_each_draft_of_a_chain_is_drawn_from_its_row(engine: str) -> None:
    """Two steps draw in the graph, the extend draws the first; the walk has a distribution."""
    warm = {"engine": engine, "temperature": 1.0}
    drawn, likeliest = cycle_of(**DRAWN, **warm), cycle_of(**CHAIN, **warm)
    row = 8 * VOCAB * 4
    assert [op.nbytes for op in drawn["draft"]["draft_quotient"]] == [3 * row] * 2
    assert [op.nbytes for op in drawn["materialise"]["draft_quotient"]] == [3 * row]
    assert [op.nbytes for op in drawn["draft"]["draft_stack"]] == [2 * 3 * row]
    assert all(op.blocks == 8 for op in drawn["draft"]["draft_softmax"])
    checked = {n for n in drawn["draft"] if n.startswith("draft_checks")}
    assert bool(checked) == (engine == "0.5.14"), "torch.multinomial checks what it is given"
    assert set(likeliest["other"]) - set(drawn["other"]) == {"draft_clear"}
    assert not set(drawn["other"]) - set(likeliest["other"])


def test_a_greedy_server_draws_for_nobody_since_it_knows_who_is_greedy() -> None:
    """0.5.23 leaves the draw of the extend, and takes the largest beside; 0.5.20 draws all."""
    new, old = (cycle_of(**DRAWN, engine=engine) for engine in ("0.5.23", "0.5.20"))
    bare = cycle_of(**CHAIN, engine="0.5.23")
    assert set(new["draft"]) - set(bare["draft"]) == {"draft_copy"}
    assert len(new["materialise"]["argmax"]) == 2
    assert len(old["draft"]["draft_quotient"]) == 2
    assert len(new["materialise"]["draft_quotient"]) == 1
    assert "other" not in new


def test_a_server_that_is_not_asked_to_draw_is_what_it_was() -> None:
    """The control: without the flag no kernel of it runs, at any temperature."""
    for temperature in (0.0, 1.0):
        for phase in cycle_of(**CHAIN, temperature=temperature).values():
            assert not {"draft_quotient", "draft_stack", "draft_copy"} & set(phase)


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
