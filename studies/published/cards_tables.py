"""What the accuracy study prints: outcomes in tables."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dflash_sim.studies.published.cards import (
    ErrorStats,
    Outcome,
    error_stats,
    grouped,
    ranked_right,
)
from dflash_sim.studies.published.serving_latency import Latencies
from dflash_sim.studies.show.figures import percent, signed
from dflash_sim.studies.show.plain_table import Table

_STATS = ("rows", "MAPE", "bias", "median", "p95")
_BUILDS = ("of June 2026", "with factor")
_SHORT = {
    "qwen3.6-35b-a3b": "35B",
    "qwen3.5-397b-a17b": "397B",
    "qwen3-8b": "8B",
}

# Errors large enough to know about, by name; docs/explanation/accuracy.md gives likely causes.
FAILURES: dict[str, Callable[[Outcome], bool]] = {
    "35B plain decoding, c=1": lambda o: _is(o, "35B", 1) and o.config == "none",
    "397B plain decoding, c=1": lambda o: _is(o, "397B", 1) and o.config == "none",
    "397B plain decoding, c=32": lambda o: _is(o, "397B", 32) and o.config == "none",
    "35B MTP, c=1": lambda o: _is(o, "35B", 1) and o.row.method == "mtp",
    "35B DFlash-4, c=32": lambda o: _is(o, "35B", 32) and o.config == "dflash-4",
    "35B DFlash-16 on HumanEval and MBPP": lambda o: _is(o, "35B") and _wide(o) and _code(o),
    "35B DFlash-16 on MT-Bench": lambda o: _is(o, "35B") and _wide(o) and _chat(o),
    "397B DFlash-16 on HumanEval and MBPP, c=1": (
        lambda o: _is(o, "397B", 1) and _wide(o) and _code(o)
    ),
    "397B MT-Bench with drafts, c=1": (
        lambda o: _is(o, "397B", 1) and o.config != "none" and _chat(o)
    ),
}


def _is(o: Outcome, model: str, conc: int | None = None) -> bool:
    return short(o.row.model) == model and conc in (None, o.row.conc)


def _wide(o: Outcome) -> bool:
    return o.config == "dflash-16"


def _code(o: Outcome) -> bool:
    return o.row.dataset in ("humaneval", "mbpp")


def _chat(o: Outcome) -> bool:
    return o.row.dataset == "mt-bench"


def _question(o: Outcome) -> tuple[str, str, int]:
    return o.row.model, o.row.dataset, o.row.conc


def short(model: str) -> str:
    """A model in few letters."""
    return _SHORT.get(model, model)


def _stats(s: ErrorStats) -> tuple[str, ...]:
    sizes = (percent(s.mape), signed(s.bias), percent(s.median), percent(s.p95))
    return (str(s.n), *sizes)


def headline(cards: Sequence[Outcome]) -> Table:
    """All rows, and each source."""
    groups = {"all": list(cards)} | grouped(cards, lambda o: o.row.source_id)
    rows = [(name, *_stats(error_stats(g))) for name, g in groups.items()]
    return Table("headline", ("source", *_STATS), tuple(rows))


def by_method(cards: Sequence[Outcome]) -> Table:
    """Each method at each concurrency."""
    groups = grouped(cards, lambda o: (o.row.method, o.row.conc))
    rows = [
        (method, str(conc), *_stats(error_stats(g)))
        for (method, conc), g in sorted(groups.items(), key=lambda item: item[0][::-1])
    ]
    return Table("by method and concurrency", ("method", "c", *_STATS), tuple(rows))


def by_config(cards: Sequence[Outcome]) -> Table:
    """Each model, concurrency and draft width."""
    groups = grouped(cards, lambda o: (short(o.row.model), o.row.conc, o.row.engine_mode, o.config))
    rows = []
    for (model, conc, mode, config), g in groups.items():
        s = error_stats(g)
        errors = [o.error for o in g]
        span = (signed(min(errors)), signed(max(errors)))
        rows.append(
            (model, str(conc), mode, config, str(s.n), percent(s.mape), signed(s.bias), *span)
        )
    head = ("model", "c", "mode", "config", "rows", "MAPE", "bias", "least", "most")
    return Table("by model and width", head, tuple(rows))


def ranking(cards: Sequence[Outcome]) -> Table:
    """How often the faster of two configurations is named; the longer accept length as control."""
    rules: dict[str, Callable[[Outcome], float]] = {
        "predicted throughput": lambda o: o.predicted_tok_s,
        "longer accept length": lambda o: o.accept_length,
    }
    rows = []
    for conc in ("all", "1", "32"):
        chosen = [o for o in cards if conc in ("all", str(o.row.conc))]
        for name, rule in rules.items():
            right, pairs = ranked_right(chosen, by=rule)
            rows.append((name, conc, str(right), str(pairs), percent(right / pairs)))
    return Table("pairs ranked right", ("by", "c", "right", "pairs", "share"), tuple(rows))


def speedups(cards: Sequence[Outcome]) -> Table:
    """Error of the speed-up over plain decoding, what the cards advertise."""
    plain = {_question(o): o for o in cards if o.config == "none"}
    errors: dict[tuple[str, int], list[float]] = {}
    for o in cards:
        if o.config != "none" and _question(o) in plain:
            error = (1 + o.error) / (1 + plain[_question(o)].error) - 1
            errors.setdefault((o.row.method, o.row.conc), []).append(error)
    rows = []
    for (method, conc), e in sorted(errors.items(), key=lambda item: item[0][::-1]):
        stats = (percent(float(np.mean(np.abs(e)))), signed(float(np.mean(e))))
        rows.append((method, str(conc), str(len(e)), *stats))
    head = ("method", "c", "rows", "MAPE", "bias")
    return Table("speed-up over plain decoding", head, tuple(rows))


def failures(cards: Sequence[Outcome]) -> Table:
    """Where it is known to be off, and by how much."""
    rows = []
    for name, chosen in FAILURES.items():
        errors = [o.error for o in cards if chosen(o)]
        span = (signed(min(errors)), signed(max(errors)))
        rows.append((name, str(len(errors)), signed(float(np.mean(errors))), *span))
    return Table("known failures", ("where", "rows", "mean", "least", "most"), tuple(rows))


def worst(cards: Sequence[Outcome], n: int = 10) -> Table:
    """The ``n`` rows furthest off."""
    chosen = sorted(cards, key=lambda o: -abs(o.error))[:n]
    return Table("worst rows", _ROW_HEAD, tuple(map(_row, chosen)))


_ROW_HEAD = (
    "source",
    "model",
    "mode",
    "config",
    "data",
    "c",
    "published",
    "predicted",
    "error",
    "accept",
)


def _row(o: Outcome) -> tuple[str, ...]:
    r = o.row
    what = (r.source_id, short(r.model), r.engine_mode, o.config, r.dataset, str(r.conc))
    speed = (f"{r.output_tok_s:.1f}", f"{o.predicted_tok_s:.1f}", signed(o.error))
    return (*what, *speed, f"{o.accept_length:.2f}")


def every_row(cards: Sequence[Outcome]) -> Table:
    """One line per published row [token/s]."""
    return Table("every row", _ROW_HEAD, tuple(map(_row, cards)))


def sensitivity(by_variant: Mapping[str, Sequence[Outcome]]) -> Table:
    """The same rows under changed priors."""
    rows = []
    for name, outcomes in by_variant.items():
        by_model = grouped(outcomes, lambda o: short(o.row.model))
        parts = [f"{100 * error_stats(by_model[m]).mape:.1f} %" for m in ("35B", "397B", "8B")]
        rows.append((name, *_stats(error_stats(outcomes)), *parts))
    return Table("sensitivity", ("changed", *_STATS, "35B", "397B", "8B"), tuple(rows))


def older(by_mode: Mapping[str, Sequence[Outcome]]) -> Table:
    """First-release cards, whose engine mode is not published, read in each mode."""
    modes = {
        mode: grouped(outcomes, lambda o: (o.row.source_id, o.row.method))
        for mode, outcomes in by_mode.items()
    }
    rows = []
    for source, method in next(iter(modes.values())):
        groups = [g[source, method] for g in modes.values()]
        stats = [error_stats(g) for g in groups]
        errors = [cell for s in stats for cell in (percent(s.mape), signed(s.bias))]
        rows.append((source, method, str(stats[0].n), *errors))
    head = [f"{what} as {mode}" for mode in modes for what in ("MAPE", "bias")]
    return Table("first-release cards", ("source", "method", "rows", *head), tuple(rows))


def builds(cards: Sequence[Outcome], old: Sequence[Outcome]) -> Table:
    """Published over published: what the current cards gained on the first releases."""
    before = {(o.config, *_question(o)): o.row.output_tok_s for o in old}
    gains: dict[tuple[str, str, int], list[float]] = {}
    for o in cards:
        same = (o.config, *_question(o))
        if same in before:
            cell = gains.setdefault((short(o.row.model), o.row.method, o.row.conc), [])
            cell.append(o.row.output_tok_s / before[same])
    rows = [
        (model, method, str(conc), str(len(g)), *(f"{x:.2f}" for x in (np.mean(g), min(g), max(g))))
        for (model, method, conc), g in gains.items()
    ]
    head = ("model", "method", "c", "cells", "current over first", "least", "most")
    return Table("what the newer build gained", head, tuple(rows))


def plain_elsewhere(outcomes: Sequence[Outcome]) -> Table:
    """Plain decoding of other models and sources."""
    groups = grouped(outcomes, lambda o: (o.row.source_id, o.row.model, o.row.gpu, o.row.conc))
    rows = [
        (source, model, gpu, str(conc), str(len(g)), signed(error_stats(g).bias))
        for (source, model, gpu, conc), g in groups.items()
    ]
    head = ("source", "model", "gpu", "c", "rows", "error")
    return Table("plain decoding elsewhere", head, tuple(rows))


def all_plain(*groups: Sequence[Outcome]) -> Table:
    """Every plain-decoding row on B200, current and old: the set peers are compared on."""
    rows = []
    for name, outcomes in (
        ("current cards", groups[0]),
        ("all builds", [o for g in groups for o in g]),
    ):
        chosen = [o for o in outcomes if o.config == "none" and o.row.gpu == "b200"]
        rows.append((name, *_stats(error_stats(chosen))))
    return Table("plain decoding on B200", ("rows of", *_STATS), tuple(rows))


def serving(found: Sequence[tuple[Latencies, Latencies]]) -> list[Table]:
    """Latencies against measured ones, as on our build and with the factor of theirs."""
    rows = []
    errors: dict[tuple[str, str], list[float]] = {}
    for ours, theirs in found:
        p = ours.point
        cells = []
        for name in ("tpot", "ttft"):
            seen = getattr(p, f"{name}_ms")
            misses = [getattr(x, f"{name}_ms") / seen - 1 for x in (ours, theirs)]
            for build, miss in zip(_BUILDS, misses, strict=True):
                errors.setdefault((name.upper(), build), []).append(miss)
            cells += [f"{seen:.2f}", f"{getattr(ours, f'{name}_ms'):.2f}", *map(signed, misses)]
        rows.append((str(p.isl), str(p.osl), str(p.conc), *cells))
    head = ["isl", "osl", "c"]
    for name in ("TPOT", "TTFT"):
        head += [f"{name} measured", "predicted", "error", f"{_BUILDS[1]}"]
    sums = [
        (name, build, str(len(e)), percent(float(np.mean(np.abs(e)))), signed(float(np.mean(e))))
        for (name, build), e in errors.items()
    ]
    return [
        Table("latencies in February 2026", tuple(head), tuple(rows)),
        Table("latency errors", ("metric", "constants", "rows", "MAPE", "bias"), tuple(sums)),
    ]
