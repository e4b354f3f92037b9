"""What was priced, with the engine constants that each price rests on.

A slope asks for the prices of a sheet in which one constant differs: only those that rest on it are
made anew.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from dflash_sim.profiles.releases.engine_sheet import EngineSheet

Price = TypeVar("Price")


Known: TypeAlias = dict[Hashable, tuple[Any, frozenset[str]]]


@dataclass
class Priced:
    """Prices by what they are of.

    Parameters
    ----------
    before
        What was priced with another sheet of the same engine.
    changed
        The constants in which the two sheets differ.
    """

    before: Known = field(default_factory=dict, repr=False)
    changed: frozenset[str] = frozenset()
    known: Known = field(default_factory=dict, repr=False)

    def with_changed(self, changed: frozenset[str]) -> "Priced":
        """Return what is priced with a sheet in which these constants differ."""
        return Priced(self.known, changed)

    def get(self, key: Hashable, engine: EngineSheet, make: Callable[[], Price]) -> Price:
        """The price of ``key``, which ``make`` makes with the constants of ``engine``."""
        found = self.known.get(key)
        if found is None:
            found = self.before.get(key)
            if found is None or not found[1].isdisjoint(self.changed):
                found = _made(engine, make)
            self.known[key] = found
        engine.read.update(found[1])
        price: Price = found[0]
        return price


def _made(engine: EngineSheet, make: Callable[[], Any]) -> tuple[Any, frozenset[str]]:
    """A price, and the constants that were read for it."""
    others = set(engine.read)
    engine.read.clear()
    try:
        return make(), frozenset(engine.read)
    finally:
        engine.read.update(others)
