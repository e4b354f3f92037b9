"""GH200: phases of a DFlash cycle and closed-loop throughput, published and predicted.

Prints tables; ``--write`` updates the .out and the .json beside this file, and the accuracy pages
that quote them.

    python studies/gallery/02_gh200_phases.py [--write]
"""

import argparse
from pathlib import Path

from dflash_sim.studies.published import gh200_loop as loop
from dflash_sim.studies.published import gh200_page as phases
from dflash_sim.studies.published.cards import evaluate
from dflash_sim.studies.published.findings import Findings
from dflash_sim.studies.published.gh200_causes import Facts
from dflash_sim.studies.published.page_slots import deliver
from dflash_sim.studies.show.terminal import Progress


def findings() -> Findings:
    """All tables of the study, and what the pages quote."""
    rows, facts = loop.rows(), Facts.now()
    with Progress(len(rows)) as progress:
        served = evaluate(rows, runs=1, on_row=progress.advance)
    errors = loop.errors_of(served)
    tables = (*phases.tables(facts), loop.by_server(errors), loop.every_row(errors))
    return Findings(tables, phases.quoted(facts) | loop.quoted(errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    deliver(findings(), Path(__file__), write=args.write)


if __name__ == "__main__":
    main()
