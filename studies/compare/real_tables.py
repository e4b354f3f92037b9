"""What the closed loop found, as tables and as one HTML page."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dflash_sim.calibrate.realloop.outcomes import Outcome, is_fitted, machine_scalar, speedups
from dflash_sim.studies.show.figures import signed
from dflash_sim.studies.show.plain_table import Table

NEAR = 0.03  # methods whose observed speeds differ less are not put in order


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


def _speedups(outcomes: Sequence[Outcome]) -> Table:
    lines = [
        (o.config.name, str(o.config.conc), o.config.mode, f"{p:.2f}", f"{s:.2f}",
         signed(p / s - 1))
        for o, p, s in speedups(outcomes)
    ]  # fmt: skip
    head = ("method", "conc", "mode", "predicted", "observed", "error")
    return Table("speed-up over plain decoding, from rehearsed passes", head, tuple(lines))


def figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The numbers that a target can be held against [1]."""
    scalar = machine_scalar(outcomes)
    profile = [abs(o.profile_tok_s / o.observed_tok_s - 1) for o in outcomes]
    scaled = [abs(_scaled_error(o, scalar)) for o in outcomes if not is_fitted(o, outcomes)]
    rehearsed = [abs(o.error) for o in outcomes]
    as_it_ran = [abs(o.predicted_tok_s / o.measured_tok_s - 1) for o in outcomes]
    ratios = [abs(p / s - 1) for _, p, s in speedups(outcomes)]
    right, pairs = _ordered(outcomes)
    gains = _overlap_gains(outcomes)
    return {
        "mape_profile": statistics.fmean(profile),
        "worst_profile": max(profile),
        "mape_scaled": statistics.fmean(scaled) if scaled else 0.0,
        "worst_scaled": max(scaled, default=0.0),
        "scalar": scalar,
        "mape": statistics.fmean(rehearsed),
        "worst": max(rehearsed),
        "mape_as_it_ran": statistics.fmean(as_it_ran),
        "speedup_mape": statistics.fmean(ratios) if ratios else 0.0,
        "pairs_right": float(right),
        "pairs": float(pairs),
        "overlap_gap": max((abs(p - s) for p, s in gains), default=0.0),
    }


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
    if any(speedups(outcomes)):
        lines.append(("speed-up over plain, MAPE", f"{f['speedup_mape']:.1%}"))
    if f["pairs"]:
        order = f"pairs of methods in the right order (of {f['pairs']:.0f})"
        lines.append((order, f"{f['pairs_right']:.0f}"))
    if _overlap_gains(outcomes):
        gap = f"{100 * f['overlap_gap']:.1f}"
        lines.append(("V2 over V1, largest gap of the gains in points", gap))
    return Table("together", ("figure", "value"), tuple(lines))


def _ordered(outcomes: Sequence[Outcome]) -> tuple[int, int]:
    """Pairs of methods at one concurrency and mode that are predicted in the right order."""
    right = pairs = 0
    for i, a in enumerate(outcomes):
        for b in outcomes[i + 1 :]:
            same = (a.config.conc, a.config.mode) == (b.config.conc, b.config.mode)
            apart = abs(a.observed_tok_s / b.observed_tok_s - 1) > NEAR
            if same and apart:
                pairs += 1
                first = a.observed_tok_s > b.observed_tok_s
                right += first == (a.predicted_tok_s > b.predicted_tok_s)
    return right, pairs


def _overlap_gains(outcomes: Sequence[Outcome]) -> list[tuple[float, float]]:
    """Gain of V2 over V1, predicted and observed [1]."""
    of: Mapping[Any, Outcome] = {
        (o.config.method, o.config.rows, o.config.conc, o.config.mode): o for o in outcomes
    }
    found = []
    for o in outcomes:
        c = o.config
        other = of.get((c.method, c.rows, c.conc, "v2"))
        if c.mode == "v1" and other is not None:
            found.append(
                (
                    other.predicted_tok_s / o.predicted_tok_s - 1,
                    other.observed_tok_s / o.observed_tok_s - 1,
                )
            )
    return found


def write_report(outcomes: Sequence[Outcome], path: Path, *, machine: str, model: str) -> None:
    """One self-contained page: predicted against observed, residuals, the tables."""
    from dflash_sim.studies.show.error_charts import Point, residual_strips, scatter_against
    from dflash_sim.studies.show.html_report import Report

    f = figures(outcomes)
    lead = (
        f"{len(outcomes)} configurations of our own engine, measured, predicted and run on one "
        f"machine. Mean absolute error {f['mape_profile']:.1%} from the measured profile, "
        f"{f['mape_scaled']:.1%} with one scalar, {f['mape']:.1%} from passes rehearsed in the "
        f"engine's own workers (worst {f['worst']:.1%})."
    )
    report = Report("The closed loop: predicted against real runs", lead)
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
    order = list(dict.fromkeys(p.group for p in points))
    report.section("Predicted against observed")
    report.figure(scatter_against(points, order=order), "Each point is one configuration.")
    report.section("Residuals")
    for factor, level in (("concurrency", "conc"), ("mode", "mode")):
        strips: dict[str, list[Point]] = {}
        for o, p in zip(outcomes, points, strict=True):
            strips.setdefault(str(getattr(o.config, level)), []).append(p)
        if len(strips) > 1:
            report.figure(residual_strips(strips, factor=factor, order=order), f"By {factor}.")
    report.section("Numbers")
    for table in tables(outcomes):
        report.table(table.head, table.rows, table.title)
    report.write(path)
