"""Findings of a fit, as plain tables."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from dflash_sim.calibrate.fit.errors import summed
from dflash_sim.calibrate.fit.fit import Fit
from dflash_sim.calibrate.observations.observation import ReadReport
from dflash_sim.profiles.releases.calibration import Calibration, Parameter
from dflash_sim.profiles.releases.engine_sheet import EngineSheet, load_engine
from dflash_sim.profiles.sheets import UNITS
from dflash_sim.studies.show.figures import percent, signed
from dflash_sim.studies.show.frame_table import as_table, written
from dflash_sim.studies.show.plain_table import Table


def conditions(
    fit: Fit, read: ReadReport, refused: Sequence[tuple[str, str]], others: int
) -> Table:
    """Tell what was read, and how the fit ended; ``others`` are rows of other builds."""
    c = fit.calibration
    counts = Counter(p.kind for p in c.parameters)
    cells = len({p.key for p in c.parameters if p.kind == "rejection"})
    lines = (
        ("rows read", f"{read.read}"),
        ("refused", f"{len(read.refused) + len(refused)}"),
        ("fitted", f"{len(fit.rows)}"),
        ("of other builds", f"{others}"),
        ("of other GPUs", f"{read.used - len(refused) - len(fit.rows) - others}"),
        ("engine constants", f"{counts['constant']}"),
        ("correlations of data sets", f"{counts['correlation']}"),
        ("acceptance cells", f"{cells}"),
        ("converged", "yes" if fit.converged else "no"),
        ("discrepancy of a setting", percent(c.discrepancy[0])),
        ("discrepancy of a row", percent(c.discrepancy[1])),
    )
    return Table("fit", ("what", "value"), lines)


def fitted_rows(fit: Fit) -> Table:
    """Errors on the rows that were fitted: how well the model can fit, not how well it predicts."""
    sources = [row.observation.source for row in fit.rows]
    errors = pd.DataFrame({"source": sources, "error": fit.errors})
    found = summed(pd.concat([errors.assign(source="all"), errors]), ["source"])
    return as_table("fitted rows", written(found), ("source", "rows", "MAPE", "bias"))


def constants(fit: Fit) -> Table:
    """Engine constants: prior, posterior with one standard deviation, and what the rows taught."""
    engine = load_engine(fit.calibration.engine)
    lines = []
    for p, x, sd in _of(fit.calibration, "constant"):
        unit = engine.constants[p.key].unit
        ends = f"{_written(p, x - sd, engine)} to {_written(p, x + sd, engine)}"
        prior, found = _written(p, p.prior, engine), _written(p, x, engine)
        lines.append((p.key, unit, prior, found, ends, percent(fit.learned[p.name])))
    head = ("constant", "unit", "prior", "fitted", "one sd", "learned")
    return Table("fitted constants", head, tuple(lines))


def _written(p: Parameter, x: float, engine: EngineSheet) -> str:
    return f"{p.value(x) / UNITS[engine.constants[p.key].unit]:.3g}"


def correlations(fit: Fit) -> Table:
    """Return the correlations of answer length and acceptance, by data set."""
    lines = [
        (p.key, f"{p.value(x):+.2f}", f"{p.value(x - sd):+.2f} to {p.value(x + sd):+.2f}")
        for p, x, sd in _of(fit.calibration, "correlation")
    ]
    return Table("length and acceptance", ("data set", "correlation", "one sd"), tuple(lines))


def limits(fit: Fit) -> Table:
    """Rows far from the fit, and parameters that the rows cannot tell apart."""
    lines = [("outlier", row.name, signed(error)) for row, error in fit.outliers]
    lines += [("not told apart", f"{a}, {b}", f"{r:+.2f}") for a, b, r in fit.undetermined]
    lines = lines or [("none", "-", "-")]
    return Table("limits of the fit", ("what", "which", "value"), tuple(lines))


def _of(c: Calibration, kind: str) -> list[tuple[Parameter, float, float]]:
    found = zip(c.parameters, c.mean.tolist(), c.sd.tolist(), strict=True)
    return [(p, x, sd) for p, x, sd in found if p.kind == kind]


def quoted(tables: Mapping[str, Table]) -> dict[str, str]:
    """Return the figures that sentences of the pages quote, by name."""
    stats = {"rows": "rows", "bias": "bias", "p95": "p95", "coverage": "inside 90 %"}
    studies = {
        "held": "held out by model",
        "clients": "32 clients from one",
        "own client": "32 clients from its own one",
    }
    found = {}
    for name, study in studies.items():
        table = tables[f"{study}: held-out rows"]
        found[f"{name} MAPE"] = table.cell("all", "MAPE")
        found |= {f"{name} {stat}": table.cell("all", head) for stat, head in stats.items()}
        for kind, row in (("plain", "plain decoding"), ("speculative", "speculative")):
            found[f"{name} {kind}"] = table.cell(row, "MAPE")
            found |= {f"{name} {kind} {s}": table.cell(row, head) for s, head in stats.items()}
    pairs = tables["held out by model: pairs ranked right"]
    fit, fitted = tables["fit"], tables["fitted rows"]
    return found | {
        "held ranked": pairs.cell("predicted throughput", "share"),
        "held pairs": pairs.cell("predicted throughput", "pairs"),
        "joint rows": fitted.cell("all", "rows"),
        "joint MAPE": fitted.cell("all", "MAPE"),
        "joint bias": fitted.cell("all", "bias"),
        "free constants": fit.cell("engine constants", "value"),
        "free correlations": fit.cell("correlations of data sets", "value"),
        "cells": fit.cell("acceptance cells", "value"),
    }
