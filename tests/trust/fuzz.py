"""Inputs that nobody meant, given to everything that reads; what fails is made small and kept.

``make fuzz`` runs this file for some minutes. ``python tests/trust/fuzz.py --seed 7 --only traces``
does a part of it again; inputs that failed lie in ``build/fuzz``, and ``--again FILE`` tries one.
"""

import argparse
import hashlib
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parents[1]))
from trust.mutations import smallest
from trust.target import Target, tried
from trust.targets import ROOT, all_targets

HANG_S, WAIT_S = 10, 60  # of the processor, and of anything: others may use it too
KEPT = ROOT / "build/fuzz"

_TIMERS = (
    (signal.SIGALRM, signal.ITIMER_REAL, WAIT_S),
    (signal.SIGPROF, signal.ITIMER_PROF, HANG_S),
)


class HangError(BaseException):
    """An input took longer than anything may."""


def _hangs(_number: int, _frame: FrameType | None) -> None:
    raise HangError


def fault_of(target: Target, data: bytes, folder: Path) -> str | None:
    """Return what went wrong and where, in a line that is the same for every such input."""
    for number, timer, seconds in _TIMERS:
        signal.signal(number, _hangs)
        signal.setitimer(timer, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tried(target, data, folder)
    except (Exception, HangError) as error:
        ours = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if str(ROOT) in frame.filename
        ]
        last = ours[-1]
        place = f"{Path(last.filename).relative_to(ROOT)}:{last.lineno}"
        return f"{type(error).__name__} at {place}: {str(error)[:160]}"
    finally:
        for _, timer, _ in _TIMERS:
            signal.setitimer(timer, 0)
    return None


def kind(fault: str | None) -> str | None:
    """What tells faults apart: the error and its place."""
    return None if fault is None else fault.partition(": ")[0]


def inputs(target: Target, seed: int, count: int) -> list[bytes]:
    """The inputs of a target, which are the same for the same seed."""
    draw = random.Random(f"{target.name} {seed}")
    return [target.make(draw) for _ in range(count)]


def shares(targets: list[Target], count: int) -> dict[str, int]:
    """How many inputs each target has of a campaign."""
    whole = sum(target.weight for target in targets)
    return {t.name: -(-count * t.weight // whole) for t in targets}


def keep(target: Target, data: bytes, fault: str, folder: Path) -> Path:
    """Make a failing input small, and keep it."""
    small = data
    if "HangError" not in fault:
        small = smallest(data, lambda part: kind(fault_of(target, part, folder)) == kind(fault))
    KEPT.mkdir(parents=True, exist_ok=True)
    name = f"{target.name.replace(' ', '-')}-{hashlib.sha256(small).hexdigest()[:8]}"
    (KEPT / name).write_bytes(small)
    return KEPT / name


def campaign(targets: list[Target], *, seconds: float, seed: int) -> int:
    """Try rounds of inputs until the time is over; return how many kinds of fault were met."""
    ends_s, tried_of = time.monotonic() + seconds, Counter[str]()
    met: dict[str, str] = {}
    used = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        while time.monotonic() < ends_s:
            for target in targets:
                for data in inputs(target, seed, 4 * target.weight):
                    tried_of[target.name] += 1
                    fault = fault_of(target, data, folder)
                    used += fault is None
                    name = f"{target.name}: {kind(fault)}"
                    if fault is not None and name not in met:
                        met[name] = fault
                        path = keep(target, data, fault, folder)
                        print(f"{target.name}, seed {seed}: {fault}\n  kept in {path}", flush=True)
            seed += 1
    for name, count in sorted(tried_of.items()):
        print(f"  {name:<18} {count:>9,}")
    print(f"{sum(tried_of.values()):,} inputs, {len(met)} kinds of fault; next seed {seed}")
    return len(met)


def main() -> int:
    """Read the options; the exit code is 1 if anything is wrong."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--seconds", type=float, default=300)
    asked.add_argument("--seed", type=int, default=int(time.time()))
    asked.add_argument("--only", default="", help="targets, with commas between")
    asked.add_argument("--again", type=Path, help="a kept input, with --only its target")
    o = asked.parse_args()
    targets = [t for t in all_targets() if not o.only or t.name in o.only.split(",")]
    if o.again is not None:
        with tempfile.TemporaryDirectory() as scratch:
            print(fault_of(targets[0], o.again.read_bytes(), Path(scratch)) or "right")
        return 0
    print(f"seed {o.seed}", flush=True)
    return bool(campaign(targets, seconds=o.seconds, seed=o.seed))


if __name__ == "__main__":
    sys.exit(main())
