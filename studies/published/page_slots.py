"""The accuracy pages and the README, kept in step with what the studies of the gallery found.

The prose is written by hand. A table or a figure stands between ``<!-- name -->`` and
``<!-- / -->``, and is replaced by what a study found under that name.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from dflash_sim.profiles.errors import UsageError
from dflash_sim.studies.published.findings import Findings
from dflash_sim.studies.show.files import write_whole

PAGES = ("accuracy.md", "accuracy-tables.md", "accuracy-gh200.md")
_COMMENT = re.compile(r"<!-- (.*?) -->")
_END = "/"


def fill(page: str, found: Mapping[str, str], name: str) -> str:
    """Return the page with every slot filled.

    Parameters
    ----------
    found
        Text by the name of a slot.
    name
        The page, for the error.

    Raises
    ------
    UsageError
        A slot asks for what no study found, or has no end.
    """
    parts = _COMMENT.split(page)  # prose, slot, its text, end, prose, slot, ...
    for i in range(1, len(parts), 4):
        slot = parts[i]
        if slot == _END or parts[i + 2 : i + 3] != [_END]:
            msg = f"{name}: the slot '{slot}' does not run from <!-- its name --> to <!-- / -->"
            raise UsageError(msg)
        if slot not in found:
            msg = (
                f"{name}: no study of the gallery finds '{slot}'. Name one of its tables or "
                "figures (studies/gallery/*.json), or take the slot out."
            )
            raise UsageError(msg)
        parts[i + 1] = found[slot]
    parts[1::2] = [f"<!-- {comment} -->" for comment in parts[1::2]]
    return "".join(parts)


def slots_of(page: str) -> dict[str, str]:
    """Return the text of every slot of a page."""
    parts = _COMMENT.split(page)
    return dict(zip(parts[1::4], parts[2::4], strict=True))


def all_found(root: Path) -> dict[str, str]:
    """Return what all studies of a checkout found, by the name that a slot has.

    Raises
    ------
    UsageError
        Two studies use one name.
    """
    found: dict[str, str] = {}
    for path in sorted((root / "studies/gallery").glob("*.json")):
        own = Findings.read(path).slots()
        if twice := sorted(own.keys() & found.keys()):
            msg = f"{path.name} finds '{twice[0]}', and so does a study before it; rename one"
            raise UsageError(msg)
        found |= own
    return found


def refresh(root: Path) -> None:
    """Fill every slot of the accuracy pages of a checkout."""
    found = all_found(root)
    paths = [root / "docs/explanation" / name for name in PAGES]
    pages = {path: fill(path.read_text(encoding="utf-8"), found, path.name) for path in paths}
    for path, page in pages.items():
        write_whole(path, page)


def deliver(found: Findings, script: Path, *, write: bool) -> None:
    """Print what a study found, or write it beside its script and into the pages."""
    if not write:
        sys.stdout.write(found.text())
        return
    found.write(script)
    refresh(script.parents[2])
