"""A validation as one HTML page: predicted against observed, residuals by factor, peers."""

from pathlib import Path

import pandas as pd

from dflash_sim.calibrate.fit.errors import error_table, in_order, summed
from dflash_sim.calibrate.fit.fit import Fit
from dflash_sim.calibrate.fit.held_out import Validation
from dflash_sim.studies.compare.validation_tables import PEERS, tables
from dflash_sim.studies.show.chart_style import Axis
from dflash_sim.studies.show.charts import Bar, bars
from dflash_sim.studies.show.error_charts import Point, residual_strips, scatter_against
from dflash_sim.studies.show.figures import percent, signed
from dflash_sim.studies.show.html_report import Report
from dflash_sim.studies.show.palette import Palette
from dflash_sim.studies.show.plain_table import Table

_STRIPS = ("method", "concurrency", "model", "data set")


def write(validation: Validation, path: Path, *, read: str) -> None:
    """Write the report.

    Parameters
    ----------
    read
        How many rows were read, used and refused.
    """
    errors = error_table(validation.outcomes)
    all_of = summed(errors.assign(what="all"), ["what"]).iloc[0]
    lead = (
        f"{all_of['rows']} measured throughputs, {validation.question}. Mean absolute error "
        f"{percent(all_of['MAPE'])}, mean error {signed(all_of['bias'])}, 95th percentile "
        f"{percent(all_of['p95'])}; {percent(all_of['inside 90 %'])} of the rows lie inside their "
        "90 % interval."
    )
    palette = Palette(sorted(set(errors["method"])))
    report = Report("Predicted against observed throughput", lead, palette)
    report.facts({"Rows": read, "Question": validation.question, "Engine": _engines(validation)})
    report.section("Predicted against observed")
    report.figure(
        scatter_against(_points(errors), palette=palette),
        "Each point is one measured row; bars are 90 % intervals.",
    )
    strips = [factor for factor in _STRIPS if errors[factor].nunique() > 1]
    if strips:
        report.section("Residuals", "A level whose rows lie to one side is one we get wrong.")
    for factor in strips:
        levels = in_order(errors, factor).groupby(factor, sort=False)
        points = {str(level): _points(group) for level, group in levels}
        report.figure(residual_strips(points, factor=factor, palette=palette), f"By {factor}.")
    _beside_peers(report, errors[~errors["speculative"]])
    report.section("Numbers")
    for table in tables(validation):
        _table(report, table)
    for fit in validation.fits:
        _constants(report, fit)
    report.write(path)


def _points(errors: pd.DataFrame) -> list[Point]:
    columns = ["name", "method", "observed", "predicted", "low", "high"]
    return [
        Point(name=name, group=method, observed=seen, predicted=ours, low=low, high=high)
        for name, method, seen, ours, low, high in errors[columns].itertuples(index=False)
    ]


def _engines(validation: Validation) -> str:
    names = {c.engine for c in validation.calibrations}
    return ", ".join(sorted(names)) or "priors only"


def _beside_peers(report: Report, plain: pd.DataFrame) -> None:
    if plain.empty:
        return
    report.section(
        "Beside peers",
        "Plain decoding only. The peers' figures are on published B200 baselines, "
        "theirs and not these very rows.",
    )
    peers = ((name, float(mape.split()[0])) for name, mape, _ in PEERS)
    theirs = [Bar(name=name, value=mape, group="peers") for name, mape in peers]
    mape = 100 * plain["error"].abs().mean()
    ours = Bar(name=f"dflash-sim, {len(plain)} rows", value=mape, group="dflash-sim")
    figure = bars([ours, *theirs], axis=Axis("MAPE", "%"), palette=report.palette)
    report.figure(figure, "Mean absolute error.")


def _constants(report: Report, fit: Fit) -> None:
    c = fit.calibration
    lines = []
    for p, x, sd in zip(c.parameters, c.mean.tolist(), c.sd.tolist(), strict=True):
        if p.kind in ("constant", "correlation", "build"):
            ends = f"{p.value(x - sd):.4g} to {p.value(x + sd):.4g}"
            share = percent(fit.learned[p.name])
            lines.append((p.name, f"{p.value(p.prior):.4g}", f"{p.value(x):.4g}", ends, share))
    head = ("parameter (SI)", "prior", "fitted", "one sd", "learned")
    caption = f"Fitted on {len(fit.rows)} rows, to predict {c.name}."
    _table(report, Table(caption, head, tuple(lines)))


def _table(report: Report, table: Table) -> None:
    report.table(table.head, table.rows, table.title)
