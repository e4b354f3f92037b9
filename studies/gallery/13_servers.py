"""How good is it on a server that it never saw, and after three measurements of it?

Open rows of other releases, GPUs, attention backends and models: predicted from constants
that no row of its source had a say in, then after three rows of the same server. Rows that only
test are beside what two other tools say of them. Prints tables; ``--write`` updates the .out and
the .json beside this file, what servers have in common in the shipped calibration, and the
accuracy pages.

    python studies/gallery/13_servers.py [--jobs 2] [--write]
"""

import argparse
from pathlib import Path

from dflash_sim.profiles.releases.calibration import Calibration, load_calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, EngineSheet, load_engine
from dflash_sim.studies.published import servers
from dflash_sim.studies.published import servers_tables as show
from dflash_sim.studies.published.findings import Findings
from dflash_sim.studies.published.page_slots import deliver
from dflash_sim.studies.published.servers_judged import Asked, Judge, after_plain, after_three
from dflash_sim.studies.show.files import write_whole
from dflash_sim.studies.show.terminal import Progress

SHIPPED = Path(__file__).parents[2] / f"profiles/calibrations/{HOME}.toml"


def findings(
    engine: EngineSheet, shipped: Calibration, *, jobs: int
) -> tuple[Findings, Calibration]:
    """All tables of the study, and the calibration to ship."""
    rows = servers.picked(servers.elsewhere(engine), servers.MOST)
    home = servers.of_home(shipped)
    with Progress(6 * len(rows)) as progress:
        left = servers.LeftOut(
            home, rows, engine=engine, jobs=jobs, on_row=lambda: progress.advance(0)
        )
    unfitted, three, plain = [], [], []
    for source, own in servers.by_source(rows).items():
        known = left.without(lambda row, s=source: row.observation.source == s)
        unfitted.append(Asked(known, own))
        for mine in servers.by_server(own).values():
            three.append(after_three(known, mine, engine))
            plain.append(after_plain(known, mine, engine))
    kinds = {
        kind: [
            Asked(left.without(lambda row, own=own: row in own), own)
            for own in servers.by_kind(rows, kind).values()
        ]
        for kind in servers.KINDS
    }
    questions = [
        unfitted,
        three,
        plain,
        *kinds.values(),
        [Asked(left.whole, servers.tests(engine))],
    ]
    with Judge(engine, jobs=jobs) as judge:
        answers = judge.each(questions)
    unseen, after, drafting, *left_out, tested = answers
    found = show.findings(
        unseen,
        after,
        tested,
        dict(zip(kinds, left_out, strict=True)),
        left.whole,
        left.scales,
        plain=drafting,
    )
    return found, left.whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    engine = load_engine(HOME)
    shipped = load_calibration("shipped", engine)
    assert shipped is not None
    found, whole = findings(engine, shipped, jobs=args.jobs)
    if args.write:
        write_whole(SHIPPED, whole.to_toml())
    deliver(found, Path(__file__), write=args.write)


if __name__ == "__main__":
    main()
