"""What published accept lengths say of content, temperature, context and thinking: the fits.

Everything is on one scale: the log of the rejection rate that gives an accept length at its block,
with the prior's decay along the block. ``profiles/acceptance/conditions.toml`` and ``content.csv``
hold what these functions find; the tests beside them fit again and leave out.
"""

import csv
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import stats

import dflash_sim
from dflash_sim.profiles.acceptance.conditions import load_conditions
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.simulator.requests.survival import fit_one

FOLDER = Path(dflash_sim.__file__).parent / "profiles" / "acceptance"
PRIORS = load_acceptance_priors()
CARDS = ("gsm8k", "math500", "humaneval", "mbpp", "mt-bench")
KINDS = {
    "code": ("humaneval", "mbpp", "livecodebench", "speed-bench-coding", "code"),
    "math": ("gsm8k", "math500", "aime24", "aime25", "math"),
    "chat": ("mt-bench", "alpaca", "chat"),
    "qa": ("gpqa", "financeqa", "qa"),
    "tool-calls": ("bfcl", "tau-bench", "tool-calls"),
    "agents": ("swe-agent", "mind2web"),
    "structured": ("json-mode", "structured"),
    "prose": ("prose",),
    "rag": ("rag",),
    "summarisation": ("summarisation",),
    "translation": ("translation",),
    "other-languages": ("gsm8k-chinese",),
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
DRAFTERS = ("dflash", "dflash2", "dspark", "domino", "mtp", "eagle3")
K = 1024
Z90 = 1.645


@dataclass(frozen=True)
class Row:
    """A published accept length, on the scale of the fits."""

    source: str
    model: str
    drafter: str
    method: str
    block: int
    dataset: str
    thinking: str
    temperature: float  # 0 where the source names none
    context: int  # of a sweep [token]; 0 elsewhere
    accept_len: float

    @cached_property
    def rejection(self) -> float:
        """Log of the rejection rate."""
        beta = PRIORS.beta_of(self.method).mean
        return math.log(fit_one(self.accept_len, self.block, beta=beta, theta=PRIORS.theta).lam)

    @property
    def whose(self) -> tuple[str, str]:
        return self.model, self.drafter

    @property
    def text(self) -> str:
        """What its level is taken from: a coding set that one source alone has is code."""
        return "code" if self.dataset == "speed-bench-coding" else self.dataset


def rows() -> list[Row]:
    """Both tables, of the drafters that there are laws for."""
    found = []
    for name in ("accept_length.csv", "elsewhere.csv"):
        with (FOLDER / name).open(encoding="utf-8", newline="") as lines:
            found += [_row(r) for r in csv.DictReader(lines) if r["method"] in DRAFTERS]
    return [r for r in found if "ablation" not in r.drafter and 1 < r.accept_len < r.block]


def _row(r: Mapping[str, str]) -> Row:
    sweep = re.fullmatch(r"(longbench-.*)-(\d+)k", r["dataset"])
    context = int(sweep[2]) * K if sweep else int(r.get("context") or 0)
    return Row(
        r["source_id"],
        r["model"],
        r["drafter"],
        r["method"],
        int(r["block"]),
        sweep[1] if sweep else r["dataset"],
        r["thinking"],
        float(r["temperature"] or 0),
        context,
        float(r["accept_len"]),
    )


# ---- content ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Content:
    """An additive model: a level of each drafter on one source, an effect of each data set.

    The effects of the cards' data sets add up to nothing. ``cells`` are (drafter, data set,
    residual).
    """

    effects: Mapping[str, float]
    levels: Mapping[tuple[object, ...], float]
    cells: tuple[tuple[tuple[object, ...], str, float], ...]

    def residuals(self, dataset: str) -> list[float]:
        return [r for _, d, r in self.cells if d == dataset]

    def drafters(self, dataset: str) -> int:
        return len({whose[:2] for whose, d, _ in self.cells if d == dataset})


def fit_content(rows: Iterable[Row]) -> Content:
    """Least squares on the widest block of every drafter and data set."""
    widest: dict[tuple[tuple[object, ...], str], Row] = {}
    for r in rows:
        if r.context or r.dataset not in KIND_OF:
            continue
        cell = ((r.model, r.drafter, r.method, r.thinking, r.temperature, r.source), r.dataset)
        if cell not in widest or widest[cell].block < r.block:
            widest[cell] = r
    count: dict[tuple[object, ...], int] = defaultdict(int)
    for whose, _ in widest:
        count[whose] += 1
    cells = [(w, d, r.rejection) for (w, d), r in widest.items() if count[w] > 1]
    levels = sorted({w for w, _, _ in cells}, key=str)
    names = sorted({d for _, d, _ in cells})
    at = {x: i for i, x in enumerate([*levels, *names])}
    a, b = np.zeros((len(cells) + 1, len(at))), np.zeros(len(cells) + 1)
    for i, (whose, dataset, value) in enumerate(cells):
        a[i, [at[whose], at[dataset]]] = 1
        b[i] = value
    a[-1, [at[d] for d in CARDS]] = 1e3
    x = np.linalg.lstsq(a, b, rcond=None)[0]
    left = (b - a @ x)[:-1]
    return Content(
        {d: float(x[at[d]]) for d in names},
        {w: float(x[at[w]]) for w in levels},
        tuple((w, d, float(e)) for (w, d, _), e in zip(cells, left, strict=True)),
    )


# ---- temperature, thinking, context -------------------------------------------------------


def temperature_pairs(rows: Iterable[Row]) -> list[tuple[Row, float]]:
    """Greedy rows that have a partner at temperature 1, and the difference in log rejection."""
    return _pairs(
        rows,
        lambda r: (r.whose, r.source, r.block, r.dataset, r.thinking, r.context),
        lambda r: r.temperature == 0,
        lambda r: r.temperature == 1,
    )


def thinking_pairs(rows: Iterable[Row]) -> list[tuple[Row, float]]:
    """Rows without thinking that have a partner with it; the difference in log rejection."""
    return _pairs(
        rows,
        lambda r: (r.whose, r.source, r.block, r.dataset),
        lambda r: r.thinking == "no",
        lambda r: r.thinking == "yes",
    )


def _pairs(
    rows: Iterable[Row],
    key: Callable[[Row], object],
    one: Callable[[Row], bool],
    other: Callable[[Row], bool],
) -> list[tuple[Row, float]]:
    before: dict[object, list[Row]] = defaultdict(list)
    after: dict[object, list[float]] = defaultdict(list)
    for r in rows:
        if one(r):
            before[key(r)].append(r)
        elif other(r):
            after[key(r)].append(r.rejection)
    return [
        (rs[0], float(np.mean(after[k]) - np.mean([r.rejection for r in rs])))
        for k, rs in before.items()
        if k in after
    ]


def context_slopes(
    rows: Iterable[Row], trained: Callable[[Row], int]
) -> dict[tuple[str, str, str], list[float]]:
    """Change of log rejection for each doubling beyond the trained length, series by series."""
    series: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for r in rows:
        if r.context:
            series[r.source, r.drafter, r.dataset].append(r)
    found = {}
    for name, points in series.items():
        points.sort(key=lambda r: r.context)
        length = trained(points[0])
        within = [r for r in points if r.context <= length * 1.05] or points[:1]
        start = within[-1]
        beyond = [r for r in points if r.context > max(start.context, length) * 1.05]
        base = max(start.context, length)
        found[name] = [
            (r.rejection - start.rejection) / math.log2(r.context / base) for r in beyond
        ]
    return {k: v for k, v in found.items() if v}


# ---- drafters -----------------------------------------------------------------------------

Levels = Mapping[tuple[str, str, str], float]  # by model, drafter and mode of thinking


def levels(rows: Iterable[Row], effects: Mapping[str, float]) -> dict[str, Levels]:
    """Greedy log rejection of each method's drafters at their widest blocks, in the cards' mean.

    Rows that name no mode of thinking count where no row of their drafter names one.
    """
    each: dict[str, dict[tuple[str, ...], dict[int, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for r in rows:
        if not r.context and r.text in effects:
            at_one = load_conditions().of_content(r.text).temperature
            level = r.rejection - effects[r.text] - at_one * r.temperature
            each[r.method][(*r.whose, r.thinking, r.source, r.dataset)][r.block].append(level)
    found = {}
    for method, cells in each.items():
        named = {who[:2] for who in cells if who[2]}
        mine: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for (model, drafter, thinking, *_), by_block in cells.items():
            if thinking or (model, drafter) not in named:
                mine[model, drafter, thinking].append(float(np.mean(by_block[max(by_block)])))
        found[method] = {who: float(np.mean(values)) for who, values in mine.items()}
    return found


@dataclass(frozen=True)
class Drafters:
    """Drafters of one method: models differ, and drafters of a model do.

    Parameters
    ----------
    mean, variance : of the log rejection of one drafter of one model [1]
    weight : how many models of one drafter would tell the mean as well
    models, drafters : how many there are; a drafter with and without thinking is two
    """

    mean: float
    variance: float
    weight: float
    models: int
    drafters: int


def between_models(each: Levels) -> Drafters:
    """The components of variance of a one-way table: models, and drafters within them."""
    by_model: dict[str, list[float]] = defaultdict(list)
    for (model, *_), level in each.items():
        by_model[model].append(level)
    n = np.array([len(v) for v in by_model.values()])
    means = np.array([np.mean(v) for v in by_model.values()])
    models, total = len(n), int(n.sum())
    squares = sum(float(np.sum((np.array(v) - np.mean(v)) ** 2)) for v in by_model.values())
    within = squares / (total - models) if total > models else 0.0
    between = 0.0
    if models > 1:
        whole = float(np.sum(n * means) / total)
        mean_square = float(np.sum(n * (means - whole) ** 2)) / (models - 1)
        between = max((mean_square - within) * (models - 1) / (total - np.sum(n**2) / total), 0.0)
    variance = between + within
    alike = between / variance if models > 1 and variance else 1.0
    weights = 1 / (alike + (1 - alike) / n)
    mean = float(np.sum(weights * means) / np.sum(weights))
    return Drafters(mean, variance, float(np.sum(weights)), models, total)


def new_drafter(each: Mapping[str, Levels], method: str) -> tuple[float, float]:
    """Mean and sd of the log rejection of a drafter of a model that none is published for.

    The variance of the method's drafters, and of those of all methods, which count as one method
    more; 1.645 of these sd are what Student's t of as many models spans at 90 %, the error of the
    mean included.
    """
    groups = {name: between_models(there) for name, there in each.items() if there}
    known = [g for g in groups.values() if g.models > 1]
    free = sum(g.models - 1 for g in known)
    pooled = sum((g.models - 1) * g.variance for g in known) / free
    own, others = groups[method], free / len(known)
    mine = own.models - 1
    variance = (others * pooled + mine * own.variance) / (others + mine)
    t = float(stats.t.ppf(0.95, others + mine))
    return own.mean, t / Z90 * math.sqrt(variance * (1 + 1 / own.weight))
