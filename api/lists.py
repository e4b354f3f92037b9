"""``lists``: what can be named, as data frames."""

from typing import TYPE_CHECKING

from dflash_sim.api.frames import table
from dflash_sim.api.question import File, folders
from dflash_sim.api.spoken import spoken
from dflash_sim.profiles.find import searching
from dflash_sim.studies.show.sheet_lists import rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


@spoken
def lists(kind: str, *, profiles: "File | Sequence[File] | None" = None) -> "pd.DataFrame":
    """Return what can be named: GPUs, models, drafters, data sets, presets, engines, tables.

    Parameters
    ----------
    kind
        ``gpus``, ``models``, ``drafters``, ``datasets``, ``presets``, ``engines`` or ``tables``.
    profiles
        Folders of sheets to be searched first.

    Raises
    ------
    UsageError
        There is no such kind.

    Examples
    --------
    >>> ds.lists("gpus")
    """
    with searching(folders(profiles)):
        return table(rows(kind))
