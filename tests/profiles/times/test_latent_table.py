"""FP8 caches, latent and sparse attention, and the small kernels around them."""

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from dflash_sim.profiles.load import load_device
from dflash_sim.profiles.times.op_tables import OpTables

US = 1e-6
HOPPER, BLACKWELL = ("h100", "h200"), ("b200", "b300", "gb200", "gb300")
QWEN35_397B_TP8 = {"heads": 4, "kv_heads": 1, "head_dim": 256}
MINIMAX_TP8 = {"heads": 6, "kv_heads": 1, "head_dim": 128}
GLM_45_TP8 = {"heads": 12, "kv_heads": 1, "head_dim": 128}
WIDTH = 576  # of a cached token of MLA: latent and rotary part


@pytest.fixture(params=(*HOPPER, *BLACKWELL))
def gpu(request):
    return OpTables.load(request.param)


class TestFp8Cache:
    def test_a_long_cache_takes_little_more_than_half_the_time(self, gpu):
        asked = {"batch": 64, "kv_len": 32768, **QWEN35_397B_TP8}
        narrow = gpu.decode_attention(kv_dtype="fp8", **asked)
        wide = gpu.decode_attention(**asked)
        assert narrow.table == "attention_fp8.csv"
        assert 0.45 * wide.seconds < narrow.seconds < 0.85 * wide.seconds

    def test_a_cache_arrives_no_faster_than_memory_delivers(self, gpu):
        rate = load_device(gpu.device).mem_bw_byte_s
        for batch in (16, 64, 256):
            for kv_len in (2048, 8192, 32768):
                asked = {"batch": batch, "kv_len": kv_len, **QWEN35_397B_TP8}
                found = gpu.decode_attention(kv_dtype="fp8", **asked)
                assert 2 * batch * kv_len * 256 / found.seconds < 1.15 * rate

    def test_prefill_too(self, gpu):
        asked = {"batch": 1, **QWEN35_397B_TP8}
        times = [
            gpu.prefill_attention(seq=n, kv_dtype="fp8", **asked).seconds
            for n in (128, 1024, 4096, 16384)
        ]
        assert all(b > 0.9 * a for a, b in pairwise(times))

    def test_further_models_have_their_own_rows(self, gpu):
        for shape in (MINIMAX_TP8, GLM_45_TP8):
            for kv_dtype in ("bfloat16", "fp8"):
                asked = {"batch": 16, "kv_len": 4096, "kv_dtype": kv_dtype, **shape}
                assert gpu.decode_attention(**asked).evidence == "measured"
                asked = {"batch": 1, "seq": 4096, "kv_dtype": kv_dtype, **shape}
                assert gpu.prefill_attention(**asked).evidence == "measured"

    def test_another_format_answers_none(self, gpu):
        asked = {"batch": 1, "kv_len": 4096, **QWEN35_397B_TP8}
        assert gpu.decode_attention(kv_dtype="nvfp4", **asked) is None


class TestMla:
    def test_the_cache_is_read_at_most_at_the_memorys_rate_and_at_least_at_a_third(self, gpu):
        """SGLang's FP8 rows on Hopper fail the second half: they widened the cache first."""
        rate = load_device(gpu.device).mem_bw_byte_s
        for kv_dtype, each in (("bfloat16", 2), ("fp8", 1)):
            found = gpu.mla_decode(batch=128, kv_len=8192, heads=16, kv_dtype=kv_dtype)
            assert found.evidence == "measured"
            assert 0.33 * rate < each * WIDTH * 128 * 8192 / found.seconds < rate

    def test_prefill_counts_the_products_of_the_form_that_servers_run(self, gpu):
        """SGLang's rows on Hopper ran the absorbed form and would fail."""
        seq, heads = 16384, 128
        flops = seq * seq * heads * (192 + 128)  # half of the square is masked
        found = gpu.mla_prefill(batch=1, seq=seq, heads=heads)
        assert 0.4 * load_device(gpu.device).bf16_flop_s < flops / found.seconds

    def test_more_is_not_cheaper_beyond_noise(self, gpu):
        for kv_dtype in ("bfloat16", "fp8"):
            asked = {"heads": 16, "kv_dtype": kv_dtype}
            by_length = [
                gpu.mla_decode(batch=32, kv_len=n, **asked).seconds
                for n in (128, 1024, 8192, 32768)
            ]
            by_batch = [
                gpu.mla_decode(batch=b, kv_len=8192, **asked).seconds for b in (1, 8, 32, 128)
            ]
            for times in (by_length, by_batch):
                assert all(b > 0.9 * a for a, b in pairwise(times))

    def test_products_per_head(self, gpu):
        for phase in ("pre", "post"):
            few = gpu.mla_bmm(tokens=1, heads=16, phase=phase)
            many = gpu.mla_bmm(tokens=4096, heads=16, phase=phase)
            assert few.evidence == "measured"
            assert 0 < few.seconds < many.seconds
        assert gpu.mla_bmm(tokens=1, heads=16, phase="between") is None
        assert gpu.mla_bmm(tokens=1, heads=12, phase="pre").evidence == "fitted"


