"""What scenarios of a table differ in, each field with a heading: no two rows look alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from dflash_sim.simulator.cost.methods import method_of
from dflash_sim.simulator.row import Cell, Row
from dflash_sim.simulator.scenario import ONLY_SPECULATION, Scenario

_IN_ROWS = {
    "dataset": "dataset_name",
    "conc": "max_concurrency",
    "rate": "request_rate",
    "runs": "replications",
}
_AS_ASKED = ("engine", "calibration")  # rows have less of them, such as no build
# Of fields whose names are too long above a column, or say less than these.
_HEADS = {
    "cache_hit": "hits",
    "attention_backend": "attention",
    "mem_fraction_static": "mem fraction",
    "speculative_use_rejection_sampling": "rejection sampling",
    "speculative_draft_model_quantization": "draft weights",
    "num_gpus": "GPUs",
    "ep_size": "ep",
}
_WORKLOAD = "dataset_name"  # the first column of what is asked of a server


def varied(
    rows: Sequence[Row], asked: Sequence[Mapping[str, Any]]
) -> tuple[list[Row], dict[str, str]]:
    """Return rows with a cell for each field that differs, and the headings of those fields.

    A field that the row of a result fills in, such as a GPU's own attention kernels, is as filled
    in; of what a method does not take its row has nothing.

    Parameters
    ----------
    asked
        Fields of the scenario of each row, as far as they may differ.
    """
    told, heads = [dict(row) for row in rows], dict[str, str]()
    takes = [method_of(str(row["method"])).takes for row in rows]
    names = [n for n in Scenario.model_fields if len({str(a.get(n)) for a in asked}) > 1]
    for name in names:
        column, values = _IN_ROWS.get(name, name), set[str]()
        for row, fields, taken in zip(told, asked, takes, strict=True):
            applies = name not in ONLY_SPECULATION or name in taken
            own = None if name in _AS_ASKED else row.get(column)
            row[column] = _cell(fields.get(name) if own is None else own) if applies else None
            values |= {str(row[column])} if applies else set()
        if len(values) > 1:
            heads[column] = _HEADS.get(name, name.replace("_", " "))
    return told, heads


def headings(known: Mapping[str, str], differing: Mapping[str, str]) -> dict[str, str]:
    """The headings of a table: its own, and before those of the workload what else differs."""
    more = {name: head for name, head in differing.items() if name not in known}
    out: dict[str, str] = {}
    for name, head in known.items():
        out |= (more if name == _WORKLOAD else {}) | {name: head}
    return out


def _cell(value: Any) -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str | int | float) or value is None else str(value)
