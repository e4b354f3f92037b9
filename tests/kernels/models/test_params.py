"""The layers hold exactly the weights that the shapes in ``profiles`` are priced by."""

import pytest

torch = pytest.importorskip("torch", reason="the layers are written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from tiny_networks import (  # noqa: E402
    TARGETS,
    Drawn,
    drafter_spec,
    eagle3_spec,
    target_spec,
)

from dflash_sim.kernels.comm import Comm, run_locally  # noqa: E402
from dflash_sim.kernels.layers.checkpoint import Range  # noqa: E402
from dflash_sim.kernels.models.drafter import Drafter  # noqa: E402
from dflash_sim.kernels.models.heads import Eagle3Head, MtpHead  # noqa: E402
from dflash_sim.kernels.models.target import TargetModel  # noqa: E402
from dflash_sim.kernels.rank import Rank  # noqa: E402


class Counted(Drawn):
    """Counts the values one rank reads."""

    values = 0

    def read(
        self, name: str, shape: tuple[int, ...], dim: int, ranges: list[Range]
    ) -> torch.Tensor:
        part = super().read(name, shape, dim, ranges)
        self.values += part.numel()
        return part


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", TARGETS)
def test_targets(family: str, tied: bool) -> None:
    spec, read = target_spec(family, tie_word_embeddings=tied), Counted(family)
    TargetModel(spec, read, tokens=8)
    assert read.values == spec.shape.params


@pytest.mark.parametrize("tp", [2, 4])
@pytest.mark.parametrize("family", TARGETS)
def test_shards(family: str, tp: int) -> None:
    """A rank reads what ``weight_bytes`` says it holds, copies of KV heads included."""
    spec = target_spec(family)

    def work(comm: Comm) -> int:
        read = Counted(family)
        TargetModel(spec, read, Rank(comm=comm), tokens=8)
        return 2 * read.values  # in bf16

    assert run_locally(tp, work) == [spec.shape.weight_bytes(tp)] * tp


def test_drafter() -> None:
    spec, read = drafter_spec(), Counted()
    Drafter(spec, read, tokens=8)
    assert read.values == spec.shape.params


@pytest.mark.parametrize("family", ["qwen3_5_text", "qwen3_5_moe_text"])
def test_mtp(family: str) -> None:
    spec, read = target_spec(family), Counted()
    MtpHead(spec, read, tokens=8)
    assert 2 * read.values == spec.shape.mtp_weight_bytes(1)  # in bf16


def test_eagle3() -> None:
    spec, read = eagle3_spec(), Counted()
    Eagle3Head(spec, read, tokens=8)
    assert read.values == spec.shape.params
