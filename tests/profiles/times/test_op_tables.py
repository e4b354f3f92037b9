"""The shipped operator tables: published points, physics, interpolation without surprises."""

from math import log, sqrt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_device
from dflash_sim.profiles.times.attention_table import sheets
from dflash_sim.profiles.times.interpolation import GemmCurve, GemmGrid, Line, Sheet
from dflash_sim.profiles.times.op_tables import OpTables

GPUS = ("a100", "b200", "b300", "gb200", "gb300", "h100", "h200", "l40s", "rtx_pro_6000")
SHIPPED = Path(__file__).parents[3] / "profiles" / "ops"
US = 1e-6
KIB = 1024
QWEN3_8B = {"heads": 32, "kv_heads": 8, "head_dim": 128}
QWEN35_397B_TP8 = {"heads": 4, "kv_heads": 1, "head_dim": 256}
MOE_397B = {"experts": 512, "top_k": 10, "hidden": 4096, "inter": 1024}
GDN_397B_TP8 = {"v_heads": 8, "k_heads": 2}
CURVE = GemmCurve(floor_s=3e-6, bw_byte_s=6e12, rate_flop_s=1.5e15, knee=2.0)


@pytest.fixture(scope="module", params=GPUS)
def gpu(request):
    return OpTables.load(request.param)


@pytest.fixture(scope="module")
def b200():
    return OpTables.load("b200")


class TestPublishedPoints:
    """Figures read off aiconfigurator 0.12.0 by other means, to the digits they were quoted."""

    @pytest.mark.parametrize(
        ("n", "k", "quoted_us"),
        [
            (6144, 4096, {1: 10.9, 16: 10.9, 64: 11.4, 128: 11.3, 256: 13.5, 512: 19.9}),
            (4096, 4096, {1: 9.7, 16: 11.4, 64: 9.1, 128: 9.6, 256: 10.5, 512: 14.5}),
            (4096, 12288, {1: 20.3, 16: 19.6, 64: 21.5, 128: 23.8, 256: 29.5, 512: 39.5}),
            (4096, 1024, {1: 4.9}),
            (512, 4096, {1: 5.9}),
            (3072, 4096, {1: 8.3}),
        ],
    )
    def test_b200_gemm_on_the_grid(self, b200, n, k, quoted_us):
        for m, us in quoted_us.items():
            found = b200.gemm(m=m, n=n, k=k)
            assert found.evidence == "measured"
            assert found.seconds == pytest.approx(us * US, abs=0.06 * US)

    @pytest.mark.parametrize(
        ("n", "k", "quoted_us"),
        [
            (24576, 4096, {1: 34.3, 16: 35.0, 64: 37.0, 128: 38.8, 256: 46.0, 512: 81.6}),
            (151936, 4096, {1: 194, 16: 186, 64: 221, 128: 239, 256: 271, 512: 455}),
            (4096, 20480, {1: 33.2, 16: 32.9, 64: 34.3, 128: 40.2, 256: 50.2, 512: 66.8}),
        ],
    )
    def test_b200_gemm_off_the_grid_agrees_with_another_interpolation(self, b200, n, k, quoted_us):
        """Two guesses, not a measurement; 12 % up to 256 rows, 25 % across the gap to 512."""
        for m, us in quoted_us.items():
            found = b200.gemm(m=m, n=n, k=k)
            assert found.evidence == "fitted"
            assert found.seconds == pytest.approx(us * US, rel=0.12 if m <= 256 else 0.25)

    def test_all_reduce_of_eight(self, b200):
        sizes = [8 * KIB << i for i in (0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11)]
        for gpu, quoted_us in {
            "b200": (5.1, 5.3, 6.2, 7.0, 8.5, 11.6, 15.0, 18.9, 24.4, 36.2, 57.5),
            "h200": (3.6, 3.7, 5.0, 6.7, 8.0, 14.9, 13.1, 19.3, 32.1, 61.7, 107.6),
        }.items():
            tables = OpTables.load(gpu)
            found = [tables.all_reduce(nbytes=size, gpus=8).seconds / US for size in sizes]
            assert found == pytest.approx(quoted_us, abs=0.06)

    def test_moe_397b(self, b200):
        quoted_us = {1: 21.4, 2: 23.6, 4: 33.7, 8: 57.4, 16: 80.9, 32: 108.5, 64: 167.5}
        quoted_us |= {128: 202.3, 256: 233.4, 512: 279.9}
        for tokens, us in quoted_us.items():
            found = b200.moe(tokens=tokens, tp=8, **MOE_397B)
            assert found.seconds == pytest.approx(us * US, abs=0.06 * US)
        balanced = b200.moe(tokens=32, tp=8, distribution="balanced", **MOE_397B)
        assert balanced.seconds == pytest.approx(160.8 * US, abs=0.06 * US)

    def test_gdn_and_attention(self, b200):
        for batch, us in {1: 4.4, 16: 5.8, 32: 7.2, 64: 13.4, 256: 49.7, 512: 91.0}.items():
            found = b200.gdn_decode(batch=batch, **GDN_397B_TP8)
            assert found.seconds == pytest.approx(us * US, abs=0.07 * US)
        for batch, us in {1: 10.4, 8: 12.4, 32: 46.7, 128: 156.6}.items():
            found = b200.decode_attention(batch=batch, kv_len=2048, **QWEN3_8B)
            assert found.seconds == pytest.approx(us * US, abs=0.06 * US)

    @pytest.mark.parametrize(
        ("gpu", "floor_us", "bw_tb_s", "median"),
        [
            ("b200", 3.29, 6.29, 0.072),
            ("gb200", 3.25, 6.55, 0.071),
            ("h200", 3.84, 4.12, 0.052),
            ("h100", 3.45, 2.97, 0.038),
        ],
    )
    def test_curve_constants(self, gpu, floor_us, bw_tb_s, median):
        """An independent fit of the same points; ours takes the rate from large products."""
        tables = OpTables.load(gpu)
        curve, error = tables.meta["gemm"]["curve"], tables.notes["gemm"]["curve_error"]
        assert curve["floor_s"] == pytest.approx(floor_us * US, rel=0.02)
        assert curve["bw_byte_s"] == pytest.approx(bw_tb_s * 1e12, rel=0.02)
        assert error["big_weights"]["median"] == pytest.approx(median, abs=0.003)
        assert error["fit"]["points"] == 12920


