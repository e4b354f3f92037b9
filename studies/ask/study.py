"""A study: a YAML file, or ``key=a,b,c`` words, that span a grid of scenarios."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, get_args

from dflash_sim.profiles.errors import InfeasibleError, MissingProfileError, UsageError, unknown
from dflash_sim.profiles.presets import load_preset
from dflash_sim.profiles.ways_in import UnreadableError, parse_yaml, read_text
from dflash_sim.simulator.scenario import OF_SPECULATION, Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.ask.question import (
    ORDER,
    SWEEPABLE,
    Given,
    Layer,
    combination,
    combinations,
    layered,
)
from dflash_sim.studies.ask.ranges import real_numbers, whole_numbers, words

MOST = 100_000  # points of a study
KEYS = ("title", "source", "preset", "scenario", "grid")
_SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Point:
    """One scenario of a study.

    Parameters
    ----------
    number
        Its place among the rows, from 0.
    values
        Values of the axes.
    group
        Points of one group differ in how they speculate, and share their plain decoding.
    """

    number: int
    values: tuple[Any, ...]
    group: tuple[Any, ...]


@dataclass(frozen=True)
class Study:
    """Fixed fields of :class:`Scenario`, and lists of values of others."""

    fields: Mapping[str, Any]
    axes: Mapping[str, Sequence[Any]]

    def scenario(self, point: Point) -> Scenario:
        """The scenario of a point."""
        return combination(self.fields, self.axes, point.values)

    def points(self) -> list[Point]:
        """Every point, the first axis outermost; no scenario comes twice."""
        apart = [i for i, name in enumerate(self.axes) if name not in OF_SPECULATION]
        return [
            Point(number, values, tuple(values[i] for i in apart))
            for number, values in enumerate(combinations(self.fields, self.axes))
        ]

    @property
    def gpus(self) -> list[str]:
        """The GPUs of its points, as they are named."""
        default = Scenario.model_fields["gpu"].default
        return list(self.axes.get("gpu") or [self.fields.get("gpu", default)])

    def check_names(self, points: Sequence[Point]) -> None:
        """Refuse an unknown name now: every word of the axes is looked up once."""
        seen: set[tuple[int, str]] = set()
        for point in points:
            names = {(i, v) for i, v in enumerate(point.values) if isinstance(v, str)}
            if point.number == 0 or names - seen:
                seen |= names
                try:
                    setup = resolve(self.scenario(point))
                    _ = setup.expectation
                except (InfeasibleError, MissingProfileError):
                    continue  # an answer, if not a happy one

    def files(self) -> list[Path]:
        """Files that the study names, such as a fit or a config.json."""
        values = [*self.fields.values(), *(v for axis in self.axes.values() for v in axis)]
        words = sorted({v for v in values if isinstance(v, str)})
        return [path for path in map(Path, words) if path.suffix and path.is_file()]


def load_study(path: Path | None, sets: Sequence[str], *, preset: str | None = None) -> Study:
    """A study from its file, if there is one, under what ``--set`` says.

    Parameters
    ----------
    sets
        Words such as ``block=4,8,16``; the nearest wins.
    preset
        Where to start from, in place of the file's own.
    """
    layers: list[Layer] = [("--set", _settings(sets))]
    if path is not None:
        layer, own = read_study_file(path)
        layers.append(layer)
        preset = preset or own
    if preset is not None:
        layers.append((f"preset {preset}", load_preset(preset).scenario))
    return study_of(layered(layers))


def read_study_file(path: Path) -> tuple[Layer, str | None]:
    """Read the fields of a study's file, and the preset that it starts from."""
    file = _read(path)
    preset = file.get("preset")
    return (f"study {path}", _fields(path, file)), None if preset is None else str(preset)


