"""How far predictions are from published throughput: row by row, in sum, and under changed priors.

Nothing is fitted here, and a row on which any parameter was fitted is refused.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np

from dflash_sim.jobs.pool import Pool
from dflash_sim.profiles.engine_sheet import load_engine
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import ENV, require_sheet
from dflash_sim.profiles.load import load_published
from dflash_sim.profiles.sheets import PublishedPoint
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

CARD_SOURCES = ("HF_Q36_35B_retrain", "HF_Q35_397B", "HF_Q35_397B_seed", "SGL_PR23000")
OLD_SOURCES = ("HF_Q35_27B_orig", "HF_Q35_35B_orig", "HF_Q36_35B_orig")
BASELINE_SOURCES = ("PAPER_T5", "SGL_PR19952", "LAMBDA_Q35_397B")

# Harnesses that serve min(128 c, 1024) prompts; the others serve whole copies of the workload.
_COUNTED = {"SGL_PR23000", "SGL_PR19952", "PAPER_T5", *OLD_SOURCES}
_PROMPTS_PER_CLIENT, _PROMPTS_AT_MOST = 128, 1024
_RANDOM_ISL, _RANDOM_PROMPTS = 8192, 512  # LAMBDA_Q35_397B: "512 random prompts 8192 in, 1024 out"
_TASKS_AT_ONCE = 8  # sent to a process together: neighbours share op tables and acceptance
_ENGINE_MODES = {"none": "v2", "unknown": "v2", "spec_v1": "v1", "spec_v2": "v2"}

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Variant:
    """What one line of the sensitivity table changes.

    Parameters
    ----------
    constants
        Engine constants by name, in SI units.
    osl_scale
        Factor on the mean and spread of answer lengths, before the cap [1].
    engine_mode
        Read speculative rows as measured in this mode.
    """

    name: str
    constants: tuple[tuple[str, float], ...] = ()
    osl_scale: float = 1.0
    engine_mode: str | None = None


AS_SHIPPED = Variant("as shipped")
VARIANTS = (
    Variant("answers x 0.7", osl_scale=0.7),
    Variant("answers x 1.4", osl_scale=1.4),
    Variant("expert_skew 0", (("expert_skew", 0.0),)),
    Variant("expert_skew 1", (("expert_skew", 1.0),)),
    Variant("verify_attention_factor 1.0", (("verify_attention_factor", 1.0),)),
    Variant("verify_attention_factor 1.6", (("verify_attention_factor", 1.6),)),
)


@dataclass(frozen=True)
class Outcome:
    """A published row and what was predicted for it.

    Parameters
    ----------
    predicted_tok_s
        Mean over runs [token/s].
    accept_length
        Mean over turns of the simulated accept length [token]; 1 without speculation.
    """

    row: PublishedPoint
    predicted_tok_s: float
    accept_length: float

    @property
    def error(self) -> float:
        """Relative error; positive is too fast [1]."""
        return self.predicted_tok_s / self.row.output_tok_s - 1

    @property
    def config(self) -> str:
        """Method and draft width as the cards name them: ``dflash-16``, ``mtp-7``, ``none``."""
        r = self.row
        if r.method == "none":
            return "none"
        return f"{r.method}-{r.block if r.method == 'dflash' else r.block - 1}"


def rows_of(*sources: str) -> tuple[PublishedPoint, ...]:
    """Published rows of these sources, in file order.

    Raises
    ------
    UsageError
        A parameter was fitted on a row: it cannot test the fit.
    """
    rows = tuple(p for p in load_published() if p.source_id in sources)
    for p in rows:
        refuse_fitted(p)
    return rows


def refuse_fitted(row: PublishedPoint) -> None:
    """An accuracy table may not hold a row that a parameter was fitted on."""
    if row.fitted_what:
        msg = (
            f"{row.source_id}, {row.model}, {row.dataset}, c={row.conc}: fitted on this row: "
            f"{', '.join(row.fitted_what)}. It cannot enter an accuracy table."
        )
        raise UsageError(msg)


def card_rows() -> tuple[PublishedPoint, ...]:
    """The headline: every open row of the current cards and of the V1/V2 comparison."""
    return rows_of(*CARD_SOURCES)


def old_rows() -> tuple[PublishedPoint, ...]:
    """First-release cards: an older engine and, for DFlash, another drafter.

    MT-Bench is left out (that harness sends first turns only) and so is Alpaca (no sheet).
    """
    return tuple(p for p in rows_of(*OLD_SOURCES) if p.dataset not in ("mt-bench", "alpaca"))


def baseline_rows() -> tuple[PublishedPoint, ...]:
    """Plain decoding of other models and sources; without Alpaca, which has no sheet."""
    rows = rows_of(*BASELINE_SOURCES)
    return tuple(p for p in rows if p.method == "none" and p.dataset != "alpaca")


def scenario_of(row: PublishedPoint, *, runs: int) -> Scenario:
    """The question whose answer the row is, by the harness that measured it."""
    refuse_fitted(row)
    fields: dict[str, object] = {
        "gpu": row.gpu,
        "model": row.model,
        "tp": row.tp,
        "method": row.method,
        "conc": row.conc,
        "max_new_tokens": row.max_new_tokens,
        "engine_mode": _ENGINE_MODES[row.engine_mode],
        "runs": runs,
    }
    if row.method != "none":
        fields["block"] = row.block
    if row.source_id in OLD_SOURCES and row.accept_len:
        fields["acceptance"] = f"al:{row.accept_len}"
    if row.dataset.startswith("random"):
        fields |= {"isl": _RANDOM_ISL, "osl": row.max_new_tokens, "num_prompts": _RANDOM_PROMPTS}
    else:
        fields |= {"dataset": row.dataset, "thinking": bool(row.thinking)}
    if row.source_id in _COUNTED:
        fields["num_prompts"] = min(_PROMPTS_PER_CLIENT * row.conc, _PROMPTS_AT_MOST)
    return Scenario.parse(**fields)


def predict_row(row: PublishedPoint, *, runs: int, variant: Variant = AS_SHIPPED) -> Outcome:
    """Predict one published row."""
    scenario = scenario_of(row, runs=runs)
    if variant.engine_mode and row.method != "none":
        scenario = Scenario.parse(**(scenario.model_dump() | {"engine_mode": variant.engine_mode}))
    engine = load_engine(scenario.engine).with_constants(**dict(variant.constants))
    with _answers_times(variant.osl_scale, scenario.dataset):
        setup = resolve(scenario, engine=engine)
        found = predict(scenario, with_baseline=False, with_interval=False, setup=setup)
        values = found.values
    return Outcome(row, values["output_throughput"], values.get("accept_length", 1.0))


@contextmanager
def _answers_times(scale: float, dataset: str | None) -> Iterator[None]:
    """Inside, a user's sheet with longer answers stands before the shipped one."""
    if scale == 1 or dataset is None:
        yield
        return
    before = os.environ.get(ENV)
    with TemporaryDirectory() as folder:
        sheet = require_sheet("datasets", dataset)
        copy = Path(folder, "workloads", sheet.name)
        copy.parent.mkdir()
        copy.write_text(stretch(sheet.read_text(encoding="utf-8"), scale), encoding="utf-8")
        os.environ[ENV] = os.pathsep.join([folder, *filter(None, [before])])
        try:
            yield
        finally:
            os.environ.pop(ENV)
            if before is not None:
                os.environ[ENV] = before


