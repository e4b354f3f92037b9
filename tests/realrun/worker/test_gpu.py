"""The same engine on GPUs: as many ranks as there are devices, captured steps too."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from real_engine import setup  # noqa: E402
from tiny_networks import random_ids  # noqa: E402

from dflash_sim.kernels.comm import OneRank  # noqa: E402
from dflash_sim.kernels.rank import Rank  # noqa: E402
from dflash_sim.realrun.job.graphs import graph_sizes  # noqa: E402
from dflash_sim.realrun.job.messages import GOES_ON, Decode, Prefill  # noqa: E402
from dflash_sim.realrun.job.networks import Network  # noqa: E402
from dflash_sim.realrun.job.prompts import shipped  # noqa: E402
from dflash_sim.realrun.job.requests import Request  # noqa: E402
from dflash_sim.realrun.job.setup import METHODS, MODES, Setup  # noqa: E402
from dflash_sim.realrun.launch import fit_requests, serve  # noqa: E402
from dflash_sim.realrun.worker import gpu  # noqa: E402
from dflash_sim.realrun.worker.device import Device  # noqa: E402
from dflash_sim.realrun.worker.methods import build_method  # noqa: E402
from dflash_sim.realrun.worker.process import rank_of  # noqa: E402

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


@pytest.mark.parametrize("conc", [1, 8, 9, 11, 33])
@pytest.mark.parametrize("graphs", [False, True])
def test_pools_hold_the_widest_step(conc: int, graphs: bool) -> None:
    """What verify keeps of delta nets has room for every row, padded ones too; built on a CPU."""
    changes = {"device": "cuda", "cuda_graphs": graphs, "max_running_requests": conc}
    asked = [Request(prompt=(3, 1, 4), max_new_tokens=8)] * conc
    fitted = fit_requests(setup("qwen3_5_text", "dflash", **changes), asked, conc)
    states = build_method(fitted, Rank(device="cpu")).target_cache.gdn
    assert states is not None
    widest = graph_sizes(conc)[-1] if graphs else conc
    for kept in (states.ssm_scratch, states.conv_scratch):
        assert kept.shape[1:3] == (widest, fitted.rows)


class Clock:
    """A GPU's events by a clock of our own, with what ``torch.cuda`` says of them."""

    def __init__(self) -> None:
        self.now_s, self.capturing = 0.0, False

    def Event(self, *, enable_timing: bool) -> "Moment":  # noqa: N802
        assert enable_timing
        return Moment(self)

    def is_current_stream_capturing(self) -> bool:
        return self.capturing

    def synchronize(self) -> None:
        pass


class Moment:
    def __init__(self, clock: Clock) -> None:
        self.clock, self.at_s = clock, math.nan

    def record(self) -> None:
        self.at_s = self.clock.now_s

    def synchronize(self) -> None:
        assert self.at_s <= self.clock.now_s

    def elapsed_time(self, end: "Moment") -> float:
        """In milliseconds and float32, as CUDA tells it."""
        return float(torch.tensor(1e3 * (end.at_s - self.at_s), dtype=torch.float32))


def test_phases_are_read_from_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of steps over an hour, to the microsecond; while a graph is captured none is noted."""
    clock = Clock()
    monkeypatch.setattr(gpu, "cuda", clock)
    monkeypatch.setattr(gpu, "perf_counter", lambda: 50.0)
    spans = gpu.EventSpans()
    for begun_s in (1.0, 2.0, *(float(x) for x in range(4, 3600, 4))):
        clock.now_s = begun_s
        spans.begin()
        for name in ("draft", "verify"):
            clock.now_s += 0.001
            spans.mark(name)
        clock.capturing = True
        spans.mark("accept")
        clock.capturing = False
        clock.now_s += 0.5
        starts = [50 + begun_s, 50 + begun_s + 0.001]
        found = spans.read()
        assert [name for name, *_ in found] == ["draft", "verify"]
        assert [start for _, start, _ in found] == pytest.approx(starts, rel=0, abs=1e-4)
        assert [b - a for _, a, b in found] == pytest.approx([0.001] * 2, rel=0, abs=1e-6)


def made_of(method: str, **changes: Any) -> Setup:
    pair = shipped("tiny")
    given = {"device": "cuda", "page_size": 16, "max_running_requests": 3} | changes
    drafter = Network.folder(pair / method) if "draft_model" in METHODS[method].takes else None
    return Setup(target=Network.folder(pair / "target"), drafter=drafter, method=method, **given)


def ran(method: str, **changes: Any) -> list[tuple[int, ...]]:
    return [a.output for a in serve(made_of(method, **changes), ASKED, conc=3).answers]


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_says_what_a_cpu_says(method: str) -> None:
    """Every mode, float32; the text of plain decoding on the CPU."""
    want = ran("none", device="cpu")
    assert [ran(method, mode=mode) for mode in MODES] == [want] * 3


@pytest.fixture
def _no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the GPU is an error from ``set_sync_debug_mode`` on."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.parametrize("method", ["none", "dflash", "mtp"])
def test_a_step_is_enqueued_without_waiting(method: str) -> None:
    """New pages and a new batch while a step is in flight; the second step finds all compiled."""
    fitted = fit_requests(made_of(method), ASKED, 3)
    device = Device(fitted, rank_of(fitted.setup, OneRank(), torch.device("cuda", 0)))
    with torch.inference_mode():
        worker = gpu.GpuWorker(device, OneRank())
        prompts = [(slot, ASKED[slot].prompt, GOES_ON) for slot in (1, 2)]
        pages = tuple((slot, place, 4 * slot + place) for slot in (1, 2) for place in range(3))
        first = worker.enqueue(Prefill(tuple(prompts), ((1, 0), (2, 1)), pages))
        worker.enqueue(Decode((1, 2), ((1, 3, 7),)))
        worker.enqueue(Decode((1,), ((1, 3, 7),)))
        torch.cuda.set_sync_debug_mode("error")
        last = worker.enqueue(Decode((1, 2), ((2, 3, 11),)))
        torch.cuda.set_sync_debug_mode("default")
        for pending in (first, last):
            pending.landed.synchronize()
            assert all(start <= end for _, start, end in worker.result(pending).spans)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["none", "dflash", "mtp"])
def test_captured_steps_say_the_same(method: str) -> None:
    assert ran(method, cuda_graphs=True) == ran("none")


@pytest.mark.gpu
def test_as_many_ranks_as_gpus() -> None:
    ranks = max(n for n in (1, 2, 4, 8) if n <= torch.cuda.device_count())
    assert ran("dflash", tp=ranks) == ran("none")
