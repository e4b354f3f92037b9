"""Published measurements of DSpark on DeepSeek-V4: a frontier, step costs, accept lengths."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dflash_sim.profiles.units import MS

_FOLDER = Path(__file__).parent / "published"
ADAPTIVE = "adaptive"


@dataclass(frozen=True)
class Measured:
    """One arm at one concurrency [token/s]: of all requests, and while decoding of each."""

    output_tok_s: float
    user_tok_s: float


@dataclass(frozen=True)
class Dspark:
    """The published tables.

    Parameters
    ----------
    frontier
        By revision of the figure, drafts (a number, or ``adaptive``) and requests in flight.
    verify_s, draft_s
        Step cost up to so many tokens, and of a draft up to so many requests [s]; of another,
        smaller model than the frontier's.
    accept_length
        Tokens per cycle by draft count, of the frontier's drafter on other prompts [token].
    """

    frontier: Mapping[str, Mapping[tuple[str, int], Measured]]
    verify_s: tuple[tuple[int, float], ...]
    draft_s: tuple[tuple[int, float], ...]
    accept_length: Mapping[int, float]


@cache
def load_dspark() -> Dspark:
    """Read the tables shipped with the package."""
    frontier: dict[str, dict[tuple[str, int], Measured]] = {}
    for r in _rows("dspark_frontier"):
        point = Measured(float(r["output_tok_s"]), float(r["tok_s_per_user"]))
        frontier.setdefault(r["figure"], {})[r["drafts"], int(r["conc"])] = point
    cost = [
        (r["part"], int(r["upto"]), float(r["cost_ms"]) * MS) for r in _rows("dspark_step_cost")
    ]
    return Dspark(
        frontier,
        tuple((n, s) for part, n, s in cost if part == "verify"),
        tuple((n, s) for part, n, s in cost if part == "draft"),
        {int(r["drafts"]): float(r["accept_length"]) for r in _rows("dspark_accept_length")},
    )


def _rows(name: str) -> list[dict[str, str]]:
    with (_FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))
