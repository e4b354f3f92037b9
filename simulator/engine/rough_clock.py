"""What a closed loop decides, before its times are known exactly: the leap engine on a rough clock.

What the scheduler decides hangs on time only through which loop receives a request, and a client's
next request comes soon after an answer. So leaps are advanced by the time of a middle step, no step
is written down, and :mod:`again` puts what was decided on the exact clock, where every arrival is
looked at. Where one lies in another loop there is no run, and the engine has to be asked.
"""

from dataclasses import dataclass, replace

import numpy as np

from dflash_sim.simulator.engine.again import walked_again
from dflash_sim.simulator.engine.leap import LeapEngine
from dflash_sim.simulator.engine.leap_clock import FOREVER, Pending, Pipeline
from dflash_sim.simulator.engine.records import DECODE, Run
from dflash_sim.simulator.engine.scheduler import PrefillBatch

_LONG = 2**8  # steps of a batch to a request, from which on exact leaps are sooner made


def decided(engine: LeapEngine) -> Run | None:
    """Return what an engine that has not begun will answer; None where its decisions hang on time.

    Those of an open loop do, and those of conversations whose users pause.
    """
    work, cycles, exact = engine.workload, engine.draws.cycles, engine.pipeline
    together = min(work.conc, engine.limits.max_running_requests)
    if engine.mode != "v2" or exact.syncs or work.arrival_s is not None or work.delay_s is not None:
        return None
    if cycles.sum() > _LONG * together * len(cycles):
        return None
    rough = replace(engine)
    rough.pipeline = RoughClock(
        engine.step, engine.host, engine.mode, exact.speculative, exact.syncs, rough.pipeline.settle
    )
    run = rough.run()
    if run is None:
        return None
    return walked_again(
        run, engine.step, engine.host, syncs=exact.syncs, turnaround_s=engine.turnaround_s
    )


@dataclass
class RoughClock(Pipeline):
    """The overlapped clock, that counts the steps of a leap and looks at the middle one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._launched = self._results = 0

    @property
    def results(self) -> int:
        """Iterations whose results have been processed."""
        return self._results

    @property
    def launched(self) -> int:
        """Iterations launched."""
        return self._launched

    def drain(self) -> None:
        """Nothing to run: process the result still pending."""
        self._results += 1
        super().drain()

    def prefill(self, batch: PrefillBatch, new: Pending) -> None:
        """Launch a prefill."""
        self._launch(1)
        super().prefill(batch, new)

    def decode(self, batch: int, kv: np.ndarray, until: float) -> int:
        """Launch up to ``len(kv)`` steps of one batch; returns how many."""
        c, h, last = self.clock, self.host, Pending(batch, [])
        table, done = self.step.table(batch), 1
        self._launch(1)
        self._first(batch, table.seconds(int(kv[0]) / batch), last, h.rest_launch_s)
        if len(kv) > 1 and c.host + h.recv_s < until:
            process_s = h.process(batch)
            launches_s = h.recv_s + h.get_next_batch(batch) + h.first_launch_s + h.rest_launch_s
            step_s = max(table.seconds(int(kv[len(kv) // 2]) / batch), launches_s + process_s)
            told_s = max(c.copy, c.host + launches_s) + process_s  # the end of the next loop
            more = len(kv) - 1
            if until < FOREVER:
                more = min(more, 1 + max(0, int((until - h.recv_s - told_s) // step_s) + 1))
            self._launch(more)
            c.host, c.gpu = told_s + (more - 1) * step_s, c.gpu + more * step_s
            c.copy = c.gpu + h.d2h_s
            done += more
        self._note(DECODE, batch, done)
        return done

    def _launch(self, n: int) -> None:
        """Count iterations, and the results that their loops process."""
        self._launched += n
        self._results += n if self.pending is not None else n - 1
