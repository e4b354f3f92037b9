"""Tables of the accuracy study: errors on published rows, summed up."""

from collections.abc import Mapping, Sequence

import pandas as pd

from dflash_sim.calibrate.fit.errors import error_table, ranked_right, speedups, summed
from dflash_sim.calibrate.fit.held_out import Outcome
from dflash_sim.studies.show.figures import percent
from dflash_sim.studies.show.frame_table import as_table, written
from dflash_sim.studies.show.plain_table import Table

_STATS = ("rows", "MAPE", "bias", "median", "p95")
_SHORT = {"qwen3.6-35b-a3b": "35B", "qwen3.5-397b-a17b": "397B", "qwen3-8b": "8B"}

# Errors large enough to know about; docs/explanation/accuracy-tables.md gives likely causes.
FAILURES = {
    "35B plain decoding, c=1": "model == '35B' and c == 1 and config == 'none'",
    "397B plain decoding, c=1": "model == '397B' and c == 1 and config == 'none'",
    "397B plain decoding, c=32": "model == '397B' and c == 32 and config == 'none'",
    "35B MTP, c=1": "model == '35B' and c == 1 and method == 'mtp'",
    "35B DFlash-4, c=32": "model == '35B' and c == 32 and config == 'dflash-4'",
    "35B DFlash-16 on HumanEval and MBPP": (
        "model == '35B' and config == 'dflash-16' and data in ('humaneval', 'mbpp')"
    ),
    "35B DFlash-16 on MT-Bench": "model == '35B' and config == 'dflash-16' and data == 'mt-bench'",
    "397B DFlash-16 on HumanEval and MBPP, c=1": (
        "model == '397B' and c == 1 and config == 'dflash-16' and data in ('humaneval', 'mbpp')"
    ),
    "397B MT-Bench with drafts, c=1": (
        "model == '397B' and c == 1 and config != 'none' and data == 'mt-bench'"
    ),
}


