"""What somebody measured: one :class:`Observation` a row, and what became of a file's rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dflash_sim.simulator.cost.methods import method_of

Kind = Literal["number", "text", "truth"]

_NUMBERS = """num_gpus tp block steps window conc isl osl max_new_tokens num_prompts rate
    max_running_requests temperature top_p top_k"""
_TEXTS = """gpu model draft_model drafter method engine engine_mode attention_backend dataset
    quantization kv_cache_dtype source row build tool"""
NAMES: Mapping[str, Kind] = {
    **dict.fromkeys(_NUMBERS.split(), "number"),
    **dict.fromkeys(_TEXTS.split(), "text"),
    **dict.fromkeys(("thinking", "radix_cache"), "truth"),
}
ALIASES = {
    "concurrency": "conc",
    "max_concurrency": "conc",
    "source_id": "source",
    "engine_version": "build",
    "generation": "build",
}


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One measured row.

    Parameters
    ----------
    row
        Where it is: ``file:line``, or ``file[index]`` inside a JSON list.
    source
        Who measured: the row's ``source_id``, else the file's name.
    fields
        Scenario fields, from the file or assumed.
    metrics
        Measured values by the names and units of a result row (``profiles/schema.csv``).
    rel_err
        Relative standard error of a metric where the file tells it [1].
    accept_histogram
        Verify steps that accepted 0, 1, ... drafts.
    assumed
        Conditions that the file does not give: a preset or the scenario's default stands in.
    build
        Version of the serving engine, where stated.
    about
        What else the row says and no scenario field holds: drafter as written, engine, url,
        notes, parameters fitted on it.
    notes
        What to keep in mind about how the row was read.
    """

    row: str
    source: str
    fields: Mapping[str, Any]
    metrics: Mapping[str, float]
    rel_err: Mapping[str, float] = field(default_factory=dict)
    accept_histogram: tuple[int, ...] | None = None
    assumed: tuple[str, ...] = ()
    build: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def value(self, name: str) -> Any:
        """Return what ``name`` of :data:`NAMES` is for this row; None if the row does not say."""
        if name in ("row", "source", "build"):
            return getattr(self, name)
        return self.fields.get(name, self.about.get(name))


def drafts_nothing(fields: Mapping[str, Any]) -> bool:
    """Return True if the fields name plain decoding; False also where they name no method."""
    name = fields.get("method")
    return name is not None and not method_of(name).speculative


@dataclass(frozen=True, kw_only=True)
class ReadReport:
    """All rows of some files: each one is either an observation or refused with a reason.

    Parameters
    ----------
    read
        Rows met. A log that is summed up into one observation is one row, and so is each line
        of it that could not be used.
    refused
        Where, and why not.
    notes
        What to keep in mind, each once.
    """

    observations: tuple[Observation, ...]
    read: int
    refused: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.read != self.used + len(self.refused):
            msg = f"{self.read} rows read, but {self.used} used and {len(self.refused)} refused"
            raise ValueError(msg)

    @property
    def used(self) -> int:
        """Rows that became observations."""
        return len(self.observations)

    @property
    def counts(self) -> str:
        """One line that is always printed."""
        rows = "row" if self.read == 1 else "rows"
        return f"{self.read} {rows} read, {self.used} used, {len(self.refused)} refused"
