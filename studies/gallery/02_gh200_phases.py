"""GH200: phases of a DFlash cycle and closed-loop throughput, published and predicted.

Prints the tables of the two GH200 sections of docs/explanation/accuracy.md; ``--write`` updates the
.out beside this file and the page.

    python studies/gallery/02_gh200_phases.py [--write]
"""

import argparse
import sys
from pathlib import Path

from dflash_sim.studies.published import gh200_loop as gh200
from dflash_sim.studies.published import gh200_page as phases_page
from dflash_sim.studies.published.gh200_causes import Facts
from dflash_sim.studies.published.page_slots import fill
from dflash_sim.studies.show.plain_table import Table, text_of

OUT = Path(__file__).with_suffix(".out")
PAGE = Path(__file__).parents[2] / "docs/explanation/accuracy.md"


def tables() -> list[Table]:
    """All tables of the study."""
    served = []
    for row in gh200.rows():
        served.append(gh200.served(row))
        if sys.stderr.isatty():
            print(f"\r{len(served)} rows", end="", file=sys.stderr, flush=True)
    return [*phases_page.tables(Facts.now()), gh200.by_server(served), gh200.every_row(served)]


def sections(found: list[Table]) -> str:
    """The two sections of the page as Markdown."""
    closed_loop = next(t for t in found if t.title == gh200.BY_SERVER)
    return f"\n\n{phases_page.section()}\n\n{gh200.section(closed_loop)}\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    found = tables()
    text = text_of(found)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if args.write:
        OUT.write_text(text, encoding="utf-8")
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), {"gh200": sections(found)}), "utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