def errors_of(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return the errors with the names of the cards: model ``35B``, config ``dflash-16``."""
    found = error_table(outcomes)
    plain = ~found["speculative"]
    drafts = [o.row.scenario.speculation.steps(o.row.width) or o.row.width for o in outcomes]
    config = found["method"] + "-" + pd.Series(drafts, dtype=str)
    return found.assign(
        model=found["model"].replace(_SHORT),
        c=[o.row.scenario.conc or 0 for o in outcomes],
        data=found["data set"],
        mode=("spec_" + found["mode"]).mask(plain, "none"),
        config=config.mask(plain, "none"),
    )


def headline(cards: pd.DataFrame) -> Table:
    """All rows, and each source."""
    each = pd.concat([cards.assign(source="all"), cards])
    return _sums("headline", each, ["source"], _STATS)


def by_method(cards: pd.DataFrame) -> Table:
    """Each method at each concurrency."""
    found = cards.sort_values(["c", "method"], kind="stable")
    return _sums("by method and concurrency", found, ["method", "c"], _STATS)


def by_config(cards: pd.DataFrame) -> Table:
    """Each model, concurrency and draft width."""
    keys = ["model", "c", "mode", "config"]
    return _sums("by model and width", cards, keys, ("rows", "MAPE", "bias", "least", "most"))


def _sums(title: str, errors: pd.DataFrame, by: list[str], stats: Sequence[str]) -> Table:
    return as_table(title, written(summed(errors, by)), [*by, *stats])


def ranking(cards: pd.DataFrame) -> Table:
    """Count how often the faster of two configurations is named; accept length is the control."""
    rules = {"predicted throughput": "predicted", "longer accept length": "accept_length"}
    groups = {"all": cards, "1": cards[cards["c"] == 1], "32": cards[cards["c"] == 32]}
    lines = []
    for conc, chosen in groups.items():
        for name, rule in rules.items():
            right, pairs = ranked_right(chosen, by=rule)
            share = percent(right / pairs) if pairs else "-"
            lines.append((name, conc, str(right), str(pairs), share))
    return Table("pairs ranked right", ("by", "c", "right", "pairs", "share"), tuple(lines))


def gains(cards: pd.DataFrame) -> Table:
    """Error of the speed-up over plain decoding, what the cards advertise."""
    found = speedups(cards).sort_values(["c", "method"], kind="stable")
    return _sums("speed-up over plain decoding", found, ["method", "c"], ("rows", "MAPE", "bias"))


def failures(cards: pd.DataFrame) -> Table:
    """Tell where it is known to be off, and by how much."""
    chosen = pd.concat([cards.query(rule).assign(where=name) for name, rule in FAILURES.items()])
    found = written(summed(chosen, ["where"])).rename(columns={"bias": "mean"})
    return as_table("known failures", found, ("where", "rows", "mean", "least", "most"))


def worst(cards: pd.DataFrame, n: int = 10) -> Table:
    """The ``n`` rows furthest off."""
    furthest = cards.sort_values("error", key=lambda e: -e.abs(), kind="stable")
    return _rows("worst rows", furthest.head(n))


def every_row(cards: pd.DataFrame) -> Table:
    """One line per published row [token/s]."""
    return _rows("every row", cards)


def _rows(title: str, cards: pd.DataFrame) -> Table:
    shown = written(cards).assign(
        published=cards["observed"].map("{:.1f}".format),
        predicted=cards["predicted"].map("{:.1f}".format),
        accept=cards["accept_length"].map("{:.2f}".format),
    )
    what = ("source", "model", "mode", "config", "data", "c")
    return as_table(title, shown, (*what, "published", "predicted", "error", "accept"))


def sensitivity(by_variant: Mapping[str, pd.DataFrame]) -> Table:
    """Return the errors on the same rows under changed priors."""
    each = pd.concat([errors.assign(changed=name) for name, errors in by_variant.items()])
    models = list(_SHORT.values())
    mapes = summed(each, ["changed", "model"]).pivot(
        index="changed", columns="model", values="MAPE"
    )
    found = written(summed(each, ["changed"])).join(mapes.map(percent), on="changed")
    return as_table("sensitivity", found, ("changed", *_STATS, *models))


def older(by_mode: Mapping[str, pd.DataFrame]) -> Table:
    """First-release cards, whose engine mode is not published, read in each mode."""
    keys, read = ["source", "method"], []
    for mode, errors in by_mode.items():
        sums = written(summed(errors, keys)).set_index([*keys, "rows"])
        read.append(sums[["MAPE", "bias"]].add_suffix(f" as {mode}"))
    found = pd.concat(read, axis=1).reset_index()
    return as_table("first-release cards", found)


def builds(cards: pd.DataFrame, old: pd.DataFrame) -> Table:
    """Published over published: what the current cards gained on the first releases."""
    same = ["config", "model", "data", "c"]
    both = cards.merge(old[[*same, "observed"]], on=same, suffixes=("", " before"))
    both["gain"] = both["observed"] / both["observed before"]
    gains = both.groupby(["model", "method", "c"], sort=False)["gain"]
    shown = pd.DataFrame({"cells": gains.size().astype(str)})
    for head, gain in (
        ("current over first", gains.mean()),
        ("least", gains.min()),
        ("most", gains.max()),
    ):
        shown[head] = gain.map("{:.2f}".format)
    shown = shown.reset_index()
    return as_table("what the newer build gained", shown)


def plain_elsewhere(outcomes: Sequence[Outcome]) -> Table:
    """Plain decoding of other models and sources."""
    found = written(summed(error_table(outcomes), ["source", "model", "GPU", "concurrency"]))
    heads = {"GPU": "gpu", "concurrency": "c", "bias": "error"}
    columns = ("source", "model", "gpu", "c", "rows", "error")
    return as_table("plain decoding elsewhere", found.rename(columns=heads), columns)


def all_plain(current: pd.DataFrame, *others: pd.DataFrame) -> Table:
    """Every plain-decoding row on B200, current and old: the set peers are compared on."""
    groups = (("current cards", current), ("all builds", pd.concat([current, *others])))
    each = pd.concat([errors.assign(**{"rows of": name}) for name, errors in groups])
    chosen = each[~each["speculative"] & (each["GPU"] == "b200")]
    return _sums("plain decoding on B200", chosen, ["rows of"], _STATS)


def quoted(tables: Mapping[str, Table]) -> dict[str, str]:
    """Return the figures that sentences of the pages quote, by name."""
    head, plain = tables["headline"], tables["plain decoding on B200"]
    conditions = tables["conditions"]
    return {
        "prior rows": head.cell("all", "rows"),
        "prior MAPE": head.cell("all", "MAPE"),
        "prior bias": head.cell("all", "bias"),
        "plain current": plain.cell("current cards", "MAPE"),
        "plain all builds": plain.cell("all builds", "MAPE"),
        "runs": conditions.cell("runs", "value"),
        "seed": conditions.cell("seed", "value"),
        "engine": conditions.cell("engine", "value"),
    }
