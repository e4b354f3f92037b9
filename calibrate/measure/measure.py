"""Time the ops, layers and passes of a model on this machine, into a profile that predicts.

The op list of the simulator's graph decides the shapes. Results go to a journal as they come, so an
interrupted measurement goes on where it stopped; the profile is written at the end, whole.
"""

import datetime
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dflash_sim import __version__
from dflash_sim.calibrate.measure.clock import (
    Canary,
    Clock,
    Sample,
    clock_for,
    copy_byte_s,
    matmul_flop_s,
)
from dflash_sim.calibrate.measure.collectives import can_time, time_collectives
from dflash_sim.calibrate.measure.machine import (
    clocks,
    describe,
    device_sheet,
    free_bytes,
    identity,
    megabytes,
)
from dflash_sim.calibrate.measure.op_cases import FUSED, Maker, Surroundings, tensors_bytes
from dflash_sim.calibrate.measure.partial_file import Journal
from dflash_sim.calibrate.measure.pass_list import PassItem, pass_items, timed_item
from dflash_sim.calibrate.measure.passes import Network, fitting_layers
from dflash_sim.calibrate.measure.subject import Subject, costs_nothing, key_of, shape_of
from dflash_sim.kernels.backend import backend_for
from dflash_sim.profiles.errors import InfeasibleError
from dflash_sim.profiles.times.machine_profile import FORMAT, FUSED_S, VERSION
from dflash_sim.simulator.cost.ops import Op

# A CPU is shared, and slow for seconds at a time: there a time is the quickest of three that lie
# apart.
SWEEPS = {"cuda": 1, "cpu": 3}
AGAIN = " again "
DRIFT = 0.05  # of the canary: beyond it the machine was not the same all along
OutOfMemory = (torch.OutOfMemoryError, MemoryError)


@dataclass(frozen=True)
class Report:
    """The record of a measurement.

    Parameters
    ----------
    profile : the document, as it is written
    drift : largest relative change of the canary [1]
    resumed : results that an earlier call had left
    """

    profile: Mapping[str, Any]
    drift: float
    resumed: int

    @property
    def drifted(self) -> bool:
        """Return True if the machine was not the same all along."""
        return self.drift > DRIFT