class TestSparse:
    def test_modules_of_two_models(self, gpu):
        for model in ("deepseek-v3.2", "glm-5"):
            for kv_dtype in ("bfloat16", "fp8"):
                asked = {"heads": 16, "model": model, "kv_dtype": kv_dtype}
                decode = gpu.module_decode(table="dsa", batch=4, kv_len=8192, **asked)
                assert decode.evidence == "measured"
                # What is attended is chosen: a cache 16 times as long is not 16 times the time.
                long = gpu.module_decode(table="dsa", batch=1, kv_len=65536, **asked).seconds
                assert (
                    long < 4 * gpu.module_decode(table="dsa", batch=1, kv_len=4096, **asked).seconds
                )
                prefill = gpu.module_prefill(table="dsa", batch=1, seq=4096, prefix=0, **asked)
                assert prefill.evidence == "measured"
                two = gpu.module_prefill(table="dsa", batch=2, seq=4096, prefix=0, **asked)
                assert (two.seconds, two.evidence) == (2 * prefill.seconds, "fitted")
        assert gpu.module_decode(table="dsa", batch=1, kv_len=100, heads=16, model="glm-9") is None

    def test_projections_in_bf16_are_kept_apart(self, gpu):
        asked = {"batch": 4, "kv_len": 4096, "heads": 16, "model": "glm-5"}
        assert gpu.module_decode(table="dsa", dtype="bfloat16", **asked) is not None
        assert (
            gpu.module_decode(table="dsa", dtype="bfloat16", **{**asked, "model": "deepseek-v3.2"})
            is None
        )


@pytest.mark.skipif(find_spec("aiconfigurator_core") is None, reason="needs dflash-sim[silicon]")
def test_mla_with_an_fp8_cache_on_hopper_is_tensorrts():
    import pyarrow.parquet as pq

    root = Path(find_spec("aiconfigurator_core").origin).parent / "systems" / "data" / "h200_sxm"
    name = "generation_mla_perf.parquet"
    told = {}
    for framework in ("sglang/0.5.14", "trtllm/1.3.0rc20"):
        rows = pq.read_table(root / "mla" / framework / name).to_pylist()
        want = {"kv_cache_dtype": "fp8", "num_heads": 16, "batch_size": 128, "step": 8191}
        told[framework] = min(row["latency"] for row in rows if want.items() <= row.items())
    assert told["sglang/0.5.14"] > 6 * told["trtllm/1.3.0rc20"]
    found = OpTables.load("h200").mla_decode(batch=128, kv_len=8192, heads=16, kv_dtype="fp8")
    assert found.seconds == pytest.approx(1e-3 * told["trtllm/1.3.0rc20"], rel=0.006)
    assert len(OpTables.load("h200").notes["mla"]["did_other_work"]) == 3
    assert OpTables.load("b200").notes["mla"]["did_other_work"] == []


class TestFurtherKinds:
    """Attention to chosen blocks and over compressed tokens, delta attention, and streams."""

    MODULES = (
        ("msa", "minimax-m3", "bfloat16", "bfloat16", 8),
        ("csa", "deepseek-v4-flash by 4", "fp8_block", "fp8", 8),
        ("csa", "deepseek-v4-flash by 128", "fp8_block", "fp8", 8),
        ("csa", "deepseek-v4-pro by 4", "fp8_block", "fp8", 16),
        ("csa", "deepseek-v4-pro by 128", "fp8_block", "fp8", 16),
    )

    @pytest.mark.parametrize(("table", "model", "dtype", "kv_dtype", "heads"), MODULES)
    def test_modules_grow_slower_than_what_they_choose_from(
        self, gpu, table, model, dtype, kv_dtype, heads
    ):
        asked = {
            "table": table, "model": model, "dtype": dtype, "kv_dtype": kv_dtype, "heads": heads,
        }  # fmt: skip
        one = gpu.module_decode(batch=8, kv_len=8192, **asked)
        assert one.evidence == "measured"
        assert 1e-5 < one.seconds < 1e-3
        assert gpu.module_decode(batch=8, kv_len=65536, **asked).seconds < 4 * one.seconds
        prefill = gpu.module_prefill(batch=1, seq=4096, prefix=0, **asked)
        assert prefill.seconds > one.seconds

    def test_delta_attention_is_timed_by_what_its_states_take(self, gpu):
        decode = gpu.kda(phase="decode", batch=64, rows=1, heads=24)
        assert decode.evidence == "measured"
        halves = gpu.kda(phase="decode", batch=128, rows=1, heads=24)
        assert halves.seconds == pytest.approx(2 * decode.seconds, rel=0.3)
        fewer = gpu.kda(phase="decode", batch=64, rows=1, heads=16)  # 12 heads were timed
        assert fewer.evidence == "fitted"
        assert fewer.seconds < decode.seconds
        rows = [gpu.kda(phase="verify", batch=16, rows=r, heads=12).seconds for r in (2, 4, 8)]
        assert rows == sorted(rows)
        assert gpu.kda(phase="rewind", batch=1, rows=1, heads=12) is None

    def test_streams_of_the_widths_that_were_timed(self, gpu):
        for hidden in (4096, 7168):
            few, many = (
                gpu.streams(step="pre", count=4, hidden=hidden, tokens=n).seconds for n in (8, 8192)
            )
            assert 0 < few < many
        assert gpu.streams(step="pre", count=4, hidden=5120, tokens=8) is None
