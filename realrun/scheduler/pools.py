"""Owners of KV pages and request slots. Page 0 and slot 0 belong to nobody."""

from collections.abc import Iterable

from dflash_sim.profiles.errors import InfeasibleError


class Pool:
    """Numbered things of which each has one owner at most: the last returned is the next given.

    A request slot is a row of the page table and, in hybrid models, a slot of delta-net state.
    """

    def __init__(self, size: int, kind: str) -> None:
        self.size = size
        self.kind = kind
        self._free = list(range(size, 0, -1))

    @property
    def free(self) -> int:
        """Return how many have no owner."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """``count`` of them, now owned."""
        if count > len(self._free):
            msg = f"{count} {self.kind} wanted, {len(self._free)} of {self.size} are free"
            raise InfeasibleError(msg)
        taken = self._free[len(self._free) - count :]
        del self._free[len(self._free) - count :]
        return taken

    def give_back(self, owned: Iterable[int]) -> None:
        """Their owner has no use for them any more."""
        self._free.extend(owned)
