"""Phases and kernels of a traced DFlash cycle, predicted from the step model.

The published phases hold kernels only: gaps between kernels and between graphs are phases of
their own. So every pass is priced without its gaps here, and the gaps are added up apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from dflash_sim.profiles.phases import KernelPoint, PhasePoint, load_kernels, load_phases
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.simulator.cost import passes as graph
from dflash_sim.simulator.cost.cycle import PHASES as PASSES
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.ops import AnyCall
from dflash_sim.simulator.cost.parts import Cost
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

TRACED = "VP_GH200_PROFILE"
AGAIN = "VP_GH200_PHASE"  # the same machine and model, FlashInfer for the target, timed by events
MACHINE = "VP_GH200"  # how every source on that machine begins
COUNTED = ("draft_forward", "draft_head", "kv_injection", "verify_forward", "verify_head")

# Ops that the published phases call heads; the final norms belong to the forward passes there.
_DRAFT_HEAD = ("draft_lm_head", "draft_argmax")
_VERIFY_HEAD = ("lm_head", "logits_cast", "argmax")

# Phases that rest on engine constants alone, or on all of them.
_SET_BY: Mapping[str, tuple[str, ...]] = {
    "gdn_commit": ("weight_stream_bw_eff",),
    "accept_eager": ("step_eager_spec", "step_eager_spec_per_request"),
    "gaps_in_graphs": ("graph_node_gap",),
    "host_gap": ("graph_launch_gap", "attention_plan"),
    "cycle_traced": ("step_eager_spec", "graph_launch_gap"),
    "cycle_untraced": ("cycle_residue",),
}

# Kernel families of the verify pass: names in the trace, and our ops.
FAMILIES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "GDN recurrence": (("gdn_recurrent",), ("gdn_recurrent",)),
    "GDN conv": (("gdn_conv",), ("gdn_conv",)),
    "GDN gated norm": (("gdn_gated_norm",), ("gated_norm",)),
    "GDN projections": (
        ("gdn_in_proj_gemm", "gdn_out_proj_gemm"),
        ("in_proj_qkvz", "in_proj_ba", "out_proj"),
    ),
    "attention": (("full_attention",), ("attention",)),
    "attention projections": (("attn_qkv_gemm", "attn_o_proj_gemm"), ("qkv_proj", "o_proj")),
    "attention elementwise": (
        ("attn_qk_norm_rope_gate", "attn_output_gate", "kv_cache_store"),
        ("qk_norm_rope", "output_gate", "kv_write"),
    ),
    "MLP products": (("mlp_gate_up_gemm", "mlp_down_gemm"), ("gate_up_proj", "down_proj")),
    "MLP activation": (("mlp_activation",), ("activation",)),
    "norms": (("norm",), ("input_norm", "post_attention_norm", "final_norm")),
    "head product": (("lm_head_gemm",), ("lm_head",)),
    "head cast and argmax": (("logits_cast", "sampling_argmax"), ("logits_cast", "argmax")),
}

# Kernels timed on their own: the op of the target that each is, and its query rows per request.
_ALONE: Mapping[str, tuple[str, int]] = {
    "gdn_decode": ("gdn_recurrent", 1),
    "gdn_verify": ("gdn_recurrent", 4),
    "gdn_in_proj_qkvz": ("in_proj_qkvz", 1),
    "gdn_out_proj": ("out_proj", 1),
    "attn_qkv_proj": ("qkv_proj", 1),
    "lm_head_gemm": ("lm_head", 1),
}


@dataclass(frozen=True)
class Outcome:
    """A published time and what is predicted for it.

    Parameters
    ----------
    what
        The phase, kernel family or kernel.
    block, conc
        Query rows per request, and requests.
    observed_s, predicted_s
        Published and predicted time [s].
    from_constants
        Share of the prediction that engine constants give, not operator tables [1].
    prior
        Engine constants from this machine's traces without which there is no prediction.
    """

    what: str
    block: int
    conc: int
    observed_s: float
    predicted_s: float
    from_constants: float
    prior: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """Relative error; positive is too slow [1]."""
        return self.predicted_s / self.observed_s - 1


def _outcome(
    what: str, block: int, conc: int, observed_s: float, cost: Cost, prior: tuple[str, ...] = ()
) -> Outcome:
    given = cost.by_evidence[-1] / cost.seconds
    return Outcome(what, block, conc, observed_s, cost.seconds, given, prior)


# ---- phases ------------------------------------------------------------------------------


def phase_outcomes(source: str = TRACED) -> list[Outcome]:
    """Every published phase of ``source``, in file order."""
    return [_phase(p) for p in load_phases() if p.source_id == source]


def _phase(p: PhasePoint) -> Outcome:
    setup = setup_of(p)
    cost = phase_costs(setup, conc=p.conc, ctx=p.ctx)[p.phase]
    prior = taken_from(MACHINE, setup.engine, _SET_BY.get(p.phase, ()))
    return _outcome(p.phase, p.block, p.conc, p.seconds, cost, prior)


def phase_costs(setup: Setup, *, conc: int, ctx: int) -> dict[str, Cost]:
    """The phases of one cycle of ``conc`` requests that hold ``ctx`` tokens each."""
    step, price = setup.step, setup.step.cost.calls
    passes = {p.name: p for p in step.cycle.decode(requests=conc, ctx=ctx)}
    draft, verify = passes["draft"].calls, passes["verify"].calls
    other = step.table(conc).parts[PASSES.index("other"), :, 0]
    residue_s = float(other[5])
    launches_s = sum(p.graphs for p in passes.values()) * step.engine["graph_launch_gap"]
    waits_s = _waits_s(setup, step.tail_s(conc, conc * ctx))
    cycle_s = step.decode_s(conc, conc * ctx) + waits_s
    return {
        "draft_forward": _busy(price(_without(draft, _DRAFT_HEAD))),
        "draft_head": _busy(price(_only(draft, _DRAFT_HEAD))),
        "verify_forward": _busy(price(_without(verify, _VERIFY_HEAD))),
        "verify_head": _busy(price(_only(verify, _VERIFY_HEAD))),
        "gdn_commit": _busy(price(passes["commit"].calls)),
        "kv_injection": _busy(price(passes["materialise"].calls)),
        "accept_eager": Cost.of(float(other[3]) - residue_s, "assumed"),
        "gaps_in_graphs": Cost.of(price([*draft, *verify]).idle_s, "assumed"),
        "host_gap": Cost.of(launches_s + waits_s, "assumed"),
        "draft": price(draft),
        "verify": price(verify),
        "cycle_traced": Cost.of(cycle_s - residue_s, "fitted"),
        "cycle_untraced": Cost.of(cycle_s, "fitted"),
    }


def _waits_s(setup: Setup, tail_s: float) -> float:
    """Time in which the GPU waits for a host that plans with the lengths of the cycle before."""
    if not setup.host_length_sync:
        return 0.0
    return max(0.0, setup.host.d2h_s + setup.host.first_launch_s - tail_s)


def _only(calls: Sequence[AnyCall], names: Sequence[str]) -> list[AnyCall]:
    return [call for call in calls if call.op.name in names]


def _without(calls: Sequence[AnyCall], names: Sequence[str]) -> list[AnyCall]:
    return [call for call in calls if call.op.name not in names]


def _busy(cost: Cost) -> Cost:
    """The kernels alone: gaps are assumed, and idle."""
    a, b, c, assumed = cost.by_evidence
    return Cost((a, b, c, assumed - cost.idle_s), cost.comm_s)


def setup_of(point: PhasePoint) -> Setup:
    """The server that was traced."""
    p = point
    return _setup(p.gpu, p.model, p.drafter, p.method, p.block, p.conc, p.target_attention)


@cache
def _setup(
    gpu: str, model: str, drafter: str, method: str, block: int, conc: int, attention: str
) -> Setup:
    scenario = Scenario.parse(
        gpu=gpu,
        model=model,
        draft_model=drafter,
        method=method,
        block=block,
        conc=conc,
        attention_backend=attention,
        calibration="none",  # the priors: nothing fitted to another GPU's benchmarks
    )
    return resolve(scenario)


# ---- kernels -----------------------------------------------------------------------------


def kernel_outcomes() -> list[Outcome]:
    """Kernel families of the verify pass, in every cycle that was traced by kernel."""
    servers = {(p.block, p.conc): p for p in load_phases() if p.phase == "cycle_traced"}
    times: dict[tuple[int, int], dict[str, float]] = {at: {} for at in servers}
    for k in load_kernels():
        if k.block is not None and k.conc is not None and k.per == "cycle":
            times[k.block, k.conc][k.kernel] = k.seconds
    return [
        outcome
        for at, server in servers.items()
        if times[at]
        for outcome in _families(server, times[at])
    ]


def _families(server: PhasePoint, times: Mapping[str, float]) -> Iterable[Outcome]:
    step, (block, conc) = setup_of(server).step, (server.block, server.conc)
    passes = {p.name: p for p in step.cycle.decode(requests=conc, ctx=server.ctx)}
    for family, (theirs, ours) in FAMILIES.items():
        cost = _busy(step.cost.calls(_only(passes["verify"].calls, ours)))
        yield _outcome(family, block, conc, sum(times[name] for name in theirs), cost)


def alone_outcomes() -> list[Outcome]:
    """Kernels timed on their own: how well another GPU's times stand in, scaled."""
    setup = setup_of(next(p for p in load_phases() if p.source_id == TRACED))
    return [_alone(k, setup) for k in load_kernels() if k.per == "launch"]


