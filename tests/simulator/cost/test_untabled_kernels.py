"""Laws of kernels with several rows per request: their limits, and where they hold."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.profiles.load import load_device
from dflash_sim.profiles.precision import Precision
from dflash_sim.profiles.releases.elsewhere import WideKernels
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine
from dflash_sim.simulator.cost.latent_ops import MlaDecode
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.ops import (
    AnyCall,
    Attention,
    Elementwise,
    GdnConv,
    GdnRecurrent,
    Op,
    PrefillAttention,
)
from dflash_sim.simulator.cost.origin import origin
from dflash_sim.simulator.cost.passes import target_forward
from dflash_sim.simulator.cost.price import CostModel
from dflash_sim.simulator.cost.untabled_kernels import cached_s, unpack_s, wide_s
from dflash_sim.simulator.predict import doubts
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

GPU = load_device("h200")
REQUESTS, ROWS = st.integers(1, 256), st.integers(2, 32)


@cache
def hopper() -> WideKernels:
    found = load_engine(HOME).on("hopper").wide
    assert found is not None
    return found


def seconds(op: Op, backend: str = "fa3") -> float:
    found = wide_s(op, hopper(), GPU, backend)
    assert found is not None
    return found


def rule(requests: int, rows: int) -> GdnRecurrent:
    return GdnRecurrent("r", requests, rows, 32, 16, 128, 128)


def conv(requests: int, rows: int) -> GdnConv:
    return GdnConv("c", requests * rows, 32, 16, 8192, 4, rows=rows)


def norm(requests: int, rows: int) -> Elementwise:
    return Elementwise("gated_norm", 24_576.0 * requests * rows, "gated_norm", rows)


def triton(requests: int, rows: int) -> Attention:
    return Attention("attention", requests, rows, 1000.0, 16, 4, 256)


@given(REQUESTS, ROWS)
def test_more_rows_and_more_requests_never_take_less(requests: int, rows: int) -> None:
    for op in (rule, conv, norm, triton):
        here = seconds(op(requests, rows), "triton")
        assert seconds(op(requests + 1, rows), "triton") >= here
        assert seconds(op(requests, rows + 1), "triton") >= here


@given(REQUESTS, ROWS)
def test_a_pass_of_rows_is_never_slower_than_as_many_requests(requests: int, rows: int) -> None:
    """The state is read once for all rows; as requests of their own it is read for each."""
    assert seconds(rule(requests, 2 * rows)) < seconds(rule(2 * requests, rows)) + 1e-4


def test_many_states_move_at_the_share_of_memory_bandwidth() -> None:
    op = rule(256, 16)
    share = hopper().kernels["gdn_verify_share"]
    assert seconds(op) == pytest.approx(op.nbytes / (share * GPU.mem_bw_byte_s), rel=0.01)


def test_serial_attention_walks_along_the_context_in_waves() -> None:
    one = triton(1, 16)
    fits = GPU.sm_count // one.heads
    assert seconds(triton(fits, 16), "triton") == seconds(one, "triton")
    twice = replace(one, requests=4 * GPU.sm_count)
    waves = twice.requests * one.heads / GPU.sm_count
    assert seconds(twice, "triton") == pytest.approx(waves * seconds(one, "triton"))
    longer = seconds(replace(one, ctx=9000.0), "triton") - seconds(one, "triton")
    token = hopper().attention["triton"].token
    assert token is not None
    assert longer == pytest.approx(8000 * token.quantity.si)


def test_a_single_row_and_other_backends_have_no_law() -> None:
    for op in (rule(8, 1), conv(8, 1), norm(8, 1), replace(triton(8, 1))):
        assert wide_s(op, hopper(), GPU, "triton") is None
    assert wide_s(triton(8, 8), hopper(), GPU, "trtllm_mha") is None


def test_what_the_cache_holds_is_read_at_its_rate_and_the_rest_from_memory() -> None:
    assert GPU.l2_bytes is not None
    small = Elementwise("activation", GPU.l2_bytes / 2, "cached")
    large = replace(small, nbytes=2 * GPU.l2_bytes)
    rate = hopper().kernels["l2_rate"]
    assert cached_s(small, hopper(), GPU) == (small.nbytes / rate, 0.0)
    assert cached_s(large, hopper(), GPU) == (GPU.l2_bytes / rate, GPU.l2_bytes)
    assert cached_s(small, None, GPU) == (0.0, small.nbytes)


def test_replayed_states_cost_one_row_of_traffic_and_no_commit() -> None:
    saved, replayed = rule(64, 8), replace(rule(64, 8), saves=False)
    assert replayed.nbytes == rule(64, 1).nbytes
    assert seconds(replayed) < seconds(saved) / 2
    asked = {"gpu": "gh200", "model": "qwen3.5-4b", "conc": 32, "attention_backend": "flashinfer"}
    asked |= {"method": "mtp", "steps": 3, "acceptance": "fixed:2", "calibration": "none"}
    plain, other = (
        resolve(Scenario.parse(**asked, linear_replayssm_spec=replays)) for replays in (False, True)
    )
    phases = {p.name: p for p in other.step.cycle.decode(requests=32, ctx=0)}
    assert phases["commit"].calls == []
    assert other.memory.scratch_bytes < plain.memory.scratch_bytes
    busy_s = other.step.decode_s(32, 32 * 500)
    assert busy_s == pytest.approx(8.41e-3, rel=0.05)  # VP_GH200_HOSTGAP, counted exactly


@cache
def setup(gpu: str, backend: str | None = None) -> Setup:
    asked = {"gpu": gpu, "model": "qwen3.5-27b", "tp": 1, "acceptance": "fixed:2"}
    return resolve(Scenario.parse(**asked, attention_backend=backend, calibration="none"))


def test_home_is_priced_from_the_tables_alone() -> None:
    assert setup("b200").engine.wide is None
    assert not setup("b200").engine.own


def test_the_words_name_the_law() -> None:
    s = setup("h200", "triton")
    calls = {c.op.name: c for c in target_forward(s.model, tp=1, size=Rows(8, 8, 1000.0))}
    for name, words in (
        ("gdn_recurrent", "8 rows of each request on hopper, states at 0.78"),
        ("gdn_conv", "windows at"),
        ("gated_norm", "root of rows"),
        ("attention", "triton, 0.100 us a cached token"),
        ("activation", "from the L2 cache"),
    ):
        assert words in origin(s.step.cost, calls[name])
    flash = setup("h200", "flashinfer")
    assert "x 1.05 for 8 rows (measured)" in origin(flash.step.cost, calls["attention"])


FP8_KV = Precision(kv_cache="fp8")


def test_cached_values_are_taken_apart_where_no_instruction_does() -> None:
    """Each value once for a tile of 64 query rows of a group; none on other architectures."""
    engine, a100 = load_engine(HOME), load_device("a100")
    each_s = engine["kv_unpack"] / 1e6 / a100.sm_count
    decode = Attention("a", 8, 1, 4000.0, 32, 8, 128, precision=FP8_KV)
    values = 8 * 4001 * 2 * 8 * 128
    assert unpack_s(decode, engine, a100) == pytest.approx(values * each_s)
    verify = replace(decode, rows=17)  # 68 rows of a group: two tiles
    assert unpack_s(verify, engine, a100) == pytest.approx(2 * values * 4017 / 4001 * each_s)
    prefill = PrefillAttention("p", 1, 1000.0, 500.0, 32, 8, 128, precision=FP8_KV)
    tiles, values = 63, 500 * 2 * 8 * 128  # the new tokens' are in bf16 still
    assert unpack_s(prefill, engine, a100) == pytest.approx(tiles * values * each_s)
    latent = MlaDecode("m", 2, 1, 99.0, 128, 512, 64, precision=FP8_KV)
    assert unpack_s(latent, engine, a100) == pytest.approx(2 * 2 * 100 * 576 * each_s)
    for op in (decode, verify, prefill, latent):
        assert unpack_s(op, engine, GPU) == 0.0
        assert unpack_s(replace(op, precision=Precision()), engine, a100) == 0.0


def test_fp8_keys_halve_no_time_on_ampere() -> None:
    """By roofline: less traffic and more instructions, between half and all of what bf16 takes."""
    engine, gpu = load_engine(HOME), load_device("rtx_3090")
    cost = CostModel(gpu, engine, None)
    long = Attention("a", 64, 1, 30_000.0, 32, 8, 128)
    ratio = cost.op(replace(long, precision=FP8_KV)).seconds / cost.op(long).seconds
    assert 0.6 < ratio < 0.9
    prefill = PrefillAttention("p", 1, 8192.0, 60_000.0, 32, 8, 128)
    assert cost.op(replace(prefill, precision=FP8_KV)).seconds > cost.op(prefill).seconds


def decoding(s: Setup) -> list[AnyCall]:
    return s.step.cycle.decode(requests=4, ctx=100.0)[0].calls


MLA = {"model": "deepseek-v3", "gpu": "h200", "tp": 8, "method": "none", "runs": 1}


def test_a_pool_of_latents_is_cast_as_it_was_measured() -> None:
    """225.79 us for 131,072 tokens on an H200, in each of 61 layers; with such a backend alone."""
    engine = load_engine(HOME).on("hopper")
    pool = Elementwise("pool_cast", 131072 * 576 * 3.0, "pool_cast")
    assert CostModel(GPU, engine, None).op(pool).seconds == pytest.approx(226.1e-6, rel=3e-3)
    kinds = (("fa3", "fp8_e4m3"), ("flashmla", "fp8_e4m3"), ("fa3", "bfloat16"))
    fa3, flash, plain = (
        resolve(Scenario.parse(**MLA, attention_backend=name, kv_cache_dtype=kv))
        for name, kv in kinds
    )
    casts = [c for c in decoding(fa3) if c.op.name == "pool_cast"]
    assert sum(c.count for c in casts) == 61
    assert {c.op.nbytes for c in casts} == {fa3.limits.kv_tokens * 576 * 3}
    formats = {c.op.precision.kv_cache for c in decoding(fa3) if isinstance(c.op, MlaDecode)}
    assert formats == {"bfloat16"}
    for other in (flash, plain):
        assert "pool_cast" not in {c.op.name for c in decoding(other)}
    assert [w for w in doubts(fa3) if f"casts all {fa3.limits.kv_tokens:,} tokens" in w]
    dense = resolve(
        Scenario.parse(gpu="h200", tp=1, model="qwen3-8b", method="none", kv_cache_dtype="fp8")
    )
    assert (dense.backend, dense.step.cycle.pool_tokens) == ("fa3", 0)  # it has no latents
    assert not [w for w in doubts(flash) + doubts(plain) + doubts(dense) if "casts all" in w]
    ada = load_device("l4")  # its memory is slower than its instructions
    slow = CostModel(ada, load_engine(HOME), None).op(pool).seconds
    assert slow > pool.nbytes / ada.mem_bw_byte_s


@pytest.mark.parametrize(
    ("gpu", "backend", "kernels"),
    [
        ("h200", "fa3", 3),
        ("h200", "triton", 2),
        ("h200", "flashinfer", 2),
        ("b200", "trtllm_mha", 0),
    ],
)
def test_values_in_fp8_are_cast_before_they_are_written(
    gpu: str, backend: str, kernels: int
) -> None:
    asked = {"model": "qwen3-8b", "gpu": gpu, "method": "none", "attention_backend": backend}
    for kv, wanted in (("fp8_e4m3", kernels), ("bfloat16", 0)):
        found = resolve(Scenario.parse(**asked, kv_cache_dtype=kv))
        casts = [c.count for c in decoding(found) if c.op.name == "kv_casts"]
        assert sum(casts) == wanted * 36
