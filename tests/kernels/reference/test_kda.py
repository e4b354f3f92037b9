"""Kimi delta attention: transformers' layer, and the GDN that it is when channels forget alike."""

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from typing import Any  # noqa: E402

from dflash_sim.kernels.reference.gdn import causal_conv1d, gdn_gates, gdn_verify  # noqa: E402
from dflash_sim.kernels.reference.kda import kda_gates, kda_norm, kda_verify  # noqa: E402

torch.set_num_threads(1)
F64 = torch.float64
HEADS, DIM, HIDDEN = 3, 8, 16


def test_channels_that_forget_alike_are_a_gated_delta_net() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 5, HEADS, DIM, dtype=F64) for _ in range(3))
    a, b = torch.randn(2, 5, HEADS, dtype=F64), torch.randn(2, 5, HEADS, dtype=F64)
    a_log, bias = torch.randn(HEADS, dtype=F64), torch.randn(HEADS, dtype=F64)
    state = torch.randn(2, HEADS, DIM, DIM, dtype=F64)
    each = a[..., None].expand(-1, -1, -1, DIM)
    g, beta = kda_gates(each, b, a_log, bias[:, None].expand(-1, DIM))
    one, strength = gdn_gates(a, b, a_log, bias)
    assert torch.allclose(g, one[..., None].expand_as(g))
    ours, states = kda_verify(q, k, v, g, beta, state)
    theirs, others = gdn_verify(q, k, v, one, strength, state)
    assert torch.allclose(ours, theirs)
    assert torch.allclose(states, others)


def test_a_bounded_gate_forgets_no_faster_than_its_bound() -> None:
    f = torch.linspace(-50, 50, DIM, dtype=F64).expand(HEADS, DIM)
    zero = torch.zeros(HEADS, DIM, dtype=F64)
    g, _ = kda_gates(f, torch.zeros(HEADS, dtype=F64), zero[:, 0], zero, lowest=-5.0)
    assert -5 <= g.min() < -4.99
    assert -0.01 < g.max() <= 0


@pytest.mark.parametrize("lowest", [None, -5.0])
def test_the_same_as_transformers(lowest: "float | None") -> None:
    pytest.importorskip("transformers", minversion="5.24", reason="the independent oracle")
    if lowest is None:
        from transformers import KimiLinearConfig as Config
        from transformers.models.kimi_linear.modeling_kimi_linear import (
            KimiLinearDeltaAttention as Layer,
        )
    else:
        from transformers import Glm5NextTextConfig as Config
        from transformers.models.glm5_next.modeling_glm5_next import (
            Glm5NextTextLinearAttention as Layer,
        )
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": HIDDEN, "num_hidden_layers": 2, "linear_head_dim": DIM,
        "linear_num_heads": HEADS, "linear_conv_kernel_dim": 4,
        "layer_types": ["linear_attention", "full_attention"],
    }  # fmt: skip
    layer = Layer(Config(**sizes), 0).eval().float()
    for p in layer.parameters():
        p.data.normal_(0, 0.4)
    x = torch.randn(2, 7, HIDDEN)
    theirs = layer(x)

    shape = (2, 7, HEADS, DIM)
    mixed = torch.cat([layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)], -1)
    convolved, _ = causal_conv1d(mixed, layer.conv1d.weight[:, 0])
    q, k, v = (part.view(shape) for part in convolved.chunk(3, -1))
    gate = layer.forget_gate
    g, beta = kda_gates(
        gate.f_b_proj(gate.f_a_proj(x)).view(shape),
        layer.b_proj(x),
        gate.A_log.flatten(),
        gate.dt_bias.view(HEADS, DIM),
        lowest=lowest,
    )
    out, _ = kda_verify(q, k, v, g, beta, torch.zeros(2, HEADS, DIM, DIM))
    through = layer.g_b_proj(layer.g_a_proj(x)).view(shape)
    normed = kda_norm(out, through, layer.o_norm.weight, eps=layer.layer_norm_epsilon)
    assert torch.allclose(layer.o_proj(normed.flatten(-2)), theirs, atol=2e-5)
