"""The gated delta rule of a prefill, in chunks, equals the recurrence."""

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("triton", reason="needs triton")

from triton_interpreter import interpret  # noqa: E402

from dflash_sim.kernels.reference import gdn as ref_gdn  # noqa: E402
from dflash_sim.kernels.triton import gdn as triton_gdn  # noqa: E402
from dflash_sim.kernels.triton import gdn_prefill  # noqa: E402

# Outputs and states, relative to the largest value. The interpreter's TF32 is float32.
TOLERANCE = {"float32": (3e-5, 3e-5), "float16": (2e-3, 2e-3), "bfloat16": (8e-3, 2e-3)}
PLAIN = {"requests": 1, "rows": 64, "key_heads": 1, "heads": 2, "dim": 16, "alike": False}
CASES = {
    "one chunk": {},
    "a chunk and a row": {"rows": 65},
    "one that is not full": {"rows": 33},
    "requests": {"requests": 2, "rows": 130, "key_heads": 2, "heads": 4},
    "wider": {"rows": 96, "dim": 32},
    # Nothing is forgotten, and every row overwrites the one before: powers of the system explode.
    "the same key": {"rows": 128, "alike": True},
}


def close(got: "torch.Tensor", expected: "torch.Tensor", tolerance: float) -> None:
    error = (got.double() - expected.double()).abs().max()
    assert error <= tolerance * expected.double().abs().max(), error


def check_prefill(device: str, dtype: str, **case: int) -> None:
    """Outputs and states of token by token; the slots of others keep their bits."""
    kind, dim, rows = getattr(torch, dtype), case["dim"], case["rows"]
    rng = torch.Generator().manual_seed(0)
    sizes = [case["key_heads"] * dim, case["key_heads"] * dim, case["heads"] * dim]
    mixed = torch.randn(case["requests"], rows, sum(sizes), generator=rng)
    draw = torch.randn(2, case["requests"], rows, case["heads"], generator=rng).to(device)
    g, beta = -draw[0].exp(), draw[1].sigmoid()
    if case["alike"]:
        mixed[:, :, sizes[0] : 2 * sizes[0]] = mixed[:, :1, sizes[0] : 2 * sizes[0]]
        g, beta = torch.zeros_like(g), torch.ones_like(beta)
    # Slices of one tensor, as of a convolution's output.
    cut = mixed.to(device, kind).split(sizes, dim=-1)
    q, k, v = (x.unflatten(-1, (-1, dim)) for x in cut)
    held = case["requests"] + 3
    pool = torch.randn(held, case["heads"], dim, dim, generator=rng).to(device)
    slots = torch.randperm(held, generator=rng)[: case["requests"]].to(device)
    expected = pool.clone()
    wanted, expected[slots] = ref_gdn.gdn_decode(q, k, v, g, beta, pool[slots])
    exact = device == "cpu" and kind == torch.float32  # on a GPU, float32 is not the kernel's
    extend = gdn_prefill.prefill if exact else triton_gdn.gdn_extend
    out = extend(q, k, v, g, beta, pool, slots)
    assert out.dtype == kind
    close(out, wanted, TOLERANCE[dtype][0])
    close(pool[slots], expected[slots], TOLERANCE[dtype][1])
    others = [slot for slot in range(held) if slot not in slots.tolist()]
    assert torch.equal(pool[others], expected[others])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_prefill_interpreted(dtype: str, case: dict[str, int]) -> None:
    interpret(__file__, "check_prefill", device="cpu", dtype=dtype, **{**PLAIN, **case})


REAL = {
    "397B tp8": {"rows": 8192, "key_heads": 2, "heads": 8, "dim": 128},
    "35B c4": {"requests": 4, "rows": 2000, "key_heads": 16, "heads": 32, "dim": 128},
}


@pytest.mark.gpu
@pytest.mark.parametrize("case", [*CASES.values(), *REAL.values()], ids=[*CASES, *REAL])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_prefill_on_a_gpu(dtype: str, case: dict[str, int]) -> None:
    check_prefill("cuda", dtype, **{**PLAIN, **case})
