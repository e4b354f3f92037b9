"""Which measured times are not believed, and that those which are honest are."""

from functools import partial
from importlib.util import find_spec

import pytest

pytest.importorskip("pyarrow.parquet")

from dflash_sim.calibrate.silicon import experts as expert_tables
from dflash_sim.calibrate.silicon import products as product_tables
from dflash_sim.calibrate.silicon.source import open_library
from dflash_sim.calibrate.silicon.suspects import (
    UNREAD,
    host_bound,
    jumps,
    reading_rates,
    refused_layers,
    slow_rows,
)
from dflash_sim.calibrate.silicon.thinning import thinned, thinning_miss

MEMORY = 4e12
LAYER = (32, 4, 2880, 2880)
OTHER = (128, 8, 4096, 1536)
needs_package = pytest.mark.skipif(
    find_spec("aiconfigurator_core") is None, reason="needs dflash-sim[silicon]"
)


class TestRefusedLayers:
    def test_a_layer_faster_than_memory_gives_way_to_one_that_is_not(self):
        rates = {"a": {LAYER: 1.7 * MEMORY}, "b": {LAYER: 0.8 * MEMORY}}
        refused = refused_layers(rates, MEMORY, narrow=False)
        assert refused.keys() == {("a", LAYER)}
        assert UNREAD in refused["a", LAYER]

    def test_where_every_file_is_too_fast_one_is_kept(self):
        rates = {"a": {LAYER: 1.7 * MEMORY}}
        assert refused_layers(rates, MEMORY, narrow=True) == {}

    @pytest.mark.parametrize(("share", "narrow", "goes"), [
        (0.22, True, True),  # 4-bit weights that were widened to 16 before they were read
        (0.50, True, False),  # another kernel
        (0.22, False, False),  # bf16 cannot be widened: a slow kernel is a kernel
    ])  # fmt: skip
    def test_a_narrow_format_must_be_read_at_a_rate_that_others_reach(self, share, narrow, goes):
        rates = {"a": {LAYER: share * MEMORY}, "b": {LAYER: 0.6 * MEMORY}}
        assert bool(refused_layers(rates, MEMORY, narrow=narrow)) == goes

    def test_a_file_that_is_slow_in_every_layer_goes_with_the_layers_it_alone_has(self):
        rates = {"a": {LAYER: 0.1 * MEMORY, OTHER: 0.15 * MEMORY}, "b": {LAYER: 0.7 * MEMORY}}
        assert refused_layers(rates, MEMORY, narrow=True).keys() == {("a", LAYER), ("a", OTHER)}
        rates["a"][OTHER] = 0.7 * MEMORY
        assert refused_layers(rates, MEMORY, narrow=True).keys() == {("a", LAYER)}

    def test_only_cells_past_any_cache_count(self):
        read = partial(lambda key, size: 1e6 * size)
        times = {(*LAYER, 1): {1: 1e-9, 1000: 1e-3}}  # the first came from L2
        assert reading_rates(times, read) == {LAYER: pytest.approx(1e12)}


class TestComparison:
    def test_launches_are_not_products(self):
        kernel = {(m, n): 1e-6 * n for m in (1, 16) for n in (4, 8, 16)}
        eager = {key: 60e-6 + t for key, t in kernel.items()}
        assert host_bound({"s": kernel, "v": eager}).keys() == {"v"}
        assert host_bound({"s": kernel, "v": {k: 1.2 * t for k, t in kernel.items()}}) == {}

    def test_rows_and_steps_of_one_framework_are_named(self):
        mine = {("row",): {64: 1.0, 128: 1.0, 256: 2.0}, ("fine",): {64: 1.0, 128: 1.0, 256: 1.1}}
        other = {key: {64: 0.5, 128: 0.5, 256: 0.55} for key in mine}
        other["fine",] = mine["fine",]
        assert [row.key for row in slow_rows(mine, [("v", other)])] == [("row",)]
        steps = jumps(mine, [("v", other)])
        assert len(steps) == 1
        assert steps[0].startswith("row from 128 to 256: 1.82 x")


class TestAccidents:
    def test_a_cell_that_stands_out_of_its_row_comes_back_at_the_rows_own_level(self):
        usual = dict.fromkeys((1, 2, 4, 8, 16), 2.0)  # this kernel takes twice as long throughout
        others = [dict.fromkeys(usual, 1.0)]
        row, mended = product_tables._without_accidents({**usual, 4: 7.0}, others)
        assert row == usual
        assert mended == 1
        assert product_tables._without_accidents(usual, others) == (usual, 0)
        assert product_tables._without_accidents({**usual, 4: 7.0}, []) == ({**usual, 4: 7.0}, 0)


class TestThinning:
    def test_what_is_left_out_is_predicted_from_what_is_kept(self):
        times = {("a",): {1: 1.0, 2: 2.0, 4: 4.0}, ("b",): {1: 1.0, 2: 4.0, 4: 4.0}}
        kept = thinned(times, (1, 4))
        assert kept == {("a",): {1: 1.0, 4: 4.0}, ("b",): {1: 1.0, 4: 4.0}}
        miss = thinning_miss(times, kept)  # 2 for 2, and 2 for 4
        assert (miss.points, miss.median) == (2, 0.25)


@needs_package
class TestInThePackage:
    """What the rules find in the tables that are shipped, and what they leave alone."""

    def test_sglang_timed_mxfp4_on_hopper_as_bf16(self):
        for gpu in ("h100", "h200"):
            refused = expert_tables.moe(open_library(gpu, None)).notes["layers_refused"]
            assert len(refused) == 2
            assert all(line.startswith("sglang") and "2880/2880" in line for line in refused)
        assert expert_tables.moe(open_library("b200", None)).notes["layers_refused"] == []

    def test_deepseeks_groups_reached_half_of_its_experts(self):
        notes = expert_tables.experts(open_library("b200", None), "fp8_block").notes
        groups = [line for line in notes["layers_refused"] if "sglang" in line]
        assert len(groups) == 1
        assert groups[0].startswith("sglang 0.5.14: 256/8/7168/2048")
        assert groups[0].endswith(UNREAD)

    def test_vllm_timed_launches_of_fp8_block(self):
        table = product_tables.products(open_library("h200", None), "fp8_block")
        assert len(table.notes["refused_host_bound"]) == 1
        assert table.notes["refused_host_bound"][0].startswith("v")
        assert product_tables.products(open_library("h200", None), "nvfp4") is None
