"""Whole passes and single layers on this device, beside the ops that they are made of.

A pass takes longer than its ops, or shorter where caches stay warm; by how much is measured here,
the phases of a cycle one after the other as an engine runs them. Weights are random. Ranks that are
not here say nothing: collectives are timed apart.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dflash_sim.calibrate.measure.clock import Clock, CudaClock, keep_busy, trimmed_mean
from dflash_sim.calibrate.measure.subject import Subject
from dflash_sim.kernels.cache import Cache, Placement, place
from dflash_sim.kernels.comm import OneRank
from dflash_sim.kernels.layers.checkpoint import RandomTensors
from dflash_sim.kernels.models.drafter import Drafter
from dflash_sim.kernels.models.heads import MtpHead
from dflash_sim.kernels.models.target import TargetModel
from dflash_sim.kernels.rank import Rank
from dflash_sim.kernels.reference.backend import Backend
from dflash_sim.profiles.networks.hf_config import LayerShape, ModelShape

Runs = Mapping[str, Callable[[], object]]
PAGE = 16
ROOM = 0.6  # share of the free memory that weights may take
WARM_UP, REPEATS = 3, 15


class Mute(OneRank):
    """A rank of ``size`` whose partners say what it says: its own work, without communication."""

    def __init__(self, size: int) -> None:
        self.size = size

    def all_gather(self, x: Tensor) -> Tensor:
        """``x`` as often as there are ranks."""
        return x.expand(self.size, *x.shape)


def fitting_layers(model: ModelShape, *, tp: int, itemsize: int, free_bytes: float) -> int:
    """Layers whose weights fit: all, or whole periods of the kinds of layers."""
    kinds = [type(layer.mixer) for layer in model.layers]
    repeats = (p for p in range(1, len(kinds)) if kinds[p:] == kinds[:-p])
    period = next(repeats, len(kinds))
    per_layer = model.weight_bytes(tp) * itemsize / 2 / len(model.layers)
    fit = int(ROOM * free_bytes / per_layer)
    return len(kinds) if fit >= len(kinds) else max(period, fit // period * period)


def cut(model: ModelShape, layers: int) -> ModelShape:
    """The first ``layers`` layers of a model, with its embedding and head."""
    return replace(model, layers=model.layers[:layers])


@dataclass
class Network:
    """One rank's target, drafter and MTP head with random weights, and pools for their passes."""

    subject: Subject
    backend: Backend
    dtype: torch.dtype
    device: torch.device
    layers: int

    def __post_init__(self) -> None:
        s = self.subject
        self.rank = Rank(
            comm=Mute(s.tp), dtype=self.dtype, device=self.device, backend=self.backend
        )
        spec = replace(s.target, shape=cut(s.model, self.layers))
        source, tokens = RandomTensors(device=self.device), s.sizes.longest + 1
        self.target = TargetModel(spec, source, self.rank, tokens=tokens)
        self.drafter: Drafter | None = None
        if s.drafter is not None:
            self.drafter = Drafter(s.drafter, source, self.rank, tokens=tokens)
        self.mtp = MtpHead(spec, source, self.rank, tokens=tokens) if s.model.mtp_layer else None
        self.taps: tuple[int, ...] = ()
        if s.drafter is not None:
            ids = s.drafter.shape.target_layer_ids
            self.taps = tuple(i * self.layers // len(s.model.layers) for i in ids)

    @property
    def shape(self) -> ModelShape:
        """Return the shape of the layers that are here."""
        return self.target.spec.shape

    def caches(self, requests: int, rows: int, ctx: int, *, kept: int = 1) -> "Pools":
        """Pools for ``requests`` texts of ``ctx + rows`` tokens, their pages in random order.

        ``kept`` is the number of rows whose delta-net states a verify stores.
        """
        each = -(-(ctx + rows) // PAGE)
        pages = requests * each + 1
        table = (1 + torch.randperm(pages - 1, device=self.device)).view(requests, each)
        target = Cache.for_target(
            self.shape,
            pages=pages,
            page_size=PAGE,
            slots=requests + 1,
            requests=requests,
            rows=kept,
            rank=self.rank,
        )
        extra = None
        if self.drafter is not None:
            layers = self.drafter.spec.shape.layers
            extra = Cache.for_attention(layers, pages=pages, page_size=PAGE, rank=self.rank)
        mtp = None
        if self.mtp is not None:
            mixer = self.mtp.layer.mixer.shape
            mtp = Cache.for_attention([mixer], pages=pages, page_size=PAGE, rank=self.rank)  # type: ignore[list-item]
        return Pools(target, extra, mtp, table.to(torch.int32), ctx)

    def cycle(self, requests: int, rows: int, ctx: int, *, drafting: bool = True) -> Runs:
        """Phases of a DFlash cycle of ``rows``; of verification alone where nothing is drafted."""
        pools = self.caches(requests, rows, ctx, kept=rows)
        at = pools.at(rows, keep=rows > 1)
        draft = self._ids(requests * rows)
        out: dict[str, Tensor] = {}

        def verify() -> Tensor:
            found = self.target(draft, at, pools.target, self.taps if rows > 1 else ())
            if found.features is not None:
                out["features"] = found.features
            return self.target.argmax(found.final)

        if rows == 1 or not drafting:
            return {"verify": verify}
        drafter, extra = self.drafter, pools.drafter
        assert drafter is not None
        assert extra is not None

        def propose() -> Tensor:
            x = self.target.vocabulary.embed(draft)
            hidden = drafter(x, at, extra).view(requests, rows, -1)
            return self.target.argmax(hidden[:, 1:].flatten(0, 1))

        def inject() -> None:
            drafter.materialise(out["features"], at.positions, at.slots, extra)

        found: dict[str, Callable[[], object]] = {"draft": propose, "verify": verify}
        if pools.target.gdn is not None:
            states, kept = pools.target.gdn, torch.full((requests,), rows // 2, device=self.device)
            found["commit"] = lambda: states.commit(at.state_slots, kept, self.backend)
        return found | {"materialise": inject}

    def chain(self, requests: int, rows: int, ctx: int) -> Runs:
        """Draft steps and draft-extend of the MTP head; verification is that of :meth:`cycle`."""
        pools = self.caches(requests, rows, ctx)
        one, wide = pools.at(1), pools.at(rows)
        head, cache = self.mtp, pools.mtp
        assert head is not None
        assert cache is not None

        ids = self._ids(requests * rows)
        hidden = torch.zeros(len(ids), self.shape.hidden, dtype=self.dtype, device=self.device)

        def forward(at: Placement) -> Tensor:
            rows_here = at.requests * at.rows
            x = self.target.vocabulary.embed(ids[:rows_here])
            return self.target.argmax(head(x, hidden[:rows_here], at, cache))

        def steps() -> None:
            for _ in range(rows - 2):
                forward(one)

        return {"mtp-draft": steps, "mtp-materialise": lambda: forward(wide)}

    def prefill(self, requests: int, seq: int) -> Runs:
        """Reading ``seq`` new tokens of each request, and injecting them into a drafter."""
        pools = self.caches(requests, seq, 0)
        at, ids = pools.at(seq), self._ids(requests * seq)

        def read() -> Tensor:
            found = self.target(ids, at, pools.target, self.taps)
            if self.drafter is not None and found.features is not None and pools.drafter:
                self.drafter.materialise(found.features, at.positions, at.slots, pools.drafter)
            last = found.final.view(requests, seq, -1)[:, -1]
            return self.target.argmax(last)

        return {"prefill": read}

    def kinds(self) -> list[int]:
        """The first layer of each kind."""
        seen: dict[LayerShape, int] = {}
        for i, layer in enumerate(self.shape.layers):
            seen.setdefault(layer, i)
        return list(seen.values())

    def single_layers(self, requests: int, rows: int, ctx: int) -> Runs:
        """One layer of each kind."""
        pools = self.caches(requests, rows, ctx, kept=rows)
        at = pools.at(rows, keep=rows > 1)
        size = (requests * rows, self.shape.hidden)
        x, residual = (torch.randn(size, dtype=self.dtype, device=self.device) for _ in range(2))

        def run(i: int) -> Callable[[], object]:
            return lambda: self.target.layers[i](x, residual, at, pools.target)

        return {f"layer:{i}": run(i) for i in self.kinds()}

    def _ids(self, count: int) -> Tensor:
        return torch.randint(0, self.shape.vocab // self.subject.tp, (count,), device=self.device)


@dataclass(frozen=True)
class Pools:
    """Caches of all networks under one page table."""

    target: Cache
    drafter: Cache | None
    mtp: Cache | None
    table: Tensor
    ctx: int

    def at(self, rows: int, *, keep: bool = False) -> Placement:
        """``rows`` new rows of every request behind its context."""
        requests = self.table.shape[0]
        device = self.table.device
        return place(
            self.table,
            torch.full((requests,), self.ctx, device=device),
            torch.arange(1, requests + 1, device=device),
            rows=rows,
            page_size=PAGE,
            keep_states=keep,
        )


@torch.no_grad()
def timed(clock: Clock, runs: Runs, repeats: int = REPEATS) -> dict[str, float]:
    """Mean seconds of each of ``runs``, which run in turn as in an engine.

    The slowest tenth is left out: on a shared machine it is not this program's.
    """
    if isinstance(clock, CudaClock):
        return _timed_graphs(clock, runs, repeats)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(WARM_UP + repeats):
        for name, run in runs.items():
            begin = time.thread_time()
            run()
            if i >= WARM_UP:
                times[name].append(time.thread_time() - begin)
    return {name: trimmed_mean(found) for name, found in times.items()}


def _timed_graphs(clock: CudaClock, runs: Runs, repeats: int) -> dict[str, float]:
    graphs = {name: clock.captured([run]) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(WARM_UP + repeats):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(graphs) + 1)]
        keep_busy()
        marks[0].record()
        for mark, graph in zip(marks[1:], graphs.values(), strict=True):
            graph.replay()
            mark.record()
        marks[-1].synchronize()
        for name, a, b in zip(graphs, marks, marks[1:], strict=False):
            if i >= WARM_UP:
                times[name].append(a.elapsed_time(b) / 1e3)
    return {name: trimmed_mean(found) for name, found in times.items()}
