"""GPUs that people ask for and that no sheet could answer for, each with the reason."""

import csv
import re
from functools import cache
from importlib.resources import files

from dflash_sim.profiles.errors import UsageError

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
    return next((why for name, why in _unserved() if name in heads), None)


@cache
def _unserved() -> tuple[tuple[str, str], ...]:
    text = files("dflash_sim.profiles").joinpath("devices/unserved.csv").read_text("utf-8")
    return tuple((row["name"], row["why"]) for row in csv.DictReader(text.splitlines()))