class TestPhysics:
    """No entry may beat the datasheet: that is how benchmarks served from L2 were found."""

    def test_weights_arrive_no_faster_than_memory_delivers(self, gpu):
        device = load_device(gpu.device)
        for n in (512, 2048, 8192, 65536):
            for k in (512, 2048, 8192):
                for m in (1, 16, 64):
                    seconds = gpu.gemm(m=m, n=n, k=k).seconds
                    assert 2 * n * k / seconds < device.mem_bw_byte_s

    def test_products_run_no_faster_than_the_peak(self, gpu):
        device = load_device(gpu.device)
        for m in (512, 4096, 16384):
            for n in (1024, 8192):
                seconds = gpu.gemm(m=m, n=n, k=8192).seconds
                assert 2 * m * n * 8192 / seconds < device.bf16_flop_s

    def test_caches_and_states_are_read_from_memory(self, gpu):
        device = load_device(gpu.device)
        for batch in (1, 8, 64, 512):
            for kv_len in (512, 4096, 32768):
                found = gpu.decode_attention(batch=batch, kv_len=kv_len, **QWEN3_8B)
                read = 2 * 2 * batch * kv_len * 8 * 128
                slack = 1.0 if found.evidence == "measured" else 1.15  # many times past the table
                assert read / found.seconds < slack * device.mem_bw_byte_s
            gdn = gpu.gdn_decode(batch=batch, v_heads=32, k_heads=16)
            if gdn is not None:
                moved = 2 * batch * 32 * 128 * 128 * 4
                assert moved / gdn.seconds < 1.06 * device.mem_bw_byte_s  # A100: 1.05

    def test_it_would_have_failed_on_the_raw_tables(self):
        """L40S answered from its 96 MB cache up to 5.9 times faster than from memory."""
        for gpu, family, at_least in [("l40s", "gdn", 5), ("rtx_pro_6000", "attention", 2.5)]:
            notes = OpTables.load(gpu).notes[family]
            assert notes["lifted_worst_ratio"] > at_least
        for gpu in ("b200", "h200"):
            meta = OpTables.load(gpu).notes
            assert meta["gemm"]["lifted_out_of_l2"] == meta["attention"]["lifted_out_of_l2"] == 0


