"""Versions of SGLang as files and containers name them, and the engine sheet nearest to each.

``v0.5.10.post1-cu130``, ``0.5.21.dev861``, ``nightly-dev-20260216-d3bae71e`` and ``2026-02`` all
name a build. A nightly is taken for the release that came next, whose code it has.
"""

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import sheet_names

_RELEASE = re.compile(r"(?<!\d)(\d+)\.(\d+)\.(\d+)(?:[.\-_]?(dev|rc|post)\d*)?")
_DAY = re.compile(r"(?<!\d)(20\d\d)-?(0[1-9]|1[0-2])(?:-?(0[1-9]|[12]\d|3[01]))?(?!\d)")
_OTHERS = ("vllm", "tensorrt", "trtllm", "trt-llm", "lmdeploy", "tgi", "llama.cpp", "mlx")
_MIDDLE = "15"  # of a month whose day nobody says

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Match:
    """The engine sheet for a build.

    Parameters
    ----------
    engine
        Name of the sheet.
    version
        The release that the build has the code of.
    exact
        True if the sheet is of that release.
    """

    engine: str
    version: Version
    exact: bool


def match_engine(build: str) -> Match | None:
    """Find the sheet of a build's version or date; None if it names neither.

    Raises
    ------
    UsageError
        It is a build of another engine.
    """
    low = build.casefold()
    if other := next((name for name in _OTHERS if name in low), None):
        msg = f"'{build}' is a build of {other}; this program simulates SGLang. Give its version."
        raise UsageError(msg)
    version = _version(low)
    if version is None:
        return None
    sheets = {v: name for name in sheet_names("engines", ".toml") if (v := _of_sheet(name))}
    at_most = [v for v in sheets if v <= version]
    nearest = max(at_most) if at_most else min(sheets)
    return Match(sheets[nearest], version, nearest == version)


def _version(text: str) -> Version | None:
    """The release that a build belongs to: its own number, or the one after its date."""
    if found := _RELEASE.search(text):
        version = int(found[1]), int(found[2]), int(found[3])
        return _before(version) if found[4] == "dev" else version
    if found := _DAY.search(text):
        day = f"{found[1]}-{found[2]}-{found[3] or _MIDDLE}"  # in this order text sorts like time
        later = [v for v, released in releases().items() if released >= day]
        return min(later) if later else max(releases())
    return None


def _before(version: Version) -> Version:
    """The release that a development build of ``version`` started from."""
    return max((v for v in releases() if v < version), default=version)


def _of_sheet(name: str) -> Version | None:
    found = _RELEASE.fullmatch(name.removeprefix("sglang-"))
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


@cache
def releases() -> dict[Version, str]:
    """Days, as ``YYYY-MM-DD``, on which releases came out, the oldest first."""
    text = (files("dflash_sim.profiles") / "engines" / "releases.csv").read_text(encoding="utf-8")
    return {
        _of_sheet(row["version"]) or (0, 0, 0): row["released"]
        for row in csv.DictReader(text.splitlines())
    }
