"""The drafter by a definition of its own, and cycles that lose nothing."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the layers are written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from tiny_networks import (  # noqa: E402
    DOUBLE,
    HIDDEN,
    PAGE,
    PATHS,
    TARGETS,
    Drawn,
    drafter_spec,
    random_ids,
    target_spec,
)
from torch import Tensor  # noqa: E402

from dflash_sim.kernels.cache import Cache, Placement, place  # noqa: E402
from dflash_sim.kernels.layers.spec import DrafterSpec  # noqa: E402
from dflash_sim.kernels.models.cycle import Dflash, Running  # noqa: E402
from dflash_sim.kernels.models.drafter import Drafter  # noqa: E402
from dflash_sim.kernels.models.target import TargetModel  # noqa: E402
from dflash_sim.profiles.errors import UsageError  # noqa: E402

SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def rotate(x: Tensor, at: int) -> Tensor:
    """One head at one place, its two halves taken as complex numbers and turned."""
    half = x.shape[0] // 2
    turn = torch.exp(1j * at * 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half))
    turned = torch.complex(x[:half], x[half:]) * turn
    return torch.cat([turned.real, turned.imag])


def heads(x: Tensor, weight: Tensor, count: int) -> Tensor:
    return (x @ weight.T).view(x.shape[0], count, -1)


def convolved(
    w: dict[str, Tensor], spec: DrafterSpec, at: str, x: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A sublayer's input, and what to do to its output: DFlash2's two sums over the row before."""
    if spec.shape.convolutions is None:
        return x, lambda y: y
    group, base = spec.shape.convolutions.group_size, w[at + "base_kernel"]
    weights = (x @ w[at + "kernel_projection.weight"].T).view(len(x), 2, 2, -1)

    def side(number: int, y: Tensor) -> Tensor:
        earlier = torch.cat([torch.zeros_like(y[:1]), y[:-1]])
        wide = weights[:, number].repeat_interleave(group, -1) + base[number]
        return wide[:, 0] * y + wide[:, 1] * earlier

    return side(0, x), lambda y: side(1, y)


def by_definition(
    w: dict[str, Tensor], spec: DrafterSpec, features: Tensor, noise: Tensor
) -> Tensor:
    """The drafter of the paper for one request, head by head and row by row, without a cache.

    ``features`` [n, K H] stand at places 0..n-1, ``noise`` [B, H] after them.
    """
    context = norm(features @ w["fc.weight"].T, w["hidden_norm.weight"])
    h, first = noise, features.shape[0]
    for i, shape in enumerate(spec.shape.layers):
        at = f"layers.{i}.self_attn."
        x = norm(h, w[f"layers.{i}.input_layernorm.weight"])
        x, leave = convolved(w, spec, f"layers.{i}.attention_conv.", x)
        stream = torch.cat([context, x])
        q = norm(heads(x, w[at + "q_proj.weight"], shape.num_heads), w[at + "q_norm.weight"])
        k = heads(stream, w[at + "k_proj.weight"], shape.num_kv_heads)
        k = norm(k, w[at + "k_norm.weight"])
        v = heads(stream, w[at + "v_proj.weight"], shape.num_kv_heads)
        rows = []
        for row in range(noise.shape[0]):
            place_ = first + row
            seen = range(stream.shape[0])
            if shape.window is not None:
                end = place_ + 1 if shape.causal else stream.shape[0]
                seen = range(max(0, place_ - shape.window + 1), end)
            parts = []
            for head in range(shape.num_heads):
                kv = head // (shape.num_heads // shape.num_kv_heads)
                ask = rotate(q[row, head], place_)
                scores = torch.stack([ask @ rotate(k[j, kv], j) for j in seen])
                weights = (scores / math.sqrt(shape.head_dim)).softmax(0)
                parts.append(weights @ v[list(seen), kv])
            rows.append(torch.cat(parts))
        h = h + leave(torch.stack(rows) @ w[at + "o_proj.weight"].T)
        x = norm(h, w[f"layers.{i}.post_attention_layernorm.weight"])
        x, leave = convolved(w, spec, f"layers.{i}.mlp_conv.", x)
        gate = x @ w[f"layers.{i}.mlp.gate_proj.weight"].T
        up = x @ w[f"layers.{i}.mlp.up_proj.weight"].T
        h = h + leave((gate * torch.sigmoid(gate) * up) @ w[f"layers.{i}.mlp.down_proj.weight"].T)
    return norm(h, w["norm.weight"])


