"""A fit on a page: what was learned, what was left open, and what does not fit."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dflash_sim.calibrate.fit.fit import Fit
from dflash_sim.calibrate.fit.identifiability import open_directions
from dflash_sim.calibrate.fit.residual_patterns import SUSPECT
from dflash_sim.calibrate.fit.verdict import misread
from dflash_sim.profiles.releases.calibration import Calibration, Parameter
from dflash_sim.profiles.releases.engine_sheet import HOME, EngineSheet
from dflash_sim.profiles.releases.server_levels import FACTORS
from dflash_sim.profiles.sheets import UNITS
from dflash_sim.studies.compare.fit_question import Chosen
from dflash_sim.studies.show.figures import percent, signed
from dflash_sim.studies.show.plain_table import Table, text_of

_TOLD = 0.9  # a server's factor that is left this uncertain and unmoved goes unsaid [prior sd]
_MOVED = 1.0  # prior sds: what an acceptance cell may move without a word
_MOST, _PARTS = 6, 3  # lines about what is left open, parameters in each
_NOTHING = 1e-6  # of the prior variance along a direction [1]


def page(fit: Fit, chosen: Chosen) -> str:
    """The whole page."""
    c = fit.calibration
    build = chosen.engine.fit.build
    title = f"{c.name}: {len(fit.rows)} rows fitted, {c.engine} of {build}"
    parts = [title, text_of(tables(fit, chosen.engine)).rstrip(), "\n".join(remarks(fit))]
    return "\n\n".join(parts) + "\n"


def tables(fit: Fit, engine: EngineSheet) -> list[Table]:
    """Return the tables that have something to show."""
    c = fit.calibration
    found = [
        constants(c, engine),
        _of_kind("correlation", "length and acceptance", "data set", c),
        cells(c),
        servers(c),
        errors(fit),
        outliers(fit),
        unsettled(fit),
    ]
    return [table for table in found if table.rows]


def constants(c: Calibration, engine: EngineSheet) -> Table:
    """Engine constants, before and after, and how far they went."""
    lines = []
    for p, x, sd in _estimates(c, "constant"):
        unit = engine.constants[p.key].unit
        si = UNITS[unit]
        prior, found = _with_sd(p, p.prior, p.sd, si), _with_sd(p, x, sd, si)
        lines.append((p.key, unit, prior, found, _moved(p, x), _learned(p, sd)))
    head = ("constant", "unit", "prior", "fitted", "moved", "learned")
    return Table("engine constants", head, tuple(lines))


def _of_kind(kind: str, title: str, what: str, c: Calibration) -> Table:
    lines = [
        (p.key, _with_sd(p, p.prior, p.sd), _with_sd(p, x, sd), _moved(p, x), _learned(p, sd))
        for p, x, sd in _estimates(c, kind)
    ]
    return Table(title, (what, "prior", "fitted", "moved", "learned"), tuple(lines))


def servers(c: Calibration) -> Table:
    """Factors of the server, over the home of the constants, and what each is on."""
    lines = [
        (factor.words, p.key, _with_sd(p, p.prior, p.sd), _with_sd(p, x, sd), _learned(p, sd))
        for name, factor in FACTORS.items()
        for p, x, sd in _estimates(c, name)
        if sd < _TOLD * p.sd or abs(x - p.prior) > (1 - _TOLD) * p.sd
    ]
    head = ("factor on", "of", "prior", "fitted", "learned")
    return Table("this server, times home", head, tuple(lines))


def cells(c: Calibration) -> Table:
    """Acceptance that throughput moved by more than one prior standard deviation."""
    every = [*_estimates(c, "rejection"), *_estimates(c, "decay")]
    lines = [
        (p.key, p.kind, f"{x:+.3f} ± {sd:.3f}", _moved(p, x), _learned(p, sd))
        for p, x, sd in every
        if abs(x - p.prior) > _MOVED * p.sd
    ]
    number = len({p.key for p, _, _ in every})
    title = f"acceptance that moved, of {number} cells"
    return Table(title, ("cell", "what", "by", "moved", "learned"), tuple(lines))


def errors(fit: Fit) -> Table:
    """Return how far the rows are from the fit, and from a fit to the others."""
    kinds = {
        "as fitted (not an accuracy)": fit.errors,
        "each from the other rows": fit.left_out,
    }
    lines = [
        (name, percent(float(np.abs(e).mean())), signed(float(e.mean())), signed(_worst(e)))
        for name, e in kinds.items()
    ]
    return Table("rows it was fitted on", ("error", "MAPE", "bias", "worst"), tuple(lines))


def outliers(fit: Fit) -> Table:
    """Rows that count for less."""
    lines = [
        (o.row.name, o.metric, signed(o.error), f"{abs(o.pull):.1f} sd") for o in fit.discounted
    ]
    head = ("row", "what", "from the others", "off by")
    return Table("far from what the other rows say, so discounted", head, tuple(lines))


def unsettled(fit: Fit) -> Table:
    """Combinations of parameters that other values would fit as well; engine constants first."""
    lines = [
        (f"{_short(a)} {'+' if r > 0 else '-'} {_short(b)}", f"correlation {r:+.2f}")
        for a, b, r in fit.undetermined
    ]
    every = open_directions(fit.calibration)
    # Of several that no row says anything of, any mixture is one: which come out is chance.
    told = [d for d in every if abs(d.learned) > _NOTHING or len(every) == 1]
    told.sort(key=lambda d: all(not name.startswith("constant:") for name, _ in d.parts))
    for direction in told:
        signed_parts = [f"{'-+'[w > 0]} {_short(name)}" for name, w in direction.parts[:_PARTS]]
        more = " ..." if len(direction.parts) > _PARTS else ""
        words = " ".join(signed_parts).removeprefix("+ ") + more
        lines.append((words, f"{percent(direction.learned)} learned"))
    hidden = max(0, len(lines) - _MOST) + len(every) - len(told)
    if hidden > 0:
        lines[_MOST:] = [(f"and {hidden} more", "-")]
    return Table("not told apart by these rows", ("combination", "how far"), tuple(lines))


def remarks(fit: Fit) -> Iterator[str]:
    """The rest, a sentence each: discrepancy, patterns, convergence, and where to go."""
    c = fit.calibration
    shared, own = c.discrepancy
    calm = not cells(c).rows and any(p.kind == "rejection" for p in c.parameters)
    if calm:
        yield "no acceptance moved by more than one standard deviation of its prior"
    release = c.about.get("release", HOME)
    if release != HOME:
        yield (
            f"the rows name no release, and are likelier as {release} launches prefills: run so, "
            "as are predictions with this calibration; --engine says other"
        )
        other = [row.name for row in fit.rows if row.scenario.engine != release]
        if other:
            yield f"{release} cannot run {len(other)} of them, run as {HOME}, such as {other[0]}"
    yield (
        f"model's own discrepancy: {percent(shared)} shared by the rows of a setting, "
        f"{percent(own)} of each row"
    )
    for p in fit.suspect:
        side = "fast" if p.offset > 0 else "slow"
        yield (
            f"PATTERN: the {p.rows} rows of {p.factor} {p.group} are predicted "
            f"{percent(abs(p.offset))} too {side} whatever the constants "
            f"(by chance: {100 * p.chance:.2g} %). The model or those rows are wrong, and the "
            "constants are bent by it."
        )
    if fit.patterns and not fit.suspect:
        looked = ", ".join(p.factor for p in fit.patterns)
        yield f"no pattern is left over by {looked} (each at {percent(SUSPECT)})"
    gain = f"{fit.steps[-1]:.2f} in twice the log posterior"
    to_go = f"one more step after {len(fit.steps) - 1} would gain {gain}"
    if not fit.settled:
        yield f"NOT CONVERGED: {to_go}. Take the constants as rough"
    elif fit.converged:
        yield f"converged: every row is reached within its noise; {to_go}"
    if fit.strays:
        yield from _unfollowed(fit)


def _unfollowed(fit: Fit) -> Iterator[str]:
    """Say which rows the fit cannot follow, by how much, and what may be misread about them."""
    rows = dict.fromkeys(s.row.observation.row for s in fit.strays)
    yield f"NOT FOLLOWED: {len(rows)} of {len(fit.rows)} rows stay off by more than noise explains:"
    for s in fit.strays[:_MOST]:
        yield f"  {s.row.name}: {s.metric} {signed(s.error)}, noise +-{percent(s.noise)}"
    if len(fit.strays) > _MOST:
        yield f"  and {len(fit.strays) - _MOST} more"
    for words in misread(fit.strays, fit.rows):
        yield f"  perhaps misread: {words}"
    yield '  "dflash-sim compare" takes a single row apart; --fit-on leaves rows out'


def summary(fit: Fit, chosen: Chosen) -> dict[str, Any]:
    """Return the summary as data."""
    c = fit.calibration
    learned = fit.learned
    every = zip(c.parameters, c.mean.tolist(), c.sd.tolist(), strict=True)
    return {
        "kind": "fit",
        "name": c.name,
        "engine": c.engine,
        "rows": {
            "read": chosen.read.read,
            "used": len(fit.rows),
            "not_selected": chosen.passed,
            "refused": [list(pair) for pair in chosen.refused],
        },
        "parameters": [
            {
                "kind": p.kind,
                "key": p.key,
                "prior": p.value(p.prior),
                "value": p.value(x),
                "interval_68": [p.value(x - sd), p.value(x + sd)],
                "moved_sd": (x - p.prior) / p.sd,
                "learned": learned[p.name],
            }
            for p, x, sd in every
        ],
        "discrepancy": list(c.discrepancy),
        "fitted_mape": float(np.abs(fit.errors).mean()),
        "left_out_mape": float(np.abs(fit.left_out).mean()),
        "outliers": [
            {"row": o.row.observation.row, "metric": o.metric, "error": o.error, "pull": o.pull}
            for o in fit.discounted
        ],
        "patterns": [vars(p) for p in fit.patterns],
        "undetermined": [list(pair) for pair in fit.undetermined],
        "converged": fit.converged,
        "not_followed": [
            {"row": s.row.observation.row, "metric": s.metric, "error": s.error, "noise": s.noise}
            for s in fit.strays
        ],
        "steps": list(fit.steps),
    }


def _estimates(c: Calibration, kind: str) -> Iterator[tuple[Parameter, float, float]]:
    every = zip(c.parameters, c.mean.tolist(), c.sd.tolist(), strict=True)
    return (item for item in every if item[0].kind == kind)


def _with_sd(p: Parameter, x: float, sd: float, si: float = 1.0) -> str:
    half = (p.value(x + sd) - p.value(x - sd)) / 2
    return f"{_figure(p.value(x) / si, 3)} ± {_figure(half / si, 2)}"


def _figure(value: float, digits: int) -> str:
    return np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")


def _moved(p: Parameter, x: float) -> str:
    return f"{round((x - p.prior) / p.sd, 1) + 0.0:+.1f} sd"  # no -0.0


def _learned(p: Parameter, sd: float) -> str:
    return f"{100 * (1 - (sd / p.sd) ** 2):.0f} %"


def _short(name: str) -> str:
    kind, _, key = name.partition(":")
    return key if kind == "constant" else f"{kind}:{key}"


def _worst(e: Any) -> float:
    return float(e[np.argmax(np.abs(e))])