class TestEvidence:
    def test_between_points_is_measured_and_past_them_is_fitted(self, b200):
        assert b200.gemm(m=20, n=4096, k=4096).evidence == "measured"
        assert b200.gemm(m=20, n=4000, k=4096).evidence == "fitted"
        assert b200.gemm(m=10**6, n=4096, k=4096).evidence == "fitted"
        assert b200.moe(tokens=3, tp=8, **MOE_397B).evidence == "measured"
        assert b200.moe(tokens=10**5, tp=8, **MOE_397B).evidence == "fitted"

    def test_other_heads_or_another_kernel_are_fitted(self, b200):
        shape = {"batch": 8, "kv_len": 4096}
        assert b200.decode_attention(**shape, **QWEN35_397B_TP8).evidence == "measured"
        odd = {**QWEN35_397B_TP8, "heads": 5}
        assert b200.decode_attention(**shape, **odd).evidence == "fitted"
        fa3 = b200.decode_attention(**shape, **QWEN35_397B_TP8, backend="fa3")
        assert fa3.evidence == "fitted"
        assert fa3.seconds == b200.decode_attention(**shape, **QWEN35_397B_TP8).seconds

    def test_the_kernel_matters_and_the_default_is_the_first_by_preference(self, b200):
        ask = {"batch": 8, "kv_len": 4096, **QWEN35_397B_TP8}
        default = b200.decode_attention(**ask)
        assert default == b200.decode_attention(**ask, backend="trtllm_mha")
        assert b200.decode_attention(**ask, backend="triton").seconds > 2 * default.seconds

    def test_unmeasured_shapes_answer_none(self, b200):
        assert b200.moe(tokens=8, experts=7, top_k=2, hidden=64, inter=64, tp=1) is None
        assert b200.gdn_decode(batch=1, v_heads=7, k_heads=1) is None
        assert b200.all_reduce(nbytes=KIB, gpus=3) is None
        assert b200.decode_attention(batch=1, kv_len=9, heads=1, kv_heads=1, head_dim=80) is None
        assert OpTables.load("mi300x") is None

    def test_one_gpu_talks_to_nobody(self, b200):
        assert b200.all_reduce(nbytes=1e9, gpus=1).seconds == 0

    def test_errors_are_reported_for_every_kind(self, gpu):
        for rel_err in gpu.meta["rel_err"].values():
            assert 0 < rel_err["measured"] < 0.11
            assert rel_err["measured"] <= rel_err["fitted"] < 0.42

    def test_a_window_costs_what_a_cache_of_its_length_costs(self, b200):
        asked = {"batch": 8, **QWEN3_8B}
        short = b200.decode_attention(kv_len=1000, window=4096, **asked)
        assert short == b200.decode_attention(kv_len=1000, **asked)
        long = b200.decode_attention(kv_len=100_000, window=4096, **asked)
        assert long.seconds == b200.decode_attention(kv_len=4096, **asked).seconds
        assert long.evidence == "fitted"


