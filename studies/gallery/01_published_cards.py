"""How far is the simulator from published throughput? Every open row of the current model cards.

Nothing is fitted on these rows. Prints tables; ``--write`` updates the .out and the .json beside
this file, and the accuracy pages that quote them.

    python studies/gallery/01_published_cards.py [--runs 3] [--jobs 2] [--write]
"""

import argparse
from functools import partial
from pathlib import Path

from dflash_sim.calibrate.fit.rows import Row
from dflash_sim.profiles.releases.engine_sheet import HOME
from dflash_sim.studies.published import cards as study
from dflash_sim.studies.published import cards_tables as show
from dflash_sim.studies.published.findings import Findings
from dflash_sim.studies.published.page_slots import deliver
from dflash_sim.studies.show.plain_table import Table
from dflash_sim.studies.show.terminal import Progress

SENSITIVITY_DATASETS = ("humaneval", "mt-bench")  # and Qwen3-8B, which has GSM8K only


def findings(*, runs: int, jobs: int) -> Findings:
    """All tables of the study; everything but the card rows in one run."""
    cards, first, other = study.card_rows(), study.old_rows(), study.baseline_rows()
    few = [row for row in cards if _is_sensitive(row)]
    variants = (study.AS_SHIPPED, *study.VARIANTS)
    read_as = [study.Variant(mode, engine_mode=mode) for mode in ("v1", "v2")]
    total = len(cards) + len(variants) * len(few) + len(read_as) * len(first) + len(other)
    with Progress(total) as progress:
        once = partial(study.evaluate, runs=1, jobs=jobs, on_row=progress.advance)
        shipped = show.errors_of(once(cards, runs=runs))
        changed = {v.name: show.errors_of(once(few, variant=v)) for v in variants}
        old = {v.name: show.errors_of(once(first, variant=v)) for v in read_as}
        elsewhere = once(other)
    conditions = (("engine", HOME), ("runs", str(runs)), ("seed", "0"))
    tables = (
        Table("conditions", ("what", "value"), conditions),
        show.headline(shipped),
        show.by_method(shipped),
        show.by_config(shipped),
        show.ranking(shipped),
        show.gains(shipped),
        show.failures(shipped),
        show.worst(shipped),
        show.sensitivity(changed),
        show.older(old),
        show.builds(shipped, old["v2"]),
        show.plain_elsewhere(elsewhere),
        show.all_plain(shipped, old["v2"], show.errors_of(elsewhere)),
        show.every_row(shipped),
    )
    return Findings(tables, show.quoted({table.title: table for table in tables}))


def _is_sensitive(row: Row) -> bool:
    s = row.scenario
    return s.dataset in SENSITIVITY_DATASETS or s.model == "qwen3-8b"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    deliver(findings(runs=args.runs, jobs=args.jobs), Path(__file__), write=args.write)


if __name__ == "__main__":
    main()