def _alone(k: KernelPoint, setup: Setup) -> Outcome:
    name, block = _ALONE[k.kernel]
    size = Rows((k.rows or 0) // block, block)
    calls = _only(graph.target_forward(setup.model, tp=setup.tp, size=size), (name,))
    cost = _busy(setup.step.cost.op(calls[0].op))
    return _outcome(k.kernel, block, size.requests, k.seconds, cost)


# ---- sums --------------------------------------------------------------------------------


def taken_from(source: str, engine: EngineSheet, constants: Iterable[str]) -> tuple[str, ...]:
    """Those of ``constants`` whose sheet names a source that begins with ``source``."""
    return tuple(name for name in constants if source in engine.constants[name].source)


def counted(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Phases that test the model: whole passes, none a constant from these traces."""
    return [o for o in outcomes if o.what in COUNTED and not o.prior]


def apart(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Verify passes of cycles whose kernels were not traced: no law was fitted to them."""
    traced = {(k.block, k.conc) for k in load_kernels() if k.per == "cycle"}
    whole = [o for o in outcomes if o.what in ("verify", "verify_forward")]
    return [o for o in whole if o.what == "verify" or (o.block, o.conc) not in traced]


def mape(outcomes: Iterable[Outcome]) -> float:
    """Mean absolute relative error [1]."""
    return float(np.mean([abs(o.error) for o in outcomes]))


def bias(outcomes: Iterable[Outcome]) -> float:
    """Mean relative error; positive is too slow [1]."""
    return float(np.mean([o.error for o in outcomes]))
