"""Findings of the closed loop, as tables and as one HTML page."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dflash_sim.calibrate.fit.errors import ranked_right, speedups
from dflash_sim.calibrate.realloop.outcomes import Outcome, is_fitted, machine_scalar
from dflash_sim.studies.show.figures import signed
from dflash_sim.studies.show.frame_table import as_table, written
from dflash_sim.studies.show.plain_table import Table


def tables(outcomes: Sequence[Outcome]) -> list[Table]:
    """Every configuration, then what they say together."""
    return [_rows(outcomes), _speedups(outcomes), _summary(outcomes)]


def _rows(outcomes: Sequence[Outcome]) -> Table:
    scalar = machine_scalar(outcomes)
    lines = [
        (
            o.config.name,
            str(o.config.conc),
            o.config.mode,
            f"{o.measured_tok_s:.0f}",
            f"{o.slowdown:.2f}",
            f"{o.observed_tok_s:.0f}",
            f"{o.spread:.1%}",
            f"{o.profile_tok_s:.0f}",
            signed(o.profile_tok_s / o.observed_tok_s - 1),
            "fitted" if is_fitted(o, outcomes) else signed(_scaled_error(o, scalar)),
            f"{o.predicted_tok_s:.0f}",
            signed(o.error),
            f"{o.accept_predicted:.2f}",
            f"{o.accept_observed:.2f}",
            f"{max(o.drift, o.others):.1%}" + ("" if o.steady else " !"),
        )
        for o in outcomes
    ]
    head = (
        "method", "conc", "mode", "observed", "slowdown", "at its quickest", "s.e.", "profile",
        "error", "scaled", "rehearsed", "its error", "accept pred", "accept obs", "disturbed",
    )  # fmt: skip
    return Table("real throughput and predictions, tok/s", head, tuple(lines))


def _scaled_error(o: Outcome, scalar: float) -> float:
    return o.profile_tok_s * scalar / o.observed_tok_s - 1


def _frame(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """The runs as a table of errors; those of one question ran the same requests in one mode."""
    lines = [
        {
            "name": o.config.name,
            "method": o.config.method,
            "speculative": not o.config.plain,
            "width": o.config.rows,
            "conc": o.config.conc,
            "mode": o.config.mode,
            "question": (o.config.conc, o.config.mode),
            "observed": o.observed_tok_s,
            "predicted": o.predicted_tok_s,
            "error": o.error,
        }
        for o in outcomes
    ]
    return pd.DataFrame(lines)


def _speedups(outcomes: Sequence[Outcome]) -> Table:
    found = written(speedups(_frame(outcomes)))
    for what in ("predicted", "observed"):
        found[what] = found[what].map("{:.2f}".format)
    head = ("method", "conc", "mode", "predicted", "observed", "error")
    shown = found.drop(columns="method").rename(columns={"name": "method"})
    return as_table("speed-up over plain decoding, from rehearsed passes", shown, head)


def figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The numbers that a target can be held against [1]."""
    scalar, runs = machine_scalar(outcomes), _frame(outcomes)
    profile = [abs(o.profile_tok_s / o.observed_tok_s - 1) for o in outcomes]
    scaled = [abs(_scaled_error(o, scalar)) for o in outcomes if not is_fitted(o, outcomes)]
    as_it_ran = [abs(o.predicted_tok_s / o.measured_tok_s - 1) for o in outcomes]
    gains = speedups(runs)["error"].abs()
    right, pairs = ranked_right(runs)
    return {
        "mape_profile": statistics.fmean(profile),
        "worst_profile": max(profile),
        "mape_scaled": statistics.fmean(scaled) if scaled else 0.0,
        "worst_scaled": max(scaled, default=0.0),
        "scalar": scalar,
        "mape": float(runs["error"].abs().mean()),
        "worst": float(runs["error"].abs().max()),
        "mape_as_it_ran": statistics.fmean(as_it_ran),
        "speedup_mape": float(gains.mean()) if len(gains) else 0.0,
        "pairs_right": float(right),
        "pairs": float(pairs),
        "overlap_gap": float(_overlap_gaps(runs).max()) if len(_overlap_gaps(runs)) else 0.0,
    }


