"""A whole cycle on the Triton kernels, interpreted on the CPU, is the cycle on the references."""

import pytest

torch = pytest.importorskip("torch", reason="the layers are written in torch")
pytest.importorskip("triton", reason="the kernels are written in Triton")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from tiny_networks import (  # noqa: E402
    PAGE,
    VOCAB,
    Drawn,
    drafter_spec,
    random_ids,
    target_spec,
)
from torch import Tensor  # noqa: E402
from triton_interpreter import interpret  # noqa: E402

from dflash_sim.kernels.cache import Cache  # noqa: E402
from dflash_sim.kernels.models.cycle import Dflash, Running  # noqa: E402
from dflash_sim.kernels.models.drafter import Drafter  # noqa: E402
from dflash_sim.kernels.models.target import TargetModel  # noqa: E402
from dflash_sim.kernels.rank import Rank  # noqa: E402
from dflash_sim.kernels.reference.backend import REFERENCE, Backend  # noqa: E402

# Powers of two, which the kernels ask for; one delta net, one attention layer, both with experts.
HYBRID = {
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
DRAFTER = {
    "num_hidden_layers": 1,
    "dflash_config": {"target_layer_ids": [0, 1], "mask_token_id": VOCAB - 1},
}


def one_cycle(backend: Backend) -> list[Tensor]:
    """Tokens of a cycle after a prefill, and every pool afterwards."""
    rank, family = Rank(backend=backend), "qwen3_5_moe_text"
    target, drafter = target_spec(family, **HYBRID), drafter_spec(**DRAFTER)
    pages = {"pages": 20, "page_size": PAGE, "rank": rank}
    loop = Dflash(
        TargetModel(target, Drawn(family), rank, tokens=32),
        Drafter(drafter, Drawn(), rank, tokens=32),
        Cache.for_target(target.shape, slots=3, requests=2, rows=5, **pages),
        Cache.for_attention(drafter.shape.layers, **pages),
    )
    table = torch.arange(1, 17, dtype=torch.int32).view(2, 8)
    start = torch.zeros(2, dtype=torch.int64)
    running = Running(start, start, table, torch.tensor([1, 2]))
    running, accepted = loop.cycle(loop.prefill(random_ids(2, 6), running))
    states = loop.target_cache.gdn
    assert states is not None
    pools = [loop.target_cache.kv, loop.drafter_cache.kv]
    tensors = [states.ssm, states.conv, *(p.k for p in pools), *(p.v for p in pools)]
    return [running.anchor, accepted.tokens, accepted.commit_len, *tensors]


def check_cycle() -> None:
    from dflash_sim.kernels.triton.backend import TRITON

    assert TRITON is not REFERENCE
    for ours, theirs in zip(one_cycle(TRITON), one_cycle(REFERENCE), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.slow
def test_a_cycle_on_triton_kernels() -> None:
    interpret(__file__, "check_cycle")
