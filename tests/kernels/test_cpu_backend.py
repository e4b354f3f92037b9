"""The ops of a CPU run are the references, in fewer calls."""

from dataclasses import fields, replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the ops are written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tiny_networks import TARGETS, Drawn, Runner, random_ids, target_spec  # noqa: E402
from torch import Tensor  # noqa: E402

from dflash_sim.kernels.cpu_backend import CPU, Masks, rotate  # noqa: E402
from dflash_sim.kernels.models.target import TargetModel  # noqa: E402
from dflash_sim.kernels.rank import Rank  # noqa: E402
from dflash_sim.kernels.reference.attention import visible_keys  # noqa: E402
from dflash_sim.kernels.reference.backend import REFERENCE  # noqa: E402
from dflash_sim.kernels.reference.norm_rope import rotary_table  # noqa: E402

EXCHANGED = {f.name for f in fields(CPU) if getattr(CPU, f.name) != getattr(REFERENCE, f.name)}
PAGE, PAGES, DIM = 4, 12, 8


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == theirs.dtype
    assert torch.allclose(ours, theirs, atol=1e-11)


def test_every_exchanged_op_is_tested_here() -> None:
    assert {
        "rms_norm", "add_rms_norm", "gated_rms_norm", "qk_norm_rope_write", "block_attention",
        "swiglu", "materialise", "local_argmax",
    } == EXCHANGED  # fmt: skip


