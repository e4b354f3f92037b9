"""Host stages of one scheduler loop [s], named as in ``sglang:scheduler_stage_seconds_total``."""

from dataclasses import dataclass, fields

from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.sheets import Quantity


@dataclass(frozen=True)
class Stage:
    """One stage of the scheduler thread in a cycle.

    Parameters
    ----------
    name
        That of its engine constant, after SGLang's ``scheduler_stage_seconds``.
    fixed_s, per_request_s
        Its time, and what each running request adds [s].
    constants
        Names of the engine constants that it is made of.
    quantities
        Those constants with unit, evidence and source; empty where no sheet is behind them.
    """

    name: str
    fixed_s: float
    per_request_s: float
    constants: tuple[str, ...]
    quantities: tuple[Quantity, ...] = ()

    def seconds(self, batch: int) -> float:
        """Time of the stage in a cycle of ``batch`` requests [s]."""
        return self.fixed_s + self.per_request_s * batch

    @property
    def evidence(self) -> tuple[str, ...]:
        """Return the kinds of evidence of its constants, each once."""
        return tuple(dict.fromkeys(q.evidence for q in self.quantities))

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the sources of its times, each once; factors are those of every stage."""
        return tuple(dict.fromkeys(q.source for q in self.quantities if q.unit != "1"))


@dataclass(frozen=True, slots=True)
class HostTime:
    """The scheduler thread's time in each iteration.

    Parameters
    ----------
    recv_s, schedule_s, first_launch_s, rest_launch_s, process_s
        ``recv_requests``, ``get_next_batch_to_run``, ``run_batch`` before and after its first
        kernel, ``process_batch_result``; ``plan_s`` of the time before the first kernel plans
        attention; the ``_per_request`` parts grow with the batch.
    d2h_s
        One small device-to-host copy.
    prepare_draft_s, prepare_verify_s, accept_s, syncs_s
        The V1 worker's host work inside a cycle.
    """

    recv_s: float
    schedule_s: float
    schedule_per_request_s: float
    first_launch_s: float
    rest_launch_s: float
    process_s: float
    process_per_request_s: float
    d2h_s: float
    prepare_draft_s: float
    prepare_verify_s: float
    accept_s: float
    accept_per_request_s: float
    syncs_s: float
    plan_s: float = 0.0

    @classmethod
    def from_sheet(
        cls,
        engine: EngineSheet,
        *,
        recv_interval: int = 1,
        plans: tuple[str, ...] = (),
        launches: int = 0,
    ) -> "HostTime":
        """Read the times of a sheet; loops that do not look for requests share the time of one.

        ``plans`` are the constants of what it plans before the first kernel of a step;
        ``launches`` are kernels of a cycle beyond those of a greedy one.
        """
        slow = engine["time_factor"] * engine["host_factor"]
        plan = sum(engine[name] for name in plans)
        return cls(
            recv_s=slow * engine["recv_requests"] / recv_interval,
            schedule_s=slow * engine["get_next_batch"],
            schedule_per_request_s=slow * engine["get_next_batch_per_request"],
            first_launch_s=slow * (engine["run_batch_first"] + plan),
            rest_launch_s=slow * (engine["run_batch_rest"] + launches * engine["eager_call"]),
            process_s=slow * engine["process_batch_result"],
            process_per_request_s=slow * engine["process_batch_result_per_request"],
            d2h_s=slow * engine["d2h_sync"],
            prepare_draft_s=slow * engine["v1_prepare_draft"],
            prepare_verify_s=slow * engine["v1_prepare_verify"],
            accept_s=slow * engine["v1_accept"],
            accept_per_request_s=slow * engine["v1_accept_per_request"],
            syncs_s=slow * engine["v1_syncs"] * engine["d2h_sync"],
            plan_s=slow * plan,
        )

    @classmethod
    def none(cls) -> "HostTime":
        """A host that takes no time."""
        return cls(**{f.name: 0.0 for f in fields(cls)})

    def stages(self, *, v1: bool, sheet: EngineSheet | None = None) -> tuple[Stage, ...]:
        """The stages of a decode cycle in the order in which they run, hidden or not.

        Parameters
        ----------
        v1
            True for a speculative cycle of the V1 worker, whose host work lies inside the cycle.
        sheet
            Where the times come from: adds evidence and sources.
        """
        known = sheet.constants if sheet is not None else {}

        def stage(name: str, fixed_s: float, each_s: float = 0.0, *also: str) -> Stage:
            grows = [f"{name}_per_request"] if f"{name}_per_request" in known else []
            constants = (name, *grows, *also, "time_factor", "host_factor")
            return Stage(
                name, fixed_s, each_s, constants, tuple(known[c] for c in constants if c in known)
            )

        begin = (
            stage("recv_requests", self.recv_s),
            stage("get_next_batch", self.schedule_s, self.schedule_per_request_s),
        )
        end = stage("process_batch_result", self.process_s, self.process_per_request_s)
        if v1:
            accept_s = self.syncs_s + self.accept_s
            accept = stage("v1_accept", accept_s, self.accept_per_request_s, "v1_syncs", "d2h_sync")
            return (
                *begin,
                stage("v1_prepare_draft", self.prepare_draft_s),
                stage("v1_prepare_verify", self.prepare_verify_s),
                accept,
                end,
            )
        plan = [stage("attention_plan", self.plan_s, 0.0, "draft_plan")] if self.plan_s else []
        return (
            *begin,
            *plan,
            stage("run_batch_first", self.first_launch_s - self.plan_s),
            stage("run_batch_rest", self.rest_launch_s),
            stage("d2h_sync", self.d2h_s),
            end,
        )

    def get_next_batch(self, batch: int) -> float:
        """``get_next_batch_to_run`` for a batch of this size."""
        return self.schedule_s + self.schedule_per_request_s * batch

    def process(self, batch: int) -> float:
        """``process_batch_result`` of a batch of this size."""
        return self.process_s + self.process_per_request_s * batch

    def v1_accept(self, batch: int) -> float:
        """Synchronising copies and the accept loop of the V1 worker."""
        return self.syncs_s + self.accept_s + self.accept_per_request_s * batch
