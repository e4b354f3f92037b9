"""The files of one GPU's operator times, each read when it is first asked for.

A prediction needs a few of them: a dense bf16 model asks neither for experts nor for FP8.
"""

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.times.interpolation import Found
from dflash_sim.profiles.times.op_file import Matrix
from dflash_sim.profiles.times.timing import Timing
from dflash_sim.profiles.ways_in import parse_toml, read_bytes, read_text

Parsed = TypeVar("Parsed")

MOST_REL_ERR = 10.0


class OpFolder:
    """One folder ``ops/<gpu>/``: ``meta.toml``, a CSV file per family that it lists, and notes.

    Parameters
    ----------
    path : the folder
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parsed: dict[str, Any] = {}
        self.meta: dict[str, Any] = self._toml("meta.toml")
        self._rel_err: dict[str, dict[str, float]] = self._try(
            lambda: _errors(self.meta["rel_err"])
        )

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the CSV files, without suffix."""
        return tuple(
            name for name, told in self.meta.items() if isinstance(told, dict) and "cells" in told
        )

    @cached_property
    def notes(self) -> dict[str, Any]:
        """Where the numbers came from, what the cleaning changed, and errors held out."""
        return self._toml("notes.toml")

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the bytes of all files."""
        names = ("meta.toml", "notes.toml", *(f"{family}.csv" for family in sorted(self.families)))
        raw = self._try(lambda: b"".join(read_bytes(self.path / name) for name in names))
        return hashlib.sha256(raw).hexdigest()[:12]

    def table(self, family: str, parse: Callable[[Matrix], Parsed]) -> Parsed | None:
        """Return what ``parse`` makes of one file, or ``None`` where the GPU has no such file.

        Raises :class:`~dflash_sim.profiles.errors.UsageError` if the file is broken.
        """
        if family not in self._parsed:
            told = self.meta.get(family)
            self._parsed[family] = (
                None if told is None else self._try(lambda: parse(self._matrix(family)))
            )
        found: Parsed | None = self._parsed[family]
        return found

    def timing(self, kind: str, found: Found, family: str, row: tuple[object, ...]) -> Timing:
        """Return the time of a lookup with the error that held-out points of its kind had."""
        seconds, inside = found
        evidence = "measured" if inside else "fitted"
        return Timing(seconds, evidence, self._rel_err[kind][evidence], f"{family}.csv", row)

    def _matrix(self, family: str) -> Matrix:
        raw = read_bytes(self.path / f"{family}.csv")
        return Matrix(raw, cells=self.meta[family]["cells"])

    def _toml(self, name: str) -> dict[str, Any]:
        return self._try(lambda: parse_toml(read_text(self.path / name)))

    def _try(self, read: Callable[[], Parsed]) -> Parsed:
        try:
            return read()
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            msg = f"cannot read the operator tables in {self.path}: {error}"
            raise UsageError(msg) from error


def _errors(told: Any) -> dict[str, dict[str, float]]:
    """Return the relative errors of a folder by kind and evidence, each from 0 to 10."""
    for kind, errors in told.items():
        for evidence, error in errors.items():
            if not isinstance(error, int | float) or not 0 <= error <= MOST_REL_ERR:
                msg = f"rel_err, {kind}, {evidence} is {error!r}; it must be from 0 to 10"
                raise ValueError(msg)
    found: dict[str, dict[str, float]] = told
    return found
