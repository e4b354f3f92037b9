"""What acceptance depends on besides model and method: the laws that published pairs give.

All of them move one number, the log of the rejection rate, ``ln lam`` of the survival
``(1 + theta lam k^beta)^(-1/theta)``: 0.2 more rejects 22 % more often at every position.
"""

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from dflash_sim.profiles.errors import unknown
from dflash_sim.profiles.typed_table import read_table

_FOLDER = Path(__file__).parent
FULL, WINDOWED, NATIVE = "full", "windowed", "native"  # what a drafter sees of a long context


@dataclass(frozen=True)
class Spread:
    """A Gaussian on the log of the rejection rate [1], and where it is from."""

    mean: float
    sd: float
    evidence: str
    source: str


@dataclass(frozen=True)
class ContextLaw:
    """How a drafter rejects more beyond the context that it was trained on.

    Parameters
    ----------
    trained : context up to which nothing changes [token]
    slope, sd : added log rejection for each doubling beyond it [1]
    """

    trained: int
    slope: float
    sd: float
    evidence: str
    source: str


@dataclass(frozen=True)
class ContentLaw:
    """What one data set or kind of text changes, against the mean of the cards' five data sets.

    Parameters
    ----------
    kind : the kind of text that it belongs to
    effect, sd : log rejection, and how far drafters differ in it [1]
    drafters : how many it was measured on
    temperature, temperature_sd : log rejection at temperature 1 over greedy [1]
    """

    kind: str
    effect: float
    sd: float
    drafters: int
    temperature: float
    temperature_sd: float


@dataclass(frozen=True)
class DrafterSpread:
    """The log of the rejection rate of a method's drafter of a new model, in the cards' mean.

    Parameters
    ----------
    mean, sd : 1.645 sd to either side hold 90 % of such drafters [1]
    models, drafters : how many are published; one with and without thinking is two
    coverage : of the rows of models left out, in the 90 % interval of the others [1]
    """

    mean: float
    sd: float
    models: int
    drafters: int
    evidence: str
    source: str
    coverage: float | None = None


@dataclass(frozen=True)
class Conditions:
    """Every law.

    Parameters
    ----------
    content : by data set and by kind of text
    unknown_content : of text that nothing is known of
    temperature : of such text at temperature 1 over greedy, and of methods without pairs
    thinking : answers with thinking over answers without, by method
    without_thinking : the way back, where only answers with thinking are known
    drawn : drafts that are drawn, ``sampled`` or ``greedy`` as the target is, over greedy ones of a
        greedy target; of those, drawn at temperature 1
    context : by method and by what the drafter sees, ``full``, ``windowed`` or ``native``
    drafters : what a method's published drafters say of one that is not
    """

    content: Mapping[str, ContentLaw]
    unknown_content: Spread
    temperature: Spread
    thinking: Mapping[str, Spread]
    without_thinking: Spread
    drawn: Mapping[str, Spread]
    context: Mapping[str, ContextLaw]
    drafters: Mapping[str, DrafterSpread]

    def of_content(self, name: str | None) -> ContentLaw:
        """The law of a data set or kind; of the cards' mean without one, wide where unknown."""
        t = self.temperature
        if name is None:
            return ContentLaw("", 0.0, 0.0, 0, t.mean, t.sd)
        u = self.unknown_content
        return self.content.get(name, ContentLaw("", u.mean, u.sd, 0, t.mean, t.sd))

    def of_context(self, method: str, memory: str) -> ContextLaw:
        """The law of a method's drafters, by what they see of a long context."""
        return self.context[method if memory == FULL and method in self.context else memory]

    def check_content(self, name: str) -> str:
        """Return a known name of content; raise the UsageError that lists them otherwise."""
        if name not in self.content:
            raise unknown(kind="content", value=name, allowed=self.content)
        return name


@cache
def load_conditions() -> Conditions:
    """Read the laws shipped with the package."""
    where = "conditions.toml"
    sheet = tomllib.loads((_FOLDER / where).read_text(encoding="utf-8"))

    def spread(*path: str) -> Spread:
        table = sheet
        for key in path:
            table = table[key]
        return read_table(Spread, table, f"{where} [{'.'.join(path)}]")

    return Conditions(
        content=MappingProxyType(_content()),
        unknown_content=spread("unknown_content"),
        temperature=spread("temperature"),
        thinking=MappingProxyType({k: spread("thinking", k) for k in sheet["thinking"]}),
        without_thinking=spread("without_thinking"),
        drawn=MappingProxyType({k: spread("drawn", k) for k in sheet["drawn"]}),
        context=MappingProxyType(
            {k: read_table(ContextLaw, v, f"{where} [{k}]") for k, v in sheet["context"].items()}
        ),
        drafters=MappingProxyType(
            {
                k: read_table(DrafterSpread, v, f"{where} [drafters.{k}]")
                for k, v in sheet["drafters"].items()
            }
        ),
    )


def _content() -> dict[str, ContentLaw]:
    with (_FOLDER / "content.csv").open(encoding="utf-8", newline="") as lines:
        return {
            r["name"]: ContentLaw(
                r["kind"],
                float(r["effect"]),
                float(r["sd"]),
                int(r["drafters"]),
                float(r["temperature"]),
                float(r["temperature_sd"]),
            )
            for r in csv.DictReader(lines)
        }
