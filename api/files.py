"""Benchmark files, data frames and assumptions as the readers take them."""

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from dflash_sim.calibrate.readers.files import TableText
from dflash_sim.calibrate.readers.read import Source
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.ways_in import named_path, there
from dflash_sim.studies.compare.validate_question import assumptions

if TYPE_CHECKING:
    import pandas as pd

One: TypeAlias = "str | os.PathLike[str] | pd.DataFrame"
Files: TypeAlias = "One | Iterable[One]"
Assume: TypeAlias = Mapping[str, Any] | Iterable[str]


def sources(given: Files) -> list[Source]:
    """Return paths and data frames, one or several, as what the readers read."""
    if isinstance(given, str | os.PathLike) or hasattr(given, "to_csv"):
        given = [given]  # type: ignore[list-item]
    elif not isinstance(given, Iterable):
        given = [given]  # to be refused
    found = [_source(each) for each in given]
    frames = [each for each in found if isinstance(each, TableText)]
    if len(frames) > 1:
        numbered = {id(each): TableText(f"DataFrame {i}", each.text)
                    for i, each in enumerate(frames, 1)}  # fmt: skip
        found = [numbered.get(id(each), each) for each in found]
    if not found:
        msg = "no file was named; give a path, a data frame, or a list of them."
        raise UsageError(msg)
    return found


def _source(given: Any) -> Source:
    if isinstance(given, str | os.PathLike):
        return there(named_path(given))
    if hasattr(given, "to_csv"):
        return TableText("DataFrame", given.to_csv(index=False))
    msg = f"{type(given).__name__} is no benchmark; give a path or a data frame."
    raise UsageError(msg)


def assumed(given: Assume | None) -> dict[str, str]:
    """Return what stands in where a row does not say; a dict, or ``KEY=VALUE`` words."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        given = [f"{name}={value}" for name, value in given.items()]
    return assumptions([given] if isinstance(given, str) else list(given))
