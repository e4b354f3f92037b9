"""What was priced, with the engine constants that each price rests on.

A slope asks for the prices of a sheet in which one constant differs: only those that rest on it are
made anew.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dflash_sim.profiles.releases.engine_sheet import EngineSheet

Price = TypeVar("Price")


@dataclass
class Priced:
    """Prices by what they are of.

    Parameters
    ----------
    before
        What was priced with another sheet of the same engine; None begins anew.
    changed
        The constants in which the two sheets differ.
    """

    before: "Priced | None" = None
    changed: frozenset[str] = frozenset()
    _found: dict[Hashable, tuple[Any, frozenset[str]]] = field(default_factory=dict, repr=False)

    def get(self, key: Hashable, engine: EngineSheet, make: Callable[[], Price]) -> Price:
        """The price of ``key``, which ``make`` makes with the constants of ``engine``."""
        known = self._found.get(key)
        if known is None:
            known = self._found[key] = self._shared(key) or _made(engine, make)
        engine.read.update(known[1])
        price: Price = known[0]
        return price

    def _shared(self, key: Hashable) -> tuple[Any, frozenset[str]] | None:
        """The price with the sheet before, if nothing that it rests on has changed."""
        if self.before is None:
            return None
        known = self.before._found.get(key) or self.before._shared(key)
        return known if known is not None and known[1].isdisjoint(self.changed) else None


def _made(engine: EngineSheet, make: Callable[[], Any]) -> tuple[Any, frozenset[str]]:
    """A price, and the constants that were read for it."""
    others = set(engine.read)
    engine.read.clear()
    try:
        return make(), frozenset(engine.read)
    finally:
        engine.read.update(others)
