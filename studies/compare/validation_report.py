"""A validation as one HTML page: predicted against observed, residuals by factor, peers."""

from pathlib import Path

from dflash_sim.calibrate.fit.fit import Fit
from dflash_sim.calibrate.fit.held_out import Outcome, Validation, by_factor, stats
from dflash_sim.studies.compare.validation_tables import PEERS, tables
from dflash_sim.studies.show.chart_style import Axis
from dflash_sim.studies.show.charts import Bar, bars
from dflash_sim.studies.show.error_charts import Point, residual_strips, scatter_against
from dflash_sim.studies.show.figures import percent, signed
from dflash_sim.studies.show.html_report import Report
from dflash_sim.studies.show.plain_table import Table

_STRIPS = ("method", "concurrency", "model", "data set")


def write(validation: Validation, path: Path, *, read: str) -> None:
    """Write the report.

    Parameters
    ----------
    read
        How many rows were read, used and refused.
    """
    found = validation.outcomes
    s = stats(found)
    lead = (
        f"{s.n} measured throughputs, {validation.question}. Mean absolute error "
        f"{percent(s.mape)}, mean error {signed(s.bias)}, 95th percentile {percent(s.p95)}; "
        f"{percent(s.coverage)} of the rows lie inside their 90 % interval."
    )
    report = Report("Predicted against observed throughput", lead)
    report.facts({"Rows": read, "Question": validation.question, "Engine": _engines(validation)})
    report.section("Predicted against observed")
    order = sorted({o.factors["method"] for o in found})
    report.figure(
        scatter_against([_point(o) for o in found], order=order),
        "Each point is one measured row; bars are 90 % intervals.",
    )
    strips = {f: g for f in _STRIPS if len(g := by_factor(found, f)) > 1}
    if strips:
        report.section("Residuals", "A level whose rows lie to one side is one we get wrong.")
    for factor, groups in strips.items():
        points = {level: [_point(o) for o in group] for level, group in groups.items()}
        report.figure(residual_strips(points, factor=factor, order=order), f"By {factor}.")
    _beside_peers(report, found)
    report.section("Numbers")
    for table in tables(validation):
        _table(report, table)
    for fit in validation.fits:
        _constants(report, fit)
    report.write(path)


def _point(o: Outcome) -> Point:
    return Point(
        name=o.row.name,
        group=o.factors["method"],
        observed=o.observed,
        predicted=o.predicted,
        low=o.low,
        high=o.high,
    )


def _engines(validation: Validation) -> str:
    names = {c.engine for c in validation.calibrations}
    return ", ".join(sorted(names)) or "priors only"


def _beside_peers(report: Report, found: tuple[Outcome, ...]) -> None:
    plain = [o for o in found if o.row.scenario.method == "none"]
    if not plain:
        return
    report.section(
        "Beside peers",
        "Plain decoding only. The peers' figures are on published B200 baselines, "
        "theirs and not these very rows.",
    )
    theirs = [Bar(name=name, value=float(mape.split()[0])) for name, mape, _ in PEERS]
    ours = Bar(name=f"dflash-sim, {len(plain)} rows", value=100 * stats(plain).mape)
    report.figure(bars([ours, *theirs], axis=Axis("MAPE", "%")), "Mean absolute error.")


def _constants(report: Report, fit: Fit) -> None:
    c = fit.calibration
    lines = []
    for p, x, sd in zip(c.parameters, c.mean.tolist(), c.sd.tolist(), strict=True):
        if p.kind in ("constant", "correlation", "generation"):
            ends = f"{p.value(x - sd):.4g} to {p.value(x + sd):.4g}"
            share = percent(fit.learned[p.name])
            lines.append((p.name, f"{p.value(p.prior):.4g}", f"{p.value(x):.4g}", ends, share))
    head = ("parameter (SI)", "prior", "fitted", "one sd", "learned")
    caption = f"Fitted on {len(fit.rows)} rows, to predict {c.name}."
    _table(report, Table(caption, head, tuple(lines)))


def _table(report: Report, table: Table) -> None:
    report.table(table.head, table.rows, table.title)
