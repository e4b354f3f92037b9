"""What owned GPUs carry, as a page of terminal text, and as data."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from dflash_sim.profiles.load import load_device
from dflash_sim.profiles.units import MS
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.studies.ask.prices import HOURS_A_MONTH, priced
from dflash_sim.studies.plan.choice import capped, label, out_of_slots
from dflash_sim.studies.plan.close_look import SLOTS
from dflash_sim.studies.plan.demand import hits_note
from dflash_sim.studies.plan.deploy import Servers
from dflash_sim.studies.plan.most import Carried, Most, Ratio
from dflash_sim.studies.plan.verdict import (
    doubts_of_server,
    gpus,
    met_with,
    percent_of,
    remarks_of_server,
)
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.launch import launch_command
from dflash_sim.studies.show.narrow_table import FittedTable
from dflash_sim.studies.show.palette import PLAIN_DECODING
from dflash_sim.studies.show.styles import LABEL, STRONG

UNITS = {"rate": "requests/s", "users": "users"}
HEADS = ("gpu", "tp", "servers", "idle", "method", "block", "cap", "carries", "USD/month")


class MostPage:
    """The most that is carried, what the next best carries, and every candidate."""

    def __init__(self, found: Most) -> None:
        self.found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found = self.found
        unit = UNITS[found.what]
        yield Text(f"{gpus(found.gpus)}, the most {unit} · {_asked(found)}", style=STRONG)
        yield Text(str(found.question.slo), style=STRONG)
        yield Text()
        for line in said(found):
            yield Text(line, style="bold green")
        yield Text()
        heads = (*HEADS, "binds")
        rows = [cells(found, c) for c in found.carried if c.error is None]
        silent = {"cap"} if all(row[HEADS.index("cap")] == "-" for row in rows) else set()
        told = [n for n, head in enumerate(heads) if head not in silent]
        table = FittedTable(heads=tuple(heads[n] for n in told), folded="binds",
            words=frozenset({"gpu", "method", "binds"}), spare=("idle", "USD/month"))  # fmt: skip
        for row in rows:
            table.add(*(row[n] for n in told))
        yield table
        errors = [c.error for c in found.carried if c.error is not None]
        if errors:
            yield Text(f"{len(errors)} left out, such as: {errors[0]}", style="dim")
        for note in assumed(found):
            yield Text(f"assumed: {note}", style="dim")
        for warning in notes(found):
            yield Text(f"note: {warning}", style="yellow")
        yield Text()
        count = found.best.replicas
        each = f"Each of {count:,} servers" if count > 1 else "The server"
        yield Text(f"{each} is launched by", style=LABEL)
        yield Text(launch_command(setup_of(found)))


def said(found: Most) -> list[str]:
    """Say in sentences what is carried, by what, and how much more that is."""
    best = found.best
    sure = percent_of(found.question.confidence)
    unit = UNITS[found.what]
    met = met_with(sure, doubts_of_server(setup_of(found)))
    line = (
        f"{amount(found, best.most)} {unit} {met}: {_servers(found, best)}; "
        f"{amount(found, found.as_predicted)} with times as predicted. "
        f"What stops it: {best.binds}."
    )
    return [line, *(_more(found, r) for r in found.ratios), *_lifts(found)]


def to_json(found: Most) -> dict[str, Any]:
    """The answer as strict JSON."""
    q = found.question
    return {
        "schema_version": 1,
        "kind": "carried",
        "dflash_sim_version": version("dflash-sim"),
        "model": q.candidates[0].model,
        "num_gpus": found.gpus,
        "maximise": found.what,
        "slo": {f"{n}_ms": x / MS for n, x in q.slo.limits_s.items()}
        | {"percentile": q.slo.percentile},
        "confidence": q.confidence,
        "as_predicted": found.as_predicted,
        "router": q.router,
        "verdict": said(found),
        "launch_command": launch_command(setup_of(found)),
        "candidates": rows(found),
        "ratios": [
            {"index": [r.one, r.other], "gain": r.gain, "gain_ci90": list(r.ci90)}
            for r in found.ratios
        ],
        "warnings": [*doubts_of_server(setup_of(found)), *notes(found)],
    }


def rows(found: Most) -> list[dict[str, Any]]:
    """Candidates as flat rows, those that carry most first."""
    out = []
    for c in found.carried:
        s = found.question.candidates[c.index]
        usd = _usd_month(found, c)
        out.append(
            {
                "index": c.index,
                "gpu": s.gpu,
                "tp": c.tp or s.tp,
                "replicas": c.replicas or None,
                "idle_gpus": found.gpus - c.replicas * c.tp if c.replicas else None,
                "method": s.method,
                "block": c.block,
                "steps": s.steps,
                "max_running_requests": s.max_running_requests,
                found.what: round(c.most, 6) if c.error is None else None,
                "binds": c.binds or None,
                "usd_per_month": None if usd is None else round(usd, 6),
                "error": None if c.error is None else str(c.error),
            }
        )
    return out


def _asked(found: Most) -> str:
    s = found.question.candidates[0]
    what = s.dataset or f"{s.isl:,} in, {s.osl:,} out"
    return f"{s.model}, {what}; {found.question.router} router"


def _servers(found: Most, c: Carried) -> str:
    s = found.question.candidates[c.index]
    block = f", block {c.block}" if c.block else ""
    how = f"{s.method}{block}" if s.speculation.speculative else PLAIN_DECODING
    how += capped(s)
    idle = found.gpus - c.tp * c.replicas
    rest = f", {idle} GPU{'s' if idle > 1 else ''} idle" if idle else ""
    return f"{c.replicas} x (TP {c.tp} on {s.gpu}), {how}{rest}"


def _more(found: Most, r: Ratio) -> str:
    one, other = (label(found.question.candidates[i]) for i in (r.one, r.other))
    low, high = r.ci90
    if low == high == 0:
        return f"{one} carries as many as {other}."
    line = (
        f"{one} over {other}: {_signed(r.gain)} with both as predicted, 90 % {_signed(low)} to "
        f"{_signed(high)}."
    )
    most = {c.index: c.most for c in found.carried}
    if (most[r.one] - most[r.other]) * r.gain >= 0:
        return line
    mine, theirs = (amount(found, most[i]) for i in (r.one, r.other))
    sure = percent_of(found.question.confidence)
    return f"{line} At {sure} of each alone it is the other way round, {mine} against {theirs}."


def _lifts(found: Most) -> Iterator[str]:
    """Say what more slots would make of those that the engine's own stop."""
    for c in found.carried:
        lifted = found.lifted.get(c.index)
        if lifted is None:
            continue
        s = found.question.candidates[c.index]
        cap = f"{resolve(s).memory.max_running_requests:,} requests of a server at once"
        more = amount(found, lifted.most)
        if lifted.helps(c):
            there = f"{amount(found, c.most)} with the {cap} that the engine lets run"
            yield f"{label(s)} carries {there}, {more} with {lifted.flags}."
        else:
            adds = f"more than the {cap} that the engine lets run add nothing"
            yield f"For {label(s)} {adds}: {more} with {lifted.flags}."


