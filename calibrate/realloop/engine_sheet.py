"""Our own engine as an engine sheet: host stages measured, what only SGLang has is zero.

The sheet of SGLang gives the form; nothing of its values is left but what is no time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dflash_sim.calibrate.measure.clock import trimmed_mean
from dflash_sim.calibrate.realloop.rehearsal import Overheads, line
from dflash_sim.profiles.releases.engine_sheet import HOME, EngineSheet, load_engine
from dflash_sim.realrun.job.journal import Run

# Factors on tables of other machines' kernels: ours are measured.
ONES = (
    "table_factor",
    "collective_factor",
    "gdn_verify_factor",
    "prefill_factor",
    "time_factor",
    "host_factor",
    "wide_verify_factor",
)
KEPT = (
    "elementwise_bw_eff",
    "weight_stream_bw_eff",
    "matmul_flop_eff",
    "verify_attention_factor",
    "expert_skew",
    "expert_overlap",
    "shared_expert_exposed",
    "fused_norm_exposed",
)
PAGE = 16
MOST_REQUESTS = 512
STAGES = ("recv_requests", "get_next_batch", "run_batch", "process_batch_result")
BEFORE_LAUNCH = ("recv_requests", "get_next_batch", "run_batch")
V1_STAGES = ("prepare_draft", "prepare_verify", "accept")


@dataclass(frozen=True)
class HostStages:
    """Seconds of the scheduler's stages: fixed part and part per request."""

    by_name: Mapping[str, tuple[float, float]]

    def at(self, name: str) -> tuple[float, float]:
        """A stage; one that did not occur takes no time."""
        return self.by_name.get(name, (0.0, 0.0))


def host_stages(runs: Sequence[Run]) -> HostStages:
    """The stages of decode iterations of runs with workers that compute nothing."""
    names = (*STAGES, *V1_STAGES)
    times: dict[str, dict[int, list[float]]] = {name: {} for name in names}
    for run in runs:
        for step in run.decodes:
            for name in names:
                if any(stage == name for stage, _, _ in step.host):
                    times[name].setdefault(step.batch, []).append(step.stage_s(name))
    fitted = {}
    for name, by_batch in times.items():
        enough = {n: trimmed_mean(found) for n, found in by_batch.items() if len(found) >= 8}
        if enough:
            fitted[name] = line(enough)
    return HostStages(fitted)


def real_engine(stages: HostStages, overheads: Overheads) -> EngineSheet:
    """The sheet of our engine on this machine, for one method."""
    sheet = load_engine(HOME)
    values = dict.fromkeys(sheet.constants, 0.0)
    values |= dict.fromkeys(ONES, 1.0) | {name: sheet[name] for name in KEPT}
    residue = line(overheads.queued)
    alone, _ = line(overheads.alone)
    trip = max(0.0, alone - residue[0])  # of which the passes know nothing: there and back
    values |= {
        "recv_requests": stages.at("recv_requests")[0],
        "get_next_batch": stages.at("get_next_batch")[0],
        # The simulator lets one stage before the launch grow with the batch: it stands for three.
        "get_next_batch_per_request": sum(stages.at(name)[1] for name in BEFORE_LAUNCH),
        "run_batch_first": stages.at("run_batch")[0],
        "process_batch_result": stages.at("process_batch_result")[0],
        "process_batch_result_per_request": stages.at("process_batch_result")[1],
        "d2h_sync": trip,
        "cycle_residue": residue[0],
        "cycle_residue_per_request": residue[1],
    }
    if overheads.v1:
        values |= _v1(stages, overheads, residue)
    engine = sheet.with_constants(**values)
    sizes = tuple(range(1, MOST_REQUESTS + 1))
    prefill = replace(engine.prefill, backend="disabled")  # ours captures none, and pads none
    # Our workers plan on the device: no step waits for lengths on the host.
    waits = replace(engine.attention.host_length_sync, none=(), block=(), chain=())
    attention = replace(engine.attention, host_length_sync=waits)
    graphs = {"spec": sizes, "plain": sizes, "prefill": ()}
    return replace(engine, graph_sizes=graphs, prefill=prefill, attention=attention)


def _v1(stages: HostStages, overheads: Overheads, residue: tuple[float, float]) -> dict[str, float]:
    """Three round trips; the residue that is added to the passes is taken off the last."""
    trips = [line({n: found[i] for n, found in overheads.v1.items()}) for i in range(3)]
    draft, verify, commit = trips
    accept, prepare, again = (stages.at(n) for n in ("accept", "prepare_draft", "prepare_verify"))
    grows = sum(x[1] for x in (accept, prepare, again, *trips))
    return {
        "v1_prepare_draft": prepare[0] + draft[0],
        "v1_prepare_verify": again[0] + verify[0],
        "v1_accept": max(0.0, accept[0] + commit[0] - residue[0]),
        # One stage grows with the batch; it stands for all of the cycle.
        "v1_accept_per_request": max(0.0, grows - residue[1]),
    }
