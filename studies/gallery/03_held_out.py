"""How good are predictions of rows that were not fitted? Every open row, left out in turn.

Fits the constants that ship with the engine sheet, then predicts each model from constants fitted
without it, 32 clients from constants fitted on one client, and 32 clients of each model from its
own rows of one client and all rows of the other models. Prints tables; ``--write`` updates
the .out and the .json beside this file, the shipped calibration and the accuracy pages. What other
servers have in common stays in that calibration as it was: 13_servers.py fits it.

    python studies/gallery/03_held_out.py [--jobs 2] [--write]
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dflash_sim.calibrate.fit.fit import PASSES, fit
from dflash_sim.calibrate.fit.held_out import Validation, held_out, leave_one_out
from dflash_sim.calibrate.fit.rows import Row, rows_of
from dflash_sim.calibrate.fit.servers import with_known_levels
from dflash_sim.calibrate.observations.row_filter import parse_filter
from dflash_sim.profiles.releases.calibration import Calibration, load_calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, EngineSheet, load_engine
from dflash_sim.studies.compare import validation_tables as show
from dflash_sim.studies.compare.validate_question import published
from dflash_sim.studies.published import fit_tables as fits
from dflash_sim.studies.published.findings import Findings
from dflash_sim.studies.published.page_slots import deliver
from dflash_sim.studies.show.files import write_whole
from dflash_sim.studies.show.plain_table import Table
from dflash_sim.studies.show.terminal import Progress

SHIPPED = Path(__file__).parents[2] / f"profiles/calibrations/{HOME}.toml"
GPU = "b200"


def study(engine: EngineSheet, jobs: int) -> tuple[Findings, Calibration]:
    """All tables, and the constants of home to ship."""
    read = published()
    rows, refused = rows_of([o for o in read.observations if o.fields.get("gpu") == GPU], engine)
    build = engine.fit.build
    home = [row for row in rows if row.observation.build == build]
    sources = sorted({row.observation.source for row in home})
    with Progress(5 * PASSES * len(home)) as progress:

        def done() -> None:
            progress.advance(0)

        joint = fit(
            home,
            engine=engine,
            name=f"{HOME}, build {build}",
            jobs=jobs,
            about={"sources": sources},
            on_row=done,
        )
        models = leave_one_out(home, "model", engine=engine, jobs=jobs, on_row=done)
        clients = _one_client(home, engine, jobs, done)
        own = _own_client(home, models, engine, jobs, done)
    tables = [
        fits.conditions(joint, read, refused, len(rows) - len(home)),
        *_renamed("held out by model", show.tables(models)),
        *_renamed("32 clients from one", show.tables(clients)),
        *_renamed("32 clients from its own one", show.tables(own)),
        fits.fitted_rows(joint),
        fits.constants(joint),
        fits.correlations(joint),
        fits.limits(joint),
        show.rows(models.outcomes, "every held-out row"),
    ]
    found = Findings(tuple(tables), fits.quoted({t.title: t for t in tables}))
    return found, joint.calibration


def _one_client(
    rows: list[Row], engine: EngineSheet, jobs: int, done: Callable[[], None]
) -> Validation:
    alone, many = _of_one_client(rows)
    found, outcomes = held_out(
        alone,
        many,
        engine=engine,
        held="c=32",
        jobs=jobs,
        on_row=done,
    )
    text = "32 clients from constants fitted on one"
    return Validation(tuple(outcomes), (found,), (found.calibration,), text)


def _own_client(
    rows: list[Row],
    models: Validation,
    engine: EngineSheet,
    jobs: int,
    done: Callable[[], None],
) -> Validation:
    """Each model as a user has it: known from other models, and from its own rows of one client."""
    fits, outcomes = [], []
    for before in models.fits:
        model = before.calibration.name
        alone, many = _of_one_client([row for row in rows if row.scenario.model == model])
        if not alone or not many:
            continue
        known = before.calibration
        found, some = held_out(
            alone, many, engine=engine, held=model, jobs=jobs, known=known, on_row=done
        )
        fits.append(found)
        outcomes += some
    text = "32 clients of a model from its rows of one client, known from other models"
    return Validation(tuple(outcomes), tuple(fits), tuple(f.calibration for f in fits), text)


def _of_one_client(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Rows of one client, and of 32."""
    alone, many = parse_filter("concurrency==1"), parse_filter("concurrency==32")
    return (
        [row for row in rows if alone(row.observation)],
        [row for row in rows if many(row.observation)],
    )


def _renamed(what: str, tables: list[Table]) -> list[Table]:
    return [replace(t, title=f"{what}: {t.title}") for t in tables]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    found, home = study(load_engine(HOME), args.jobs)
    if args.write:
        before = load_calibration("shipped", load_engine(HOME))
        whole = home if before is None else with_known_levels(home, before)
        write_whole(SHIPPED, whole.to_toml())
    deliver(found, Path(__file__), write=args.write)


if __name__ == "__main__":
    main()
