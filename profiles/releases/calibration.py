"""Calibrations: what a fit to measured throughput found, and how certain it is."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import find_sheet
from dflash_sim.profiles.one_look import seen
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.releases.server_levels import FACTORS, Server, together
from dflash_sim.profiles.ways_in import UnreadableError, parse_toml, read_text

KINDS = ("constant", *FACTORS, "correlation", "rejection", "decay")
SCALES = ("log", "logit", "atanh", "asinh", "linear")
FORMAT = 1
_WIDEST = 30.0  # beyond exp(30) a factor is no factor
_NARROWEST = 1e-12  # standard deviation of a prior, which is divided by
_FORMERLY = ("build", "generation")  # kinds of older files: the time factor of a build
_DIGITS = 6  # of a correlation
_KEPT = 8  # calibrations that stay parsed
_CORRELATIONS = re.compile(r"^\[posterior\]\ncorrelation = (\[\n(?: *\[[^]\n]*\],\n)+\])$", re.M)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Parameter:
    """One unknown of a fit, with a Gaussian prior on a scale where it has no bounds.

    Parameters
    ----------
    kind
        ``constant`` of the engine sheet; one of :data:`~.server_levels.FACTORS`, by level;
        ``correlation`` of answer length and acceptance, by data set; ``rejection`` and ``decay``
        of acceptance, by cell: the log of the factor on the rejection rate, and what adds to beta.
    key
        The constant, level (``gpu=h200``), data set or cell.
    scale
        ``log``, ``logit``, ``atanh``, ``asinh`` (the exponential of the inverse hyperbolic sine:
        as ``log`` near 1, and a straight line above) or ``linear``.
    prior, sd
        Mean and standard deviation on that scale [1].
    """

    kind: str
    key: str
    scale: str
    prior: float
    sd: float

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.key}"

    def value(self, x: float) -> float:
        """The number at ``x`` on the unbounded scale (SI for constants)."""
        if self.scale == "log":
            return math.exp(x)
        if self.scale == "asinh":
            return math.exp(math.asinh(x))
        if self.scale == "logit":
            return 1 / (1 + math.exp(-x))
        return math.tanh(x) if self.scale == "atanh" else x


def cell(model: str, method: str, dataset: str | None, thinking: bool) -> str:
    """The name of an acceptance cell; prompts of fixed length are of no data set."""
    if dataset is None:
        return f"{model}/{method}/no data set"
    return f"{model}/{method}/{dataset}/{'thinking' if thinking else 'plain'}"


def constant_prior(engine: EngineSheet, name: str) -> Parameter:
    """The prior of an engine constant: its sheet's value and relative error."""
    quantity = engine.constants[name]
    scale = "logit" if name in engine.fit.shares else "log"
    if scale == "logit":
        odds = quantity.value / (1 - quantity.value)
        return Parameter(
            "constant", name, scale, math.log(odds), quantity.rel_err / (1 - quantity.value)
        )
    return Parameter("constant", name, scale, math.log(quantity.si), quantity.rel_err)


