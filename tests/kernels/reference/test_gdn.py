"""The delta rule: what it means, its two forms, transformers' numbers, commit and rollback."""

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from dflash_sim.kernels.reference.gdn import (  # noqa: E402
    causal_conv1d,
    commit_states,
    conv_extend,
    conv_verify,
    conv_windows,
    gdn_decode,
    gdn_extend,
    gdn_gates,
    gdn_prefill,
    gdn_verify,
    gdn_verify_slots,
    l2norm,
)

torch.set_num_threads(1)
torch.manual_seed(0)
F64 = torch.float64


def rows(requests: int, tokens: int, dtype=F64):  # type: ignore[no-untyped-def]
    """``q, k, v, g, beta`` of 2 key heads and 4 value heads."""
    shape = (requests, tokens)
    return (
        torch.randn(*shape, 2, 6, dtype=dtype),
        torch.randn(*shape, 2, 6, dtype=dtype),
        torch.randn(*shape, 4, 5, dtype=dtype),
        -torch.rand(*shape, 4, dtype=dtype),
        torch.rand(*shape, 4, dtype=dtype),
    )


def cut(args, start: int, stop: int):  # type: ignore[no-untyped-def]
    return tuple(x[:, start:stop] for x in args)


def test_a_value_written_with_full_strength_is_recalled() -> None:
    q, k, v, g, beta = rows(1, 1)
    state = torch.randn(1, 4, 6, 5, dtype=F64)
    ask = k  # the query is the key itself
    out, after = gdn_decode(ask, k, v, g, torch.ones_like(beta), state)
    unit = k.square().sum(-1) / (k.square().sum(-1) + 1e-6)  # l2norm's epsilon
    assert torch.allclose(out * 6**0.5, v * unit[..., None].repeat_interleave(2, 2), atol=1e-4)
    recalled = torch.einsum("rhkv,rhk->rhv", after, l2norm(k)[:, 0].repeat_interleave(2, 1))
    assert torch.allclose(recalled, v[:, 0], atol=1e-4)
    untouched = gdn_decode(q, k, v, torch.zeros_like(g), torch.zeros_like(beta), state)[1]
    assert torch.equal(untouched, state)


@settings(max_examples=20)
@given(tokens=st.integers(1, 40), chunk=st.sampled_from([1, 3, 8, 16, 64]))
def test_chunks_are_the_recurrence(tokens: int, chunk: int) -> None:
    args, state = rows(2, tokens), torch.randn(2, 4, 6, 5, dtype=F64)
    out, after = gdn_decode(*args, state)
    chunked, last = gdn_prefill(*args, state, chunk=chunk)
    assert torch.allclose(out, chunked, atol=1e-11)
    assert torch.allclose(after, last, atol=1e-11)


class Launches(TorchDispatchMode):
    """Counts the calls of torch that a GPU would launch something for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += not torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"
        ) and not any(r.alias_info for r in func._schema.returns)
        return func(*args, **(kwargs or {}))


def test_a_long_prefill_is_few_launches() -> None:
    """Of 8,192 rows: little more than the state's one for each of 128 chunks."""
    shape = (1, 8192)
    q = k = torch.empty(*shape, 16, 128, device="meta")
    v, g = torch.empty(*shape, 32, 128, device="meta"), torch.empty(*shape, 32, device="meta")
    state = torch.empty(1, 32, 128, 128, device="meta")
    with Launches() as launches:
        gdn_prefill(q, k, v, g, g, state)
    assert 128 < launches.count < 400
    with Launches() as short:
        gdn_prefill(*(x[:, :1024] for x in (q, k, v, g, g)), state)
    assert short.count < launches.count / 3


@given(split=st.integers(1, 11))
def test_a_text_may_be_read_in_two_parts(split: int) -> None:
    args, state = rows(2, 12), torch.randn(2, 4, 6, 5, dtype=F64)
    out, after = gdn_prefill(*args, state, chunk=4)
    first, between = gdn_prefill(*cut(args, 0, split), state, chunk=4)
    second, last = gdn_decode(*cut(args, split, 12), between)
    assert torch.allclose(out, torch.cat([first, second], 1), atol=1e-11)
    assert torch.allclose(after, last, atol=1e-11)


