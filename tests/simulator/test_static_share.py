"""The memory fraction that SGLang picks, release by release, against sums done by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.profiles.load import load_model
from dflash_sim.profiles.networks.hf_config import VisionTower
from dflash_sim.profiles.releases.engine_records import Defaults
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.units import GiB, MiB
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.simulator.static_share import StaticShare, default_share, vision_share

ENGINE = load_engine("sglang-0.5.14")
DEFAULTS = ENGINE.defaults
TOWER = load_model("qwen3.5-27b").vision
B200_BYTES = 183_359 * MiB  # what nvidia-smi says of it


def released(*, draft: float = 0.0, prefill_graphs: str = "text", capped: bool = False) -> Defaults:
    """The defaults of a release that differs in these."""
    memory = replace(
        DEFAULTS.memory, prefill_graphs=prefill_graphs, graphs_capped_by_requests=capped
    )
    outside = replace(DEFAULTS.outside_static, draft=draft)
    return replace(DEFAULTS, memory=memory, outside_static=outside)


def share(
    defaults: Defaults = DEFAULTS,
    *,
    mem_bytes: float = B200_BYTES,
    chunk: int = 16384,
    graph_max_bs: int = 512,
    tp: int = 1,
    speculative: bool = True,
    vision: VisionTower | None = None,
) -> StaticShare:
    return default_share(
        mem_bytes,
        defaults,
        chunk=chunk,
        graph_max_bs=graph_max_bs,
        prefill_sizes=ENGINE.graph_sizes["prefill"],
        tp=tp,
        speculative=speculative,
        vision=vision,
    )


def test_qwen_27b_on_a_b200_by_release() -> None:
    """0.5.13 reserves 4,096 MiB for the drafter; 0.5.23 has prefill graphs, and fewer others."""
    old = share(released(draft=4096, prefill_graphs="text"), vision=TOWER)
    assert old.mem_fraction == pytest.approx(0.835 * 0.925, abs=1e-3)
    home = share(vision=TOWER)
    assert home.mem_fraction == pytest.approx(0.857 * 0.9248, abs=1e-3)
    new = share(released(prefill_graphs="all", capped=True), graph_max_bs=48, vision=TOWER)
    assert new.mem_fraction == pytest.approx(0.859 * 0.925, abs=1e-3)
    assert dict(new.outside)["74 prefill graphs"] == 74 * 8


def test_the_drafter_comes_on_top_and_only_with_speculation() -> None:
    """10 GiB are the least on a large GPU, before the drafter's 4 GiB."""
    old = released(draft=4096, prefill_graphs="none")
    one = {"mem_bytes": 80 * GiB, "chunk": 2048, "graph_max_bs": 8}
    with_draft, without = (share(old, **one, speculative=s) for s in (True, False))  # type: ignore[arg-type]
    assert without.mem_fraction == round(1 - 10 / 80, 3)
    assert with_draft.mem_fraction == round(1 - 14 / 80, 3)


@pytest.mark.parametrize(
    ("prefill_graphs", "vision", "graphs"),
    [("text", None, 50), ("text", TOWER, 0), ("all", TOWER, 50), ("none", None, 0)],
)
def test_which_models_have_prefill_graphs(
    prefill_graphs: str, vision: VisionTower | None, graphs: int
) -> None:
    """Up to a chunk of 4,096 tokens there are 8 + 14 + 8 + 8 + 12 sizes."""
    found = share(released(prefill_graphs=prefill_graphs), chunk=4096, vision=vision)
    assert dict(found.outside).get(f"{graphs} prefill graphs", 0.0) == graphs * 8


@given(st.floats(40e9, 300e9), st.integers(2048, 32768), st.integers(1, 1024), st.booleans())
def test_the_sum_is_the_share(mem: float, chunk: int, graphs: int, speculative: bool) -> None:
    found = share(
        released(draft=4096),
        mem_bytes=mem,
        chunk=chunk,
        graph_max_bs=graphs,
        speculative=speculative,
    )
    left = sum(mib for _, mib in found.outside) * MiB
    assert found.mem_fraction == pytest.approx(1 - left / mem, abs=5.0001e-4)
    assert found.mem_fraction == round(found.mem_fraction, 3)


def tower(**said: int | None) -> VisionTower:
    usual = {"hidden": 1024, "intermediate": 4096, "depth": 24, "patch": 768, "positions": 0}
    return VisionTower(**(usual | {"merged": 4, "out": 1024} | said))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("vision", "kept"),
    [
        (None, 1.0),
        (tower(), 0.95),
        (tower(hidden=1152, depth=27), 0.95 * (1 - 0.1 * (1152**2 / 1024**2 - 1))),
        (tower(num_hidden_layers=48), 0.95 * 0.9),
        (tower(num_hidden_layers=480), 0.95 * 0.8),
        (tower(hidden=0), 0.95),
        (tower(hidden=10), 0.95 * 1.05),
    ],
)
def test_what_a_vision_tower_leaves(vision: VisionTower | None, kept: float) -> None:
    """Qwen's configs say depth, which SGLang does not read: it takes 24 layers."""
    assert vision_share(DEFAULTS.vision, vision) == pytest.approx(kept)


def test_a_given_fraction_is_taken_as_it_is() -> None:
    setup = resolve(Scenario.parse(mem_fraction_static=0.8))
    assert setup.share == StaticShare(0.8)
    assert setup.mem_fraction == 0.8


def test_graphs_are_capped_where_the_release_does_so() -> None:
    capped = replace(ENGINE, defaults=released(capped=True))
    eight = {"model": "qwen3-8b", "tp": 1}
    assert resolve(Scenario.parse(**eight), engine=capped).graph_max_bs == 48
    assert resolve(Scenario.parse(**eight), engine=ENGINE).graph_max_bs == 512
    given_ = Scenario.parse(**eight, cuda_graph_max_bs=300)
    assert resolve(given_, engine=capped).graph_max_bs == 300
    plain = Scenario.parse(**eight, method="none")
    assert resolve(plain, engine=capped).graph_max_bs == 512
    assert resolve(Scenario.parse(**eight, max_running_requests=7), engine=capped).graph_max_bs == 7