def study_of(asked: Mapping[str, Given]) -> Study:
    """Span the study of merged fields: those with several values are its axes.

    Raises
    ------
    UsageError
        It has too many points.
    """
    merged = {name: given.value for name, given in asked.items()}
    axes = {name: merged.pop(name) for name in ORDER if isinstance(merged.get(name), list)}
    size = prod(len(values) for values in axes.values())
    if size > MOST:
        several = ", ".join(f"{len(v)} of {n}" for n, v in axes.items())
        msg = f"a study of {size:,} points ({several}); at most {MOST:,}. Make several of it."
        raise UsageError(msg)
    return Study(merged, axes)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = parse_yaml(read_text(path))
    except UnreadableError as error:
        msg = f"cannot read study {path}: {error}"
        raise UsageError(msg) from error
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        msg = (
            f"study {path}: no 'scenario:' or 'grid:' with fields below it, such as 'conc: 1-32:x2'"
        )
        raise UsageError(msg)
    for key in raw:
        if key in Scenario.model_fields:
            msg = f"study {path}: '{key}' stands alone; put it below 'scenario:' or 'grid:'."
            raise UsageError(msg)
        if key not in KEYS:
            raise unknown(kind="key of a study", value=key, allowed=KEYS)
    return raw


def _fields(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the ``scenario`` and ``grid`` sections, read."""
    found: dict[str, Any] = {}
    for section in ("scenario", "grid"):
        if section not in raw:
            continue
        given = raw[section]
        where = f"study {path}, {section}"
        if not isinstance(given, dict) or not given:
            msg = f"{where}: nothing below it; give fields, such as 'conc: 1-32:x2', or drop it."
            raise UsageError(msg)
        for name, value in given.items():
            if name in found:
                msg = f"{where}: {name} is below 'scenario:' already; give it once."
                raise UsageError(msg)
            known = _known(str(name))
            found[known] = _values(f"{where}, {name}:", known, value)
    return found


def _settings(sets: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in sets:
        name, equals, text = word.partition("=")
        if not equals:
            msg = f"--set {word}: no value; give a field and its values, such as block=4,8,16."
            raise UsageError(msg)
        name = _known(name.strip().replace("-", "_"))
        if name in found:
            msg = f"--set {name} comes twice; give its values in one list, {name}=..."
            raise UsageError(msg)
        found[name] = _values(f"--set {name}", name, text)
    return found


def _known(name: str) -> str:
    if name not in Scenario.model_fields:
        raise unknown(kind="field", value=name, allowed=Scenario.model_fields)
    return name


def _values(where: str, name: str, given: Any) -> Any:
    """A value, or a list of several; text is read as a flag of ``predict`` would be."""
    parts = given if isinstance(given, list) else [given]
    values = list(_spelled(where, name, parts))
    if not values:
        msg = f"{where} an empty list; give values, or leave it out."
        raise UsageError(msg)
    return values if len(values) > 1 or isinstance(given, list) else values[0]


def _spelled(where: str, name: str, parts: Sequence[Any]) -> Iterator[Any]:
    for part in parts:
        if isinstance(part, str):
            yield from _reader(name)(where, part)
        elif part is None or isinstance(part, bool | int | float):
            yield part
        else:
            msg = f"{where} {part!r} is no value; give numbers or words."
            raise UsageError(msg)


def _reader(name: str) -> Callable[[str, str], list[Any]]:
    """Return the reader of a field's text."""
    if name in SWEEPABLE:
        return SWEEPABLE[name]
    kinds = _kinds(Scenario.model_fields[name].annotation)
    if bool in kinds:
        return _switches
    if int in kinds:
        return lambda where, text: whole_numbers(where, text, zero=True)
    if float in kinds:
        return lambda where, text: real_numbers(where, text, zero=True)
    return _laws if name == "acceptance" else words


def _kinds(annotation: Any) -> set[type]:
    """Types inside an annotation such as ``Annotated[int, ...] | None``."""
    inner = get_args(annotation)
    if inner:
        return set[type]().union(*map(_kinds, inner))
    return {annotation} if isinstance(annotation, type) else set()


def _switches(where: str, text: str) -> list[Any]:
    for word in words(where, text):
        if word.lower() not in _SWITCH:
            msg = f"{where} {text}: '{word}' is neither true nor false."
            raise UsageError(msg)
    return [_SWITCH[word.lower()] for word in words(where, text)]


def _laws(_where: str, text: str) -> list[Any]:
    """Acceptance models; the commas inside ``al:6.6,beta=1.1`` separate no models."""
    return re.split(r"\s*,\s*(?=[a-z][a-z-]*(?::|,|$))", text.strip())