KINDS = {
    "full": {"layer_types": ["full_attention"] * 3},
    "sliding": {"layer_types": SLIDING},
    "both ways": {"layer_types": SLIDING, "is_causal": False},
    "convolved": {"layer_types": SLIDING, "is_causal": False} | PATHS,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_drafter_by_its_definition(kind: str) -> None:
    """Two requests, contexts fed in pieces, refused rows in between, scattered pages."""
    torch.manual_seed(0)
    spec = drafter_spec(sliding_window=6, **KINDS[kind])
    drawn = Drawn()
    drafter = Drafter(spec, drawn, DOUBLE, tokens=64)
    cache = Cache.for_attention(spec.shape.layers, pages=12, page_size=PAGE, rank=DOUBLE)
    table = (1 + torch.randperm(10)).view(2, 5).to(torch.int32)
    features = torch.randn(2, 13, 2 * HIDDEN, dtype=torch.float64)
    noise = torch.randn(2, 5, HIDDEN, dtype=torch.float64)
    nobody, done = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    kept = torch.tensor([[7, 7], [2, 3], [4, 1]])  # rows kept of each piece, per request
    for piece, rows in zip(kept, (7, 4, 4), strict=True):
        at = place(table, done, nobody, rows=rows, page_size=PAGE)
        block = torch.randn(2 * rows, HIDDEN, dtype=torch.float64)
        drafter(block, at, cache)  # leaves its own KV behind, to be overwritten
        step = torch.arange(rows)
        fed = torch.stack([features[r, (done[r] + step).clamp(max=12)] for r in range(2)])
        slots = at.slots.masked_fill(~(step < piece[:, None]).flatten(), -1)
        drafter.materialise(fed.flatten(0, 1), at.positions, slots, cache)
        done = done + piece
    at = place(table, done, nobody, rows=5, page_size=PAGE)
    got = drafter(noise.flatten(0, 1), at, cache).view(2, 5, HIDDEN)
    for r in range(2):
        want = by_definition(drawn.made, spec, features[r, : done[r]], noise[r])
        assert torch.allclose(got[r], want, atol=1e-10)


def test_a_block_row_sees_later_rows_only_without_causality() -> None:
    noise = torch.randn(5, HIDDEN, dtype=torch.float64)
    changed = noise.clone()
    changed[4] += 1
    moved = {}
    for causal in (True, False):
        kinds = {"layer_types": SLIDING[:1] * 3, "sliding_window": 6}
        spec = drafter_spec(**kinds, **({} if causal else {"is_causal": False}))
        drafter = Drafter(spec, Drawn(), DOUBLE, tokens=64)
        cache = Cache.for_attention(spec.shape.layers, pages=4, page_size=PAGE, rank=DOUBLE)
        zero = torch.zeros(1, dtype=torch.int64)
        at = place(torch.tensor([[2, 1]], dtype=torch.int32), zero, zero, rows=5, page_size=PAGE)
        gap = drafter(noise, at, cache) - drafter(changed, at, cache)
        moved[causal] = gap[:4].abs().max() > 0
    assert moved == {True: False, False: True}


class Prompter(Dflash):
    """Proposes what the target is known to say, each token wrong one time in five."""

    said: Tensor  # [R, n], from the prompt's end on
    prompt: int
    draw = torch.Generator().manual_seed(0)

    def draft(self, running: Running, at: Placement) -> Tensor:
        own = super().draft(running, at)  # its drafter runs as it always does
        begun = (running.context_lens - self.prompt)[:, None]
        places = begun + torch.arange(own.shape[1])
        right = self.said.gather(1, places.clamp(max=self.said.shape[1] - 1))
        wrong = torch.rand(own.shape, generator=self.draw) < 0.2
        mixed = torch.where(wrong, own, right)
        mixed[:, 0] = running.anchor
        return mixed


def loop(family: str, kind: type[Dflash]) -> tuple[Dflash, Running]:
    """A target with its drafter, two prompts of nine tokens read."""
    torch.manual_seed(0)
    spec, size = target_spec(family), drafter_spec()
    pages = {"pages": 40, "page_size": PAGE, "rank": DOUBLE}
    dflash = kind(
        TargetModel(spec, Drawn(family), DOUBLE, tokens=72),
        Drafter(size, Drawn(), DOUBLE, tokens=72),
        Cache.for_target(spec.shape, slots=4, requests=3, rows=5, **pages),
        Cache.for_attention(size.shape.layers, **pages),
    )
    table = (1 + torch.randperm(36)).view(2, 18).to(torch.int32)
    start = torch.zeros(2, dtype=torch.int64)
    running = Running(start, start, table, torch.tensor([3, 1]))
    return dflash, dflash.prefill(random_ids(2, 9), running)


@pytest.mark.parametrize("family", TARGETS)
def test_speculation_changes_no_token(family: str) -> None:
    """Cycles emit what the target says one token at a time; delta nets are rolled back."""
    plain, running = loop(family, Dflash)
    said = [running.anchor]
    for _ in range(30):
        running = plain.decode(running)
        said.append(running.anchor)
    fast, running = loop(family, Prompter)
    assert isinstance(fast, Prompter)
    fast.said, fast.prompt = torch.stack(said, 1), 9
    got = [[int(token)] for token in running.anchor]
    lengths: set[int] = set()
    while int(running.context_lens.max()) < 9 + 26:
        running, accepted = fast.cycle(running)
        for r, n in enumerate(accepted.commit_len.tolist()):
            got[r] += accepted.tokens[r, :n].tolist()
            lengths.add(n)
    for r in range(2):
        assert len(got[r]) > 12
        assert got[r] == fast.said[r, : len(got[r])].tolist()
    assert len(lengths) >= 3


@pytest.mark.parametrize("family", ["qwen3", "qwen3_5_text"])
def test_padding_a_batch_changes_nobody(family: str) -> None:
    """A third request on page 0 and slot 0, as a captured graph is filled up."""
    nothing = torch.zeros(1, dtype=torch.int64)
    alone, running = loop(family, Dflash)
    beside, padded = loop(family, Dflash)
    padded = Running(
        torch.cat([padded.anchor, nothing]),
        torch.cat([padded.context_lens, nothing]),
        torch.cat([padded.page_table, torch.zeros_like(padded.page_table[:1])]),
        torch.cat([padded.state_slots, nothing]),
    )
    for _ in range(4):
        running, accepted = alone.cycle(running)
        padded, more = beside.cycle(padded)
        padded = replace(padded, context_lens=padded.context_lens * torch.tensor([1, 1, 0]))
        assert torch.equal(more.tokens[:2], accepted.tokens)


def test_a_drafter_without_a_mask_token_is_refused() -> None:
    dflash, _ = loop("qwen3", Dflash)
    spec = drafter_spec(dflash_config={"target_layer_ids": [0, 2]})
    nameless = Drafter(spec, Drawn(), DOUBLE, tokens=8)
    with pytest.raises(UsageError, match="mask_token_id"):
        Dflash(dflash.target, nameless, dflash.target_cache, dflash.drafter_cache)
