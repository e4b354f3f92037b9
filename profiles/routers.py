"""Numbers of the policies by which a router chooses a server, from profiles/routers.toml."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SHEET = Path(__file__).parent / "routers.toml"
# What SGLang's router calls the policies that there are.
SGLANG_POLICIES = {"round_robin": "round-robin", "cache_aware": "cache-aware"}


@dataclass(frozen=True)
class CacheAwareSheet:
    """Numbers of the ``cache_aware`` policy.

    Parameters
    ----------
    cache_threshold : share of a prompt that must be known to follow it [1]
    balance_abs_threshold : requests by which loads may differ [request]
    balance_rel_threshold : times by which they may [1]
    """

    cache_threshold: float
    balance_abs_threshold: float
    balance_rel_threshold: float


@cache
def load_cache_aware() -> CacheAwareSheet:
    """Return the numbers that SGLang's router ships."""
    table = tomllib.loads(_SHEET.read_text(encoding="utf-8"))["cache-aware"]
    names = CacheAwareSheet.__dataclass_fields__
    return CacheAwareSheet(**{name: float(table[name]) for name in names})
