"""A real run as one flat row of the result schema, ``kind`` observed; strict JSON."""

from collections.abc import Iterable, Sequence
from math import isfinite

from dflash_sim import __version__
from dflash_sim.profiles.schema import load_schema
from dflash_sim.realrun.job.faults import RunFailedError
from dflash_sim.realrun.job.journal import Answer, Run
from dflash_sim.realrun.job.requests import Request
from dflash_sim.realrun.job.setup import Fitted
from dflash_sim.realrun.summary import summarise

SCHEMA_VERSION = 1
DECIMALS = 6  # of every float, as in a predicted row
Cell = str | int | float | list[str] | list[int] | None
Row = dict[str, Cell]


def observed_row(
    fitted: Fitted,
    run: Run,
    asked: Sequence[Request],
    *,
    conc: int | None,
    machine: str,
    rate: float | None = None,
    tag: str | None = None,
    failure: RunFailedError | None = None,
) -> Row:
    """One run under the names of a predicted row; what it does not know is null.

    Parameters
    ----------
    conc, rate
        Requests in flight of a closed loop; arrivals of an open one [1/s].
    machine
        What it ran on, as a name.
    failure
        Why not all requests were answered.
    """
    setup = fitted.setup
    method = setup.speculation
    blank: Row = dict.fromkeys(field.name for field in load_schema())
    known: Row = {
        "schema_version": SCHEMA_VERSION,
        "kind": "observed",
        "tag": tag,
        "dflash_sim_version": __version__,
        "seed": setup.seed,
        "replications": 1,
        "gpu": machine,
        "num_gpus": setup.tp,
        "tp": setup.tp,
        "model": setup.target.name,
        "draft_model": setup.drafter.name if setup.drafter is not None else None,
        "method": setup.method,
        "speculative_algorithm": method.algorithm,
        "block": fitted.rows,
        "steps": method.steps(fitted.rows),
        "engine": "dflash-sim",
        "engine_version": __version__,
        "engine_mode": setup.mode,
        "overlap": setup.mode == "v2",
        "dtype": setup.dtype,
        "isl": _common(len(r.prompt) for r in asked),
        "max_new_tokens": _common(r.max_new_tokens for r in asked),
        "max_concurrency": conc,
        "request_rate": rate,
        "num_prompts": run.asked,
        "max_running_requests": setup.max_running_requests,
        "kv_tokens": fitted.pages * setup.page_size,
        "acceptance_source": _acceptance(fitted),
        "warnings": _warnings(fitted, failure),
    }
    values = summarise(run, fitted.rows)
    known |= {name: _plain(value) for name, value in values.items()}
    if run.answers:
        known["output_tput_per_gpu"] = _plain(run.output_tok_s / setup.tp)
    return blank | known


def _common(values: Iterable[int]) -> int | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None


def request_record(answer: Answer, rows: int) -> dict[str, object]:
    """One request: AIPerf's acceptance record, and times from the start of the run [s]."""
    return answer.acceptance(rows) | {
        "prompt_tokens": len(answer.prompt),
        "arrival_s": answer.arrival_s,
        "first_token_s": answer.first_token_s,
        "finish_s": answer.finish_s,
        "chunk_s": list(answer.chunk_s),
        "output_ids": list(answer.output),
    }


def _warnings(fitted: Fitted, failure: RunFailedError | None) -> list[str]:
    drafter = fitted.setup.drafter
    noted = [drafter.note] if drafter is not None and drafter.note else []
    return noted if failure is None else [*noted, str(failure)]


def _acceptance(fitted: Fitted) -> str | None:
    setup = fitted.setup
    if not setup.speculation.speculative:
        return None
    if setup.accept_length is not None:
        return f"imposed: {setup.accept_length:g} tokens a step"
    return "as it was"


def _plain(value: float | list[int]) -> Cell:
    if isinstance(value, list):
        return value
    return round(value, DECIMALS) if isfinite(value) else None