@dataclass(frozen=True)
class Calibration:
    """The outcome of a fit.

    Parameters
    ----------
    name, engine
        The calibration, and the engine sheet whose constants it refines.
    parameters, mean, covariance
        Unknowns, posterior mean and covariance on their unbounded scales.
    discrepancy
        Relative standard deviation of what the model gets wrong in one setting whatever its
        constants, and the part of it that differs by row [1].
    rows
        Names of the observations it was fitted on.
    about
        Date, sources, and what else a reader should know.
    """

    name: str
    engine: str
    parameters: tuple[Parameter, ...]
    mean: Floats
    covariance: Floats
    discrepancy: tuple[float, float]
    rows: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    @property
    def values(self) -> dict[str, float]:
        """Numbers by parameter name, in SI."""
        pairs = zip(self.parameters, self.mean.tolist(), strict=True)
        return {p.name: p.value(x) for p, x in pairs}

    @property
    def sd(self) -> Floats:
        """Posterior standard deviations on the unbounded scales."""
        return np.sqrt(np.diagonal(self.covariance))

    @property
    def sources(self) -> frozenset[str]:
        """Sources whose rows it was fitted on, at home and elsewhere."""
        about = self.about
        return frozenset((*about.get("sources", ()), *about.get("server_sources", ())))

    @property
    def known_levels(self) -> frozenset[str]:
        """Levels that rows have spoken of, such as ``gpu=h200``."""
        return frozenset(p.key for p in self.parameters if p.kind in FACTORS)

    def applied(self, engine: EngineSheet, server: Server | None = None) -> EngineSheet:
        """The engine sheet with the fitted constants, times what is known of a server.

        Constants that the server's architecture has of its own keep their values.
        """
        values = self.values
        fitted = [p for p in self.parameters if p.kind == "constant" and p.key not in engine.own]
        found = {p.key: values[p.name] for p in fitted}
        keys = server.keys if server else ()
        for name, factor in FACTORS.items():
            here = [values[f"{name}:{key}"] for key in keys if f"{name}:{key}" in values]
            if here:
                base = found.get(factor.constant, engine.si[factor.constant])
                found[factor.constant] = base * together(name, here)
        return engine.fitted(found)

    def to_toml(self) -> str:
        """Text that :func:`read_calibration` reads back."""
        lines = [
            f"format = {FORMAT}",
            f"name = {_quoted(self.name)}",
            f"engine = {_quoted(self.engine)}",
            f"discrepancy = [{self.discrepancy[0]:.5g}, {self.discrepancy[1]:.5g}]",
            "",
            "[about]",
            *(f"{key} = {_quoted(value)}" for key, value in self.about.items()),
            "",
        ]
        for p, x, sd in zip(self.parameters, self.mean.tolist(), self.sd.tolist(), strict=True):
            lines += [
                "[[parameters]]",
                f"kind = {_quoted(p.kind)}",
                f"key = {_quoted(p.key)}",
                f"value = {p.value(x):.6g}",
                f"scale = {_quoted(p.scale)}",
                f"mean = {x:.8g}",
                f"sd = {sd:.6g}",
                f"prior = [{p.prior:.8g}, {p.sd:.6g}]",
                "",
            ]
        unit = self.covariance / np.outer(self.sd, self.sd)
        lines.append("# Correlations of the above, the lower triangle by rows.")
        lines.append("[posterior]\ncorrelation = [")
        for i, row in enumerate(unit):
            lines.append("  [" + ", ".join(f"{round(c, _DIGITS):g}" for c in row[:i]) + "],")
        lines += ["]", f"rows = {_quoted(list(self.rows), indent=1)}", ""]
        return "\n".join(lines)


