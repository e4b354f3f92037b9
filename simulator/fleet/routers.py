"""Who gets which request: the policies of a router in front of equal replicas."""

from collections.abc import Sequence
from typing import Protocol

from dflash_sim.profiles.errors import unknown
from dflash_sim.profiles.releases.routers import CacheAwareSheet, load_cache_aware
from dflash_sim.simulator.engine.radix_cache import RadixCache
from dflash_sim.simulator.requests.prompts import Prompts, length

ROUTERS = ("round-robin", "least-loaded", "cache-aware")


class Router(Protocol):
    """Chooses a replica for each request in order of arrival."""

    def choose(self, rid: int, loads: Sequence[int]) -> int:
        """Return the replica of request ``rid``, given how many each has in flight."""


class RoundRobin:
    """One after the other."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, rid: int, loads: Sequence[int]) -> int:
        """Return the replica behind that of the request before."""
        chosen = self._next % len(loads)
        self._next += 1
        return chosen


class LeastLoaded:
    """To the replica with the fewest requests in flight, the first of equals."""

    def choose(self, rid: int, loads: Sequence[int]) -> int:
        """Return the replica with the least to do."""
        return loads.index(min(loads))


class CacheAware:
    """SGLang's ``cache_aware`` policy.

    The router remembers which prompts went where. While loads are balanced, a prompt of which it
    knows more than a threshold goes where that went, the latest of several; all others go to the
    least loaded. It does not know what replicas evict, and itself forgets nothing.
    """

    def __init__(self, prompts: Prompts, replicas: int, sheet: CacheAwareSheet) -> None:
        self._prompts = prompts
        self._sheet = sheet
        self._seen = [RadixCache(unit=1) for _ in range(replicas)]
        self._routed = [0] * replicas
        self._count = 0

    def choose(self, rid: int, loads: Sequence[int]) -> int:
        """Return the replica that has seen most of the prompt, or the least loaded one."""
        text = self._prompts.asked[rid]
        chosen = loads.index(min(loads))
        if not self._unbalanced(loads):
            known = [each.match(text).tokens for each in self._seen]
            if max(known) > self._sheet.share * length(text):
                chosen = max(range(len(known)), key=lambda k: (known[k], self._routed[k]))
        self._seen[chosen].insert(text)
        self._count += 1
        self._routed[chosen] = self._count
        return chosen

    def _unbalanced(self, loads: Sequence[int]) -> bool:
        low, high = min(loads), max(loads)
        return high - low > self._sheet.apart and high > self._sheet.ratio * low


def router_of(name: str, prompts: Prompts | None, replicas: int) -> Router:
    """Return a router by its name.

    Without texts nothing is known of any prompt: the cache-aware one is then the least loaded.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    if name not in ROUTERS:
        raise unknown(kind="--router", value=name, allowed=ROUTERS)
    if name == "round-robin":
        return RoundRobin()
    if name == "least-loaded" or prompts is None:
        return LeastLoaded()
    return CacheAware(prompts, replicas, load_cache_aware())