def stretch(sheet: str, scale: float) -> str:
    """The text of a workload sheet with every answer length times ``scale``."""
    head, *answers = re.split(r"(?m)^(?=\[osl_)", sheet)
    longer = [
        re.sub(r"(?<=value = )[0-9.]+", lambda m: repr(float(m[0]) * scale), a) for a in answers
    ]
    return "".join([head, *longer])


@dataclass(frozen=True)
class Task:
    """One row to predict, in ``runs`` independent runs."""

    row: PublishedPoint
    runs: int
    variant: Variant = AS_SHIPPED

    def outcome(self) -> Outcome:
        """Predict it."""
        return predict_row(self.row, runs=self.runs, variant=self.variant)


def evaluate(
    rows: Sequence[PublishedPoint],
    *,
    runs: int,
    jobs: int = 1,
    variant: Variant = AS_SHIPPED,
    on_row: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Predict every row, in order; the parameters are those of :func:`evaluate_all`."""
    return evaluate_all([Task(row, runs, variant) for row in rows], jobs=jobs, on_row=on_row)


def evaluate_all(
    tasks: Sequence[Task], *, jobs: int = 1, on_row: Callable[[int], None] | None = None
) -> list[Outcome]:
    """Predict every task, in order.

    Parameters
    ----------
    jobs
        Processes; the answer does not depend on it.
    on_row
        Called with the number of rows done so far.
    """
    for task in tasks:
        refuse_fitted(task.row)
    each = [(task,) for task in tasks]
    with Pool(jobs) as pool:
        return list(pool.map(Task.outcome, each, together=_TASKS_AT_ONCE, on_done=on_row))


@dataclass(frozen=True)
class ErrorStats:
    """Relative errors of ``n`` rows; all but ``bias`` are of absolute errors [1]."""

    n: int
    mape: float
    bias: float
    median: float
    p95: float


def error_stats(outcomes: Sequence[Outcome]) -> ErrorStats:
    """Mean, median and 95th percentile of the absolute errors, and the mean error."""
    errors = np.array([o.error for o in outcomes])
    size = np.abs(errors)
    return ErrorStats(
        n=len(errors),
        mape=float(size.mean()),
        bias=float(errors.mean()),
        median=float(np.median(size)),
        p95=float(np.quantile(size, 0.95)),
    )


def grouped(outcomes: Iterable[Outcome], key: Callable[[Outcome], K]) -> dict[K, list[Outcome]]:
    """Outcomes by ``key``, in order of first appearance."""
    groups: dict[K, list[Outcome]] = defaultdict(list)
    for o in outcomes:
        groups[key(o)].append(o)
    return dict(groups)


def ranked_right(
    outcomes: Iterable[Outcome],
    *,
    by: Callable[[Outcome], float] = lambda o: o.predicted_tok_s,
    min_gap: float = 0.03,
) -> tuple[int, int]:
    """Pairs of configurations put in the published order, and all pairs.

    A pair shares model, data set and concurrency, and its published throughputs differ by more
    than ``min_gap`` [1]: closer ones are within the scatter of repeated runs.
    """
    right = pairs = 0
    for group in grouped(outcomes, _same_question).values():
        for a, b in combinations(group, 2):
            low, high = sorted((a, b), key=lambda o: o.row.output_tok_s)
            if high.row.output_tok_s > (1 + min_gap) * low.row.output_tok_s:
                pairs += 1
                right += by(high) > by(low)
    return right, pairs


def _same_question(o: Outcome) -> Hashable:
    r = o.row
    return r.model, r.gpu, r.tp, r.dataset, r.conc, r.thinking, r.max_new_tokens