def _quoted(value: Any, indent: int | None = None) -> str:
    """Words, truths and lists of them in JSON, which is TOML but for what it does to an emoji."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def read_calibration(path: Path) -> Calibration:
    """Read a calibration file as it is now.

    Raises
    ------
    UsageError
        It is no calibration, or not one of this version.
    """
    try:
        return _parsed(seen(path, _text), path)
    except (UnreadableError, OSError) as error:
        msg = f"calibration {path}: {getattr(error, 'strerror', None) or error}; make one with "
        raise UsageError(msg + '"dflash-sim calibrate fit".') from error
    except KeyError as error:
        msg = f"{path} is no calibration: it lacks {error}; make one with "
        raise UsageError(msg + '"dflash-sim calibrate fit".') from error
    except (TypeError, ValueError, IndexError) as error:
        msg = f"{path} is no calibration ({error}); make one with "
        raise UsageError(msg + '"dflash-sim calibrate fit".') from error


def _text(path: Path) -> str:
    return read_text(path)


@lru_cache(maxsize=_KEPT)  # by what the file says: a name or a date may outlive its text
def _parsed(text: str, path: Path) -> Calibration:
    try:
        raw = _raw(text)
    except UnreadableError as error:
        raise ValueError(*error.args) from error  # the file was read, and is something else
    if raw["format"] != FORMAT:
        msg = f"{path}: calibration format {raw['format']}; this version reads {FORMAT}. "
        raise UsageError(msg + 'Make it anew with "dflash-sim calibrate fit".')
    return _from(raw)


def _raw(text: str) -> dict[str, Any]:
    """What the text says; correlations as we write them, most of it, are read as JSON."""
    found = _CORRELATIONS.search(text)
    if found is not None:
        with suppress(ValueError, KeyError, TypeError):
            raw = parse_toml(f"{text[: found.start(1)]}[]{text[found.end(1) :]}")
            if raw["posterior"]["correlation"] == []:
                raw["posterior"]["correlation"] = json.loads(found[1][: -len(",\n]")] + "]")
                return raw
    return parse_toml(text)


def _from(raw: Mapping[str, Any]) -> Calibration:
    parameters, mean, sd = [], [], []
    for p in raw["parameters"]:
        kind, key = p["kind"], p["key"]
        if kind in _FORMERLY:
            kind, key = "time", f"build={key}"
        if kind not in KINDS or p["scale"] not in SCALES:
            msg = f"parameter of kind {p['kind']!r} on scale {p['scale']!r}"
            raise ValueError(msg)
        prior, prior_sd = p["prior"]
        if not isinstance(key, str):
            msg = f"parameter of kind {kind}: key {key!r}; it must be a text"
            raise ValueError(msg)
        parameter = Parameter(kind, key, p["scale"], float(prior), float(prior_sd))
        _check(parameter, p)
        parameters.append(parameter)
        mean.append(float(p["mean"]))
        sd.append(float(p["sd"]))
    covariance = _covariance(sd, raw["posterior"]["correlation"])
    first, second = raw["discrepancy"]
    for what in (first, second):
        _within("discrepancy", what, 0.0, _WIDEST)
    for name in ("name", "engine"):
        if not isinstance(raw[name], str):
            msg = f"{name} is {raw[name]!r}; it must be a text"
            raise ValueError(msg)
    rows, about = raw["posterior"]["rows"], raw["about"]
    if not isinstance(about, Mapping) or not all(isinstance(row, str) for row in rows):
        msg = "about must be a table, and rows names"
        raise ValueError(msg)
    for key in ("sources", "server_sources"):
        if not all(isinstance(source, str) for source in about.get(key, ())):
            msg = f"about, {key} must be names"
            raise ValueError(msg)
    return Calibration(
        name=raw["name"],
        engine=raw["engine"],
        parameters=tuple(parameters),
        mean=np.array(mean),
        covariance=covariance,
        discrepancy=(float(first), float(second)),
        rows=tuple(rows),
        about=about,
    )


def _check(parameter: Parameter, p: Mapping[str, Any]) -> None:
    """Refuse numbers that no fit writes, and a value that is not that of its mean."""
    where = f"parameter {parameter.name}"
    _within(f"{where}: mean", p["mean"], -_WIDEST, _WIDEST)
    _within(f"{where}: sd", p["sd"], 0.0, _WIDEST)
    _within(f"{where}: prior mean", p["prior"][0], -_WIDEST, _WIDEST)
    _within(f"{where}: prior sd", p["prior"][1], _NARROWEST, _WIDEST)
    meant = parameter.value(float(p["mean"]))
    if "value" in p and not math.isclose(float(p["value"]), meant, rel_tol=1e-3, abs_tol=1e-9):
        msg = (
            f"{where}: value {p['value']} is not that of mean {p['mean']} on its {parameter.scale} "
            f"scale, {meant:g}; change both, or leave the value out"
        )
        raise ValueError(msg)


def _within(where: str, value: Any, least: float, most: float) -> None:
    """Refuse what is no number, or one that no fit writes."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        msg = f"{where} is {value!r}; it must be from {least:g} to {most:g}"
        raise ValueError(msg)


def _covariance(sd: Sequence[float], lower: Sequence[Sequence[float]]) -> Floats:
    unit = np.eye(len(sd))
    for i, row in enumerate(lower):
        for c in row:
            if type(c) not in (float, int) or not -1.0 <= c <= 1.0:
                _within(f"correlation, row {i + 1}: a value", c, -1.0, 1.0)
        unit[i, :i] = unit[:i, i] = row[:i]
    try:
        np.linalg.cholesky(unit)
    except np.linalg.LinAlgError:  # rounded, they may be a shade outside the positive ones
        values, vectors = np.linalg.eigh(unit)
        unit = (vectors * np.maximum(values, 0.0)) @ vectors.T
    found: Floats = unit * np.outer(sd, sd)
    return found


def load_calibration(name: str, engine: EngineSheet) -> Calibration | None:
    """The calibration called ``name``: ``none``, ``shipped`` (None where there is none), or a file.

    An engine sheet that has none of its own shares that of its home.

    Raises
    ------
    UsageError
        The file is no calibration, or one of another engine.
    """
    if name == "none":
        return None
    kin = dict.fromkeys((engine.name, engine.fit.home.get("release", engine.name)))
    if name == "shipped":
        paths = (find_sheet("calibrations", each, ".toml") for each in kin)
        path = next((p for p in paths if p is not None), None)
        return None if path is None else read_calibration(path)
    found = read_calibration(Path(name))
    if found.engine not in kin:
        msg = (
            f"calibration {name} is for {found.engine}, not {engine.name}; "
            f"give --engine {found.engine}."
        )
        raise UsageError(msg)
    return found