class TestEveryGpu:
    def test_every_lookup_the_models_need_is_answered(self, gpu):
        if gpu.device == "a100":
            pytest.skip("SGLang was not measured on Qwen3.5 there")
        for v_heads in (64, 48, 32):
            for tp in (1, 2, 4, 8):
                shape = {"v_heads": v_heads // tp, "k_heads": 16 // tp}
                assert gpu.gdn_decode(batch=2.5, **shape).evidence == "measured"
                assert gpu.gdn_conv(tokens=3, **shape).evidence == "measured"
                assert gpu.gdn_prefill(batch=1, seq=300, **shape).evidence == "measured"
                assert gpu.gdn_prefill_conv(batch=1, seq=300, **shape).evidence == "measured"
        caches = [(32, 2, 256), (16, 2, 256), (24, 4, 256), (16, 4, 256), (32, 8, 128)]
        for heads, kv, width in [*caches, (32, 4, 128), (64, 8, 64)]:
            for tp in (1, 2, 4, 8):
                rank = {"heads": heads // tp, "kv_heads": max(1, kv // tp), "head_dim": width}
                assert gpu.decode_attention(batch=4, kv_len=3000, **rank) is not None
                assert gpu.prefill_attention(batch=1, seq=3000, **rank) is not None

    def test_all_of_them_stay_small(self):
        assert {folder.name for folder in SHIPPED.iterdir()} == set(GPUS)
        assert sum(path.stat().st_size for path in SHIPPED.rglob("*.*")) < 8e6

    def test_digest_names_the_bytes(self, tmp_path):
        tables = OpTables.load("h100")
        assert len(tables.digest) == 12
        assert tables.digest != OpTables.load("h200").digest
        _copy("h100", tmp_path)
        assert OpTables.load("h100", profiles_dirs=[tmp_path]).digest == tables.digest
        meta = tmp_path / "ops" / "h100" / "meta.toml"
        meta.write_text(meta.read_text(encoding="utf-8") + "# touched\n", encoding="utf-8")
        assert OpTables.load("h100", profiles_dirs=[tmp_path]).digest != tables.digest

    @pytest.mark.parametrize("broken", sorted(path.name for path in (SHIPPED / "h100").iterdir()))
    def test_a_broken_file_is_a_usage_error_that_names_the_folder(self, tmp_path, broken):
        folder = _copy("h100", tmp_path)
        _ask_everything(OpTables.load("h100", profiles_dirs=[tmp_path]))
        text = (folder / broken).read_text(encoding="utf-8")
        (folder / broken).write_text(text[: len(text) // 3] + "?=", encoding="utf-8")
        with pytest.raises(UsageError, match=r"cannot read the operator tables in .*h100"):
            _ask_everything(OpTables.load("h100", profiles_dirs=[tmp_path]))

    def test_a_dense_model_in_bf16_reads_two_files(self, tmp_path):
        folder = _copy("h100", tmp_path)
        for path in folder.glob("*.csv"):
            if path.name not in {"gemm.csv", "attention.csv"}:
                path.unlink()
        tables = OpTables.load("h100", profiles_dirs=[tmp_path])
        assert tables.gemm(m=1, n=4096, k=4096) is not None
        assert tables.decode_attention(batch=1, kv_len=100, **QWEN3_8B) is not None


rising = st.lists(st.tuples(st.floats(1.01, 3.0), st.floats(1.0, 3.0)), min_size=2, max_size=8).map(
    lambda steps: _cumulate(steps)
)


class TestInterpolation:
    @given(points=rising, at=st.floats(0.5, 5000), further=st.floats(1.0, 10), power=st.booleans())
    def test_a_rising_table_reads_as_rising(self, points, at, further, power):
        line = Line(*points, power=power)
        assert line.at(at)[0] <= line.at(at * further)[0] * (1 + 1e-12)

    @given(points=rising, power=st.booleans())
    def test_points_come_back_exactly(self, points, power):
        line = Line(*points, power=power)
        for x, seconds in zip(*points, strict=True):
            assert line.at(x) == (seconds, True)

    def test_ends(self):
        line = Line([10, 20], [3.0, 5.0])
        assert line.at(1) == (3.0, False)
        assert line.at(40) == (9.0, False)  # the last slope, 0.2 per step, goes on
        assert Line([10, 20], [5.0, 3.0]).at(40) == (3.0, False)  # but never down
        assert Line([10], [5.0]).at(20) == (10.0, False)

    def test_fractional_batches_are_linear(self, b200):
        two, four = (b200.gdn_decode(batch=b, **GDN_397B_TP8).seconds for b in (2, 4))
        assert b200.gdn_decode(batch=3, **GDN_397B_TP8).seconds == pytest.approx((two + four) / 2)

    def test_power_lines_join_squares_exactly(self):
        line = Line([1, 4], [1.0, 16.0], power=True)
        assert line.at(2)[0] == pytest.approx(4.0)
        assert line.at(8)[0] == pytest.approx(64.0)

    def test_ragged_sheets_grow_by_bytes(self):
        """Cost ``1 + batch * length``, measured only where it fits."""
        lines = {1: [2, 3, 5, 9], 2: [3, 5, 9, None], 4: [5, 9, None, None]}
        sheet = Sheet({b: Line([1, 2, 4, 8], t) for b, t in lines.items()})
        for batch in (1, 1.5, 2, 3, 4, 10):
            for length in (1, 3, 8, 100):
                assert sheet.at(batch, length)[0] == pytest.approx(1 + batch * length)
        assert sheet.at(1, 8)[1]
        assert not sheet.at(4, 8)[1]
        assert not sheet.at(10, 1)[1]

    @given(
        m=st.integers(1, 20000),
        n=st.integers(16, 300000),
        k=st.integers(16, 100000),
        factor=st.floats(0.5, 2.0),
    )
    def test_a_table_that_is_the_curve_times_a_factor_stays_so_everywhere(self, m, n, k, factor):
        rows = (1, 16, 256, 4096)
        shapes = [(a, b) for a in (64, 1024, 8192) for b in (64, 1024, 8192)]
        table = {(a, b): [factor * CURVE.seconds(m=r, n=a, k=b) for r in rows] for a, b in shapes}
        table[1024, 1024][1] = None
        seconds, _ = GemmGrid(rows, table, CURVE).at(m=m, n=n, k=k)
        assert seconds == pytest.approx(factor * CURVE.seconds(m=m, n=n, k=k))

    def test_the_ratio_to_the_curve_is_interpolated_in_log_space(self):
        table = {
            (n, 1024): [scale * CURVE.seconds(m=1, n=n, k=1024)]
            for n, scale in [(512, 1), (2048, 4)]
        }
        grid = GemmGrid([1], table, CURVE)
        middle, measured = grid.at(m=1, n=1024, k=1024)
        assert middle == pytest.approx(2 * CURVE.seconds(m=1, n=1024, k=1024))
        assert not measured
        assert grid.at(m=1, n=512, k=1024)[1]

    def test_the_curve_is_a_floor_plus_a_rounded_roofline(self):
        big = {"m": 4096, "n": 4096, "k": 4096}
        memory = 2 * 3 * 4096**2 / 6e12
        math = 2 * 4096**3 / 1.5e15
        assert CURVE.seconds(**big) == pytest.approx(3e-6 + sqrt(memory**2 + math**2))

    def test_a_straight_line_beats_a_power_law_on_held_out_decode_points(self, b200):
        """Why tables are joined by straight lines: the kernel is a launch plus bytes."""
        straight, power = [], []
        for key, sheet in sheets(b200.folder, "attention", "decode").items():
            if key[0] != "trtllm_mha":
                continue
            for line in sheet.lines:
                for i in range(1, len(line.x) - 1):
                    x, t = line.x[i - 1 : i + 2 : 2], line.seconds[i - 1 : i + 2 : 2]
                    for kind, errors in ((False, straight), (True, power)):
                        found = Line(x, t, power=kind).at(line.x[i])[0]
                        errors.append(abs(log(found / line.seconds[i])))
        assert sum(straight) < 0.95 * sum(power)


def _cumulate(steps):
    x, seconds = [1.0], [1e-6]
    for dx, dt in steps:
        x.append(x[-1] * dx)
        seconds.append(seconds[-1] * dt)
    return x, seconds


def _copy(gpu, root):
    folder = root / "ops" / gpu
    folder.mkdir(parents=True)
    for path in (SHIPPED / gpu).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def _ask_everything(tables):
    """Make the tables read each of their files."""
    assert tables.notes["sources"]
    for family in tables.folder.families:
        assert tables.folder.table(family, lambda matrix: matrix) is not None