@given(split=st.integers(1, 8))
def test_the_convolution_carries_its_last_inputs(split: int) -> None:
    x, weight = torch.randn(2, 9, 3, dtype=F64), torch.randn(3, 4, dtype=F64)
    out, after = causal_conv1d(x, weight)
    first, between = causal_conv1d(x[:, :split], weight)
    second, last = causal_conv1d(x[:, split:], weight, between)
    assert torch.allclose(out, torch.cat([first, second], 1), atol=1e-12)
    assert torch.equal(after, last)
    windows = conv_windows(x, torch.zeros(2, 3, 3, dtype=F64))
    assert torch.equal(windows[:, split - 1], between)
    by_hand = sum(weight[:, j] * x[0, 5 - 3 + j] for j in range(4))
    assert torch.allclose(out[0, 5], torch.nn.functional.silu(by_hand))


def test_the_gates_decay_and_write_within_bounds() -> None:
    a, b = torch.randn(7, 4) * 3, torch.randn(7, 4) * 3
    g, beta = gdn_gates(a, b, torch.randn(4), torch.randn(4))
    assert (g <= 0).all()
    assert ((beta > 0) & (beta < 1)).all()


@settings(max_examples=15)
@given(commits=st.lists(st.lists(st.integers(0, 4), min_size=2, max_size=2), max_size=4))
def test_committing_rows_equals_never_having_seen_the_others(commits: list[list[int]]) -> None:
    weight = torch.randn(3, 4, dtype=F64)
    state_pool, conv_pool = (
        torch.randn(1, 5, 4, 6, 5, dtype=F64),
        torch.randn(1, 5, 3, 3, dtype=F64),
    )
    want_state, want_conv = state_pool.clone(), conv_pool.clone()
    scratch, windows = torch.zeros(1, 3, 4, 4, 6, 5, dtype=F64), torch.zeros(1, 3, 4, 3, 3)
    windows = windows.to(F64)
    slots = torch.tensor([3, 1])
    for lens in commits:
        args, x = rows(2, 4), torch.randn(2, 4, 3, dtype=F64)
        before = state_pool.clone(), conv_pool.clone()
        out = gdn_verify_slots(*args, state_pool[0], slots, scratch[0])
        mixed = conv_verify(x, weight, conv_pool[0], slots, windows[0])
        assert torch.equal(state_pool, before[0])
        assert torch.equal(conv_pool, before[1])
        kept = torch.tensor(lens)
        commit_states(state_pool, scratch, slots, kept)
        commit_states(conv_pool, windows, slots, kept)
        for r, n in enumerate(lens):
            if n == 0:
                continue
            one, slot = tuple(a[r : r + 1, :n] for a in args), slots[r : r + 1]
            redone = gdn_extend(*one, want_state[0], slot)
            assert torch.allclose(redone, out[r : r + 1, :n], atol=1e-11)
            again = conv_extend(x[r : r + 1, :n], weight, want_conv[0], slot)
            assert torch.allclose(again, mixed[r : r + 1, :n], atol=1e-12)
    assert torch.allclose(state_pool, want_state, atol=1e-11)
    assert torch.equal(conv_pool, want_conv)


def test_states_are_kept_in_float32_at_least() -> None:
    args = rows(1, 3, torch.float32)
    half = tuple(x.to(torch.bfloat16) for x in args)
    out, states = gdn_verify(*half, torch.zeros(1, 4, 6, 5))
    assert out.dtype == torch.bfloat16
    assert states.dtype == torch.float32


def test_the_same_as_transformers() -> None:
    pytest.importorskip("transformers", minversion="5.17", reason="the independent oracle")
    from transformers.models.qwen3_5 import modeling_qwen3_5 as theirs

    args, state = rows(2, 70, torch.float32), torch.randn(2, 4, 6, 5)
    q, k, v, g, beta = args
    ours = gdn_prefill(*args, state, chunk=64), gdn_decode(*args, state)
    rules = theirs.torch_chunk_gated_delta_rule, theirs.torch_recurrent_gated_delta_rule
    for rule, (out, after) in zip(rules, ours, strict=True):
        want, last = rule(
            q.repeat_interleave(2, 2),  # version 5.17 leaves the grouping to the caller
            k.repeat_interleave(2, 2),
            v,
            g=g,
            beta=beta,
            initial_state=state,
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )
        assert torch.allclose(out, want, atol=1e-5)
        assert torch.allclose(after, last, atol=1e-5)
