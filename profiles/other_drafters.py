"""Drafters that are published and whose kind is not simulated yet: they are known by name."""

import csv
from importlib.resources import files

from dflash_sim.profiles.errors import UsageError

# What each kind has that plain DFlash has not, as people ask for it by the kind's name.
KINDS = {
    "DFlash2": "convolutions between its layers and a selector of its drafts",
    "DSpark": "a Markov head that drafts along a block",
    "MuseGlimmerAssistant": "layers for a target that is not known",
    "DFlash of four streams": "an embedding and a head of its own, and four streams to read",
}


def refuse_other_kind(name: str) -> None:
    """Refuse a drafter that is published, known, and of a kind that is not simulated.

    Raises
    ------
    UsageError
        It names the kind, what is special about it, and what can be asked instead.
    """
    wanted = name.lower()
    for row in table():
        repo = row["repo"].lower()
        if wanted in (repo, repo.rpartition("/")[2]):
            msg = (
                f"drafter '{row['repo']}' is a {row['kind']} drafter for {row['target']}: it has "
                f"{KINDS[row['kind']]}, which is not simulated yet, only plain DFlash. Leave "
                "--draft-model out for the one known for the target, or ask for --method mtp."
            )
            raise UsageError(msg)


def table() -> list[dict[str, str]]:
    """Return the rows of ``other_drafters.csv``."""
    text = (files("dflash_sim.profiles") / "other_drafters.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