@settings(max_examples=40)
@given(
    requests=st.integers(1, 3),
    rows=st.integers(1, 6),
    kv_heads=st.sampled_from([1, 2]),
    group=st.sampled_from([1, 3]),
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 5]),
    gated=st.booleans(),
    seed=st.integers(0, 5),
)
def test_attention(
    requests: int,
    rows: int,
    kv_heads: int,
    group: int,
    causal: bool,
    window: int | None,
    gated: bool,
    seed: int,
) -> None:
    """Ragged lengths; a padded request, of length 0, sees nothing and gets zeros."""
    q = draw(requests, rows, kv_heads * group, DIM, seed=seed)
    pools = draw(2, PAGES, PAGE, kv_heads, DIM, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(0, PAGES, (requests, 4), generator=generator, dtype=torch.int32)
    lens = torch.randint(0, 4 * PAGE + 1, (requests,), generator=generator, dtype=torch.int32)
    how = {"causal": causal, "window": window, "scale": DIM**-0.5}
    gate = draw(*q.shape, seed=9) if gated else None
    theirs = REFERENCE.block_attention(q, *pools, table, lens, gate=gate, **how)
    for _ in range(2):  # the second from remembered masks
        close(CPU.block_attention(q, *pools, table, lens, gate=gate, **how), theirs)


@pytest.mark.parametrize(("keys", "window"), [(70, None), (90, None), (90, 20), (66, None)])
def test_attention_of_a_long_prompt(keys: int, window: int | None) -> None:
    """More rows than a verify has: from its beginning, behind a context, and before the text."""
    q = draw(2, 70, 6, DIM)
    pools, table = draw(2, 48, PAGE, 2, DIM), torch.arange(48, dtype=torch.int32).view(2, 24)
    lens = torch.tensor([keys, 70], dtype=torch.int32)
    how: dict[str, Any] = {"causal": True, "window": window, "scale": DIM**-0.5}
    ours, theirs = (b.block_attention(q, *pools, table, lens, **how) for b in (CPU, REFERENCE))
    close(ours, theirs)


def test_masks_are_cut_from_one() -> None:
    """Those of a shorter context are the end of a longer one's; there is none to see all."""
    masks, how = Masks(), {"rows": 2, "group": 3, "causal": True, "window": 4}
    long, short = (masks.of(keys=n, dtype=torch.float64, **how) for n in (600, 8))
    assert long is not None
    assert short is not None
    assert torch.equal(long[:, -8:], short)
    seen = visible_keys(torch.tensor([8]), rows=2, keys=8, causal=True, window=4)[0]
    assert torch.equal(short == 0, seen.repeat(3, 1))
    assert len(masks.made) == 1
    assert (
        masks.of(keys=8, dtype=torch.float64, **(how | {"causal": False, "window": None})) is None
    )


def test_masks_of_a_prompt_are_made_once_a_pass_and_no_more_are_kept_than_fit() -> None:
    kept = Masks(most=2 * 65 * 512 * 4)
    how = {"group": 1, "causal": True, "window": None, "dtype": torch.float32}
    first = kept.of(rows=65, keys=65, **how)
    again = kept.of(rows=65, keys=65, **how)
    assert first is not None
    assert again is not None
    assert first.data_ptr() == again.data_ptr()
    for rows in (66, 67, 68):
        kept.of(rows=rows, keys=rows, **how)
    assert len(kept.of_prompts) == 1
    assert kept.made == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rotated_queries_stay_in_half_precision(dtype: torch.dtype) -> None:
    """The tables are wider: what they make of a query must not be."""
    x = torch.randn(3, 2, DIM, dtype=dtype)
    angle = torch.rand(3, 1, DIM // 2)
    turned = rotate(x, angle.cos(), angle.sin())
    assert turned.dtype is dtype
    whole = rotate(x.to(torch.float64), angle.cos().double(), angle.sin().double())
    assert torch.allclose(turned.double(), whole, atol=0.05)


@pytest.mark.parametrize("zero_centred", [False, True])
@pytest.mark.parametrize("rotated", [4, DIM])
def test_norm_rotate_write(zero_centred: bool, rotated: int) -> None:
    """Rows with a negative slot reach page 0 alone."""
    q, k, v = draw(7, 6, DIM), draw(7, 2, DIM, seed=1), draw(7, 2, DIM, seed=2)
    weights, tables = draw(2, DIM), rotary_table(40, rotated, theta=100.0, dtype=torch.float64)
    slots = torch.tensor([17, -1, 9, 30, -1, 5, 44])
    at = torch.tensor([3, 4, 5, 0, 9, 11, 39])
    pools = [torch.zeros(2, PAGES, PAGE, 2, DIM, dtype=torch.float64) for _ in range(2)]
    turned = [
        backend.qk_norm_rope_write(
            q, k, v, *weights, *tables, at, *pool, slots, eps=1e-6, zero_centred=zero_centred
        )
        for backend, pool in zip((CPU, REFERENCE), pools, strict=True)
    ]
    close(*turned)
    close(pools[0][:, 1:], pools[1][:, 1:])
    assert pools[1][:, 1:].any()


def test_materialise() -> None:
    layers, hidden = 3, 10
    context, weight = draw(6, hidden), draw(layers, 2 * 2 * DIM, hidden)
    norms, tables = draw(layers, DIM), rotary_table(40, DIM, theta=100.0, dtype=torch.float64)
    slots, at = torch.tensor([17, -1, 9, 30, -1, 5]), torch.arange(6)
    pools = [torch.zeros(2, layers, PAGES, PAGE, 2, DIM, dtype=torch.float64) for _ in range(2)]
    for backend, pool in zip((CPU, REFERENCE), pools, strict=True):
        backend.materialise(context, weight, norms, *tables, at, *pool, slots, eps=1e-6)
    close(pools[0][:, :, 1:], pools[1][:, :, 1:])
    assert pools[1][:, :, 1:].any()


def test_norms_and_swiglu() -> None:
    x, y, weight = draw(5, 12), draw(5, 12, seed=3), draw(12)
    for zero_centred in (False, True):
        how = {"eps": 1e-6, "zero_centred": zero_centred}
        close(CPU.rms_norm(x, weight, **how), REFERENCE.rms_norm(x, weight, **how))
        pairs = CPU.add_rms_norm(x, y, weight, **how), REFERENCE.add_rms_norm(x, y, weight, **how)
        for ours, theirs in zip(*pairs, strict=True):
            close(ours, theirs)
    gated = [b.gated_rms_norm(x, y, weight, eps=1e-6) for b in (CPU, REFERENCE)]
    close(*gated)
    close(CPU.swiglu(x), REFERENCE.swiglu(x))


def test_argmax_takes_the_first_of_equals() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [3.0, 3.0, 3.0, 3.0]])
    for ours, theirs in zip(
        CPU.local_argmax(logits, 8), REFERENCE.local_argmax(logits, 8), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", TARGETS)
def test_a_whole_target(family: str) -> None:
    """Prefill, verify with a rollback, decode."""
    said = []
    for backend in (CPU, REFERENCE):
        rank = Rank(dtype=torch.float64, backend=backend)
        runner = Runner(TargetModel(target_spec(family), Drawn(family), rank, tokens=64), rank)
        first = runner.extend(random_ids(2, 6))
        second = runner.verify(random_ids(2, 4, seed=1), torch.tensor([3, 1]))
        said.append(torch.cat([first, second, runner.extend(random_ids(2, 1, seed=2))], 1))
    close(*said)


def test_a_wrong_op_is_seen() -> None:
    wrong = replace(CPU, swiglu=lambda x: REFERENCE.swiglu(x) * 1.001)
    with pytest.raises(AssertionError):
        close(wrong.swiglu(draw(5, 12)), REFERENCE.swiglu(draw(5, 12)))
