"""GPU memory: what is held, what is left for requests, and why no more run."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.profiles.engine_sheet import load_engine
from dflash_sim.profiles.errors import InfeasibleError
from dflash_sim.profiles.load import default_drafter, load_device, load_eagle3, load_model
from dflash_sim.profiles.precision import BF16
from dflash_sim.profiles.units import MiB
from dflash_sim.simulator.cost.cycle import DraftCache
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.memory import (
    MemoryPlan,
    default_mem_fraction,
    plan_memory,
)
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

ENGINE = load_engine("sglang-0.5.14")
BIG = "qwen3.5-397b-a17b"


def plan(
    name: str = BIG,
    *,
    gpu: str = "b200",
    tp: int = 8,
    method: str = "dflash",
    block: int = 16,
    overlap: bool = True,
    radix_cache: bool = True,
    fraction: float = 0.8,
    requested: int | None = None,
) -> MemoryPlan:
    model = load_model(name)
    drafter = default_drafter(name) if method == "dflash" else None
    return plan_memory(
        device=load_device(gpu),
        engine=ENGINE,
        model=model,
        tp=tp,
        speculative=method != "none",
        block=block if method != "none" else 1,
        overlap=overlap,
        radix_cache=radix_cache,
        draft=METHODS[method].caches(model, drafter, tp, BF16),
        mem_fraction=fraction,
        requested=requested,
    )


# ---- what a request holds ----------------------------------------------------------------


def test_state_of_a_request() -> None:
    """397B at TP 8: 24 MB of live state and, at block 16, 377 MB of scratch on each GPU."""
    model = load_model(BIG)
    assert model.gdn_state_bytes() / 8 == pytest.approx(24e6, rel=0.02)
    assert 16 * model.gdn_ssm_bytes() / 8 == pytest.approx(377e6, rel=0.01)
    assert 32 * 16 * model.gdn_ssm_bytes() / 8 == pytest.approx(12e9, rel=0.02)


@pytest.mark.parametrize(
    ("name", "tp", "nbytes"),
    [(BIG, 1, 30_720), ("qwen3-8b", 1, 147_456), ("gpt-oss-120b", 1, 73_728), (BIG, 8, 15_360)],
)
def test_kv_of_a_token(name: str, tp: int, nbytes: int) -> None:
    """Two KV heads on eight ranks: each rank keeps one, so the whole is held four times."""
    assert load_model(name).kv_bytes(tp) == nbytes


def test_draft_kv_of_a_token() -> None:
    """Five layers of eight KV heads in bf16: 20,480 bytes alone, a quarter of it at TP 4."""
    drafter = default_drafter("qwen3-8b")
    cached = DraftCache(0, drafter.layers)
    assert [cached.kv_bytes(tp) for tp in (1, 2, 8, 16)] == [
        20_480, 10_240, 2_560, 2_560,
    ]  # fmt: skip


def test_draft_bytes_by_method() -> None:
    big, small = load_model(BIG), load_model("qwen3-8b")
    assert METHODS["none"].caches(big, None, 8, BF16) == DraftCache()
    drafter = default_drafter(BIG)
    assert METHODS["dflash"].caches(big, drafter, 8, BF16).weight_bytes == drafter.weight_bytes(8)
    eagle = load_eagle3("qwen3-8b")
    assert METHODS["eagle3"].caches(small, eagle, 1, BF16).weight_bytes == eagle.weight_bytes(1)
    mtp = METHODS["mtp"].caches(big, None, 8, BF16)
    assert mtp.weight_bytes == big.mtp_weight_bytes(8)
    assert mtp.kv_bytes(8) == 2 * 256 * 2  # one KV head of one layer


# ---- the division ------------------------------------------------------------------------


PLANS = st.fixed_dictionaries(
    {
        "name": st.sampled_from([BIG, "qwen3.5-35b-a3b", "qwen3-8b", "gpt-oss-20b"]),
        "method": st.sampled_from(["none", "dflash"]),
        "block": st.integers(2, 16),
        "overlap": st.booleans(),
        "fraction": st.floats(0.7, 0.95),
        "requested": st.one_of(st.none(), st.integers(1, 500)),
    }
)


@settings(max_examples=60)
@given(PLANS)
def test_nothing_is_given_twice(fields: dict[str, Any]) -> None:
    p = plan(**fields)
    held = p.weight_bytes + p.draft_weight_bytes + p.kv_bytes + p.gdn_bytes
    assert held == pytest.approx(p.static_bytes)
    assert p.kv_tokens * p.kv_bytes_per_token <= p.kv_bytes
    device = load_device("b200")
    assert p.static_bytes <= device.mem_bytes * fields["fraction"] * (1 + 1e-12)
    assert p.static_bytes <= device.mem_bytes - ENGINE["reserved_memory"]
    model = load_model(fields["name"])
    block = fields["block"] if fields["method"] != "none" else 1
    assert p.max_running_requests * (2 * block + 1) <= p.kv_tokens
    if model.gdn_layers:
        scratch = block * model.gdn_ssm_bytes() / 8 if fields["method"] != "none" else 0
        slots = 5 if fields["overlap"] else 3
        each = slots * model.gdn_state_bytes() / 8 + scratch
        assert p.max_running_requests * each <= p.gdn_bytes
        assert p.gdn_bytes / p.kv_bytes == pytest.approx(0.9)
    else:
        assert p.gdn_bytes == 0


def test_the_launch_setup_runs_its_48_requests() -> None:
    p = plan()
    assert (p.max_running_requests, p.cap_cause) == (48, "engine default with speculation")
    assert plan(method="none").cap_cause in ("engine default", "GDN state slots")
    assert plan(requested=7).max_running_requests == 7
    assert plan(requested=7).cap_cause == "--max-running-requests"


def test_state_slots_cap_the_batch_on_smaller_memory() -> None:
    """Less memory: the scratch of recurrent states runs out before the KV cache does."""
    caps = {f: plan(fraction=f) for f in (0.8, 0.7, 0.62, 0.58)}
    running = [p.max_running_requests for p in caps.values()]
    assert running == sorted(running, reverse=True)
    tight = caps[0.58]
    assert tight.cap_cause == "GDN state slots"
    assert tight.max_running_requests < 32
    wide, narrow = plan(fraction=0.62, block=16), plan(fraction=0.62, block=8)
    assert wide.max_running_requests < narrow.max_running_requests
    assert plan(fraction=0.62, overlap=False).max_running_requests > wide.max_running_requests
    h200 = plan(gpu="h200")
    assert h200.cap_cause == "GDN state slots"


def test_a_drafter_costs_cache() -> None:
    """Its weights and its KV, one draft slot beside every target slot."""
    for name, tp in (("qwen3-8b", 1), (BIG, 8)):
        with_drafter, without = plan(name, tp=tp), plan(name, tp=tp, method="none")
        assert with_drafter.kv_tokens < without.kv_tokens
        extra = DraftCache(0, default_drafter(name).layers).kv_bytes(tp)
        assert with_drafter.kv_bytes_per_token - without.kv_bytes_per_token == extra
    ratio = plan("qwen3-8b", tp=1).kv_tokens / plan("qwen3-8b", tp=1, method="none").kv_tokens
    assert ratio == pytest.approx(147_456 / (147_456 + 20_480), rel=0.02)


# ---- the static share --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "tp", "outside_mib", "of_mib"),
    [
        ("b200", 8, 512 + 16384 * 1.5 + 1024 + 2 * 512, 180 * 1024),
        ("h100", 1, 512 + 8192 * 1.5 + 128 + 2 * 256, 80 * 1024),
        ("h100", 8, 512 + 8192 * 1.5 + 1024 + 2 * 256, 80 * 1024),
        ("l40s", 2, 512 + 4096 * 1.5 + 256 + 2 * 32, 46068),
    ],
)
def test_the_static_share_is_what_sglang_leaves(
    gpu: str, tp: int, outside_mib: float, of_mib: int
) -> None:
    """512 MiB, 1.5 per token of a prefill chunk, 128 per rank, 2 per captured request."""
    asked = {"gpu": gpu, "tp": tp, "model": "qwen3-8b", "method": "none"}
    setup = resolve(Scenario.parse(**asked))
    assert setup.mem_fraction == pytest.approx(1 - outside_mib / of_mib, rel=1e-12)
    assert setup.memory.static_bytes == pytest.approx((of_mib - outside_mib) * MiB)
    given_ = resolve(Scenario.parse(**asked, mem_fraction_static=0.5))
    assert given_.mem_fraction == 0.5


def test_large_gpus_leave_ten_gibibytes_at_least() -> None:
    """And a short chunk counts as 2,048 tokens. A chunk above costs every token more."""
    outside = ENGINE.defaults.outside_static

    def outside_mib(gpu: str, chunk: int, graph_max_bs: int = 8) -> float:
        device = load_device(gpu)
        share = default_mem_fraction(device, outside, chunk=chunk, graph_max_bs=graph_max_bs, tp=1)
        return (1 - share) * device.mem_bytes / MiB

    assert outside_mib("h100", 2048) == pytest.approx(10 * 1024)
    assert outside_mib("l40s", 2048) == pytest.approx(512 + 2048 * 1.5 + 128 + 16)
    assert outside_mib("l40s", 512) == outside_mib("l40s", 2048)
    assert outside_mib("h100", 16384) - outside_mib("h100", 8192) == pytest.approx(8192 * 1.5)
    assert outside_mib("h100", 8192, 136) - outside_mib("h100", 8192) == pytest.approx(256)


# ---- what does not fit -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "tp", "says"),
    [
        (
            "h100",
            8,
            # 80 GiB less the 14 GiB that SGLang leaves outside weights and caches.
            r"qwen3.5-397b-a17b does not fit on h100 at tp 8: 29\.0 GB short of 70\.9 GB",
        ),
        ("h100", 8, r"no TP up to 8 does"),
        ("h200", 4, r"--tp 8 would"),
    ],
)
def test_what_does_not_fit_says_by_how_much_and_what_would(gpu: str, tp: int, says: str) -> None:
    with pytest.raises(InfeasibleError, match=says):
        resolve(Scenario.parse(gpu=gpu, tp=tp))


def test_what_would_fit_does() -> None:
    assert resolve(Scenario.parse(gpu="h200", tp=8)).memory.max_running_requests >= 1


def test_weights_that_leave_no_room_for_a_request() -> None:
    """Between weights that do not fit and a first request lies a gap, with its own message."""
    device = load_device("b200")
    barely = (plan().weight_bytes + plan().draft_weight_bytes) / device.mem_bytes
    with pytest.raises(InfeasibleError, match="no room for a single request"):
        plan(fraction=barely + 1e-3)
    with pytest.raises(InfeasibleError, match="does not fit"):
        plan(fraction=barely - 1e-3)


def test_without_a_prefix_cache_a_request_needs_one_state_slot() -> None:
    on, off = (plan(gpu="h200", radix_cache=r) for r in (True, False))
    assert (on.cap_cause, off.cap_cause) == ("GDN state slots", "GDN state slots")
    assert off.max_running_requests > on.max_running_requests