def amount(found: Most, most: float) -> str:
    """A number of requests a second, or of users."""
    return f"{most:,.0f}" if found.what == "users" else number(most)


def _signed(x: float) -> str:
    return f"{100 * x:+.0f} %" if x < float("inf") else "any number more"


def cells(found: Most, c: Carried) -> tuple[str, ...]:
    """The line of a candidate, under ``HEADS`` and what binds."""
    s = found.question.candidates[c.index]
    usd = _usd_month(found, c)
    return (
        s.gpu,
        str(c.tp),
        str(c.replicas),
        str(found.gpus - c.tp * c.replicas or "-"),
        s.method,
        str(c.block or "-"),
        str(s.max_running_requests or "-"),
        amount(found, c.most),
        "-" if usd is None else number(usd),
        c.binds,
    )


def _usd_month(found: Most, c: Carried) -> float | None:
    if c.error is not None:
        return None
    device = load_device(found.question.candidates[c.index].gpu)
    usd = priced(device, found.question.prices).price.typical
    return None if usd is None else usd * c.replicas * c.tp * HOURS_A_MONTH


def setup_of(found: Most) -> Setup:
    """The server that carries most."""
    return resolve(found.question.candidates[found.best.index])


def servers_of(found: Most) -> Servers:
    """What is to be started to carry it."""
    q = found.question
    about = (_servers(found, found.best), f"the most {UNITS[found.what]}, {_asked(found)}")
    return Servers(setup_of(found), found.best.replicas, q.router, (*about, str(q.slo)))


def notes(found: Most) -> list[str]:
    """What else to keep in mind; what is in doubt stands in the first sentence."""
    own = remarks_of_server(setup_of(found))
    q = found.question
    full = [
        q.candidates[c.index]
        for c in found.carried
        if SLOTS in c.binds and (c.index not in found.lifted or found.lifted[c.index].helps(c))
    ]
    return list(dict.fromkeys([*q.notes, *own, *out_of_slots(full, q.candidates)]))


def assumed(found: Most) -> list[str]:
    """What the load is taken to be."""
    if found.what == "users":
        return ["each user asks again at once", hits_note(found.question.candidates[0])]
    return list(found.question.demand.notes)
