"""A row of the result schema as an object: its fields are attributes."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from dflash_sim.profiles.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

_INTERVAL = "_ci90"


class RowView:
    """Fields of :attr:`row` as attributes, by the names of the result schema.

    See docs/reference/results.md for names, units and meanings.
    """

    @property
    def row(self) -> Mapping[str, Any]:
        """The flat row, as ``--format json`` prints it."""
        raise NotImplementedError

    def _more(self) -> Mapping[str, Any]:
        """Return what else has a name."""
        return {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            row = self.row
            if name in row:
                return row[name]
            more = self._more()
            if name in more:
                return more[name]
            names = [known for known in dir(self) if not known.startswith("_")]
            near = get_close_matches(name, names, n=3) or [n for n in names if name in n][:6]
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            msg = f"{type(self).__name__} has no '{name}'{hint}"
            raise AttributeError(msg, name=name, obj=self)
        raise AttributeError(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.row, *self._more()})

    def interval(self, name: str) -> tuple[float, float]:
        """Return the 90 % interval of a metric, such as ``output_throughput``.

        It is not-a-number where intervals were not asked for, or where the metric has no answer.

        Raises
        ------
        UsageError
            The metric is none that has an interval.
        """
        known = [key.removesuffix(_INTERVAL) for key in self.row if key.endswith(_INTERVAL)]
        if name not in known:
            raise unknown(kind="interval", value=name, allowed=known)
        low, high = self.row[name + _INTERVAL] or (float("nan"), float("nan"))
        return low, high

    def to_frame(self) -> "pd.DataFrame":
        """Return the row as a data frame of one row."""
        from dflash_sim.api.frames import frame

        return frame([self.row])
