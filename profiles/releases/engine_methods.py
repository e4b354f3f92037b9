"""Which release of SGLang has which method of speculation, where not every one has it."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from dflash_sim.profiles.releases.engine_versions import Match, match_engine


@dataclass(frozen=True)
class Arrival:
    """When a method came.

    Parameters
    ----------
    lacking
        The last release that is known not to have it.
    since
        The first that is known to have it; releases in between may.
    source
        Where that is written.
    """

    lacking: str
    since: str
    source: str

    def is_before(self, build: str) -> bool:
        """Return True if this build is known not to have it; a build without a version may."""
        asked, last = match_engine(build), match_engine(self.lacking)
        return asked is not None and last is not None and asked.version <= last.version

    @property
    def engine(self) -> Match:
        """The engine sheet of the first release that is known to have it."""
        found = match_engine(self.since)
        assert found is not None  # a version, as the file's test sees to
        return found


@cache
def arrivals() -> dict[str, Arrival]:
    """Return when each method came that some release lacks, by the method's name."""
    text = (files("dflash_sim.profiles") / "engines" / "methods.csv").read_text(encoding="utf-8")
    return {
        row["method"]: Arrival(row["lacking"], row["since"], row["source"])
        for row in csv.DictReader(text.splitlines())
    }
