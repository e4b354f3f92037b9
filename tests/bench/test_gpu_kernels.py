"""Triton kernels against what they replace: ``pytest -m "gpu and bench" -s tests/bench``.

Printed and never asserted. Shares are of the copy bandwidth that the same run measured.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("triton", reason="needs triton")

import sys  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from gpu_clock import Contest, copies, copy_byte_s, seconds  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.nn.attention.bias import causal_lower_right  # noqa: E402

from dflash_sim.kernels.reference import accept as ref_accept  # noqa: E402
from dflash_sim.kernels.reference import attention as ref_attention  # noqa: E402
from dflash_sim.kernels.reference import draft as ref_draft  # noqa: E402
from dflash_sim.kernels.reference import gdn as ref_gdn  # noqa: E402
from dflash_sim.kernels.reference import moe as ref_moe  # noqa: E402
from dflash_sim.kernels.reference import norm_rope as ref_norm_rope  # noqa: E402
from dflash_sim.kernels.triton import accept as triton_accept  # noqa: E402
from dflash_sim.kernels.triton import attention as triton_attention  # noqa: E402
from dflash_sim.kernels.triton import gdn as triton_gdn  # noqa: E402
from dflash_sim.kernels.triton import kv as triton_kv  # noqa: E402
from dflash_sim.kernels.triton import moe as triton_moe  # noqa: E402
from dflash_sim.profiles.times.op_tables import OpTables  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.bench,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BLOCK, DTYPE, DEVICE = 16, torch.bfloat16, "cuda"
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
# Query heads, KV heads, head dimension, causal, window.
LAYERS = {
    "397B tp8 verify": (4, 1, 256, True, None),
    "35B verify": (16, 2, 256, True, None),
    "27B verify": (24, 4, 256, True, None),
    "8B verify": (32, 8, 128, True, None),
    "drafter block": (32, 8, 128, False, None),
    "drafter tp8 block": (4, 1, 128, False, None),
}


@pytest.fixture(scope="module")
def copy() -> float:
    rate = copy_byte_s()
    print(f"\n{torch.cuda.get_device_name()}: copy {rate / 1e12:.2f} TB/s")
    return rate


def rand(*shape: int, dtype: torch.dtype = DTYPE) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE, dtype=dtype)


def sdpa_calls(
    heads: int, kv_heads: int, dim: int, *, requests: int, context: int, causal: bool, count: int
) -> dict[str, list[Callable[[], object]]]:
    """SDPA over dense keys and values, which is more than it would get: one entry per way."""
    kv = [
        (rand(requests, kv_heads, context, dim), rand(requests, kv_heads, context, dim))
        for _ in range(count)
    ]
    q = rand(requests, heads, BLOCK, dim)
    group = heads // kv_heads
    packed = q.view(requests, kv_heads, group * BLOCK, dim)
    plain = causal_lower_right(BLOCK, context) if causal else None
    row = torch.arange(BLOCK, device=DEVICE).repeat(group)
    seen = torch.arange(context, device=DEVICE) <= context - BLOCK + row[:, None]
    ways = {
        "": partial(F.scaled_dot_product_attention, q, attn_mask=plain, enable_gqa=True),
        " packed": partial(
            F.scaled_dot_product_attention, packed, attn_mask=seen if causal else None
        ),
    }

    def call(way: str, backend: SDPBackend, k: torch.Tensor, v: torch.Tensor) -> object:
        with sdpa_kernel(backend):
            return ways[way](key=k, value=v)

    return {
        name + way: [partial(call, way, backend, k, v) for k, v in kv]
        for name, backend in BACKENDS.items()
        for way in ways
    }


def best_rival(ways: dict[str, list[Callable[[], object]]]) -> tuple[float, str]:
    """The fastest way that this GPU and torch support."""
    times = {}
    for name, calls in ways.items():
        try:
            calls[0]()
        except RuntimeError:
            continue
        times[name] = seconds(calls)
    name = min(times, key=lambda key: times[key])
    return times[name], name


@pytest.mark.parametrize("page", [1, 64])
def test_block_attention(copy: float, page: int) -> None:
    print(f"\nattention, block {BLOCK}, page {page}; SDPA reads dense keys and values")
    for name, (heads, kv_heads, dim, causal, window) in LAYERS.items():
        for requests in (1, 8, 32):
            for context in (2048, 8192):
                keys = context + BLOCK
                nbytes = 2 * 2 * requests * keys * kv_heads * dim
                count = copies(nbytes)
                pages = -(-keys // page)
                table = torch.randperm(requests * pages, device=DEVICE).view(requests, pages).int()
                lens = torch.full((requests,), keys, dtype=torch.int32, device=DEVICE)
                pools = [rand(2, requests * pages, page, kv_heads, dim) for _ in range(count)]
                q = rand(requests, BLOCK, heads, dim)
                options = {"causal": causal, "scale": dim**-0.5, "window": window}
                attend = triton_attention.block_attention
                ours = [partial(attend, q, k, v, table, lens, **options) for k, v in pools]
                expected = ref_attention.block_attention(q, *pools[0], table, lens, **options)
                torch.testing.assert_close(ours[0](), expected, rtol=2e-2, atol=2e-2)
                shape = {"requests": requests, "context": keys, "causal": causal, "count": count}
                contest = Contest(
                    f"{name} c{requests} ctx {context}",
                    seconds(ours),
                    nbytes + 2 * 2 * q.numel(),
                    *best_rival(sdpa_calls(heads, kv_heads, dim, **shape)),
                    target=1.5,
                )
                print(contest.line(copy))


def test_kv_injection(copy: float) -> None:
    print("\nKV injection: all drafter layers, with and without the products")
    layers, kv_heads, dim, hidden, page = 6, 8, 128, 2048, 64
    tables = ref_norm_rope.rotary_table(65536, dim, theta=1e7, device=DEVICE)
    k_norm = rand(layers, dim)
    for tokens in (16, 512, 8192):
        rows = torch.randperm(65536, device=DEVICE)[:tokens]
        pools = rand(2, layers, 65536 // page, page, kv_heads, dim)
        where = (k_norm, *tables, rows, *pools, rows)
        weight, context = rand(layers, 2 * kv_heads * dim, hidden), rand(tokens, hidden)
        nbytes = 2 * 2 * 2 * layers * tokens * kv_heads * dim
        fresh = [rand(layers, tokens, 2, kv_heads, dim).unbind(2) for _ in range(copies(nbytes))]
        only = seconds([partial(triton_kv.write_layers, *kv, *where, eps=1e-6) for kv in fresh])
        print(Contest(f"write {tokens} tokens", only, nbytes).line(copy))
        unfused, fused = (
            seconds([partial(module.materialise, context, weight, *where, eps=1e-6)])
            for module in (Unfused, triton_kv)
        )
        nbytes += 2 * weight.numel()
        name = f"materialise {tokens} tokens"
        print(Contest(name, fused, nbytes, unfused, "torch", target=2).line(copy))


class Unfused:
    """The reference without its boolean mask, which would wait for the host."""

    @staticmethod
    def materialise(
        context: Any, weight: Any, norm: Any, cos: Any, sin: Any, *where: Any, eps: float
    ) -> None:
        positions, k_pool, v_pool, slots = where
        keys, values = ref_draft.project_kv(context, weight, k_pool.shape[-2])
        for layer in range(len(weight)):
            turned = ref_norm_rope.norm_rope(keys[layer], norm[layer], cos, sin, positions, eps=eps)
            k_pool[layer].flatten(0, 1).index_copy_(0, slots, turned)
            v_pool[layer].flatten(0, 1).index_copy_(0, slots, values[layer])


def test_norm_rope_write(copy: float) -> None:
    print("\nnorm, rotation and KV write of one layer")
    for name, heads, kv_heads, dim, rotated in (
        ("397B tp8", 4, 1, 256, 64),
        ("35B", 16, 2, 256, 64),
        ("8B", 32, 8, 128, 128),
    ):
        tables = ref_norm_rope.rotary_table(65536, rotated, theta=1e7, device=DEVICE)
        pools, norm = rand(2, 65536, 1, kv_heads, dim), rand(dim)
        for tokens in (512, 8192):
            rows = torch.randperm(65536, device=DEVICE)[:tokens]
            sizes = [heads * dim, kv_heads * dim, kv_heads * dim]
            nbytes = 2 * 2 * tokens * sum(sizes)
            merged = [rand(tokens, sum(sizes)) for _ in range(copies(nbytes))]
            calls = []
            for one in merged:
                q, k, v = (x.view(tokens, -1, dim) for x in one.split(sizes, dim=1))
                where = (q, k, v, norm, norm, *tables, rows, *pools, rows)
                calls.append(partial(triton_kv.qk_norm_rope_write, *where, eps=1e-6))
            print(Contest(f"{name}, {tokens} tokens", seconds(calls), nbytes).line(copy))


def test_delta_net(copy: float) -> None:
    print("\ndelta rule of verify (states stored) and commit")
    dim = 128
    for name, key_heads, heads in (("397B tp8", 2, 8), ("35B", 16, 32)):
        for requests in (1, 8, 32):
            state = 4 * heads * dim * dim
            nbytes = requests * state * (1 + BLOCK)
            pool, slots = rand(64, heads, dim, dim, dtype=torch.float32), torch.arange(requests)
            slots = slots.to(DEVICE)
            q, k = (rand(requests, BLOCK, key_heads, dim) for _ in range(2))
            v = rand(requests, BLOCK, heads, dim)
            draw = rand(2, requests, BLOCK, heads, dtype=torch.float32)
            gates = -draw[0].exp(), draw[1].sigmoid()
            size = (requests, BLOCK, heads, dim, dim)
            stores = [rand(*size, dtype=torch.float32) for _ in range(copies(nbytes))]
            calls = [
                partial(triton_gdn.gdn_verify_slots, q, k, v, *gates, pool, slots, scratch)
                for scratch in stores
            ]
            time_s = seconds(calls)
            print(Contest(f"verify {name} c{requests}", time_s, nbytes).line(copy))
            kept = torch.randint(1, BLOCK + 1, (requests,), device=DEVICE).int()
            ours, theirs = (
                seconds(
                    [partial(m.commit_states, pool[None], s[None], slots, kept) for s in stores]
                )
                for m in (triton_gdn, ref_gdn)
            )
            name_ = f"commit {name} c{requests}"
            print(Contest(name_, ours, 2 * requests * state, theirs, "torch").line(copy))


def test_delta_net_prefill(copy: float) -> None:
    print("\ndelta rule of a prefill, beside its chunks in torch")
    dim = 128
    for name, key_heads, heads in (("397B tp8", 2, 8), ("35B", 16, 32)):
        for requests, rows in ((1, 1024), (1, 8192), (8, 1024)):
            q, k = (rand(requests, rows, key_heads, dim) for _ in range(2))
            v = rand(requests, rows, heads, dim)
            draw = rand(2, requests, rows, heads, dtype=torch.float32)
            gates = -draw[0].exp(), draw[1].sigmoid()
            pool = torch.zeros(64, heads, dim, dim, device=DEVICE)
            where = pool, torch.arange(requests, device=DEVICE)
            nbytes = 2 * (q.numel() + k.numel() + 2 * v.numel()) + 8 * requests * heads * dim * dim
            ours, theirs = (
                seconds([partial(m.gdn_extend, q, k, v, *gates, *where)])
                for m in (triton_gdn, ref_gdn)
            )
            name_ = f"prefill {name} {requests} x {rows}"
            print(Contest(name_, ours, nbytes, theirs, "torch").line(copy))


def skewed_experts(tokens: int, top_k: int, count: int) -> torch.Tensor:
    """Distinct experts per token, the n-th in popularity chosen as often as ``n^-1.2``."""
    popularity = -1.2 * torch.arange(1, count + 1, device=DEVICE).log()
    noise = torch.empty(tokens, count, device=DEVICE).exponential_().log()
    return (popularity - noise).topk(top_k).indices.int()


def test_experts(copy: float) -> None:
    print("\nmixture of experts; SGLang: imported table, power_law_1.2, top-k choice included")
    tables = OpTables.load("b200" if torch.cuda.get_device_capability()[0] >= 10 else "h200")
    for name, count, top_k, hidden, inter, tp in (
        ("397B tp8", 512, 10, 4096, 1024, 8),
        ("35B", 256, 8, 2048, 512, 1),
    ):
        local = inter // tp
        w13, w2 = rand(count, 2 * local, hidden) / 64, rand(count, hidden, local) / 64
        for tokens in (1, 4, 16, 32, 64, 128, 512):
            draws = [skewed_experts(tokens, top_k, count) for _ in range(8)]
            touched = sum(len(draw.unique()) for draw in draws) / len(draws)
            x, weights = rand(tokens, hidden), torch.rand(tokens, top_k, device=DEVICE)
            got = triton_moe.grouped_swiglu(x, w13, w2, weights, draws[0])
            expected = ref_moe.grouped_swiglu(x, w13, w2, weights, draws[0])
            torch.testing.assert_close(got, expected, rtol=3e-2, atol=3e-2)
            run = triton_moe.grouped_swiglu
            ours = seconds([partial(run, x, w13, w2, weights, draw) for draw in draws])
            shape = {"experts": count, "top_k": top_k, "hidden": hidden, "inter": inter, "tp": tp}
            row = tables and tables.moe(tokens=tokens, **shape)
            theirs = None if row is None else row.seconds
            nbytes = 2 * (3 * touched * hidden * local + 2 * tokens * hidden)
            title = f"{name}, {tokens} tokens, {touched:.0f} experts"
            print(Contest(title, ours, nbytes, theirs, "SGLang", target=1 / 1.3).line(copy))


def test_between_passes(copy: float) -> None:
    print("\nargmax of the verify logits, accept and commit")
    for requests in (1, 32):
        rows, width = requests * BLOCK, 248320
        logits = [rand(rows, width) for _ in range(copies(2 * rows * width))]
        ours, theirs = (
            seconds([partial(call, x) for x in logits])
            for call in (partial(triton_accept.local_argmax, first_id=0), partial(torch.max, dim=1))
        )
        title = f"argmax {rows} x {width}"
        print(Contest(title, ours, 2 * rows * width, theirs, "torch.max").line(copy))
        draft = torch.randint(0, 3, (requests, BLOCK), device=DEVICE)
        lens = torch.full((requests,), 900, device=DEVICE)
        table = torch.randperm(requests * 64, device=DEVICE).view(requests, 64).int()
        pages = {"page_size": 16, "mask_id": 7}
        fused = partial(triton_accept.accept_and_commit, draft, draft, lens, table, **pages)
        eager = partial(ref_accept.greedy_accept, draft, draft)
        nbytes = 8 * 7 * draft.numel()
        contest = Contest(
            f"accept and commit c{requests}", seconds([fused]), nbytes, seconds([eager])
        )
        print(contest.line(copy) + " torch, accept only")
