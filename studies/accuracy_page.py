"""docs/explanation/accuracy.md, kept in step with what the accuracy study printed.

The prose is written by hand. A table or a figure of ours stands between ``<!-- name -->`` and
``<!-- / -->`` and is replaced by what the study printed under that name.
"""

import re

from dflash_sim.studies.texttable import Table, parse_tables

_SLOT = re.compile(r"<!-- (\w[\w -]*) -->.*?<!-- / -->", re.DOTALL)


def refresh(page: str, text: str) -> str:
    """The page with every table and figure taken from a printed study.

    Parameters
    ----------
    page
        The page as it is.
    text
        Output of ``studies/gallery/01_published_cards.py``.
    """
    found = values(text)
    return _SLOT.sub(lambda slot: f"<!-- {slot[1]} -->{found[slot[1]]}<!-- / -->", page)


def values(text: str) -> dict[str, str]:
    """Everything the page may name: tables by title, and the figures in its sentences."""
    tables = {t.title: t for t in parse_tables(text)}
    head, ranked = tables["headline"], tables["pairs ranked right"]
    plain, conditions = tables["plain decoding on B200"], tables["conditions"]
    lines = {name: f"\n\n{table.markdown()}\n\n" for name, table in tables.items()}
    return lines | {
        "rows": head.cell("all", "rows"),
        "MAPE": head.cell("all", "MAPE"),
        "bias": head.cell("all", "bias"),
        "p95": head.cell("all", "p95"),
        "pairs": ranked.cell("predicted throughput", "pairs"),
        "ranked right": ranked.cell("predicted throughput", "share"),
        "ranked by accept length": ranked.cell("longer accept length", "share"),
        "plain current": plain.cell("current cards", "MAPE"),
        "plain all builds": plain.cell("all builds", "MAPE"),
        "serving bias": _mean_percent(tables["ms per token in February 2026"], "error"),
        "runs": conditions.cell("runs", "value"),
        "seed": conditions.cell("seed", "value"),
        "engine": conditions.cell("engine", "value"),
    }


def _mean_percent(table: Table, column: str) -> str:
    cells = [row[table.head.index(column)] for row in table.rows]
    numbers = [float(re.sub(r"[ %]", "", cell)) for cell in cells]
    return f"{sum(numbers) / len(numbers):+.1f} %"
