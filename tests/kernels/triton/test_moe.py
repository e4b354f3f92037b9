"""The grouped mixture of experts equals its reference, and its sort is a stable sort."""

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("triton", reason="needs triton")

from triton_interpreter import interpret  # noqa: E402

from dflash_sim.kernels.reference import moe as ref_moe  # noqa: E402
from dflash_sim.kernels.triton import configs  # noqa: E402
from dflash_sim.kernels.triton import moe as triton_moe  # noqa: E402

TOLERANCE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
PLAIN = {
    "tokens": 6,
    "top_k": 2,
    "experts": 4,
    "hidden": 128,
    "inter": 64,
    "skew": False,
    "first": 0,
}
CASES = {
    "few rows each": {},
    "one token": {"tokens": 1},
    "an expert has two tiles": {"tokens": 20, "top_k": 1, "skew": True},
    "wider tiles": {"tokens": 50, "experts": 3, "hidden": 64},
    "odd sizes": {"hidden": 72, "inter": 24},
    "experts elsewhere": {"first": 2},
    "all experts elsewhere": {"first": 4},
}


def check(device: str, dtype: str, **case: int) -> None:
    """With ``first`` > 0, experts are numbered from there: lower and higher ones live elsewhere."""
    kind, hidden, inter = getattr(torch, dtype), case["hidden"], case["inter"]
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(case["tokens"], hidden, generator=rng).to(device, kind)
    w13 = torch.randn(case["experts"], 2 * inter, hidden, generator=rng) / hidden**0.5
    w2 = torch.randn(case["experts"], hidden, inter, generator=rng) / inter**0.5
    w13, w2 = w13.to(device, kind), w2.to(device, kind)
    logits = torch.randn(case["tokens"], case["experts"], generator=rng).to(device)
    if case["skew"]:
        logits[:-1, 0] += 100
    weights, experts = ref_moe.route_topk(logits, case["top_k"], renormalise=True)
    experts = experts - case["first"]
    expected = ref_moe.grouped_swiglu(x, w13, w2, weights, experts)
    got = triton_moe.grouped_swiglu(x, w13, w2, weights, experts)
    assert got.dtype == expected.dtype
    error = (got.double() - expected.double()).abs().max()
    assert error <= TOLERANCE[dtype] * expected.double().abs().max(), error
    again = triton_moe.grouped_swiglu(x, w13, w2, weights, experts)
    assert torch.equal(got, again)


def check_many(device: str, dtype: str, **case: int) -> None:
    """With more pairs than the counting sort takes, torch sorts."""
    triton_moe.MOST_COUNTED_PAIRS = 0
    try:
        check(device, dtype, **case)
    finally:
        triton_moe.MOST_COUNTED_PAIRS = configs.MOST_COUNTED_PAIRS


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_equals_the_reference_interpreted(dtype: str, case: dict[str, int]) -> None:
    interpret(__file__, "check", device="cpu", dtype=dtype, **{**PLAIN, **case})


A3B = {"experts": 256, "top_k": 8, "hidden": 2048, "inter": 512}
REAL = {
    "397B tp8, 16 tokens": {
        "tokens": 16,
        "top_k": 10,
        "experts": 512,
        "hidden": 4096,
        "inter": 128,
    },
    "35B, 64 tokens": {"tokens": 64, "top_k": 8, "experts": 256, "hidden": 2048, "inter": 512},
    "35B, 512 tokens": {"tokens": 512, "top_k": 8, "experts": 256, "hidden": 2048, "inter": 512},
}


@pytest.mark.parametrize("case", ["few rows each", "experts elsewhere"])
def test_many_pairs_interpreted(case: str) -> None:
    interpret(__file__, "check_many", device="cpu", dtype="float16", **{**PLAIN, **CASES[case]})


@pytest.mark.gpu
@pytest.mark.parametrize("case", [*CASES.values(), *REAL.values()], ids=[*CASES, *REAL])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_the_reference_on_a_gpu(dtype: str, case: dict[str, int]) -> None:
    check("cuda", dtype, **{**PLAIN, **case})