@dataclass
class Measurement:
    """One subject on one device.

    Parameters
    ----------
    name : of the model and the drafter, as asked for
    quick : fewer sizes and repetitions
    sweeps : how often everything is timed; the quickest counts
    on_progress : called with results done and to do
    """

    subject: Subject
    device: str
    dtype: torch.dtype
    name: Mapping[str, Any]
    quick: bool = False
    sweeps: int | None = None
    on_progress: Callable[[int, int], None] = lambda _done, _total: None

    def __post_init__(self) -> None:
        self.clock: Clock = clock_for(self.device, quick=self.quick)
        self.backend = backend_for(cuda=self.device == "cuda")
        itemsize = self.dtype.itemsize
        weights = self.subject.model.weight_bytes(self.subject.tp) * itemsize / 2
        self.maker = Maker(
            self.backend,
            self.subject.target.numerics,
            self.dtype,
            self.clock.device,
            self.clock.cache_bytes,
            weights,
        )

    def run(self, path: Path) -> Report:
        """Measure all that the journal of ``path`` does not hold yet.

        Raises
        ------
        UsageError
            The journal is of something else, or the disk is full.
        InfeasibleError
            Nothing could be measured.
        """
        began = time.monotonic()
        machine = describe(self.device)
        journal = Journal(path, self._about(machine))
        try:
            self._all(journal)
        finally:
            journal.close()
        document = self._document(journal, machine, time.monotonic() - began)
        if not document["ops"]:
            msg = f"nothing could be measured: {document['skipped'][0]['why']}"
            raise InfeasibleError(msg)
        return Report(document, document["made"]["drift"], journal.resumed)

    def _about(self, machine: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "scope": self._scope(),
            "machine": identity(machine),
            "sizes": asdict(self.subject.sizes),
            "quick": self.quick,
            "dflash_sim": __version__,
        }

    def _scope(self) -> dict[str, Any]:
        return {**self.name, "tp": self.subject.tp, "dtype": str(self.dtype).removeprefix("torch.")}

    def _all(self, journal: Journal) -> None:
        ops, comms = self.subject.ops(), self.subject.collectives()
        passes, sweeps = list(pass_items(self.subject)), self.sweeps or SWEEPS[self.device]
        total = sweeps * (len(ops) + len(passes) + 2) + len(comms) + 3
        torch.manual_seed(0)

        def note(key: str, make: Callable[[], Mapping[str, Any]]) -> None:
            if key not in journal.results:
                journal.add(key, make())
            self.on_progress(len(journal.results), total)

        canary = Canary(self.clock, self.dtype)
        note("rates", self._rates)
        note("host", self._host)
        self._watch(journal, canary)
        self._collectives(journal, note)
        for sweep in range(sweeps):
            for key, (op, at) in ops.items():
                note(_again(key, sweep), partial(self._op, op, at))
            self._watch(journal, canary)
            if any(_again(item.key, sweep) not in journal.results for item in passes):
                self._passes(passes, note, sweep)
            self._watch(journal, canary)

    def _watch(self, journal: Journal, canary: Canary) -> None:
        number = sum(key.startswith("canary") for key in journal.results)
        seen = {"seconds": canary.seconds()}
        if self.device == "cuda":
            seen["clocks"] = clocks()  # type: ignore[assignment]
        journal.add(f"canary {number}", seen)

    def _rates(self) -> dict[str, Any]:
        return {
            "copy_byte_s": copy_byte_s(self.clock),
            "matmul_flop_s": matmul_flop_s(self.clock, self.dtype),
        }

    def _host(self) -> dict[str, Any]:
        """Host time of launching a small kernel, and of replaying a graph of it."""
        x = torch.ones(1, device=self.clock.device)

        def launch() -> None:
            x.add_(1)

        found = {"eager_launch_s": _host_s(launch)}
        if self.device == "cuda":
            graph = self.clock.captured([launch])  # type: ignore[attr-defined]
            found["graph_launch_s"] = _host_s(graph.replay)
        return found

    @torch.no_grad()
    def _op(self, op: Op, at: Surroundings) -> dict[str, Any]:
        """The times of one op, or why there are none."""
        needed = tensors_bytes(op, self.dtype.itemsize)
        if costs_nothing(op):
            return _why("a launch of the engine; our passes have none")
        if needed > free_bytes(self.device):
            return _why(f"needs {megabytes(needed)}, {megabytes(free_bytes(self.device))} are free")
        try:
            calls = self.maker.calls(op, at)
            if calls is None:
                return _why("no kernel of ours does it")
            if calls == FUSED:
                return _timed(op, Sample(FUSED_S, FUSED_S, 0.0, 0), self.dtype)
            assert not isinstance(calls, str)
            return _timed(op, self.clock.sample(calls), self.dtype)
        except OutOfMemory:
            return _why("out of memory")
        except RuntimeError as error:  # a kernel that this GPU or shape does not take
            return self._failed(key_of(op), error)
        finally:
            _tidy(self.device)

    def _failed(self, what: str, error: RuntimeError) -> dict[str, Any]:
        """Why ``what`` has no time; after some errors a GPU does nothing any more."""
        said = str(error).splitlines()[0][:200]
        if self.device == "cuda":
            try:
                torch.cuda.synchronize()
            except RuntimeError as broken:
                msg = f"the GPU is unusable after {what}: {said}. Run this again to go on."
                raise InfeasibleError(msg) from broken
        return _why(f"failed: {said}")

    def _collectives(self, journal: Journal, note: Callable[..., None]) -> None:
        comms = self.subject.collectives()
        left = {key: op for key, op in comms.items() if key not in journal.results}
        if not left:
            return
        ranks = self.subject.tp
        if not can_time(self.device, ranks):
            why = f"needs {ranks} GPUs, {torch.cuda.device_count()} are here"
            for key in left:
                note(key, partial(_why, why))
            return
        try:
            ops = list(left.values())
            samples = time_collectives(ops, device=self.device, dtype=self.dtype)
        except InfeasibleError as error:
            for key in left:
                note(key, partial(_why, str(error)))
            return
        for (key, op), sample in zip(left.items(), samples, strict=True):
            note(key, partial(_timed, op, sample, self.dtype))

    def _passes(self, items: list[PassItem], note: Callable[..., None], sweep: int) -> None:
        itemsize = self.dtype.itemsize
        layers = fitting_layers(
            self.subject.model,
            tp=self.subject.tp,
            itemsize=itemsize,
            free_bytes=free_bytes(self.device),
        )
        try:
            network = Network(self.subject, self.backend, self.dtype, self.clock.device, layers)
        except OutOfMemory:
            for item in items:
                note(
                    _again(item.key, sweep),
                    partial(_why, "out of memory for the weights of a pass"),
                )
            return
        for item in items:
            note(_again(item.key, sweep), partial(self._pass, network, item))
        del network
        _tidy(self.device)

    def _pass(self, network: Network, item: PassItem) -> dict[str, Any]:
        try:
            return {"layers": network.layers, "seconds": timed_item(self.clock, network, item)}
        except OutOfMemory:
            return _why("out of memory")
        except RuntimeError as error:
            return self._failed(item.key, error)
        finally:
            _tidy(self.device)

    def _document(
        self, journal: Journal, machine: Mapping[str, Any], wall_s: float
    ) -> dict[str, Any]:
        results = _quickest(journal.results)
        canaries = [r["seconds"] for key, r in results.items() if key.startswith("canary")]
        ops = [r["timed"] for r in results.values() if "timed" in r]
        document = {
            "format": FORMAT,
            "version": VERSION,
            "machine": {
                **machine,
                "clocks": [r.get("clocks") for r in results.values() if r.get("clocks")],
            },
            "device": {**device_sheet(self.device), **_values(results["rates"])},
            "host": _values(results["host"]),
            "scope": self._scope(),
            "made": {
                "on": datetime.date.today().isoformat(),
                "seconds": round(wall_s, 1),
                "quick": self.quick,
                "canary_s": canaries,
                "drift": max(canaries) / min(canaries) - 1,
                "dflash_sim": __version__,
            },
            "ops": ops,
            "passes": [],
            "skipped": [{"op": key, "why": r["why"]} for key, r in results.items() if "why" in r],
        }
        document["passes"] = list(self._pass_rows(document, results))
        return document

    def _pass_rows(
        self, document: Mapping[str, Any], results: Mapping[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Times of passes beside the sum of their ops."""
        from dflash_sim.calibrate.measure.pass_list import as_rows
        from dflash_sim.profiles.times.machine_profile import parsed

        profile = parsed(Path("profile"), dict(document), "")
        for item in pass_items(self.subject):
            found = results[item.key]
            if "seconds" in found:
                yield from as_rows(profile, self.subject, item, found["seconds"], found["layers"])


def _timed(op: Op, sample: Sample, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "timed": {
            "kind": type(op).__name__,
            "shape": shape_of(op),
            "seconds": max(sample.median_s, FUSED_S),
            "mean_s": sample.mean_s,
            "spread": sample.spread,
            "nbytes": tensors_bytes(op, dtype.itemsize),
            "flops": op.flops,
        }
    }


def _again(key: str, sweep: int) -> str:
    """The key of a result that is measured once more."""
    return f"{key}{AGAIN}{sweep}" if sweep else key


def _quickest(results: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The results, each with the least of its times."""
    found: dict[str, dict[str, Any]] = {}
    for key, result in results.items():
        first, again, _ = key.partition(AGAIN)
        best = found.get(first)
        if best is None or "why" in best:
            found[first] = result
        elif "timed" in result:
            if result["timed"]["seconds"] < best["timed"]["seconds"]:
                found[first] = result
        elif again and "seconds" in result and result["layers"] == best["layers"]:
            least = {name: min(s, best["seconds"][name]) for name, s in result["seconds"].items()}
            found[first] = {**best, "seconds": least}
    return found


def _why(reason: str) -> dict[str, Any]:
    return {"why": reason}


def _values(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "key"}


def _host_s(launch: Callable[[], object], times: int = 2000) -> float:
    """Host time of one of many launches [s]."""
    best = float("inf")
    for _ in range(5):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(times):
            launch()
        best = min(best, (time.perf_counter() - begin) / times)
    return best


def _tidy(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()


def to_text(document: Mapping[str, Any]) -> str:
    """The profile as it is written: JSON, an op to a line."""
    rows = {"ops", "passes", "skipped"}
    head = {key: value for key, value in document.items() if key not in rows}
    text = json.dumps(head, indent=1)[:-2]
    for name in ("ops", "passes", "skipped"):
        lines = ",\n  ".join(json.dumps(row) for row in document[name])
        text += f',\n "{name}": [\n  {lines}\n ]' if lines else f',\n "{name}": []'
    return text + "\n}\n"
