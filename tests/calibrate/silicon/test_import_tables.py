"""Parquet tables in, compact tables out: units, choice of rows, cleaning, failure."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pq = pytest.importorskip("pyarrow.parquet")
csv = pytest.importorskip("pyarrow.csv")

from dflash_sim.calibrate.silicon import source as silicon_source  # noqa: E402
from dflash_sim.calibrate.silicon.gemm_curve import Miss, curve_misses, fit_curve  # noqa: E402
from dflash_sim.calibrate.silicon.import_tables import import_silicon  # noqa: E402
from dflash_sim.calibrate.silicon.source import SYSTEMS, version_key  # noqa: E402
from dflash_sim.calibrate.silicon.table import PAST_ANY_CACHE_BYTES, lift  # noqa: E402
from dflash_sim.profiles.errors import MissingProfileError, UsageError  # noqa: E402
from dflash_sim.profiles.times.interpolation import GemmCurve  # noqa: E402
from dflash_sim.profiles.times.op_tables import OpTables  # noqa: E402

TABLES = Path(__file__).parents[2] / "data" / "silicon"
SHIPPED = Path(__file__).parents[3] / "profiles" / "ops"
TRUE = GemmCurve(floor_s=3e-6, bw_byte_s=6e12, rate_flop_s=1.5e15, knee=2.0)
US = 1e-6


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for source in TABLES.rglob("*.csv"):
        target = (root / source.relative_to(TABLES)).with_suffix(".parquet")
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(csv.read_csv(source), target)
    return root


@pytest.fixture(scope="module")
def imported(data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return import_silicon("b200_sxm", out, data_dir), OpTables.load("b200", profiles_dirs=[out])


def _copy(data_dir, tmp_path):
    for source in data_dir.rglob("*.parquet"):
        target = tmp_path / "data" / source.relative_to(data_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    return tmp_path / "data"


class TestUnits:
    def test_collective_sizes_are_elements_of_two_bytes(self, imported):
        _, tables = imported
        # 1,024 elements took 4 us; read as bytes that point would sit at 1,024.
        assert tables.all_reduce(nbytes=2048, gpus=8).seconds == pytest.approx(4 * US)
        assert tables.all_reduce(nbytes=1024, gpus=8).evidence == "fitted"
        assert tables.all_gather(nbytes=2048, gpus=8).seconds == pytest.approx(16 * US)

    def test_kv_length_is_isl_plus_step(self, imported):
        _, tables = imported
        shape = {"heads": 4, "kv_heads": 1, "head_dim": 256}
        found = tables.decode_attention(batch=2, kv_len=128, **shape)
        assert found.evidence == "measured"
        assert found.seconds == pytest.approx((4 + 2 * 128e-3) * US, rel=1e-3)


class TestRows:
    def test_gemm_takes_the_fastest_framework_of_the_newest_versions(self, imported):
        report, tables = imported
        for m, n, k in [(1, 512, 512), (16, 2048, 8192), (512, 8192, 2048)]:
            expected = TRUE.seconds(m=m, n=n, k=k)
            assert tables.gemm(m=m, n=n, k=k).seconds == pytest.approx(expected, rel=1e-3)
        # Where SGLang is 2.8 times too slow, vLLM is next best.
        expected = 1.02 * TRUE.seconds(m=128, n=2048, k=512)
        assert tables.gemm(m=128, n=2048, k=512).seconds == pytest.approx(expected, rel=1e-3)
        assert report.notes["gemm"]["frameworks_slow"] == 1
        assert report.notes["gemm"]["framework_slowest"].startswith("s at m=128 n=2048 k=512: 2.75")
        row = next(r for r in _lines(report, "gemm.csv") if r.startswith("2048,512,"))
        assert row.split(",")[2] == "ssvss"

    def test_moe_is_sglang_first_then_vllm_and_repeats_take_the_least(self, imported):
        report, tables = imported
        big = {"experts": 512, "top_k": 10, "hidden": 4096, "inter": 1024, "tp": 8}
        assert tables.moe(tokens=1, **big).seconds == pytest.approx(20 * US)
        assert tables.moe(tokens=2, **big).seconds == pytest.approx(24 * US)
        assert report.notes["moe"]["repeated_cells"] == 1
        small = {"experts": 256, "top_k": 8, "hidden": 2048, "inter": 512, "tp": 2}
        assert tables.moe(tokens=2, **small) is None  # measured balanced only
        found = tables.moe(tokens=2, **small, distribution="balanced")
        assert found.seconds == pytest.approx(20 * US)
        assert [r.split(",")[7] for r in _lines(report, "moe.csv")[1:]] == ["s", "v", "s"]

    def test_attention_keeps_wanted_caches_and_their_nearest_heads(self, imported):
        report, _ = imported
        kept = {tuple(r.split(",")[:6]) for r in _lines(report, "attention.csv")[1:]}
        assert kept == {
            ("decode", "trtllm_mha", "4", "1", "256", "0"),
            ("decode", "trtllm_mha", "8", "1", "256", "0"),
            ("decode", "triton", "6", "1", "256", "0"),
            ("prefill", "trtllm_mha", "4", "1", "256", "0"),
        }

    def test_a_lone_spike_becomes_the_middle_of_its_neighbours_and_is_named(self, imported):
        report, tables = imported
        assert tables.all_reduce(nbytes=8192, gpus=8).seconds == pytest.approx(5.477 * US, rel=1e-3)
        assert report.notes["comm"]["spikes_replaced"] == [
            "all_reduce/8 at 8192: 40 us between 5 and 6"
        ]

    def test_a_disturbed_row_takes_the_same_kernel_timed_under_vllm(self, imported):
        report, tables = imported
        rows = {tuple(r.split(",")[:3]): r.split(",")[4:] for r in _lines(report, "gdn.csv")[1:]}
        assert rows["recurrent_decode", "16", "4"] == ["svv", "5", "6.5", "9"]
        assert rows["recurrent_decode", "8", "2"] == ["s", "5", "6", "8"]  # within 1.3: left alone
        assert tables.gdn_decode(batch=4, v_heads=16, k_heads=4).seconds == pytest.approx(9 * US)
        assert report.notes["gdn"]["mended"] == ["recurrent_decode/16/4/1 at 4: 30 us, elsewhere 9"]

    def test_every_source_is_named_with_its_digest(self, imported, data_dir):
        _, tables = imported
        listed = {s["path"]: s["sha256"] for s in tables.notes["sources"]}
        used = {p.relative_to(data_dir).as_posix() for p in data_dir.rglob("*.parquet")}
        assert listed.keys() == {path for path in used if "0.5.9" not in path}
        assert all(len(digest) == 64 for digest in listed.values())


class TestFit:
    def test_known_constants_come_back(self):
        cells = {
            (m, n, k): TRUE.seconds(m=m, n=n, k=k)
            for m in (1, 8, 64, 256, 512, 16384)
            for n in (512, 2048, 16384)
            for k in (512, 2048, 16384)
        }
        found = fit_curve(cells)
        assert found.floor_s == pytest.approx(3e-6, rel=0.01)
        assert found.bw_byte_s == pytest.approx(6e12, rel=0.01)
        assert found.rate_flop_s == pytest.approx(1.5e15, rel=0.01)
        assert found.knee == pytest.approx(2.0, rel=0.02)
        assert curve_misses(found, cells)["fit"].median < 0.002

    def test_outliers_do_not_move_it(self):
        cells = {
            (m, n, 4096): TRUE.seconds(m=m, n=n, k=4096) * (3 if (m, n) == (8, 4096) else 1)
            for m in (1, 8, 64, 256, 512, 16384)
            for n in (512, 1024, 2048, 4096, 8192, 16384)
        }
        assert fit_curve(cells).bw_byte_s == pytest.approx(6e12, rel=0.03)

    def test_miss_is_an_absolute_relative_error(self):
        assert Miss.of([(1.1, 1.0), (0.9, 1.0), (2.0, 2.0)]).median == 0.1
        assert Miss.of([]).points == 0


class TestLift:
    @given(cached=st.floats(1.1, 8.0))
    def test_a_time_no_memory_could_serve_is_raised_to_memory_speed(self, cached):
        big, small = int(PAST_ANY_CACHE_BYTES), 10**6
        times = {("row",): {small: small / (cached * 1e12), big: big / 1e12}}
        notes = lift(times, lambda key, size: float(size))
        assert times["row",][small] == pytest.approx(small / 1e12)
        assert times["row",][big] == big / 1e12
        assert notes["lifted_out_of_l2"] == 1

    def test_slower_times_and_tables_without_big_cells_are_left_alone(self):
        big, small = int(PAST_ANY_CACHE_BYTES), 10**6
        before = {("row",): {small: 2 * small / 1e12, big: big / 1e12}}
        times = {key: dict(row) for key, row in before.items()}
        lift(times, lambda key, size: float(size))
        assert times == before
        times = {("row",): {small: 1e-9}}
        assert lift(times, lambda key, size: float(size))["lifted_out_of_l2"] == 0


class TestFiles:
    def test_same_input_same_bytes(self, imported, data_dir, tmp_path):
        report, _ = imported
        again = import_silicon("b200", tmp_path, data_dir)
        for name in report.files:
            assert (again.folder / name).read_bytes() == (report.folder / name).read_bytes()

    def test_progress_names_every_family(self, data_dir, tmp_path):
        said = []
        import_silicon("b200_sxm", tmp_path, data_dir, on_progress=said.append)
        assert [line.split()[1] for line in said[:5]] == ["gemm", "moe", "attention", "gdn", "comm"]

    def test_truncated_parquet_is_one_line_naming_the_file_and_leaves_nothing(
        self, data_dir, tmp_path
    ):
        data = _copy(data_dir, tmp_path)
        victim = next(data.rglob("nccl_perf.parquet"))
        victim.write_bytes(victim.read_bytes()[:200])
        with pytest.raises(UsageError, match=r"nccl_perf\.parquet") as caught:
            import_silicon("b200_sxm", tmp_path / "out", data)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    def test_failing_half_way_through_writing_leaves_the_old_files(
        self, data_dir, tmp_path, monkeypatch
    ):
        import_silicon("b200_sxm", tmp_path, data_dir)
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        write = Path.write_text

        def full_disk(self, *args, **options):
            if self.name == "gdn.csv":
                raise OSError(28, "No space left on device")
            return write(self, *args, **options)

        monkeypatch.setattr(Path, "write_text", full_disk)
        with pytest.raises(UsageError, match="No space left"):
            import_silicon("b200_sxm", tmp_path, data_dir)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


class TestRefusals:
    def test_unknown_system(self, tmp_path):
        with pytest.raises(UsageError, match=r"unknown system 'b20'\. Have: a100"):
            import_silicon("b20", tmp_path)

    def test_wrong_directory(self, tmp_path):
        with pytest.raises(UsageError, match=r"no folder h200_sxm in .*--data-dir"):
            import_silicon("h200", tmp_path, tmp_path)

    def test_missing_package_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setattr(silicon_source, "find_spec", lambda name: None)
        with pytest.raises(MissingProfileError, match=r"pip install .*(\[silicon\]|'aicon)"):
            import_silicon("b200", tmp_path)

    def test_missing_family(self, data_dir, tmp_path):
        data = _copy(data_dir, tmp_path)
        for path in data.rglob("gdn_perf.parquet"):
            path.unlink()
        with pytest.raises(MissingProfileError, match="no usable gdn rows for b200_sxm"):
            import_silicon("b200", tmp_path / "out", data)

    def test_missing_column(self, data_dir, tmp_path):
        data = _copy(data_dir, tmp_path)
        victim = next(data.rglob("nccl_perf.parquet"))
        pq.write_table(pq.read_table(victim).drop_columns(["latency"]), victim)
        with pytest.raises(UsageError, match=r"nccl_perf\.parquet has no column latency"):
            import_silicon("b200", tmp_path / "out", data)


def test_versions_sort_as_people_read_them():
    rising = ["0.5.9", "0.5.10", "0.5.14", "1.0.0", "1.2.0rc5", "1.3.0rc10", "1.3.0rc20", "1.3.0"]
    assert sorted(sorted(rising), key=version_key) == rising
    assert sorted(rising) != rising
    assert version_key("0.5.6.post2") > version_key("0.5.6")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("aiconfigurator_core") is None, reason="needs dflash-sim[silicon]")
@pytest.mark.parametrize("system", ["b200_sxm", "l40s"])
def test_shipped_tables_are_what_the_importer_writes(system, tmp_path):
    report = import_silicon(system, tmp_path)
    for name in report.files:
        shipped = (SHIPPED / SYSTEMS[system] / name).read_bytes()
        assert (report.folder / name).read_bytes() == shipped, name


def _lines(report, name):
    return (report.folder / name).read_text(encoding="utf-8").splitlines()
