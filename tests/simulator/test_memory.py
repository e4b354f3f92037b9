"""GPU memory: what is held, what is left for requests, and why no more run."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.profiles.errors import InfeasibleError, UsageError
from dflash_sim.profiles.load import default_drafter, load_device, load_eagle3, load_model
from dflash_sim.profiles.precision import BF16
from dflash_sim.profiles.releases.engine_sheet import EngineSheet, load_engine
from dflash_sim.profiles.units import GiB, MiB
from dflash_sim.simulator.cost.cycle import DraftCache
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.memory import Launch, MemoryPlan, plan_memory
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.simulator.state_pool import cache_strategy
from dflash_sim.simulator.static_share import StaticShare

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
    cache_slots: int | None = None,
    page_size: int = 1,
    engine: EngineSheet = ENGINE,
) -> MemoryPlan:
    model = load_model(name)
    drafter = default_drafter(name) if method == "dflash" else None
    speculative = method != "none"
    strategy = cache_strategy(
        engine.defaults.state_pool,
        "auto",
        radix_cache=radix_cache,
        speculative=speculative,
        overlap=overlap,
        page_size=64,
    )
    return plan_memory(
        device=load_device(gpu),
        engine=engine,
        model=model,
        launch=Launch(
            tp=tp,
            speculative=speculative,
            block=block if speculative else 1,
            overlap=overlap,
            radix_cache=radix_cache,
            strategy=strategy,
            requested=requested,
            cache_slots=cache_slots,
            page_size=page_size,
        ),
        draft=METHODS[method].caches(model, drafter, tp, BF16),
        share=StaticShare(fraction),
    )


def released(**memory: object) -> EngineSheet:
    """The home sheet with other rules of memory."""
    defaults = ENGINE.defaults
    changed = replace(defaults.memory, **memory)  # type: ignore[arg-type]
    return replace(ENGINE, defaults=replace(defaults, memory=changed))


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
    free = load_device("b200").mem_bytes - ENGINE["reserved_memory"]
    assert p.static_bytes == pytest.approx(free * fields["fraction"])
    model = load_model(fields["name"])
    block = fields["block"] if fields["method"] != "none" else 1
    assert p.max_running_requests * (2 * block + 1) <= p.kv_tokens
    if model.gdn_layers:
        rows = block if fields["method"] != "none" else 0
        slots = 5 if fields["overlap"] else 4
        each = (slots + rows) * model.gdn_state_bytes() / 8
        assert p.max_running_requests * each <= p.gdn_bytes
        assert p.gdn_bytes <= 0.9 / 1.9 * p.rest_bytes
        assert p.state_slots // slots >= p.max_running_requests
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
    assert plan(fraction=0.7, overlap=False).max_running_requests > caps[0.7].max_running_requests
    capped, free = plan(fraction=0.62, requested=4), plan(fraction=0.62)
    assert capped.kv_tokens > free.kv_tokens  # what four requests do not need is cache
    h200 = plan(gpu="h200")
    assert h200.cap_cause == "GDN state slots"


def test_a_drafter_costs_cache() -> None:
    """Its weights and its KV, one draft slot beside every target slot."""
    for name, tp in (("qwen3-8b", 1), (BIG, 8)):
        with_drafter, without = plan(name, tp=tp), plan(name, tp=tp, method="none")
        assert with_drafter.kv_tokens < without.kv_tokens
        # 0.5.14 counts the drafter's layers as so many of the target's; later releases its own.
        layers, own = len(default_drafter(name).layers), load_model(name).kv_bytes(tp)
        assert without.kv_bytes_per_token == own
        more = own * layers / len(load_model(name).attention_layers)
        assert with_drafter.kv_bytes_per_token == pytest.approx(own + more)
        later = plan(name, tp=tp, engine=released(draft_kv="own"))
        extra = DraftCache(0, default_drafter(name).layers).kv_bytes(tp)
        assert later.kv_bytes_per_token == own + extra
    later = plan("qwen3-8b", tp=1, engine=released(draft_kv="own"))
    ratio = later.kv_tokens / plan("qwen3-8b", tp=1, method="none").kv_tokens
    assert ratio == pytest.approx(147_456 / (147_456 + 20_480), rel=0.02)


def test_a_drafter_that_is_loaded_late_leaves_the_static_share_alone() -> None:
    late, counted = plan(engine=released(draft_weights=False)), plan()
    assert late.draft_weight_bytes == counted.draft_weight_bytes
    assert late.rest_bytes - counted.rest_bytes == pytest.approx(counted.draft_weight_bytes)
    assert (late.draft_counted, counted.draft_counted) == (False, True)


def test_images_and_the_vision_tower_take_their_part() -> None:
    held = plan(engine=released(image_cache=100.0))
    assert plan().rest_bytes - held.rest_bytes == pytest.approx(100 * MiB)
    text = plan("qwen3-8b", tp=1, engine=released(image_cache=100.0))
    assert text.held_bytes == text.vision_weight_bytes == 0
    alone = plan("qwen3.5-27b", tp=1)
    assert alone.weight_bytes == pytest.approx(51.0 * GiB, rel=2e-3)
    assert alone.vision_weight_bytes == pytest.approx(0.46e9 * 2, rel=1e-2)


def test_pages_are_whole() -> None:
    assert plan(page_size=64).kv_tokens % 64 == 0
    assert 0 <= plan().kv_tokens - plan(page_size=64).kv_tokens < 64


def test_slots_that_are_given() -> None:
    few = plan(cache_slots=20)
    assert (few.max_running_requests, few.cap_cause) == (4, "GDN state slots")
    assert few.state_slots == 20
    assert few.scratch_bytes == pytest.approx(4 * 16 * few.state_bytes)
    with pytest.raises(InfeasibleError, match="lower --max-mamba-cache-size"):
        plan(cache_slots=20_000)


# ---- the static share --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "tp", "outside_mib", "of_mib"),
    [
        ("b200", 8, 512 + 16384 * 1.5 + 1024 + 2 * 512 + 8 * 74, 180 * 1024),
        ("h100", 1, 512 + 8192 * 1.5 + 128 + 2 * 256 + 8 * 58, 80 * 1024),
        ("h100", 8, 512 + 8192 * 1.5 + 1024 + 2 * 512 + 8 * 58, 80 * 1024),
        ("l40s", 2, 512 + 4096 * 1.5 + 256 + 2 * 32 + 8 * 50, 46068),
    ],
)
def test_the_static_share_is_what_sglang_leaves(
    gpu: str, tp: int, outside_mib: float, of_mib: int
) -> None:
    """512 MiB, 1.5 per token of a chunk, 128 per rank, 2 per captured request, 8 per prefill."""
    asked = {"gpu": gpu, "tp": tp, "model": "qwen3-8b", "method": "none"}
    setup = resolve(Scenario.parse(**asked))
    assert setup.mem_fraction == round(1 - outside_mib / of_mib, 3)
    free = of_mib * MiB - ENGINE["reserved_memory"]
    assert setup.memory.static_bytes == pytest.approx(setup.mem_fraction * free)
    given_ = resolve(Scenario.parse(**asked, mem_fraction_static=0.5))
    assert given_.mem_fraction == 0.5


# ---- what does not fit -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "tp", "says"),
    [
        (
            "h100",
            8,
            # 0.819 for 14.5 of 80 GiB left outside, times 0.925 for vision, of 77.5 GiB.
            r"qwen3.5-397b-a17b does not fit on h100 at tp 8: 37\.0 GB short of 63\.0 GB",
        ),
        ("h100", 8, r"no TP up to 8 does"),
        ("h200", 4, r"--tp 8 would"),
    ],
)
def test_what_does_not_fit_says_by_how_much_and_what_would(gpu: str, tp: int, says: str) -> None:
    with pytest.raises(InfeasibleError, match=says):
        resolve(Scenario.parse(gpu=gpu, tp=tp))


@pytest.mark.parametrize("gpu", ["h20", "a100"])
def test_a_gpu_that_is_named_in_its_place_comes_in_nodes_that_are_large_enough(gpu: str) -> None:
    """The memory of a GB10 would hold an eighth of the weights, and it has no seven others."""
    with pytest.raises(InfeasibleError, match=r"Or --gpu (\w+): ") as error:
        resolve(Scenario.parse(gpu=gpu, model="deepseek-v3", tp=8, method="none"))
    named = re.search(r"Or --gpu (\w+): ", str(error.value))
    assert named is not None
    asked = Scenario.parse(gpu=named[1], model="deepseek-v3", tp=8, method="none")
    assert resolve(asked).memory.max_running_requests >= 1


@pytest.mark.parametrize(("gpu", "tp", "most"), [("gb10", 1, 1), ("h100_nvl", 1, 2)])
def test_no_more_ranks_are_advised_than_a_node_has(gpu: str, tp: int, most: int) -> None:
    asked = Scenario.parse(gpu=gpu, model="qwen3.5-397b-a17b", tp=tp, method="none")
    with pytest.raises(InfeasibleError, match=rf"; no TP up to {most} does") as error:
        resolve(asked)
    assert "--tp" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "gpu", "given"),
    [("qwen3-32b", "h100", 0.6), ("qwen3-32b", "l40s", None), ("qwen3.6-27b", "a100", 0.4)],
)
def test_a_larger_share_is_advised_first_where_it_is_enough(
    model: str, gpu: str, given: float | None
) -> None:
    asked = {"gpu": gpu, "model": model, "tp": 1, "method": "none"}
    share = {"mem_fraction_static": given} if given else {}
    with pytest.raises(InfeasibleError, match="does not fit") as error:
        resolve(Scenario.parse(**asked, **share))
    found = re.search(r"memory per GPU; --mem-fraction-static (0\.\d+) would", str(error.value))
    if given is None:
        assert found is None  # 65 GB of weights in 48
        return
    assert found is not None
    assert given < float(found[1]) <= 0.95
    enough = resolve(Scenario.parse(**asked, mem_fraction_static=float(found[1])))
    assert enough.memory.max_running_requests >= 1


def test_what_would_fit_does() -> None:
    assert resolve(Scenario.parse(gpu="h200", tp=8)).memory.max_running_requests >= 1


def test_weights_that_leave_no_room_for_a_request() -> None:
    """Between weights that do not fit and a first request lies a gap, with its own message."""
    free = load_device("b200").mem_bytes - ENGINE["reserved_memory"]
    barely = (plan().weight_bytes + plan().draft_weight_bytes) / free
    with pytest.raises(InfeasibleError, match="no room for a single request"):
        plan(fraction=barely + 1e-3)
    with pytest.raises(InfeasibleError, match="does not fit"):
        plan(fraction=barely - 1e-3)


def test_without_a_prefix_cache_a_request_needs_one_state_slot() -> None:
    """And all that may run do, or the server does not start."""
    on, off = (plan(gpu="h200", radix_cache=r, requested=32) for r in (True, False))
    assert on.cap_cause == "GDN state slots"
    assert (off.max_running_requests, off.cap_cause) == (32, "--max-running-requests")
    assert off.max_running_requests > on.max_running_requests
    with pytest.raises(InfeasibleError, match="lower --max-running-requests, or give --mamba-ssm"):
        plan("qwen3.5-27b", tp=1, radix_cache=False)


# ---- the published card of Qwen3.5-27B at block 8: 32 requests on one B200 ---------------------


def on_one_b200(**rules: object) -> MemoryPlan:
    """Under the state-pool rules of another release, at its default memory fraction."""
    defaults = ENGINE.defaults
    given_ = {k: v for k, v in rules.items() if k in ("mamba_ssm_dtype", "max_running_requests")}
    pool = {k: v for k, v in rules.items() if k not in given_}
    sheet = replace(
        ENGINE,
        defaults=replace(defaults, state_pool=replace(defaults.state_pool, **pool)),  # type: ignore[arg-type]
    )
    asked = {"model": "qwen3.5-27b", "tp": 1, "block": 8} | given_
    return resolve(Scenario.parse(**asked), engine=sheet).memory


def test_what_each_release_gives_the_27b_at_block_8() -> None:
    assert on_one_b200().max_running_requests == 21
    assert on_one_b200(mamba_ssm_dtype="bfloat16").max_running_requests == 42
    spare = on_one_b200(spare_slot=True, mamba_ssm_dtype="bfloat16")
    assert 40 <= spare.max_running_requests <= 42
    old = on_one_b200(formula="reserve-first", max_running_requests=32)
    assert 30 <= old.max_running_requests <= 32
    assert on_one_b200(formula="reserve-first").max_running_requests < 25  # 48 reserve more


@pytest.mark.parametrize(
    ("release", "fraction", "float32", "bfloat16"),
    [
        ("0.5.10", 0.772, [32, 32, 8], [32, 32, 32]),
        ("0.5.13", 0.772, [31, 21, 13], [32, 32, 26]),
        ("0.5.14", 0.793, [31, 21, 13], [32, 32, 26]),
        ("0.5.20", 0.790, [30, 20, 12], [32, 32, 25]),
        ("0.5.23", 0.795, [31, 21, 12], [32, 32, 25]),
    ],
)
def test_the_27b_on_one_b200_release_by_release(
    release: str, fraction: float, float32: list[int], bfloat16: list[int]
) -> None:
    """Of 32 requests at blocks 4, 8 and 16; 0.5.23 captures no graph above 32 of them."""
    for state, expected in (("float32", float32), ("bfloat16", bfloat16)):
        asked = {"engine": f"sglang-{release}", "model": "qwen3.5-27b", "tp": 1}
        asked |= {"engine_mode": "v2", "max_running_requests": 32, "mamba_ssm_dtype": state}
        setups = [resolve(Scenario.parse(**asked, block=block)) for block in (4, 8, 16)]
        assert [s.memory.max_running_requests for s in setups] == expected
        assert {round(s.mem_fraction, 3) for s in setups} == {fraction}


@pytest.mark.parametrize(
    ("gpu", "asked", "state", "warns"),
    [
        ("b200", {"linear_attn_decode_backend": "flashinfer"}, "bfloat16", True),
        ("h200", {"linear_attn_decode_backend": "flashinfer"}, "float32", False),
        ("b200", {"linear_attn_decode_backend": "triton"}, "float32", False),
        (
            "b200",
            {"linear_attn_decode_backend": "flashinfer", "mamba_ssm_dtype": "bfloat16"},
            "bfloat16",
            False,
        ),
        ("h200", {"mamba_ssm_dtype": "float16"}, "float16", False),
    ],
)
def test_format_of_the_states(gpu: str, asked: dict[str, str], state: str, warns: bool) -> None:
    """SGLang does not start FlashInfer on Blackwell without bfloat16: whoever ran it had it."""
    setup = resolve(Scenario.parse(gpu=gpu, model="qwen3.5-35b-a3b", tp=1, **asked))
    assert setup.precision.state == state
    assert any("in bfloat16 alone" in w for w in setup.warnings) is warns


def test_flashinfer_refuses_other_states_on_blackwell() -> None:
    asked = {"linear_attn_decode_backend": "flashinfer", "mamba_ssm_dtype": "float32"}
    with pytest.raises(UsageError, match="bfloat16 alone, not float32; give --mamba-ssm-dtype"):
        resolve(Scenario.parse(**asked))
    dense = Scenario.parse(model="qwen3-8b", tp=1, **asked)
    assert resolve(dense).memory.gdn_bytes == 0  # it has no such states


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"gpu": "rtx_3090", "model": "qwen3-8b"},
            r"tp 2 is picked, as .* 76 % .* 1 x rtx_3090 has",
        ),
        (
            {"gpu": "rtx_3090", "model": "qwen3.6-27b"},
            "tp 4 .* the weights do not fit 2 x rtx_3090",
        ),
        ({"gpu": "h200", "model": "qwen3.5-35b-a3b", "ep_size": 4}, "tp 4 .* --ep-size 4 asks"),
    ],
)
def test_a_tp_that_nobody_gave_is_explained(asked: dict[str, Any], said: str) -> None:
    load = {"method": "none", "conc": 4, "isl": 512, "osl": 64}
    warnings = resolve(Scenario.parse(**load, **asked)).warnings
    assert re.search(
        f"no --tp is given, and SGLang would start with 1: {said}", "\n".join(warnings)
    )
    for named in ({"tp": 4}, {"num_gpus": 4}):
        told = resolve(Scenario.parse(**load, **asked, **named)).warnings
        assert not any("is picked" in w for w in told)


def test_the_launch_setup_has_the_tp_of_its_documentation() -> None:
    assert not any("is picked" in w for w in resolve(Scenario.parse()).warnings)


def test_no_tp_is_picked_beyond_a_node() -> None:
    """A DGX Spark is one GPU: what does not fit it is refused with the precision that would."""
    load = {"method": "none", "conc": 4, "isl": 512, "osl": 64}
    with pytest.raises(InfeasibleError, match="no TP up to 1 does, but --quantization fp8 would"):
        resolve(Scenario.parse(**load, gpu="gb10", model="qwen3-next-80b-a3b"))
