"""A run walked again at other prices: what the scheduler decided stays, its times move.

A decision depends on time only through which loop receives a request. So the iterations of a run
that is known (:class:`Loops`) are put on the clock with other prices, most of them by one
cumulative sum, and the run stands if every request would be received where it was. Else there is
none, and an engine has to be asked.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dflash_sim.simulator.cost.step_table import StepModel
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.engine.records import NOBODY, PREFILL, Floats, Ints, Loops, Run


@dataclass(frozen=True)
class Prices:
    """What iterations take [s], one entry each.

    Parameters
    ----------
    gpu_s, tail_s
        On the GPU, and the part after the accepted lengths are known; ``tail_s`` is None where
        nobody waits for them.
    launch_s
        The host's launches after the first.
    """

    gpu_s: Floats
    launch_s: Floats
    tail_s: Floats | None


def priced(loops: Loops, step: StepModel, host: HostTime, *, syncs: bool) -> Prices:
    """Price the iterations of a run."""
    assert loops.launched is not None
    n = len(loops.launched[0])
    gpu_s = np.empty(n)
    tail_s = np.zeros(n) if syncs else None
    launch_s = np.full(n, host.rest_launch_s)
    rows, shapes = loops.prefills
    if shapes:  # many are alike
        times = {
            (requests, tokens, prefix): (
                step.prefill_s(requests=requests, tokens=tokens, prefix=prefix),
                max(host.rest_launch_s, step.prefill_launch_s(tokens)),
            )
            for requests, tokens, prefix in set(shapes)
        }
        gpu_s[rows], launch_s[rows] = zip(*map(times.__getitem__, shapes), strict=True)
    for batch, rows, ctx in loops.decodes:
        table = step.table(batch)
        gpu_s[rows] = np.interp(ctx, table.ctx, table.total)
        if tail_s is not None:
            tail_s[rows] = np.interp(ctx, table.ctx, table.tail)
    return Prices(gpu_s, launch_s, tail_s)


def walked_again(
    run: Run,
    step: StepModel,
    host: HostTime,
    *,
    mode: str,
    speculative: bool,
    syncs: bool,
    turnaround_s: float,
) -> Run | None:
    """Return a run at other prices; None where the scheduler would decide otherwise.

    Parameters
    ----------
    run
        What the leap engine answered, with the same requests, draws, limits and mode.
    speculative
        A decode step drafts and verifies.
    syncs
        An overlapped step waits for the lengths of the one before.
    """
    loops = run.loops
    if loops is None or loops.launched is None:
        return None
    prices = priced(loops, step, host, syncs=syncs and mode == "v2")
    walk = _Walk(run, loops, prices, host, turnaround_s)
    if mode != "v2":
        walk = _InTurn(run, loops, prices, host, turnaround_s, v1=mode == "v1" and speculative)
    walk.walk()
    return walk.run()


class _Walk:
    """The clock of :class:`leap_clock.Pipeline` over iterations that are known."""

    def __init__(
        self, run: Run, loops: Loops, prices: Prices, host: HostTime, turnaround_s: float
    ) -> None:
        self.base, self.loops, self.prices, self.host = run, loops, prices, host
        self.turnaround_s = turnaround_s
        assert loops.launched is not None
        self.kind, self.batch, *_ = loops.launched
        n = len(self.kind)
        self.process = host.process_s + host.process_per_request_s * self.batch
        self.schedule = host.recv_s + (host.schedule_s + host.schedule_per_request_s * self.batch)
        # In a leap: from the end of the step before to the start, and to the loop's wait's end.
        self.bubble, self.waits = np.broadcast_to(0.0, n), np.broadcast_to(host.d2h_s, n)
        busy_s = prices.gpu_s
        if prices.tail_s is not None:
            # The step waits for the lengths of the one before, which its tail hides.
            self.told_before = host.d2h_s - np.concatenate(([0.0], prices.tail_s[:-1]))
            enqueued = self.told_before + host.first_launch_s
            self.bubble = np.maximum(0.0, enqueued)
            self.waits = np.maximum(host.d2h_s, enqueued + prices.launch_s)
            busy_s = busy_s + self.bubble
        self.until = np.concatenate(([0.0], np.cumsum(busy_s)))  # GPU time before each
        self.start, self.end, self.told = np.empty(n), np.empty(n), np.empty(n)  # told: loop's end
        self.pause_s: list[float] = []  # when each pause ended
        self._leaps: list[tuple[int, int, float]] = []  # first, behind the last, GPU time before
        self._steps: dict[int, tuple[float, float, float]] = {}

    def _clean(self) -> npt.NDArray[np.bool_]:
        """Iterations that a leap goes on with, if those before waited for results."""
        h, gpu_s = self.host, self.prices.gpu_s
        clean = np.zeros(len(gpu_s), bool)
        if self.prices.tail_s is not None:
            clean[2:] = self._clean_behind_lengths()
        elif len(gpu_s) > 2:  # it starts as the one before ends
            clean[2:] = gpu_s[2:] >= h.d2h_s
            told_s = h.d2h_s + self.process.max() + self.schedule.max() + h.first_launch_s
            ahead_s = told_s + max(0.0, h.rest_launch_s - h.d2h_s)  # of any decode
            slow = np.flatnonzero(gpu_s[1:-1] < ahead_s) + 2
            rows = np.concatenate([slow, np.flatnonzero(self.kind[2:] == PREFILL) + 2])
            late = np.maximum(0.0, self.prices.launch_s[rows] - h.d2h_s)
            ahead = h.d2h_s + self.process[rows - 2] + self.schedule[rows] + h.first_launch_s + late
            clean[rows] &= gpu_s[rows - 1] >= ahead
        clean[[at for at, _ in self.loops.pauses if at < len(clean)]] = False
        return clean

    def _clean_behind_lengths(self) -> npt.NDArray[np.bool_]:
        """From the third on: steps that the lengths of the one before hold up, as that one was."""
        gpu_s, told = self.prices.gpu_s, self.told_before
        busy_s = self.bubble + gpu_s
        ready = self.waits[1:-1] + self.process[:-2] + self.schedule[2:]
        held_up = busy_s[1:-1] + told[2:] >= ready
        launched = told[2:] + self.host.first_launch_s + self.prices.launch_s[2:]
        in_step = busy_s[2:] >= np.maximum(launched, self.host.d2h_s)
        decode = self.kind != PREFILL
        clean: npt.NDArray[np.bool_] = held_up & in_step & decode[2:] & decode[1:-1]
        return clean

    def walk(self) -> None:
        h, n = self.host, len(self.kind)
        clean = self._clean()
        unclean = np.flatnonzero(~clean).tolist()
        # Few places are looked at one by one: lists of all would take longer than the walk.
        clean_at, until = clean.data, self.until.data
        gpu_s, launch_s = self.prices.gpu_s.data, self.prices.launch_s.data
        tails = None if self.prices.tail_s is None else self.prices.tail_s.data
        schedule, process = self.schedule.data, self.process.data
        decode = (self.kind != PREFILL).data
        pauses = [*self.loops.pauses, (n + 1, NOBODY)]
        first_s, d2h_s, waits = h.first_launch_s, h.d2h_s, self.waits.item
        host = gpu = copy = publish = 0.0
        pending = steady = copied = late = False
        j = at = look = 0
        while True:
            while pauses[at][0] == j:
                host = self._paused(pauses[at][1], host, copy, process[j - 1] if j else 0.0)
                pending = pending and pauses[at][1] != NOBODY
                at += 1
            if j == n:
                return
            if steady and clean_at[j]:
                while look < len(unclean) and unclean[look] < j:
                    look += 1
                last = unclean[look] if look < len(unclean) else n
                base = gpu - until[j]
                self._leaps.append((j, last, base))
                gpu = base + until[last]
                host = base + until[last - 1] + waits(last - 1) + process[last - 2]
                copy = gpu + d2h_s
                publish = copy - (tails[last - 1] if tails is not None else 0.0)
                late = False
                j = last
                continue
            scheduled, held_up = host + schedule[j], tails is None
            if tails is not None and decode[j] and pending and publish >= scheduled:
                scheduled, held_up = publish, True
            enqueued = scheduled + first_s
            host = launched = enqueued + launch_s[j]
            start = gpu if gpu > enqueued else enqueued
            gpu = start + gpu_s[j]
            publish = gpu - (tails[j] if tails is not None else 0.0) + d2h_s
            late_before, late = late, gpu < launched  # its lengths are known before it ends
            if late:
                gpu = launched
            steady = False
            if pending:
                if copy >= launched:
                    host, steady = copy, copied and held_up
                elif tails is not None:
                    steady = copied and held_up
                if tails is not None and (late or late_before):
                    steady = False
                host += process[j - 1]
            copied = gpu >= copy  # the copy of this one begins as it ends
            steady = steady and copied
            copy = (gpu if copied else copy) + d2h_s
            pending = True
            self._steps[j] = start, gpu, host
            j += 1

    def _paused(self, waited_for: int, host: float, copy: float, process_s: float) -> float:
        """The end of a loop that launches nothing."""
        now = host + self.host.recv_s
        if waited_for == NOBODY:
            now = max(now, copy) + process_s
        else:
            now = max(now, self._arrival(waited_for))
        self.pause_s.append(now)
        return now

    def _arrival(self, rid: int) -> float:
        """When a request arrives, while the clock is still running."""
        sender = self.loops.after[rid]
        if sender == NOBODY:
            return float(self.base.arrival_s[rid])
        result = self.loops.last[sender]
        for (behind, who), now in zip(self.loops.pauses, self.pause_s, strict=False):
            if who == NOBODY and behind == result + 1:
                return now + self.turnaround_s
        told = self._steps.get(result + 1)
        if told is not None:
            return told[2] + self.turnaround_s
        base = next(base for first, last, base in self._leaps if first <= result + 1 < last)
        known = base + self.until[result + 1] + self.waits[result + 1] + self.process[result]
        return float(known) + self.turnaround_s

    def run(self) -> Run | None:
        """The record of the walk, or None if a request would have been received elsewhere."""
        base, loops, n = self.base, self.loops, len(self.kind)
        self._fill()
        pauses = np.array([at for at, _ in loops.pauses], dtype=np.int64)
        drains = np.array([who == NOBODY for _, who in loops.pauses], dtype=bool)
        number = np.arange(n) + np.searchsorted(pauses, np.arange(n), side="right")
        pause_number = pauses + np.arange(len(pauses))
        ends = np.empty(n + len(pauses))  # of all loops
        ends[number], ends[pause_number] = self.told, self.pause_s
        results = len(base.kind)
        loop = self._told_in(number)[:results]
        loop[pauses[drains] - 1] = pause_number[drains]
        emit = ends[loop]
        arrival = base.arrival_s.copy()
        created = np.full(len(arrival), NOBODY)
        after, last, first = (np.array(c) for c in (loops.after, loops.last, loops.first))
        sent = after != NOBODY
        arrival[sent] = emit[last[after[sent]]] + self.turnaround_s
        created[sent] = loop[last[after[sent]]]
        if not self._received(ends, arrival, created):
            return None
        finish, first_token = base.finish_s.copy(), base.first_token_s.copy()
        finish[last != NOBODY] = emit[last[last != NOBODY]]
        first_token[first != NOBODY] = emit[first[first != NOBODY]]
        return replace(
            base,
            arrival_s=arrival,
            first_token_s=first_token,
            finish_s=finish,
            gpu_s=self.prices.gpu_s[:results],
            gpu_start_s=self.start[:results],
            gpu_end_s=self.end[:results],
            emit_s=emit,
            client_s=self.turnaround_s,
        )

    def _told_in(self, number: Ints) -> Ints:
        """Loops that process results: where nothing drains, the next that launches."""
        return np.append(number[1:], NOBODY)

    def _fill(self) -> None:
        """Write the times of leaps, and over them those of steps."""
        if self._leaps:
            first, _, base = (np.array(c) for c in zip(*self._leaps, strict=True))
            ahead = np.append(first[1:], len(self.start)) - first  # up to the leap after
            before = np.repeat(base, ahead)
            rows = slice(int(first[0]), None)
            np.add(before, self.until[:-1][rows], out=self.start[rows])
            np.add(before, self.until[1:][rows], out=self.end[rows])
            told = self.told[rows]
            np.add(self.start[rows], self.process[first[0] - 1 : -1], out=told)
            told += self.waits[rows]
            if self.prices.tail_s is not None:
                self.start[rows] += self.bubble[rows]
        if self._steps:
            at = list(self._steps)
            self.start[at], self.end[at], self.told[at] = np.array(list(self._steps.values())).T

    def _received(self, ends: Floats, arrival: Floats, created: Ints) -> bool:
        """Return True if every loop would receive whom it received."""
        begins = np.concatenate(([0.0], ends)) + self.host.recv_s  # when a loop looks
        loops = self.loops
        received, missed = np.array(loops.received), np.array(loops.missed)
        got = received != NOBODY
        if (begins[received[got]] < arrival[got]).any():
            return False
        looked = got & (missed > created)
        if (begins[missed[looked]] >= arrival[looked]).any():
            return False
        waits = ~got & np.isfinite(arrival)
        seen = waits & (loops.looked > created)
        return not (begins[loops.looked] >= arrival[seen]).any()


class _InTurn(_Walk):
    """The clock without overlap, where an iteration is a sum of host and GPU time."""

    def __init__(
        self,
        run: Run,
        loops: Loops,
        prices: Prices,
        host: HostTime,
        turnaround_s: float,
        *,
        v1: bool,
    ) -> None:
        super().__init__(run, loops, prices, host, turnaround_s)
        self.before = self.schedule + host.first_launch_s
        self.on_gpu = np.maximum(prices.gpu_s, prices.launch_s)
        self.after = self.process + host.d2h_s
        if v1:
            decode = self.kind != PREFILL
            accept_s = host.syncs_s + host.accept_s + host.accept_per_request_s * self.batch
            self.before[decode] += host.prepare_draft_s - host.first_launch_s
            self.on_gpu[decode] = (prices.gpu_s + host.prepare_verify_s + accept_s)[decode]
            self.after[decode] = self.process[decode]

    def walk(self) -> None:
        until = np.concatenate(([0.0], np.cumsum(self.before + self.on_gpu + self.after)))
        begun, late = 0, 0.0  # the first iteration since a pause, and what all pauses took
        for at, waited_for in (*self.loops.pauses, (len(self.kind), NOBODY)):
            rows = slice(begun, at)
            np.add(until[:-1][rows] + late, self.before[rows], out=self.start[rows])
            np.add(self.start[rows], self.on_gpu[rows], out=self.end[rows])
            np.add(until[1:][rows], late, out=self.told[rows])
            if waited_for != NOBODY:
                late = self._paused(waited_for, until[at] + late, 0.0, 0.0) - until[at]
            begun = at

    def _arrival(self, rid: int) -> float:
        sender = self.loops.after[rid]
        if sender == NOBODY:
            return float(self.base.arrival_s[rid])
        return float(self.told[self.loops.last[sender]]) + self.turnaround_s

    def _told_in(self, number: Ints) -> Ints:
        return number.copy()

    def _fill(self) -> None:
        """Nothing: the walk has written all times."""
