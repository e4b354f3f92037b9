"""Host stages of one scheduler loop [s], named as in ``sglang:scheduler_stage_seconds_total``."""

from dataclasses import dataclass

from dflash_sim.profiles.engine_sheet import EngineSheet


@dataclass(frozen=True, slots=True)
class HostTime:
    """What the scheduler thread spends per iteration.

    Parameters
    ----------
    recv_s, schedule_s, first_launch_s, rest_launch_s, process_s
        ``recv_requests``, ``get_next_batch_to_run``, ``run_batch`` before and after its first
        kernel, ``process_batch_result``; the ``_per_request`` parts grow with the batch.
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

    @classmethod
    def from_sheet(cls, engine: EngineSheet) -> "HostTime":
        slow = engine["time_factor"]
        return cls(
            recv_s=slow * engine["recv_requests"],
            schedule_s=slow * engine["get_next_batch"],
            schedule_per_request_s=slow * engine["get_next_batch_per_request"],
            first_launch_s=slow * engine["run_batch_first"],
            rest_launch_s=slow * engine["run_batch_rest"],
            process_s=slow * engine["process_batch_result"],
            process_per_request_s=slow * engine["process_batch_result_per_request"],
            d2h_s=slow * engine["d2h_sync"],
            prepare_draft_s=slow * engine["v1_prepare_draft"],
            prepare_verify_s=slow * engine["v1_prepare_verify"],
            accept_s=slow * engine["v1_accept"],
            accept_per_request_s=slow * engine["v1_accept_per_request"],
            syncs_s=slow * engine["v1_syncs"] * engine["d2h_sync"],
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
