"""Published rows of other servers: builds, GPUs and models that the constants were not fitted on.

``profiles/published/serving.csv`` has a row per run, with the latencies that its source prints.
Rows of role ``test`` are read by no fit; :func:`~dflash_sim.calibrate.fit.fit.fit` refuses them.
"""

import csv
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TypeVar

from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.servers import (
    OPEN,
    TEST,
    MeasuredServer,
    measured_on,
    role_of,
)
from dflash_sim.profiles.load import load_model
from dflash_sim.studies.compare.validate_question import published

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class PeerPrediction:
    """The prediction of another tool for one of the rows, unfitted.

    Parameters
    ----------
    tool
        Its name and version.
    output_tok_s
        By the formula that gives the row its own rate from its latencies [token/s].
    """

    tool: str
    ttft_ms: float
    tpot_ms: float
    output_tok_s: float


@cache
def serving_rows() -> tuple[Observation, ...]:
    """Return every row of the file, in its order."""
    return published("serving.csv").observations


def open_rows(*, doubtful: bool = True) -> tuple[Observation, ...]:
    """Return the rows that a fit may read.

    Parameters
    ----------
    doubtful
        True if rows count that lack a condition, or that something else than the engine decides.
    """
    rows = [row for row in serving_rows() if role_of(row) == OPEN]
    return tuple(row for row in rows if doubtful or "doubt" not in row.about)


def rows_that_test() -> tuple[Observation, ...]:
    """Return the rows that only test."""
    return tuple(row for row in serving_rows() if role_of(row) == TEST)


def quantization_of(row: Observation) -> str | None:
    """Return SGLang's name for the precision of a row's weights; None if they are in bf16.

    A checkpoint's own files say it, else the flag of the launch.
    """
    own = load_model(str(row.fields["model"])).quantized
    return own.name if own else row.fields.get("quantization")


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Return items by their key, in the order of the first of each."""
    found: dict[K, list[T]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return dict(found)


def by_server(rows: Iterable[Observation]) -> dict[MeasuredServer, list[Observation]]:
    """Return rows by the server they were measured on, in the order of their first row."""
    return grouped(rows, measured_on)


def peers_of(row: Observation) -> tuple[PeerPrediction, ...]:
    """Return what other tools predict for a row; nothing where none was asked."""
    return _peers().get(str(row.about.get("id")), ())


@cache
def _peers() -> Mapping[str, tuple[PeerPrediction, ...]]:
    text = files("dflash_sim.profiles").joinpath("published/peers.csv").read_text("utf-8")
    found: dict[str, tuple[PeerPrediction, ...]] = defaultdict(tuple)
    for r in csv.DictReader(text.splitlines()):
        values = (float(r[name]) for name in ("ttft_ms", "tpot_ms", "output_tok_s"))
        found[r["id"]] += (PeerPrediction(r["tool"], *values),)
    return found
