"""The flags that lift what binds, with what they would give: predicted, not guessed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.simulator.caveats import in_flight
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.studies.ask.slots import capped, roomier
from dflash_sim.studies.show.figures import number

_SPREAD_LENGTHS = 0.8
_CLEAR = 0.02  # of throughput: a smaller gain is none
_MOVED = 0.03  # of a mean latency: less is not worth a word


@dataclass(frozen=True)
class Lift:
    """Flags that let more requests run at once, and the answer with them.

    Parameters
    ----------
    at_once
        Slots for requests then; how many of them are used is in the result.
    """

    flags: str
    at_once: int
    result: Result

    def said(self, of: Result) -> str:
        """The flags and their answer in a sentence, beside the answer they are for."""
        now = of.setup.memory.max_running_requests
        asked = in_flight(of.scenario) or 0
        v = self.result.values
        ran = f"{v['mean_batch']:.1f} run on average"
        if v["retractions"]:
            ran += f", the KV cache runs out ({v['retractions']:.0f} retractions a run)"
        speed = f"{number(v['output_throughput'])} tok/s"
        only = f"only {now:,} of {asked:,} run at once"
        if not self.helps(of):
            before = number(of.values["output_throughput"])
            costs = f"{only}, which costs no throughput"
            moved = "".join(f", {each}" for each in self._moved(of))
            return f"{costs}: with {self.flags} it is {speed} against {before}{moved}; {ran}"
        return (
            f"{only}: with {self.flags}, {ran}, and it gives {speed}, "
            f"TTFT {number(v['mean_ttft_ms'])} ms, TPOT {number(v['mean_tpot_ms'])} ms"
        )

    def _moved(self, of: Result) -> Iterator[str]:
        """Latencies that the flags move, beside what they are: a slot is waited for or shared."""
        for name in ("ttft", "tpot"):
            after, before = (r.values[f"mean_{name}_ms"] for r in (self.result, of))
            if abs(after - before) > _MOVED * before:
                yield f"{name.upper()} {number(after)} ms against {number(before)}"

    def helps(self, of: Result) -> bool:
        """Return True if throughput gains by more than neighbouring sizes of graphs move it."""
        gain = self.result.values["output_throughput"] / of.values["output_throughput"] - 1
        return gain > _CLEAR


def lifted(result: Result) -> Lift | None:
    """What would let all requests in flight run at once, or more of them, with its answer."""
    room = roomier(result.setup)
    if room is None:
        return None
    found = predict(room.scenario, with_baseline=False, with_interval=False)
    return Lift(room.words, room.at_once, found)


def told(result: Result, lift: Lift | None) -> list[str]:
    """The warnings of an answer; what lifts a cap stands in place of the word that there is one."""
    if lift is None:
        return list(result.warnings)
    cap = capped(result.setup)
    return [*(warning for warning in result.warnings if warning != cap), lift.said(result)]


def in_lockstep(result: Result) -> str | None:
    """Say that fixed lengths in a closed loop run in lockstep, with the answer for spread ones."""
    s = result.scenario
    closed = s.rate is None and (s.conc or 1) > 1
    if not closed or s.isl is None or s.osl is None or s.range_ratio < 1:
        return None
    wider = 2 / (1 + _SPREAD_LENGTHS)  # so that the mean stays
    about = {"isl": math.ceil(s.isl * wider), "osl": math.ceil(s.osl * wider)}
    spread = s.model_copy(update={**about, "range_ratio": _SPREAD_LENGTHS})
    if spread.osl is not None and spread.osl > s.max_new_tokens:
        spread = spread.model_copy(update={"max_new_tokens": spread.osl})
    try:
        v = predict(spread, with_baseline=False, with_interval=False).values
    except DflashSimError:
        return None
    return (
        "fixed lengths in a closed loop run in lockstep: requests start and end together. With "
        f"lengths between {100 * _SPREAD_LENGTHS:.0f} % and all (--isl {about['isl']} --osl "
        f"{about['osl']} --range-ratio {_SPREAD_LENGTHS:g}), the same on average, it is "
        f"{number(v['output_throughput'])} tok/s, TTFT {number(v['mean_ttft_ms'])} ms"
    )
