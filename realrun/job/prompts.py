"""Prompts from a file, or of random tokens; and the networks that ship with the program."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from dflash_sim.profiles.errors import MissingProfileError, UsageError
from dflash_sim.profiles.ways_in import TABLE, UnreadableError, parse_json, read_text

BYTES = 256  # ids of a vocabulary that are bytes come first
LARGEST_BYTE_LEVEL = 512


def shipped(name: str) -> Path:
    """The folder of a pair that ships with the program: ``target``, ``dflash``, prompts."""
    folder = _pairs() / name
    if not (folder / "target" / "config.json").is_file():
        msg = f"no pair of networks is shipped as '{name}'; give --model a Hugging Face folder"
        raise MissingProfileError(msg)
    return folder


def is_shipped(folder: Path) -> bool:
    """Return True for a folder of a pair that ships with the program: its tokens are bytes."""
    return folder.resolve().is_relative_to(_pairs().resolve())


def _pairs() -> Path:
    return Path(str(files("dflash_sim.profiles"))) / "pairs"


def read_prompts(path: Path, vocab: int) -> list[tuple[int, ...]]:
    """Prompts of a JSONL file: ``{"prompt": [ids]}``, or ``{"prompt": text}`` of bytes."""
    prompts = []
    try:
        lines = read_text(path, TABLE).splitlines()
        rows = [parse_json(line) for line in lines if line.strip()]
    except UnreadableError as error:
        msg = f"{path}: cannot be read as JSON lines: {error}"
        raise UsageError(msg) from error
    for number, row in enumerate(rows, start=1):
        said = row.get("prompt") if isinstance(row, Mapping) else None
        prompts.append(_ids(said, f"{path}, line {number}", vocab))
    if not prompts:
        msg = f"{path}: no prompt in it"
        raise UsageError(msg)
    return prompts


def _ids(said: Any, where: str, vocab: int) -> tuple[int, ...]:
    if isinstance(said, str) and said and BYTES <= vocab <= LARGEST_BYTE_LEVEL:
        return tuple(said.encode("utf-8", "replace"))  # half a pair of UTF-16 is a "?"
    if isinstance(said, Sequence) and said and all(type(i) is int and 0 <= i < vocab for i in said):
        return tuple(said)
    msg = f'{where}: expected {{"prompt": [token ids below {vocab}]}}'
    if isinstance(said, str):
        msg += "; text is read for byte-level vocabularies alone, tokenise it first"
    raise UsageError(msg)


def poisson_arrivals(count: int, *, rate: float, seed: int) -> list[float]:
    """Moments of ``count`` arrivals, ``rate`` of them per second on average [s]."""
    draw = Random(seed)
    return list(accumulate(draw.expovariate(rate) for _ in range(count)))


def random_prompts(count: int, *, tokens: int, vocab: int, seed: int) -> list[tuple[int, ...]]:
    """Prompts that mean nothing."""
    draw = Random(seed)
    return [tuple(draw.randrange(vocab) for _ in range(tokens)) for _ in range(count)]
