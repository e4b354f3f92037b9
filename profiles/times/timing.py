"""The time of one operator, and the evidence behind it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """One operator's time and the evidence behind it.

    Parameters
    ----------
    seconds : time of one call [s]
    evidence : ``measured`` between points of a table, ``fitted`` past them or on a nearby shape
    rel_err : typical relative error, from held-out table points [1]
    table, row : the file that it was read from, and the words that name its row there
    """

    seconds: float
    evidence: str
    rel_err: float
    table: str = ""
    row: tuple[object, ...] = ()

    def changed(self, seconds: float, evidence: str) -> "Timing":
        """Another time that rests on this one."""
        return Timing(seconds, evidence, self.rel_err, self.table, self.row)

    @property
    def origin(self) -> str:
        """Say where it was read, in words such as ``gemm.csv 1536 4096``."""
        return " ".join(map(str, (self.table, *self.row)))


FREE = Timing(seconds=0.0, evidence="measured", rel_err=0.0)
