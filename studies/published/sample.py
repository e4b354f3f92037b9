"""The cleaned sample of SGLang measurements, predicted unfitted, beside two other tools.

Rows are those of ``AIC_SILICON_*`` in ``profiles/published/serving.csv``, of every model and
precision. Constants are those of home: no row of the sample, and of no server elsewhere, had a
say in them. What the simulator refuses is counted by its reason.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dflash_sim.calibrate.fit.rows import Row, rows_of
from dflash_sim.calibrate.observations.observation import Observation, drafts_nothing
from dflash_sim.profiles.one_look import one_look
from dflash_sim.profiles.releases.calibration import Calibration
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.studies.published.findings import Findings
from dflash_sim.studies.published.servers import given
from dflash_sim.studies.published.servers_judged import judged
from dflash_sim.studies.published.serving_rows import peers_of, quantization_of, serving_rows
from dflash_sim.studies.show.figures import percent, signed
from dflash_sim.studies.show.plain_table import Table

SOURCES = ("AIC_SILICON_SAMPLE", "AIC_SILICON_LAB")
US = "dflash-sim"
METRICS = {"tpot_ms": "TPOT", "ttft_ms": "TTFT", "throughput": "throughput"}
_MEASURED = {
    "tpot_ms": "mean_tpot_ms", "ttft_ms": "mean_ttft_ms", "throughput": "output_throughput",
}  # fmt: skip
MATCHED, CORE, ALL, SPECULATIVE = "newest Qwen3.5", "core", "all without speculation", "MTP"
_MATCHED_BUILDS = ("0.5.10.post1", "nightly-dev-20260402-d7256eb6")
_CORE_SINCE = "2026-02"
LENGTH = 2.0  # accept length that a row is asked with where none is recorded [token]


@dataclass(frozen=True)
class Answers:
    """Errors of every tool on every row, and why rows are not answered.

    Parameters
    ----------
    errors
        One line per row, tool and metric: ``error`` is predicted over measured, less one [1].
    refused
        Reasons, of rows in the file that the simulator does not answer.
    """

    errors: pd.DataFrame
    refused: tuple[str, ...]


def sample_rows() -> tuple[Observation, ...]:
    """Return every row of the sample that is read."""
    return tuple(row for row in serving_rows() if row.source in SOURCES)


def answers(
    home: Calibration,
    engine: EngineSheet,
    *,
    jobs: int,
    only: Callable[[Observation], bool] | None = None,
) -> Answers:
    """Predict the sample, or the rows of it that ``only`` selects."""
    with one_look():
        asked = [row for row in sample_rows() if only is None or only(row)]
        rows, refused = rows_of([_with_length(given(o)) for o in asked], engine)
        ours = _ours(judged(home, rows, engine=engine, jobs=jobs, interval=False), rows)
        theirs = [line for row in rows for line in _theirs(row.observation)]
    lines = [*ours, *theirs]
    return Answers(pd.DataFrame(lines), tuple(why for _, why in refused))


def _with_length(o: Observation) -> Observation:
    """A row that speculates without an accept length is asked with :data:`LENGTH`."""
    if SPECULATIVE not in sets_of(o) or "acceptance" in o.fields:
        return o
    return replace(o, fields={**o.fields, "acceptance": f"al:{LENGTH}"})


def sets_of(o: Observation) -> list[str]:
    """Return the sets that a row belongs to, as the other tools were judged on."""
    if not drafts_nothing(o.fields):
        return [SPECULATIVE]
    if len(peers_of(o)) < len(("aiconfigurator", "AISimulate")):
        return []  # one of them could not answer it
    found = [ALL]
    sure = "doubt" not in o.about and o.source == SOURCES[0]
    if sure and str(o.about.get("measured", "")) >= _CORE_SINCE:
        found.append(CORE)
        if o.build in _MATCHED_BUILDS and "qwen3.5" in str(o.fields["model"]).lower():
            found.append(MATCHED)
    return found


def precision_of(o: Observation) -> str:
    """Return the format of the weights, as tables write it."""
    name = quantization_of(o)
    if name is None:
        return "bf16"
    return "NVFP4" if "fp4" in name else "FP8"


def _about(o: Observation) -> dict[str, object]:
    return {
        "id": o.about["id"],
        "model": _family(str(o.fields["model"])),
        "precision": precision_of(o),
        "GPU": o.fields["gpu"],
        "build": str(o.build),
        "lengths": f"{o.fields['isl']}/{o.fields['osl']}",
        "sets": tuple(sets_of(o)),
    }


def _family(model: str) -> str:
    """The network, whatever the checkpoint: DeepSeek-R1 and V3 are one."""
    known = {
        **{"qwen3.5-397b": "qwen3.5-397b", "deepseek": "deepseek-r1", "glm-5": "glm-5"},
        **{"llama-3.1-8b": "llama-3.1-8b", "qwen3-235b": "qwen3-235b", "qwen3-32b": "qwen3-32b"},
    }
    return next((name for part, name in known.items() if part in model.lower()), model)


def _ours(frame: pd.DataFrame, rows: Sequence[Row]) -> list[dict[str, object]]:
    about = {str(row.observation.about["id"]): _about(row.observation) for row in rows}
    return [
        about[line["id"]] | {"tool": US, "metric": line["metric"], "error": line["error"]}
        for line in frame.to_dict("records")
    ]


def _theirs(o: Observation) -> list[dict[str, object]]:
    lines = []
    for peer in peers_of(o):
        said = {"tpot_ms": peer.tpot_ms, "ttft_ms": peer.ttft_ms, "throughput": peer.output_tok_s}
        for metric, value in said.items():
            error = value / o.metrics[_MEASURED[metric]] - 1
            lines.append(_about(o) | {"tool": peer.tool, "metric": metric, "error": error})
    return lines


def findings(found: Answers) -> Findings:
    """Return all tables, and what the pages quote."""
    errors = found.errors
    tables = (
        by_set(errors),
        left_out(errors),
        by_kind(errors),
        by_version(errors),
        implied(errors),
        refused(found.refused),
    )
    words = {
        f"sample {name} {METRICS[metric]}": _mape(_of(errors, name, US, metric))
        for name in (MATCHED, CORE, ALL)
        for metric in METRICS
    }
    return Findings(tables, words)


def by_set(errors: pd.DataFrame) -> Table:
    """Return errors of every tool by set: mean absolute, and bias."""
    lines = []
    for name in (MATCHED, CORE, ALL):
        for metric, word in METRICS.items():
            own = _of(errors, name, US, metric)
            row = [name, word, str(len(own))]
            row += [_both(_of(errors, name, tool, metric)) for tool in _tools(errors)]
            lines.append(tuple(row))
    head = ("set", "of", "rows", *_tools(errors))
    return Table("sample beside other tools", head, tuple(lines))


def left_out(errors: pd.DataFrame) -> Table:
    """Return errors on the core set after one factor from the rows of the other models."""
    lines = []
    for metric, word in METRICS.items():
        row = [word]
        for tool in _tools(errors):
            own = _of(errors, CORE, tool, metric)
            held = [
                _after(own[own["model"] != model], own[own["model"] == model])
                for model in own["model"].unique()
            ]
            all_held = np.concatenate(held) if held else np.array([])
            row.append(percent(float(np.abs(all_held).mean())) if len(all_held) else "-")
        lines.append(tuple(row))
    head = ("one factor, its model left out", *_tools(errors))
    return Table("sample with one factor", head, tuple(lines))


def _after(others: pd.DataFrame, held: pd.DataFrame) -> np.ndarray:
    """Errors of held-out rows times the factor that fits the other models in the mean of logs."""
    if not len(others):
        return np.asarray(held["error"], dtype=float)
    factor = np.exp(-np.log1p(others["error"].to_numpy(dtype=float)).mean())
    return np.asarray((1 + held["error"].to_numpy(dtype=float)) * factor - 1)


def by_kind(errors: pd.DataFrame) -> Table:
    """Return errors by model, precision and GPU."""
    return _grouped("sample by model", errors, ["model", "precision", "GPU"])


def by_version(errors: pd.DataFrame) -> Table:
    """Return errors by model and build."""
    return _grouped("sample by version", errors, ["model", "build"])


def _grouped(title: str, errors: pd.DataFrame, by: list[str]) -> Table:
    plain = errors.drop(_in(errors, SPECULATIVE).index)
    lines = []
    for key, own in plain.groupby(by, sort=True):
        rows = str(own["id"].nunique())
        cells = [
            _both(own[(own["tool"] == tool) & (own["metric"] == metric)])
            for metric in METRICS
            for tool in _tools(errors)
        ]
        lines.append((*map(str, key), rows, *cells))
    tools = [f"{word}: {tool.split()[0]}" for word in METRICS.values() for tool in _tools(errors)]
    return Table(title, (*by, "rows", *tools), tuple(lines))


def implied(errors: pd.DataFrame) -> Table:
    """Return the accept length that each speculating server's times per token imply.

    It is not recorded, but prompts are alike at every concurrency, and so must it be: what it
    varies by is the error of the speculative model.
    """
    own = _in(errors, SPECULATIVE)
    own = own[own["metric"] == "tpot_ms"]
    lines = []
    for (model, gpu, lengths), rows in own.groupby(["model", "GPU", "lengths"], sort=True):
        found = LENGTH * (1 + rows["error"].to_numpy(dtype=float))
        middle = float(np.median(found))
        off = percent(float(np.abs(found / middle - 1).mean()))
        ends = f"{found.min():.2f} to {found.max():.2f}"
        lines.append(
            (str(model), str(gpu), str(lengths), str(len(rows)), f"{middle:.2f}", ends, off)
        )
    head = ("model", "GPU", "lengths", "rows", "implied accept length", "range", "off the middle")
    return Table("sample that speculates", head, tuple(lines or [("-",) * len(head)]))


def refused(reasons: Iterable[str]) -> Table:
    """Return why rows are not answered."""
    lines = [(str(n), why.replace("|", "/")) for why, n in Counter(reasons).most_common()]
    return Table("sample refused", ("rows", "reason"), tuple(lines or [("0", "-")]))


def _tools(errors: pd.DataFrame) -> list[str]:
    return [US, *sorted(set(errors["tool"].unique()) - {US}, reverse=True)]


def _of(errors: pd.DataFrame, name: str, tool: str, metric: str) -> pd.DataFrame:
    own = errors[(errors["tool"] == tool) & (errors["metric"] == metric)]
    return _in(own, name)


def _in(errors: pd.DataFrame, name: str) -> pd.DataFrame:
    return errors[np.array([name in sets for sets in errors["sets"]], dtype=bool)]


def _mape(rows: pd.DataFrame) -> str:
    return percent(rows["error"].abs().mean()) if len(rows) else "-"


def _both(rows: pd.DataFrame) -> str:
    return f"{_mape(rows)} ({signed(rows['error'].mean())})" if len(rows) else "-"