def _overlap_gaps(runs: pd.DataFrame) -> pd.Series:
    """Return the distance of predicted from observed gain of V2 over V1, by configuration [1]."""
    v1, v2 = (runs[runs["mode"] == mode] for mode in ("v1", "v2"))
    both = v1.merge(v2, on=["method", "width", "conc"], suffixes=("", " v2"))
    gains = [both[f"{what} v2"] / both[what] for what in ("predicted", "observed")]
    return (gains[0] - gains[1]).abs()


def _summary(outcomes: Sequence[Outcome]) -> Table:
    f = figures(outcomes)
    lines = [
        ("configurations", str(len(outcomes))),
        ("of them undisturbed", str(sum(o.steady for o in outcomes))),
        ("MAPE, passes of the profile", f"{f['mape_profile']:.1%}"),
        ("worst", f"{f['worst_profile']:.1%}"),
        (
            f"MAPE, times {f['scalar']:.3f} fitted on the least plain decoding, elsewhere",
            f"{f['mape_scaled']:.1%}",
        ),
        ("worst with it", f"{f['worst_scaled']:.1%}"),
        ("MAPE, passes rehearsed in the workers", f"{f['mape']:.1%}"),
        ("worst with them", f"{f['worst']:.1%}"),
        ("MAPE of these, nothing left out or taken off", f"{f['mape_as_it_ran']:.1%}"),
    ]
    runs = _frame(outcomes)
    if len(speedups(runs)):
        lines.append(("speed-up over plain, MAPE", f"{f['speedup_mape']:.1%}"))
    if f["pairs"]:
        order = f"pairs of methods in the right order (of {f['pairs']:.0f})"
        lines.append((order, f"{f['pairs_right']:.0f}"))
    if len(_overlap_gaps(runs)):
        gap = f"{100 * f['overlap_gap']:.1f}"
        lines.append(("V2 over V1, largest gap of the gains in points", gap))
    return Table("together", ("figure", "value"), tuple(lines))


def write_report(outcomes: Sequence[Outcome], path: Path, *, machine: str, model: str) -> None:
    """One self-contained page: predicted against observed, residuals, the tables."""
    from dflash_sim.studies.show.error_charts import Point, residual_strips, scatter_against
    from dflash_sim.studies.show.html_report import Report
    from dflash_sim.studies.show.palette import Palette

    f = figures(outcomes)
    lead = (
        f"{len(outcomes)} configurations of our own engine, measured, predicted and run on one "
        f"machine. Mean absolute error {f['mape_profile']:.1%} from the measured profile, "
        f"{f['mape_scaled']:.1%} with one scalar, {f['mape']:.1%} from passes rehearsed in the "
        f"engine's own workers (worst {f['worst']:.1%})."
    )
    palette = Palette(o.config.name for o in outcomes)
    report = Report("The closed loop: predicted against real runs", lead, palette)
    report.facts({"Machine": machine, "Model": model, "Scalar": f"{f['scalar']:.3f}"})
    points = [
        Point(
            name=f"{o.config.name} c={o.config.conc} {o.config.mode}",
            group=o.config.name,
            observed=o.observed_tok_s,
            predicted=o.predicted_tok_s,
        )
        for o in outcomes
    ]
    report.section("Predicted against observed")
    report.figure(scatter_against(points, palette=palette), "Each point is one configuration.")
    report.section("Residuals")
    for factor, level in (("concurrency", "conc"), ("mode", "mode")):
        strips: dict[str, list[Point]] = {}
        for o, p in zip(outcomes, points, strict=True):
            strips.setdefault(str(getattr(o.config, level)), []).append(p)
        if len(strips) > 1:
            figure = residual_strips(strips, factor=factor, palette=palette)
            report.figure(figure, f"By {factor}.")
    report.section("Numbers")
    for table in tables(outcomes):
        report.table(table.head, table.rows, table.title)
    report.write(path)
