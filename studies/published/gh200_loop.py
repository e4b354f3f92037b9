"""Published closed-loop throughput on one GH200: forced answers of 512 tokens, up to c=128.

Accept lengths are given (those of the same runs at c=32), throughput is predicted; the rows of
``VP_GH200_TUNING`` differ in server flags, which only their notes name.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from dflash_sim.calibrate.fit.errors import error_table, summed
from dflash_sim.calibrate.fit.held_out import Outcome
from dflash_sim.calibrate.fit.rows import Row
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.published.cards import asked, rows_of
from dflash_sim.studies.show.frame_table import as_table, written
from dflash_sim.studies.show.plain_table import Table

SOURCE = "VP_GH200_TUNING"
# Its common flags: --mem-fraction-static .85 --max-running-requests 128, unless a note caps them.
_MEM_FRACTION, _RUNNING = 0.85, 128


def rows() -> list[Row]:
    """Return the published rows, in file order, as their notes say that they were served."""
    return [_served(row) for row in rows_of(SOURCE)]


def _served(row: Row) -> Row:
    running = row.scenario.max_running_requests or _RUNNING
    return asked(row, **conditions(row.observation), max_running_requests=running)


def conditions(o: Observation) -> dict[str, object]:
    """Return what the notes of a row of :data:`SOURCE` say of its server, by field."""
    notes = str(o.about.get("notes", ""))
    return {
        # Read as a forced length with prompts of one length; the sheet knows how they spread.
        **{"dataset": o.about["dataset"], "isl": None, "osl": None, "thinking": True},
        "radix_cache": "radix on" in notes,
        "linear_replayssm_spec": "replayssm-spec" in notes,
        "attention_backend": "triton" if "Triton" in notes else "flashinfer",
        "mem_fraction_static": _MEM_FRACTION,
    }


def as_served(o: Observation) -> Observation:
    """Return a row with those conditions among its fields; one of another source as it is."""
    if o.source != SOURCE:
        return o
    running = {"max_running_requests": o.fields.get("max_running_requests") or _RUNNING}
    return replace(o, fields={**o.fields, **conditions(o), **running})


def _notes(row: Row) -> str:
    return str(row.observation.about.get("notes", ""))


def _server(row: Row) -> str:
    """Return what the flags make of the server: attention, and states that are not written."""
    attention = "Triton" if "Triton" in _notes(row) else "FlashInfer"
    return f"{attention}, replayed states" if "replayssm" in _notes(row) else attention


def errors_of(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return the errors with the server, the load and how many requests it lets run at once."""
    engine = load_engine(HOME)
    limits = [resolve(o.row.scenario, engine=engine).limits for o in outcomes]
    return error_table(outcomes).assign(
        server=[_server(o.row) for o in outcomes],
        notes=[_notes(o.row) for o in outcomes],
        width=[o.row.width for o in outcomes],
        c=[o.row.scenario.conc or 0 for o in outcomes],
        running=[
            min(limit.max_running_requests, o.row.scenario.conc or 0)
            for limit, o in zip(limits, outcomes, strict=True)
        ],
    )


def by_server(errors: pd.DataFrame) -> Table:
    """Errors by method, server and concurrency."""
    keys = ["method", "server", "c"]
    found = written(summed(errors.sort_values(keys, kind="stable"), keys))
    ends = errors.groupby(keys)["running"].agg(["min", "max"])
    at_once = [" to ".join(dict.fromkeys(map(str, pair))) for pair in ends.to_numpy().tolist()]
    shown = found.assign(**{"run at once": at_once})
    head = (*keys, "run at once", "rows", "MAPE", "bias")
    return as_table("GH200 closed loop", shown, head)


def every_row(errors: pd.DataFrame) -> Table:
    """Each row, in file order."""
    shown = written(errors).assign(
        block=errors["width"],
        server=errors["notes"],
        published=errors["observed"].map("{:.0f}".format),
        predicted=errors["predicted"].map("{:.0f}".format),
    )
    head = ("method", "block", "c", "server", "published", "predicted", "error")
    return as_table("GH200 closed loop, every row", shown, head)


def quoted(errors: pd.DataFrame) -> dict[str, str]:
    """Return the figures that the pages quote, by name."""
    kinds = errors["speculative"].map({False: "plain", True: "drafting"})
    found = written(summed(errors.assign(kind=kinds), ["kind"])).set_index("kind")
    return {
        f"GH200 {kind} {stat}": str(found.loc[kind, stat])
        for kind in ("plain", "drafting")
        for stat in ("rows", "MAPE", "bias")
    }
