"""The gated delta rule with stored states, and its commit, equal their references."""

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("triton", reason="needs triton")

from triton_interpreter import interpret  # noqa: E402

from dflash_sim.kernels.reference import gdn as ref_gdn  # noqa: E402
from dflash_sim.kernels.triton import gdn as triton_gdn  # noqa: E402

STATE_TOLERANCE = 1e-5
TOLERANCE = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 8e-3}
PLAIN = {"requests": 2, "rows": 4, "key_heads": 2, "heads": 4, "dim": 16, "pooled": False}
CASES = {
    "grouped heads": {},
    "equal heads": {"key_heads": 4},
    "pool of slots": {"pooled": True},
    "wide tile": {"dim": 32},
    "one row": {"rows": 1},
    "one request": {"requests": 1, "dim": 32, "heads": 2, "key_heads": 1},
}


def close(got: "torch.Tensor", expected: "torch.Tensor", tolerance: float) -> None:
    assert got.dtype == expected.dtype
    error = (got.double() - expected.double()).abs().max()
    assert error <= tolerance * expected.double().abs().max(), error


def check_verify(device: str, dtype: str, **case: int) -> None:
    """Verify gives the reference's outputs and every state and moves nothing; extend moves on."""
    kind, dim, rows = getattr(torch, dtype), case["dim"], case["rows"]
    rng = torch.Generator().manual_seed(0)
    sizes = [case["key_heads"] * dim, case["key_heads"] * dim, case["heads"] * dim]
    mixed = torch.randn(case["requests"], rows, sum(sizes), generator=rng).to(device, kind)
    q, k, v = (x.unflatten(-1, (-1, dim)) for x in mixed.split(sizes, dim=-1))
    draw = torch.randn(2, case["requests"], rows, case["heads"], generator=rng).to(device)
    g, beta = -draw[0].exp(), draw[1].sigmoid()
    held = case["requests"] + 3
    pool = torch.randn(held, case["heads"], dim, dim, generator=rng).to(device)
    slots = torch.randperm(held, generator=rng)[: case["requests"]].to(device)
    before = pool.clone()
    expected = ref_gdn.gdn_verify(q, k, v, g, beta, pool[slots])
    if case["pooled"]:
        # Room for one request and one row more than there are, as in a padded batch.
        roomy = (case["requests"] + 1, rows + 1, *pool.shape[1:])
        scratch = torch.full(roomy, torch.nan, device=device)
        out = triton_gdn.gdn_verify_slots(q, k, v, g, beta, pool, slots, scratch)
        states = scratch[:-1, :-1]
        assert scratch[-1].isnan().all()
        assert scratch[:, -1].isnan().all()
    else:
        out, states = triton_gdn.gdn_verify(q, k, v, g, beta, pool[slots])
    close(out, expected[0], TOLERANCE[dtype])
    close(states, expected[1], STATE_TOLERANCE)
    assert torch.equal(pool, before)
    out = triton_gdn.gdn_extend(q, k, v, g, beta, pool, slots)
    close(out, expected[0], TOLERANCE[dtype])
    before[slots] = expected[1][:, -1]
    close(pool, before, STATE_TOLERANCE)


def check_commit(device: str, dtype: str, *, state: tuple[int, ...], cast: str) -> None:
    """Kept states move; slots of padded requests and of nobody keep their bits."""
    rng = torch.Generator().manual_seed(0)
    scratch = torch.randn(2, 5, 3, *state, generator=rng).to(device, getattr(torch, dtype))
    pool = torch.randn(2, 6, *state, generator=rng).to(device, getattr(torch, cast))
    slots = torch.tensor([5, 0, 3, 2], device=device)
    commit_len = torch.tensor([1, 3, 0, 2], dtype=torch.int32, device=device)
    expected = pool.clone()
    ref_gdn.commit_states(expected, scratch, slots, commit_len)
    triton_gdn.commit_states(pool, scratch, slots, commit_len)
    assert torch.equal(pool, expected)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_verify_interpreted(dtype: str, case: dict[str, int]) -> None:
    interpret(__file__, "check_verify", device="cpu", dtype=dtype, **{**PLAIN, **case})


@pytest.mark.parametrize("state", [(2, 8, 8), (5, 3)], ids=["delta rule", "convolution"])
@pytest.mark.parametrize("cast", ["float32", "float16"])
def test_commit_interpreted(state: tuple[int, ...], cast: str) -> None:
    interpret(__file__, "check_commit", device="cpu", dtype="float32", state=state, cast=cast)


REAL = {
    "397B tp8 c1": {"requests": 1, "rows": 16, "key_heads": 2, "heads": 8, "dim": 128},
    "35B c40": {"requests": 40, "rows": 8, "key_heads": 16, "heads": 32, "dim": 128},
    "35B c8": {"requests": 8, "rows": 16, "key_heads": 16, "heads": 32, "dim": 128},
}


@pytest.mark.gpu
@pytest.mark.parametrize("case", [*CASES.values(), *REAL.values()], ids=[*CASES, *REAL])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_verify_on_a_gpu(dtype: str, case: dict[str, int]) -> None:
    check_verify("cuda", dtype, **{**PLAIN, **case})


@pytest.mark.gpu
@pytest.mark.parametrize("cast", ["float32", "bfloat16"])
def test_commit_on_a_gpu(cast: str) -> None:
    check_commit("cuda", "float32", state=(8, 128, 128), cast=cast)
