"""Captured steps on a CPU: a stand-in for CUDA graphs repeats the calls of torch that it saw.

As in a CUDA graph, calls are on the tensors that they were captured with; what would wait for a
value on the host is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from real_engine import Inline, greedy_text, serve_inline, setup, target  # noqa: E402
from tiny_networks import random_ids  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from dflash_sim.kernels.comm import OneRank  # noqa: E402
from dflash_sim.kernels.cpu_backend import CPU  # noqa: E402
from dflash_sim.kernels.rank import Rank  # noqa: E402
from dflash_sim.kernels.reference.attention import block_attention  # noqa: E402
from dflash_sim.realrun.job import setup as job_setup  # noqa: E402
from dflash_sim.realrun.job.journal import Run  # noqa: E402
from dflash_sim.realrun.job.messages import Command, Decode, Prefill  # noqa: E402
from dflash_sim.realrun.job.requests import Request  # noqa: E402
from dflash_sim.realrun.job.setup import METHODS  # noqa: E402
from dflash_sim.realrun.launch import fit_requests  # noqa: E402
from dflash_sim.realrun.scheduler.scheduler import Scheduler  # noqa: E402
from dflash_sim.realrun.worker import gpu  # noqa: E402
from dflash_sim.realrun.worker.device import Device  # noqa: E402

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"}
HYBRID = "qwen3_5_text"
WITHOUT_WAITS = replace(CPU, block_attention=block_attention)
ASKED = [
    Request(prompt=tuple(random_ids(n, seed=n).tolist()), max_new_tokens=m)
    for n, m in ((5, 14), (11, 9), (2, 17), (7, 6))
]


class Tape(TorchDispatchMode):
    """Calls of torch, each with the tensors it took and gave."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = func._schema
        assert schema.name not in WAITS, f"{schema.name} waits for the host, in a captured step"
        out = func(*args, **(kwargs or {}))
        writes = any(each.alias_info and each.alias_info.is_write for each in schema.arguments)
        homes = storages((args, kwargs))
        if writes or not storages(out) <= homes:  # a view has nothing to do again
            self.calls.append((func, args, kwargs or {}, out))
        return out


def storages(tree: Any) -> set[int]:
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


class Graph:
    """A CUDA graph on a CPU."""

    def __init__(self) -> None:
        self.tape, self.replays = Tape(), 0

    def pool(self) -> None:
        """No memory of its own."""

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self.tape.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)


class Stream:
    def wait_stream(self, other: "Stream") -> None:
        """There is one stream."""


class Moment:
    def record(self) -> None:
        """Times are nobody's here."""

    synchronize = record

    def elapsed_time(self, end: "Moment") -> float:
        return 1.0


class FakeCuda:
    """What the worker takes of ``torch.cuda``."""

    def __init__(self) -> None:
        self.capturing, self.graphs = False, []

    def Event(self, *, enable_timing: bool = False) -> Moment:  # noqa: N802
        return Moment()

    def Stream(self) -> Stream:  # noqa: N802
        return Stream()

    def CUDAGraph(self) -> Graph:  # noqa: N802
        self.graphs.append(Graph())
        return self.graphs[-1]

    def current_stream(self) -> Stream:
        return Stream()

    def stream(self, stream: Stream) -> Any:
        return nullcontext()

    def synchronize(self) -> None:
        assert not self.capturing

    def is_current_stream_capturing(self) -> bool:
        return self.capturing

    @contextmanager
    def graph(self, graph: Graph, *, pool: Any, capture_error_mode: str) -> Iterator[None]:
        self.capturing = True
        with graph.tape:
            yield
        self.capturing = False


class HereDevice(Device):
    """A GPU's device on a CPU: padded rows are in slot 0, and nothing is pinned."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.on_cpu = False

    def _tensor(self, values: Any) -> "torch.Tensor":
        return torch.tensor(values, dtype=torch.int64)


class InlineGpu(Inline):
    def send(self, command: Command) -> None:
        worker = self.executor
        assert isinstance(worker, gpu.GpuWorker)
        if isinstance(command, Prefill | Decode):
            self.results.append(worker.result(worker.enqueue(command)))
        else:
            self.results.append(worker.run(command))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Graphs for two and four requests alone: other batches are padded."""
    fake = FakeCuda()
    monkeypatch.setattr(gpu, "cuda", fake)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    read = torch.Tensor.tolist

    def tolist(tensor: Any) -> Any:
        assert not fake.capturing, "tolist waits for the host, in a captured step"
        return read(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    for module in (gpu, job_setup):
        monkeypatch.setattr(module, "graph_sizes", lambda most: [2, 4])
    return fake


def serve(method: str, backend: Any = None, **changes: Any) -> Run:
    """Answers of a GPU's worker, on this CPU."""
    given = {"device": "cuda", "cuda_graphs": True, "max_running_requests": 3}
    fitted = fit_requests(setup(HYBRID, method, **(given | changes)), ASKED, 3)
    rank = Rank(backend=backend or WITHOUT_WAITS)
    with torch.inference_mode():
        worker = gpu.GpuWorker(HereDevice(fitted, rank), OneRank())
        return Scheduler(fitted, InlineGpu(worker), ASKED, conc=3).run()


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"eagle3"}))  # whose step waits
def test_captured_steps_give_the_tokens_of_launched_ones(cuda: FakeCuda, method: str) -> None:
    """Padded batches too, and the text of plain decoding."""
    run = serve(method)
    want = [greedy_text(target(HYBRID), r) for r in ASKED]
    assert [a.output for a in run.answers] == want
    assert sum(graph.replays for graph in cuda.graphs) > 5


@pytest.mark.parametrize("method", ["dflash", "mtp"])
def test_imposed_lengths_reach_a_captured_step(cuda: FakeCuda, method: str) -> None:
    """They are drawn anew for each step, outside the graph."""
    captured = serve(method, accept_length=2.5)
    launched = serve(method, accept_length=2.5, cuda_graphs=False)
    assert [a.output for a in captured.answers] == [a.output for a in launched.answers]
    assert captured.accept_length == launched.accept_length
    inline, _ = serve_inline(setup(HYBRID, method, accept_length=2.5), ASKED, conc=3)
    assert [a.output for a in inline.answers] == [a.output for a in captured.answers]


def test_a_stale_batch_is_seen(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: graphs that go on with the batch they were captured with say other things."""

    def stale(graph: Graph, slots: Any, *out: Any) -> Any:
        def replay(now: Any) -> Any:
            graph.replay()
            return out[0], torch.ones_like(out[1])

        return replay

    monkeypatch.setattr(gpu, "_replayed", stale)
    want = [greedy_text(target(HYBRID), r) for r in ASKED]
    assert [a.output for a in serve("none").answers] != want


def test_what_waits_for_the_host_is_refused(cuda: FakeCuda) -> None:
    """An item by torch's dispatcher; the lengths that the CPU's own attention reads."""
    with Tape(), pytest.raises(AssertionError, match="waits for the host"):
        torch.ones(1).item()
    with pytest.raises(AssertionError, match="tolist waits"):
        serve("none", backend=CPU)
