"""The same engine on GPUs: as many ranks as there are devices, captured steps too."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from tiny_networks import random_ids  # noqa: E402

from dflash_sim.realrun.gpu import graph_sizes  # noqa: E402
from dflash_sim.realrun.launch import serve  # noqa: E402
from dflash_sim.realrun.networks import Network  # noqa: E402
from dflash_sim.realrun.prompts import shipped  # noqa: E402
from dflash_sim.realrun.requests import Request  # noqa: E402
from dflash_sim.realrun.setup import MODES, Setup  # noqa: E402

ASKED = [
    Request(prompt=tuple(random_ids(n, seed=n, vocab=256).tolist()), max_new_tokens=24)
    for n in (5, 11, 30, 2)
]


def test_captured_batch_sizes() -> None:
    """Those of SGLang with speculation, the last of them holding the largest batch."""
    assert graph_sizes(1) == [1]
    assert graph_sizes(9) == [*range(1, 9), 10]
    assert graph_sizes(33) == [*range(1, 9), *range(10, 33, 2), 40]
    assert graph_sizes(1000)[-1] == 1000


def ran(method: str, **changes: Any) -> list[tuple[int, ...]]:
    pair = shipped("tiny")
    given = {"device": "cuda", "page_size": 16, "max_running_requests": 3} | changes
    drafter = Network.folder(pair / method) if method in ("dflash", "eagle3") else None
    made = Setup(target=Network.folder(pair / "target"), drafter=drafter, method=method, **given)
    return [a.output for a in serve(made, ASKED, conc=3).answers]


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["none", "dflash", "mtp", "eagle3"])
def test_a_gpu_says_what_a_cpu_says(method: str) -> None:
    """Every mode, float32; the text of plain decoding on the CPU."""
    want = ran("none", device="cpu")
    assert [ran(method, mode=mode) for mode in MODES] == [want] * 3


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["none", "dflash", "mtp"])
def test_captured_steps_say_the_same(method: str) -> None:
    assert ran(method, cuda_graphs=True) == ran("none")


@pytest.mark.gpu
def test_as_many_ranks_as_gpus() -> None:
    ranks = max(n for n in (1, 2, 4, 8) if n <= torch.cuda.device_count())
    assert ran("dflash", tp=ranks) == ran("none")
