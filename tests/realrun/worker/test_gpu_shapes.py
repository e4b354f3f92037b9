"""Steps of published shapes on tensors without data: launches fit together, and nothing waits.

The ops are a GPU's. Triton's kernels are written down with their arguments, torch's calls check
shapes and dtypes, and a value that the host would read does not exist.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("triton", reason="the kernels are Triton's")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

sys.path.insert(0, str(Path(__file__).parents[2]))
from gpu_parts import cut, job  # noqa: E402

from dflash_sim.kernels.backend import backend_for  # noqa: E402
from dflash_sim.kernels.rank import Rank  # noqa: E402
from dflash_sim.kernels.triton.launch import recording  # noqa: E402
from dflash_sim.realrun.worker.device import Device  # noqa: E402

LAYERS, PROMPT = 4, 100  # one attention layer behind three delta nets, where there are any
ATTENTION = {"norm_rope_write", "attend"}
STEP = {"part_argmax", "join_argmax", "accept"}
SHAPES = {
    "qwen3-8b": (ATTENTION, set()),
    "qwen3.5-35b-a3b": (
        ATTENTION | {"route", "expert_product", "weighted_sum"},
        {"chunk_factors", "chunk_walk", "delta_rule", "commit"},
    ),
}


class Nowhere(Device):
    """A device that computes nothing."""

    def _tensor(self, values: Any) -> "torch.Tensor":
        return torch.tensor(values, dtype=torch.int64).to("meta")


@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize("conc", [1, 8])
def test_a_prefill_and_a_step(tmp_path: Path, model: str, conc: int) -> None:
    """A prefill goes in chunks, a verify stores its states; both reach every kernel there is."""
    for kind, config in zip(("target", "dflash"), cut(model, LAYERS), strict=True):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps(config), encoding="utf-8")
    made = job(tmp_path, conc, graphs=True, accept_length=6.5)
    rank = Rank(dtype=torch.bfloat16, device="meta", backend=backend_for(cuda=True))
    with torch.inference_mode(), recording(90) as launches:
        device = Nowhere(made.fitted, rank)
        slots = list(range(1, conc + 1))
        device.prefill([(slot, (1,) * PROMPT, -1) for slot in slots])
        seen = {launch.kernel.__name__.strip("_") for launch in launches}
        launches.clear()
        accepted = device.cycle(device.slots_of(tuple(slots)))
    step = {launch.kernel.__name__.strip("_") for launch in launches}
    both, delta_net = SHAPES[model]
    assert both <= seen & step
    assert delta_net <= seen | step
    assert accepted.tokens.shape == (conc, 16)
    assert accepted.tokens.dtype == torch.int64
    assert step >= STEP
    queries = [launch.arguments.get("q") for launch in launches]
    assert {q.dtype for q in queries if q is not None} == {torch.bfloat16}
