"""A pandas frame as a table that people read."""

from collections.abc import Sequence

import pandas as pd

from dflash_sim.studies.show.figures import percent, signed
from dflash_sim.studies.show.plain_table import Table

_FORMS = {
    "error": signed,
    "MAPE": percent,
    "bias": signed,
    "median": percent,
    "p95": percent,
    "least": signed,
    "most": signed,
    "inside 90 %": percent,
}


def written(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with its errors in percent, as text; columns may be renamed then."""
    texts = {name: frame[name].map(form) for name, form in _FORMS.items() if name in frame}
    return frame.assign(**texts)


def as_table(title: str, frame: pd.DataFrame, columns: Sequence[str] | None = None) -> Table:
    """Return columns of a frame as a table; all of them unless some are named."""
    shown = frame if columns is None else frame[list(columns)]
    lines = shown.astype(str).itertuples(index=False, name=None)
    return Table(title, tuple(map(str, shown)), tuple(lines))
