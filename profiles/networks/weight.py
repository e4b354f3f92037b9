"""One weight tensor: its size, its format, and how tensor parallelism splits it."""

from dataclasses import dataclass

from dflash_sim.profiles.precision import BF16, Precision, bytes_of

HOST = "host"


@dataclass(frozen=True)
class Weight:
    """One weight tensor.

    Parameters
    ----------
    name
        As in the checkpoint.
    params
        Number of values on one GPU, unsplit.
    max_split
        Ranks it can be divided over; the rest hold copies. 1 is replicated, None has no limit.
    module
        The part of the network it belongs to, which says its format: a name of ``MODULES``; or
        ``host`` of what stays in the memory of the host.
    """

    name: str
    params: int
    max_split: int | None = None
    module: str = "other"

    def bytes_per_rank(self, tp: int, precision: Precision = BF16) -> float:
        """Bytes each of ``tp`` ranks holds."""
        if self.module == HOST:
            return 0.0
        split = tp if self.max_split is None else min(tp, self.max_split)
        return self.params * bytes_of(precision.form(self.module)) / split
