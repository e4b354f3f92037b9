"""A clock for measurements whose times do not matter."""

from typing import Any

from dflash_sim.calibrate.measure.clock import CpuClock, Sample


class InstantClock(CpuClock):
    """Makes each call once and invents its time."""

    def __init__(self) -> None:
        super().__init__()
        self.cache_bytes = 2.0**20  # where a server has hundreds of MB, copies take seconds

    def sample(self, calls: Any) -> Sample:
        calls[0]()
        return Sample(1e-5, 1e-5, 0.01, 1)
