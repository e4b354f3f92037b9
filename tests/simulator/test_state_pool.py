"""Recurrent states: the formulas of each release, against a worked table and by their laws."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_model
from dflash_sim.profiles.precision import BF16
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.releases.memory_rules import WORDS
from dflash_sim.profiles.units import GiB
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.simulator.state_pool import (
    NO_RADIX,
    Demand,
    StatePool,
    cache_strategy,
    slots_per_request,
    state_pool,
)

RULES = load_engine("sglang-0.5.14").defaults.state_pool
MODEL = load_model("qwen3.5-27b")
FLOAT32 = MODEL.gdn_state_bytes()
BFLOAT16 = MODEL.gdn_state_bytes(replace(BF16, state="bfloat16"))
# Qwen3.5-27B on one B200: free before loading, and weights with the vision tower [GiB].
FREE_GIB, WEIGHTS_GIB = 177.5, 51.0


def pool(
    fraction: float,
    rows: int,
    requests: int = 32,
    *,
    state_bytes: float = FLOAT32,
    formula: str = "joint",
    spare: bool = False,
    slots: int = 5,
    radix_cache: bool = True,
    drafter_gib: float = 0.0,
) -> StatePool:
    demand = Demand(
        state_bytes=state_bytes,
        rows=rows,
        requests=requests,
        slots_per_request=slots if radix_cache else 1,
        radix_cache=radix_cache,
        slots=None,
        ratio=0.9,
    )
    rest = (FREE_GIB * fraction - WEIGHTS_GIB - drafter_gib) * GiB
    return state_pool(rest, demand, formula=formula, spare_slot=spare)


# ---- what each release lets run: worked by hand from its source --------------------------------


def test_bytes_of_a_slot() -> None:
    """48 layers of 48 heads x 128 x 128, and a convolution of 10,240 channels and three tokens."""
    assert FLOAT32 == 48 * (48 * 128 * 128 * 4 + 10_240 * 3 * 2)
    assert BFLOAT16 == 48 * (48 * 128 * 128 * 2 + 10_240 * 3 * 2)


@pytest.mark.parametrize(
    ("formula", "fraction", "state_bytes", "of_32", "of_48"),
    [
        ("reserve-first", 0.75, FLOAT32, [32, 30, 5], [36, 17, 0]),
        ("reserve-first", 0.80, FLOAT32, [32, 32, 11], [41, 23, 0]),
        ("reserve-first", 0.90, FLOAT32, [32, 32, 23], [48, 35, 0]),
        ("joint", 0.75, FLOAT32, [30, 20, 12], [30, 20, 12]),
        ("joint", 0.80, FLOAT32, [32, 23, 14], [33, 23, 14]),
        ("joint", 0.90, FLOAT32, [32, 27, 17], [39, 27, 17]),
        ("joint", 0.75, BFLOAT16, [32, 32, 25], [48, 40, 25]),
        ("joint", 0.80, BFLOAT16, [32, 32, 28], [48, 45, 28]),
        ("joint", 0.90, BFLOAT16, [32, 32, 32], [48, 48, 33]),
    ],
)
def test_requests_at_once_by_release(
    formula: str, fraction: float, state_bytes: float, of_32: list[int], of_48: list[int]
) -> None:
    """Qwen3.5-27B at blocks 4, 8 and 16; 0 where the server does not start."""
    for requests, expected in ((32, of_32), (48, of_48)):
        found = [
            pool(fraction, rows, requests, state_bytes=state_bytes, formula=formula).requests
            for rows in (4, 8, 16)
        ]
        assert found == expected


def test_without_overlap_a_request_has_a_slot_less() -> None:
    assert pool(0.9, 16, formula="reserve-first", slots=4).requests == 29
    assert pool(0.8, 8, slots=4).requests == 25


def test_padding_and_a_counted_drafter() -> None:
    """As 0.5.23 sizes it, with 3.96 GiB of draft weights."""
    for state_bytes, expected in ((FLOAT32, [31, 21, 12]), (BFLOAT16, [32, 32, 26])):
        found = [
            pool(0.8, rows, state_bytes=state_bytes, spare=True, drafter_gib=3.96).requests
            for rows in (4, 8, 16)
        ]
        assert found == expected


@pytest.mark.parametrize(("rows", "scratch_gb"), [(8, 39.4), (16, 78.8)])
@pytest.mark.parametrize("formula", WORDS["formula"])
def test_without_a_prefix_cache_all_requests_run(
    formula: str, rows: int, scratch_gb: float
) -> None:
    """Nothing is split: each has its slot and its scratch, or the server does not start."""
    found = pool(0.8, rows, radix_cache=False, formula=formula)
    assert (found.requests, found.slots) == (32, 32)
    assert found.scratch_bytes == pytest.approx(scratch_gb * 1e9, rel=1e-3)
    assert found.slot_bytes == pytest.approx(4.9e9, rel=1e-2)
    assert found.kv_bytes > 0
    assert pool(0.8, rows, 200, radix_cache=False, formula=formula).kv_bytes < 0


# ---- laws --------------------------------------------------------------------------------------

DEMANDS = st.builds(
    Demand,
    state_bytes=st.floats(1e6, 1e9),
    rows=st.integers(0, 16),
    requests=st.one_of(st.none(), st.integers(1, 500)),
    slots_per_request=st.integers(1, 5),
    radix_cache=st.booleans(),
    slots=st.one_of(st.none(), st.integers(1, 2000)),
    ratio=st.floats(0.05, 10),
).map(lambda d: d if d.requests or not d.rows else replace(d, requests=48))
FORMULAS = st.sampled_from(WORDS["formula"])
REST = st.floats(1e9, 2e11)


@settings(max_examples=200)
@given(REST, DEMANDS, FORMULAS, st.booleans())
def test_nothing_is_given_twice(rest: float, demand: Demand, formula: str, spare: bool) -> None:
    found = state_pool(rest, demand, formula=formula, spare_slot=spare)
    assert found.slot_bytes + found.scratch_bytes + found.kv_bytes == pytest.approx(rest)
    assert found.slot_bytes == (found.slots + spare) * demand.state_bytes
    assert 0 <= found.requests <= (demand.requests or inf)
    assert found.requests * demand.slots_per_request <= found.slots
    if demand.fixed_slots is not None:
        assert found.slots == demand.fixed_slots
    elif formula == "joint" and found.slots:
        share = rest * demand.ratio / (1 + demand.ratio)
        assert found.slot_bytes + found.scratch_bytes <= share * (1 + 1e-9)


@settings(max_examples=200)
@given(REST, REST, DEMANDS, FORMULAS, st.booleans())
def test_more_memory_never_runs_fewer(
    one: float, more: float, demand: Demand, formula: str, spare: bool
) -> None:
    less, much = (
        state_pool(rest, demand, formula=formula, spare_slot=spare) for rest in sorted((one, more))
    )
    assert less.requests <= much.requests
    assert less.slots <= much.slots


@settings(max_examples=100)
@given(REST, DEMANDS)
def test_without_drafts_the_formulas_agree(rest: float, demand: Demand) -> None:
    plain = replace(demand, rows=0)
    one, other = (state_pool(rest, plain, formula=f, spare_slot=False) for f in WORDS["formula"])
    assert one == other
    assert one.scratch_bytes == 0


@settings(max_examples=100)
@given(REST, DEMANDS, FORMULAS)
def test_narrower_states_and_no_padding_never_run_fewer(
    rest: float, demand: Demand, formula: str
) -> None:
    wide = state_pool(rest, demand, formula=formula, spare_slot=False)
    narrow = replace(demand, state_bytes=demand.state_bytes / 2)
    assert state_pool(rest, narrow, formula=formula, spare_slot=False).requests >= wide.requests
    assert state_pool(rest, demand, formula=formula, spare_slot=True).requests <= wide.requests


# ---- strategies of the prefix cache ------------------------------------------------------------

OLD = replace(RULES, auto_strategy="no_buffer", slots=replace(RULES.slots, extra_buffer_lazy=0))


def chosen(rules: object = RULES, asked: str = "auto", **flags: bool) -> str:
    usual = {"radix_cache": True, "speculative": True, "overlap": True}
    page = 64 if flags.pop("paged", False) else 1
    return cache_strategy(rules, asked, page_size=page, **(usual | flags))  # type: ignore[arg-type]


def test_what_auto_means() -> None:
    assert chosen() == chosen(speculative=False) == "extra_buffer"
    assert chosen(overlap=False) == "no_buffer"
    assert chosen(overlap=False, paged=True) == "extra_buffer"
    assert chosen(OLD, speculative=False) == "no_buffer"
    assert chosen(OLD) == "extra_buffer"  # auto is refused there, so nobody ran it
    assert chosen(radix_cache=False) == chosen(OLD, radix_cache=False) == NO_RADIX


@pytest.mark.parametrize(
    ("strategy", "overlap", "slots"),
    [
        ("no_buffer", False, 3),
        ("extra_buffer", True, 5),
        ("extra_buffer", False, 4),
        ("extra_buffer_lazy", True, 4),
        (NO_RADIX, True, 1),
    ],
)
def test_slots_of_a_request(strategy: str, overlap: bool, slots: int) -> None:
    assert slots_per_request(RULES, strategy, overlap=overlap) == slots


LAZY = replace(RULES, lazy_speculates=True)


@pytest.mark.parametrize(
    ("rules", "asked", "flags", "says"),
    [
        (RULES, "extra_bufer", {}, "did you mean extra_buffer"),
        (RULES, "no_buffer", {}, "without the overlap scheduler alone"),
        (RULES, "no_buffer", {"overlap": False, "paged": True}, "pages of one token, not 64"),
        (OLD, "no_buffer", {"overlap": False}, "refuses it with speculation"),
        (OLD, "extra_buffer", {"radix_cache": False}, "needs the prefix cache"),
        (OLD, "extra_buffer_lazy", {"speculative": False}, "no such strategy"),
        (RULES, "extra_buffer_lazy", {}, "refuses it with speculation"),
        (LAZY, "extra_buffer_lazy", {"overlap": False}, "needs the overlap scheduler"),
    ],
)
def test_what_a_release_refuses(
    rules: object, asked: str, flags: dict[str, bool], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        chosen(rules, asked, **flags)


def test_no_buffer_where_it_was_the_default() -> None:
    """Overlap and pages give way; a backend without pages of one token costs the prefix cache."""
    plain = {"speculative": False}
    assert chosen(OLD, "no_buffer", **plain) == chosen(OLD, paged=True, **plain) == "no_buffer"
    flags = {"radix_cache": True, "overlap": True, "page_size": 64, "paged": True}
    assert cache_strategy(OLD, "auto", speculative=False, **flags) == NO_RADIX  # type: ignore[arg-type]
    oldest = replace(OLD, unbuffered_speculation="without prefix cache")
    assert chosen(oldest) == chosen(oldest, "no_buffer") == NO_RADIX
    assert chosen(oldest, "extra_buffer") == "extra_buffer"


def test_what_it_takes() -> None:
    assert chosen(LAZY, "extra_buffer_lazy") == "extra_buffer_lazy"
    assert chosen(asked="extra_buffer_lazy", speculative=False) == "extra_buffer_lazy"
    assert chosen(asked="no_buffer", overlap=False) == "no_buffer"
    assert chosen(asked="extra_buffer", radix_cache=False) == NO_RADIX


# ---- what a release makes of a launch ----------------------------------------------------------


def launched(engine: str, **fields: object) -> Setup:
    asked = {"model": "qwen3-coder-next", "method": "none", "gpu": "b200", "tp": 2, "conc": 4}
    return resolve(Scenario.parse(engine=engine, isl=512, osl=512, **(asked | fields)))


def says(setup: Setup, words: str) -> bool:
    return any(words in warning for warning in setup.warnings)


@pytest.mark.parametrize("mode", [{}, {"engine_mode": "v2"}])
def test_plain_decoding_of_hybrids_had_no_overlap(mode: dict[str, str]) -> None:
    """Nobody can ask those releases for both: what is asked for gives way, and it is said."""
    setup = launched("sglang-0.5.9", **mode)
    assert setup.scenario.engine_mode == "v2-sync"
    assert (setup.backend, setup.limits.page_size) == ("triton", 1)
    assert setup.memory.strategy == "no_buffer"
    assert says(setup, "without the overlap scheduler")


@pytest.mark.parametrize(
    ("engine", "fields"),
    [
        ("sglang-0.5.14", {}),
        ("sglang-0.5.13", {"mamba_radix_cache_strategy": "extra_buffer"}),
        ("sglang-0.5.13", {"radix_cache": False}),
        ("sglang-0.5.13", {"model": "qwen3-30b-a3b"}),
    ],
)
def test_who_keeps_overlap(engine: str, fields: dict[str, object]) -> None:
    setup = launched(engine, **fields)
    assert (setup.scenario.engine_mode, setup.backend) == ("v2", "trtllm_mha")
    assert not says(setup, "overlap scheduler")


def test_trtllm_costs_the_prefix_cache() -> None:
    setup = launched("sglang-0.5.13", attention_backend="trtllm_mha")
    assert (setup.scenario.engine_mode, setup.cache_unit) == ("v2", 0)
    assert says(setup, "switches the prefix cache of this hybrid model off")
