"""GPUs and models that people ask for and that no sheet answers for, each with the reason."""

import csv
import re
from functools import cache
from importlib.resources import files

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.networks.families import NOT_MODELLED

_MAKERS = {
    "nvidia",
    "tesla",
    "quadro",
    "geforce",
    "apple",
    "google",
    "intel",
    "huawei",
    "aws",
    "amd",
    "instinct",
}
_WORDS = 3  # of a name such as RTX 2080 Ti; sizes and versions may follow


def refuse_unserved(text: str) -> None:
    """Refuse a GPU by name that servers cannot be simulated on.

    Raises
    ------
    UsageError
        With the reason, and where those that can are listed.
    """
    why = why_unserved(text)
    if why is not None:
        msg = f"'{text}' cannot be asked for: {why}. dflash-sim list gpus has those that can."
        raise UsageError(msg)


def why_unserved(text: str) -> str | None:
    """Return why servers cannot be simulated on a GPU; None of one that is not listed."""
    words = [word for word in re.split(r"[\W_]+", text.lower()) if word and word not in _MAKERS]
    heads = {"".join(words[:n]) for n in range(1, _WORDS + 1)}
    return next((why for name, why in _rows("devices/unserved.csv") if name in heads), None)


def refuse_unmodelled(text: str) -> None:
    """Refuse a model by name whose family is known and not modelled.

    Raises
    ------
    UsageError
        With what of the family is not, and where the models are listed that can be asked for.
    """
    wanted = text.rstrip("/").rpartition("/")[2].lower()
    for name, family in _rows("unmodelled.csv"):
        if re.match(rf"{re.escape(name)}(?![^-_])", wanted):
            msg = (
                f"'{text}' is known but not modelled yet: it has {NOT_MODELLED[family]}. "
                "Ask about another model: dflash-sim list models."
            )
            raise UsageError(msg)


@cache
def _rows(path: str) -> tuple[tuple[str, str], ...]:
    """The two columns of a table of the package."""
    text = files("dflash_sim.profiles").joinpath(path).read_text("utf-8")
    return tuple((name, said) for name, said in csv.reader(text.splitlines()[1:]))
