"""Block attention in Triton equals its reference, interpreted on the CPU and compiled on a GPU."""

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("triton", reason="needs triton")

from triton_interpreter import interpret  # noqa: E402

from dflash_sim.kernels.reference import attention as ref_attention  # noqa: E402
from dflash_sim.kernels.triton import attention as triton_attention  # noqa: E402

TOLERANCE = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
PLAIN = {
    "lens": [21, 5],
    "rows": 4,
    "heads": 4,
    "kv_heads": 2,
    "dim": 16,
    "page": 1,
    "causal": True,
    "window": None,
    "gated": False,
    "splits": 1,
}
CASES = {
    "verify": {},
    "dflash block": {"causal": False},
    "page of 8": {"page": 8, "lens": [9, 24]},
    "page of 64 is one load": {"page": 64, "lens": [130, 64]},
    "window, causal": {"window": 6},
    "window inside the block": {"window": 2, "causal": False},
    "window, bidirectional": {"window": 9, "causal": False, "page": 4},
    "long window starts late": {"window": 70, "lens": [200, 90], "page": 64},
    "decode": {"rows": 1},
    "gate": {"gated": True},
    "three heads a group": {"heads": 6, "lens": [33, 4]},
    "one KV head": {"heads": 4, "kv_heads": 1},
    "two tiles of rows": {"rows": 40, "heads": 4, "kv_heads": 1, "lens": [75, 40]},
    "split": {"splits": 3, "lens": [500, 300], "page": 32},
    "split, parts empty": {"splits": 4, "lens": [300, 20], "gated": True},
    "split, window": {"splits": 2, "lens": [290, 10], "window": 130},
    "padded request": {"lens": [0, 9]},
    "padded request, split": {"lens": [0, 300], "splits": 2},
}


def inputs(device: str, dtype: str, **case: object) -> dict[str, object]:
    """Random tensors; every page nobody owns, and every slot nobody sees, is NaN."""
    kind = getattr(torch, dtype)
    rng = torch.Generator().manual_seed(0)
    lens, page, dim = case["lens"], case["page"], case["dim"]
    rows, heads, kv_heads = case["rows"], case["heads"], case["kv_heads"]
    pages = max(-(-max(lens) // page), 1)
    pool = torch.full((2, len(lens) * pages + 3, page, kv_heads, dim), torch.nan)
    order = torch.randperm(pool.shape[1], generator=rng)[: len(lens) * pages]
    table = order.view(len(lens), pages).to(torch.int32)
    seq_lens = torch.tensor(lens, dtype=torch.int32)
    view = {"rows": rows, "keys": max(lens), "causal": case["causal"], "window": case["window"]}
    seen = ref_attention.visible_keys(seq_lens, **view).any(dim=1)
    for request in range(len(lens)):
        for token in range(max(lens)):
            if seen[request, token]:
                at = (slice(None), table[request, token // page], token % page)
                pool[at] = torch.randn(2, kv_heads, dim, generator=rng)
    # The query and its gate are halves of one projection, as in Qwen3.5.
    both = torch.randn(len(lens), rows, heads, 2 * dim, generator=rng)
    q, gate = both.to(device, kind).chunk(2, dim=-1)
    pool = pool.to(device, kind)
    return {
        "q": q,
        "k_pool": pool[0],
        "v_pool": pool[1],
        "page_table": table.to(device),
        "seq_lens": seq_lens.to(device),
        "causal": case["causal"],
        "window": case["window"],
        "scale": dim**-0.5,
        "gate": gate if case["gated"] else None,
    }


def check(device: str, dtype: str, **case: object) -> None:
    """The kernel's largest error, relative to the largest output, is within the tolerance."""
    tensors = inputs(device, dtype, **case)
    expected = ref_attention.block_attention(**tensors)
    got = triton_attention.block_attention(**tensors, splits=case["splits"])
    assert got.dtype == expected.dtype
    error = (got.double() - expected.double()).abs().max()
    scale = expected.double().abs().max()
    assert error <= TOLERANCE[dtype] * scale, f"error {error:.2e} at scale {scale:.2e}"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_equals_the_reference_interpreted(dtype: str, case: dict[str, object]) -> None:
    interpret(__file__, "check", device="cpu", dtype=dtype, **{**PLAIN, **case})


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_equals_the_reference_on_a_gpu(dtype: str, case: dict[str, object]) -> None:
    check("cuda", dtype, **{**PLAIN, **case})


REAL = {
    "397B tp8": {"heads": 4, "kv_heads": 1, "dim": 256, "gated": True, "page": 64},
    "35B": {"heads": 16, "kv_heads": 2, "dim": 256, "gated": True},
    "27B": {"heads": 24, "kv_heads": 4, "dim": 256, "gated": True, "page": 16},
    "8B": {"heads": 32, "kv_heads": 8, "dim": 128},
    "drafter": {"heads": 32, "kv_heads": 8, "dim": 128, "causal": False, "page": 64},
    "drafter, window": {"heads": 32, "kv_heads": 8, "dim": 128, "causal": False, "window": 512},
}


@pytest.mark.gpu
@pytest.mark.parametrize("splits", [1, 7, None])
@pytest.mark.parametrize("rows", [1, 8, 16])
@pytest.mark.parametrize("case", REAL.values(), ids=REAL)
def test_real_shapes_on_a_gpu(case: dict[str, object], rows: int, splits: int | None) -> None:
    lens = [2049, 16, 700]
    check(
        "cuda", "bfloat16", **{**PLAIN, **case, "rows": rows, "lens": lens, "splits": splits or 0}
    )
