"""The progress of a sweep on stderr: how far it is, how fast, and how long it will take."""

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from dflash_sim.studies.show.terminal import murmur

_LOG_EVERY_S = 30.0  # where stderr is no terminal, as in the log of a job


class SweepProgress:
    """A bar on a terminal, and now and then a line in a log.

    Parameters
    ----------
    total, done
        Points of this sweep, and those that were there before.
    """

    def __init__(self, total: int, done: int) -> None:
        self.total, self.before, self.done = total, done, done
        self.start_s = self.told_s = time.monotonic()
        self.bar: Bar | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and self.done < self.total:
            self.bar = Bar(
                TextColumn("points"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[pace]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self.bar.add_task("points", total=self.total, completed=self.done, pace="")
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self) -> None:
        """One more point is written."""
        self.done += 1
        now_s = time.monotonic()
        said = pace(self.done - self.before, self.total - self.done, now_s - self.start_s)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done, pace=said)
        elif now_s - self.told_s >= _LOG_EVERY_S:
            self.told_s = now_s
            murmur(f"{self.done:,} of {self.total:,} points, {said}")


def pace(done: int, left: int, elapsed_s: float) -> str:
    """Rate so far, and time left at that rate.

    Examples
    --------
    >>> pace(done=30, left=600, elapsed_s=20)
    '1.5 points/s, 6 min 40 s left'
    >>> pace(done=10, left=9000, elapsed_s=20)
    '30.0 points/min, 5 h 00 min left'
    """
    rate = done / max(elapsed_s, 1e-9)
    speed = f"{rate:.1f} points/s" if rate >= 1 else f"{60 * rate:.1f} points/min"
    return f"{speed}, {duration(left / rate)} left"


def duration(seconds: float) -> str:
    """Seconds in words, to the second below an hour [s].

    Examples
    --------
    >>> duration(75.2), duration(7380), duration(9)
    ('1 min 15 s', '2 h 03 min', '9 s')
    """
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest_s:02d} s" if minutes else f"{rest_s} s"
