"""The overlapped clock over iterations that are known: most of them by one cumulative sum."""

import numpy as np
import numpy.typing as npt

from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.engine.records import NOBODY, PREFILL, Ints, Run
from dflash_sim.simulator.engine.walk import Prices, Walk


class Overlapped(Walk):
    """The clock of :class:`leap_clock.Pipeline`.

    A leap goes over steps that follow one another in one way: each starts as the one before ends,
    or where the engine waits for its lengths, a fixed time after these are known.
    """

    def __init__(self, run: Run, prices: Prices, host: HostTime, turnaround_s: float) -> None:
        super().__init__(run, prices, host, turnaround_s)
        n = len(self.kind)
        # In a leap: from the end of the step before to the start, and to the end of the wait.
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
        self._leaps: list[tuple[int, int, float]] = []  # first, behind the last, GPU time before
        self._steps: dict[int, tuple[float, float, float]] = {}

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
                host = self.paused(pauses[at][1], host, copy, process[j - 1] if j else 0.0)
                pending = pending and pauses[at][1] != NOBODY
                at += 1
            if j == n:
                break
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
        self._fill()

    def arrival(self, rid: int) -> float:
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

    def told_in(self, number: Ints) -> Ints:
        return np.append(number[1:], NOBODY)

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
