"""The fused norm, rotation and KV write equals its reference, and touches nothing else."""

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("triton", reason="needs triton")

from triton_interpreter import interpret  # noqa: E402

from dflash_sim.kernels.reference import draft as ref_draft  # noqa: E402
from dflash_sim.kernels.reference import norm_rope as ref_norm_rope  # noqa: E402
from dflash_sim.kernels.triton import kv as triton_kv  # noqa: E402
from dflash_sim.profiles.errors import UsageError  # noqa: E402

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
EPS = 1e-6
PLAIN = {
    "tokens": 6,
    "heads": 4,
    "kv_heads": 2,
    "dim": 32,
    "rotated": 32,
    "page": 1,
    "centred": False,
}
CASES = {
    "full rotation": {},
    "partial rotation, zero-centred": {"dim": 64, "rotated": 16, "centred": True},
    "half rotation": {"dim": 64, "rotated": 32},
    "pages of 4": {"page": 4},
    "heads not a power of two": {"heads": 6, "kv_heads": 3},
    "one token": {"tokens": 1, "kv_heads": 1},
}
INJECTIONS = {"two layers": {"layers": 2}, "one layer": {"layers": 1, "page": 4}}


def close(got: "torch.Tensor", expected: "torch.Tensor", dtype: str) -> None:
    assert got.dtype == expected.dtype
    written = ~expected.isnan()
    assert torch.equal(got.isnan(), expected.isnan())
    error = (got[written].double() - expected[written].double()).abs().max()
    assert error <= TOLERANCE[dtype] * expected[written].double().abs().max(), error


def places(tokens: int, page: int, device: str) -> "tuple[torch.Tensor, torch.Tensor, int]":
    """Positions, slots (every third one not kept) and how many pages hold them."""
    rng = torch.Generator().manual_seed(1)
    pages = tokens // page + 2
    slots = torch.randperm(pages * page, generator=rng)[:tokens]
    slots[2::3] = -1
    positions = torch.randint(0, 64, (tokens,), generator=rng)
    return positions.to(device), slots.to(device), pages


def check_attention(device: str, dtype: str, **case: int) -> None:
    """Queries come back turned; kept keys and values are in the pool; the rest is untouched."""
    kind, dim, kv_heads = getattr(torch, dtype), case["dim"], case["kv_heads"]
    rng = torch.Generator().manual_seed(0)
    sizes = [case["heads"] * dim, kv_heads * dim, kv_heads * dim]
    projected = torch.randn(case["tokens"], sum(sizes), generator=rng).to(device, kind)
    q, k, v = (x.view(case["tokens"], -1, dim) for x in projected.split(sizes, dim=-1))
    weights = torch.randn(2, dim, generator=rng).to(device, kind)
    tables = ref_norm_rope.rotary_table(64, case["rotated"], theta=1e4, device=device)
    positions, slots, pages = places(case["tokens"], case["page"], device)
    outputs = []
    for module in (ref_norm_rope, triton_kv):
        pools = torch.full((2, pages, case["page"], kv_heads, dim), torch.nan).to(device, kind)
        turned = module.qk_norm_rope_write(
            *(q, k, v, weights[0], weights[1], *tables, positions, pools[0], pools[1], slots),
            eps=EPS,
            zero_centred=case["centred"],
        )
        outputs.append((turned, pools))
    for expected, got in zip(*outputs, strict=True):
        close(got, expected, dtype)


def check_injection(device: str, dtype: str, **case: int) -> None:
    """Every layer's pool holds what the reference writes layer by layer."""
    kind, layers, kv_heads, hidden = getattr(torch, dtype), case["layers"], 2, 48
    rng = torch.Generator().manual_seed(0)
    tokens, dim, page = case["tokens"], case["dim"], case["page"]
    context = torch.randn(tokens, hidden, generator=rng).to(device, kind)
    kv_weight = torch.randn(layers, 2 * kv_heads * dim, hidden, generator=rng).to(device, kind) / 7
    k_norm = torch.randn(layers, dim, generator=rng).to(device, kind)
    tables = ref_norm_rope.rotary_table(64, dim, theta=1e4, device=device)
    positions, slots, pages = places(tokens, page, device)
    outputs = []
    for module in (ref_draft, triton_kv):
        pools = torch.full((2, layers, pages, page, kv_heads, dim), torch.nan).to(device, kind)
        module.materialise(
            *(context, kv_weight, k_norm, *tables, positions, pools[0], pools[1], slots), eps=EPS
        )
        outputs.append(pools)
    close(outputs[1], outputs[0], dtype)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_attention_inputs_interpreted(dtype: str, case: dict[str, int]) -> None:
    interpret(__file__, "check_attention", device="cpu", dtype=dtype, **{**PLAIN, **case})


@pytest.mark.parametrize("case", INJECTIONS.values(), ids=INJECTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_injection_interpreted(dtype: str, case: dict[str, int]) -> None:
    interpret(__file__, "check_injection", device="cpu", dtype=dtype, **{**PLAIN, **case})


def test_a_rotation_that_does_not_fit_is_refused() -> None:
    x, table = torch.zeros(1, 1, 32), torch.zeros(4, 12)
    index, pool = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1, 1, 32)
    with pytest.raises(UsageError, match="cannot rotate 24 of 32"):
        triton_kv.qk_norm_rope_write(
            *(x, x, x, x[0, 0], x[0, 0], table, table, index, pool, pool, index), eps=EPS
        )


REAL = {
    "397B tp8": {"heads": 4, "kv_heads": 1, "dim": 256, "rotated": 64, "centred": True},
    "8B": {"heads": 32, "kv_heads": 8, "dim": 128, "rotated": 128, "page": 64},
}


@pytest.mark.gpu
@pytest.mark.parametrize("case", [*CASES.values(), *REAL.values()], ids=[*CASES, *REAL])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_inputs_on_a_gpu(dtype: str, case: dict[str, int]) -> None:
    check_attention("cuda", dtype, **{**PLAIN, "tokens": 50, **case})


@pytest.mark.gpu
@pytest.mark.parametrize("layers", [1, 6])
def test_injection_on_a_gpu(layers: int) -> None:
    case = {**PLAIN, "tokens": 200, "dim": 128, "page": 64, "layers": layers}
    check_injection("cuda", "bfloat16", **case)
