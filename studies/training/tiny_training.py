"""The tiny pair's networks as training wants them: whole sequences at once, gradients, no pages.

Weights are a dictionary under their Hugging Face names, so what is trained is what is saved. The
shapes and constants come from the same specs that ``dflash_sim.kernels`` runs from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, rms_norm, scaled_dot_product_attention, silu

from dflash_sim.kernels.layers.spec import DrafterSpec, Eagle3Spec, Numerics, TargetSpec
from dflash_sim.kernels.reference.norm_rope import rotary_table
from dflash_sim.profiles.networks.hf_config import AttentionShape

Weights = dict[str, Tensor]
STEPS = 3  # of a chain of single drafts
PLACES = 1024


@cache
def rotary(rotated: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every place a text may have."""
    return rotary_table(PLACES, rotated, theta=theta)


def normed(x: Tensor, weight: Tensor, numerics: Numerics) -> Tensor:
    """RMSNorm over the last dimension."""
    return rms_norm(x, weight.shape, weight + 1 if numerics.zero_centred else weight, numerics.eps)


@dataclass(frozen=True)
class Layer:
    """One decoder layer: how it is built, and where its weights are."""

    shape: AttentionShape
    numerics: Numerics
    at: str

    def heads(self, w: Weights, name: str, x: Tensor, places: Tensor, norm: str = "") -> Tensor:
        """A projection of ``x`` [N, T, H] as [N, heads, T, D], turned to ``places`` [T] or [N, T].

        Without the name of a ``norm`` it is neither normed nor turned, as values are.
        """
        at = f"{self.at}self_attn."
        out = linear(x, w[f"{at}{name}_proj.weight"]).unflatten(-1, (-1, self.shape.head_dim))
        if not norm:
            return out.transpose(1, 2)
        return self._turned(w, out, places, f"{at}{norm}.weight").transpose(1, 2)

    def queries(self, w: Weights, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor | None]:
        """Queries [N, heads, T, D], and the gate [N, T, heads D] of the output if there is one."""
        at, dim = f"{self.at}self_attn.", self.shape.head_dim
        out = linear(x, w[f"{at}q_proj.weight"]).unflatten(-1, (self.shape.num_heads, -1))
        gate = out[..., dim:].flatten(-2) if self.shape.gated else None
        return self._turned(w, out[..., :dim], places, f"{at}q_norm.weight").transpose(1, 2), gate

    def keys_values(self, w: Weights, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each [N, KV heads, T, D]."""
        return self.heads(w, "k", x, places, "k_norm"), self.heads(w, "v", x, places)

    def attend(
        self,
        w: Weights,
        x: Tensor,
        places: Tensor,
        keys_values: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
    ) -> Tensor:
        """What attention adds to the residual stream; causal without a ``mask``."""
        q, gate = self.queries(w, x, places)
        group = self.shape.num_heads // self.shape.num_kv_heads
        k, v = (part.repeat_interleave(group, 1) for part in keys_values)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        out = out.transpose(1, 2).flatten(-2)
        out = out if gate is None else out * gate.sigmoid()
        return linear(out, w[f"{self.at}self_attn.o_proj.weight"])

    def mlp(self, w: Weights, x: Tensor) -> Tensor:
        """What the MLP adds to the residual stream."""
        at = f"{self.at}mlp."
        inner = silu(linear(x, w[f"{at}gate_proj.weight"])) * linear(x, w[f"{at}up_proj.weight"])
        return linear(inner, w[f"{at}down_proj.weight"])

    def norm(self, w: Weights, name: str, x: Tensor) -> Tensor:
        """One of the layer's norms over the hidden width."""
        return normed(x, w[f"{self.at}{name}.weight"], self.numerics)

    def _turned(self, w: Weights, x: Tensor, places: Tensor, norm: str) -> Tensor:
        """``x`` [N, T, heads, D] with its norm, if it has one, and rotation."""
        x = normed(x, w[norm], self.numerics) if self.shape.qk_norm else x
        rot = self.numerics.rotary_dim(self.shape.head_dim)
        cos, sin = (table[places].unsqueeze(-2) for table in rotary(rot, self.numerics.theta))
        a, b, rest = x.split([rot // 2, rot // 2, x.shape[-1] - rot], -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


@dataclass(frozen=True)
class Seen:
    """What a pass of the target leaves: features [N, T, K H], final states [N, T, H], logits."""

    features: Tensor
    final: Tensor
    logits: Tensor


def read(w: Weights, spec: TargetSpec, ids: Tensor, taps: tuple[int, ...] = ()) -> Seen:
    """The target over ``ids`` [N, T]."""
    places, taken = torch.arange(ids.shape[1]), []
    x = w["model.embed_tokens.weight"][ids]
    for i, built in enumerate(spec.shape.layers):
        assert isinstance(built.mixer, AttentionShape)
        layer = Layer(built.mixer, spec.numerics, f"model.layers.{i}.")
        h = layer.norm(w, "input_layernorm", x)
        x = x + layer.attend(w, h, places, layer.keys_values(w, h, places))
        x = x + layer.mlp(w, layer.norm(w, "post_attention_layernorm", x))
        taken += [x] * (i in taps)
    final = normed(x, w["model.norm.weight"], spec.numerics)
    features = torch.cat(taken, -1) if taken else final[..., :0]
    return Seen(features, final, linear(final, w["model.embed_tokens.weight"]))


def dflash_loss(
    w: Weights,
    spec: DrafterSpec,
    table: Tensor,
    seen: Seen,
    ids: Tensor,
    anchors: Tensor,
    rows: int,
) -> Tensor:
    """Loss of ``rows`` - 1 proposals after each of ``anchors`` [N, A], early ones weighing more.

    Embedding and head are ``table``; labels are what the target says.
    """
    steps = torch.arange(rows)
    places = (anchors[:, :, None] + steps).flatten(1)
    hidden = draft_blocks(w, spec, table, seen.features, ids, anchors, rows)
    hidden = hidden.unflatten(1, (-1, rows))[:, :, 1:]
    said = seen.logits.argmax(-1).gather(1, places - 1).unflatten(1, (-1, rows))[:, :, 1:]
    each = cross_entropy(linear(hidden, table).flatten(0, 2), said.flatten(), reduction="none")
    weight = torch.exp(-(steps[1:] - 1) / (rows / 2))
    return (each.view(-1, rows - 1) * weight).sum() / (weight.sum() * anchors.numel())


def draft_blocks(
    w: Weights,
    spec: DrafterSpec,
    table: Tensor,
    features: Tensor,
    ids: Tensor,
    anchors: Tensor,
    rows: int,
) -> Tensor:
    """The drafter's final states [N, A rows, H] for blocks at ``anchors`` [N, A], all at once."""
    assert spec.mask_id is not None
    count, blocks, length = len(ids), anchors.shape[1], ids.shape[1]
    before = torch.arange(length)
    places = (anchors[:, :, None] + torch.arange(rows)).flatten(1)
    given = torch.full((count, blocks, rows), spec.mask_id)
    given[:, :, 0] = ids.gather(1, anchors)
    block = torch.arange(blocks).repeat_interleave(rows)
    context = before[None, None] < anchors.repeat_interleave(rows, 1)[:, :, None]
    own = (block[:, None] == block).expand(count, -1, -1)
    mask = torch.cat([context, own], -1)[:, None]
    x = table[given.flatten(1)]
    fused = rms_norm(
        linear(features, w["fc.weight"]),
        (x.shape[-1],),
        w["hidden_norm.weight"],
        spec.numerics.eps,
    )
    for i, shape in enumerate(spec.shape.layers):
        layer = Layer(shape, spec.numerics, f"layers.{i}.")
        h = layer.norm(w, "input_layernorm", x)
        far, near = layer.keys_values(w, fused, before), layer.keys_values(w, h, places)
        both = torch.cat([far[0], near[0]], 2), torch.cat([far[1], near[1]], 2)
        x = x + layer.attend(w, h, places, both, mask)
        x = x + layer.mlp(w, layer.norm(w, "post_attention_layernorm", x))
    return normed(x, w["norm.weight"], spec.numerics)


def chain_loss(
    w: Weights, spec: TargetSpec | Eagle3Spec, table: Tensor, seen: Seen, ids: Tensor
) -> Tensor:
    """Loss of :data:`STEPS` drafts in a row after every token; labels are what the target says."""
    said, total = seen.logits.argmax(-1), torch.zeros(())
    for step, logits in enumerate(chain(w, spec, table, seen, ids), start=1):
        label = said[:, step : step + logits.shape[1]]
        total = total + cross_entropy(logits.flatten(0, 1), label.flatten()) / STEPS
    return total


def chain(
    w: Weights, spec: TargetSpec | Eagle3Spec, table: Tensor, seen: Seen, ids: Tensor
) -> Iterator[Tensor]:
    """Logits [N, T', V] of :data:`STEPS` drafts in a row, each fed the states of the one before.

    As when drafting: a step sees the first steps of all earlier tokens and its own chain.
    """
    count = ids.shape[1] - 1 - STEPS
    head: Mtp | Eagle = Mtp(spec) if isinstance(spec, TargetSpec) else Eagle(spec)
    carried = head.begin(w, seen)[:, :count]
    causal = torch.ones(count, count, dtype=torch.bool).tril()
    itself = torch.eye(count, dtype=torch.bool)
    past: list[tuple[Tensor, Tensor]] = []
    for step in range(STEPS):
        places = torch.arange(step, step + count)
        h, stream = head.enter(w, table[ids[:, step + 1 : step + 1 + count]], carried)
        past.append(head.layer.keys_values(w, h, places))
        keys_values = torch.cat([k for k, _ in past], 2), torch.cat([v for _, v in past], 2)
        mask = torch.cat([causal] + [itself] * step, 1)
        stream = stream + head.layer.attend(w, h, places, keys_values, mask)
        stream = stream + head.layer.mlp(w, head.layer.norm(w, "post_attention_layernorm", stream))
        logits, carried = head.leave(w, table, stream)
        yield logits


class Mtp:
    """The MTP layer of a target: its residual stream begins with ``fc``."""

    def __init__(self, spec: TargetSpec) -> None:
        built = spec.shape.mtp_layer
        assert built is not None
        assert isinstance(built.mixer, AttentionShape)
        self.numerics = spec.numerics
        self.layer = Layer(built.mixer, spec.numerics, "mtp.layers.0.")

    def begin(self, w: Weights, seen: Seen) -> Tensor:
        """The states that a first step starts from."""
        return seen.final

    def enter(self, w: Weights, x: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        """What attention reads, and the residual stream, for embeddings ``x`` [N, T, H]."""
        parts = (("embedding", x), ("hidden", carried))
        both = [normed(part, w[f"mtp.pre_fc_norm_{n}.weight"], self.numerics) for n, part in parts]
        stream = linear(torch.cat(both, -1), w["mtp.fc.weight"])
        return self.layer.norm(w, "input_layernorm", stream), stream

    def leave(self, w: Weights, table: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the states that the next step starts from."""
        final = normed(stream, w["mtp.norm.weight"], self.numerics)
        return linear(final, table), final


class Eagle:
    """An EAGLE-3 head: its residual stream begins with the carried states."""

    def __init__(self, spec: Eagle3Spec) -> None:
        self.numerics = spec.numerics
        self.layer = Layer(spec.shape.attention, spec.numerics, "midlayer.")

    def begin(self, w: Weights, seen: Seen) -> Tensor:
        """The states that a first step starts from."""
        return linear(seen.features, w["fc.weight"])

    def enter(self, w: Weights, x: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        """What attention reads, and the residual stream, for embeddings ``x`` [N, T, H]."""
        names = (("input_layernorm", x), ("hidden_norm", carried))
        return torch.cat([self.layer.norm(w, name, part) for name, part in names], -1), carried

    def leave(self, w: Weights, table: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the states that the next step starts from."""
        return linear(normed(stream, w["norm.weight"], self.numerics), w["lm_head.weight"]), stream
