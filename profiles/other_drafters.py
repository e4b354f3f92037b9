"""Drafters that are published and whose kind or target is not simulated: they are known by name."""

import csv
from importlib.resources import files

from dflash_sim.profiles.errors import MissingProfileError, UsageError

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


_SIZED = ", or what one of the usual size would have accepted, such as --acceptance al:4"


def none_known(
    model: str, kind: str | None, *, own_layer: bool, head: object
) -> MissingProfileError:
    """Tell that no drafter is known for a model, and what to give or to ask instead.

    Parameters
    ----------
    kind
        What drafters of blocks that were looked for are called; None for EAGLE-3 heads.
    own_layer
        True if the model has a layer of its own that drafts.
    head
        An EAGLE-3 head of the model, if one is known.
    """
    what = f"{kind} drafter" if kind else "EAGLE-3 head"
    own = ["mtp --steps 3 (its own layer)"] if own_layer else []
    others = [*own, "eagle3 --steps 3"] if kind and head else own
    instead = f"{', '.join(others)} or none" if others else "none"
    msg = (
        f"no {what} is known for '{model}', and one of another model is of no use to it (see "
        "dflash-sim list drafters). Give its own with --draft-model path/to/config.json"
        f"{_SIZED if kind == 'DFlash' else ''}, or ask for --method {instead}"
    )
    return MissingProfileError(msg)
