"""docs/explanation/accuracy.md, kept in step with what the accuracy study printed.

The prose is written by hand. A table or a figure of ours stands between ``<!-- name -->`` and
``<!-- / -->`` and is replaced by what the study printed under that name.
"""

import re
from collections.abc import Mapping
from contextlib import suppress

from dflash_sim.studies.show.plain_table import Table, parse_tables

_SLOT = re.compile(r"<!-- (\w[\w -]*) -->.*?<!-- / -->", re.DOTALL)


def refresh(page: str, text: str) -> str:
    """The page with every table and figure that a printed study has.

    Parameters
    ----------
    page
        The page as it is.
    text
        Output of ``studies/gallery/01_published_cards.py`` or of another study.
    """
    return fill(page, values(text))


def fill(page: str, found: Mapping[str, str]) -> str:
    """The page with the slots that are found; the others stay as they are."""

    def current(slot: re.Match[str]) -> str:
        return f"<!-- {slot[1]} -->{found[slot[1]]}<!-- / -->" if slot[1] in found else slot[0]

    return _SLOT.sub(current, page)


def values(text: str) -> dict[str, str]:
    """Everything the page may name: tables by title, and the figures in its sentences."""
    tables = {t.title: t for t in parse_tables(text)}
    found = {name: f"\n\n{table.markdown()}\n\n" for name, table in tables.items()}
    for figures in (_cards, _held_out):
        with suppress(KeyError):
            found |= figures(tables)
    return found


def _cards(tables: Mapping[str, Table]) -> dict[str, str]:
    head, ranked = tables["headline"], tables["pairs ranked right"]
    plain, conditions = tables["plain decoding on B200"], tables["conditions"]
    return {
        "rows": head.cell("all", "rows"),
        "MAPE": head.cell("all", "MAPE"),
        "bias": head.cell("all", "bias"),
        "p95": head.cell("all", "p95"),
        "pairs": ranked.cell("predicted throughput", "pairs"),
        "ranked right": ranked.cell("predicted throughput", "share"),
        "ranked by accept length": ranked.cell("longer accept length", "share"),
        "plain current": plain.cell("current cards", "MAPE"),
        "plain all builds": plain.cell("all builds", "MAPE"),
        "TPOT error": tables["latency errors"].rows[0][3],
        "TPOT error with factor": tables["latency errors"].rows[1][3],
        "TTFT error": tables["latency errors"].rows[2][3],
        "runs": conditions.cell("runs", "value"),
        "seed": conditions.cell("seed", "value"),
        "engine": conditions.cell("engine", "value"),
    }


def _held_out(tables: Mapping[str, Table]) -> dict[str, str]:
    models = tables["held out by model: held-out rows"]
    clients = tables["32 clients from one: held-out rows"]
    pairs = tables["held out by model: pairs ranked right"]
    fit, fitted = tables["fit"], tables["fitted rows"]
    columns = {"MAPE": "MAPE", "bias": "bias", "p95": "p95", "coverage": "inside 90 %"}
    found = {f"held {name}": models.cell("all", column) for name, column in columns.items()}
    return found | {
        "held rows": models.cell("all", "rows"),
        "held plain": models.cell("plain decoding", "MAPE"),
        "held speculative": models.cell("speculative", "MAPE"),
        "held ranked": pairs.cell("predicted throughput", "share"),
        "held pairs": pairs.cell("predicted throughput", "pairs"),
        "clients MAPE": clients.cell("all", "MAPE"),
        "clients coverage": clients.cell("all", "inside 90 %"),
        "joint MAPE": fitted.cell("all", "MAPE"),
        "free constants": fit.cell("engine constants", "value"),
        "free correlations": fit.cell("correlations of data sets", "value"),
        "cells": fit.cell("acceptance cells", "value"),
    }
