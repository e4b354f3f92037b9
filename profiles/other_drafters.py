"""Drafters that are published and whose kind or target is not simulated: they are known by name."""

import csv
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files

from dflash_sim.profiles.errors import MissingProfileError, UsageError
from dflash_sim.profiles.networks.drafter_shapes import KIND_TITLES

_NEAREST = 4  # drafters that a message names
_NO_TARGET = "a target that is not known here"
# What each kind has that none of those that are simulated has.
KINDS = {
    "DFlash2 of an unknown target": _NO_TARGET,
    "DFlash2 of latent attention": "latent attention",
    "DSpark of an unknown target": _NO_TARGET,
    "DSpark of latent attention": "latent attention",
    "DSpark with its own embedding": "an embedding and a head of its own",
    "DSpark inside its target": "layers like its target's, with experts, in the same checkpoint",
    "DSpark of Gemma 4": "full layers of other heads than its sliding ones",
    "DSpark with sinks": "an embedding of its own and attention with sinks",
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
                f"{KINDS[row['kind']]}, which is not simulated. Leave --draft-model out for the "
                "one known for the target, or ask for --method mtp."
            )
            raise UsageError(msg)


def table() -> list[dict[str, str]]:
    """Return the rows of ``other_drafters.csv``."""
    text = (files("dflash_sim.profiles") / "other_drafters.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def none_known(
    kind: str, model: str, have: Sequence[str], drafts: str, *, own_layer: bool
) -> MissingProfileError:
    """Tell that no drafter is known for a model, those with the nearest names, and what to ask.

    Parameters
    ----------
    drafts
        The kind of drafters of blocks that was looked for.
    own_layer
        True if the model has a layer of its own that drafts.
    """
    what = "EAGLE-3 head"
    if kind == "drafters":
        what, have = f"{KIND_TITLES[drafts]} drafter", [n for n in have if n.endswith(f"-{drafts}")]
    near = ", ".join(get_close_matches(model, have, n=_NEAREST, cutoff=0))
    own = "mtp (its own layer) or " if own_layer else ""
    msg = (
        f"no {what} is known for '{model}'; have: {near}; all: dflash-sim list drafters. Give "
        f"--draft-model with the path of its config, or ask for --method {own}none"
    )
    return MissingProfileError(msg)
