"""Numbers of the policies by which a router chooses a server, from profiles/routers.toml."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SHEET = Path(__file__).parents[1] / "routers.toml"
# What SGLang's router calls the policies that there are.
SGLANG_POLICIES = {"round_robin": "round-robin", "cache_aware": "cache-aware"}


@dataclass(frozen=True)
class CacheAwareSheet:
    """Numbers of the ``cache_aware`` policy.

    Parameters
    ----------
    share : share of a prompt that must be known to follow it [1]
    apart : requests by which loads may differ [request]
    ratio : times by which they may [1]
    """

    share: float
    apart: int
    ratio: float


@cache
def load_cache_aware() -> CacheAwareSheet:
    """Return the numbers that SGLang's router ships."""
    table = tomllib.loads(_SHEET.read_text(encoding="utf-8"))["cache-aware"]
    return CacheAwareSheet(
        share=float(table["cache_threshold"]),
        apart=int(table["balance_abs_threshold"]),
        ratio=float(table["balance_rel_threshold"]),
    )
