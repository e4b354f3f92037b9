"""How good are predictions of rows that were not fitted? Every open row, left out in turn.

Fits the constants that ship with the engine sheet, then predicts each model from constants fitted
without it, and 32 clients from constants fitted on one client. Prints tables; ``--write`` updates
the .out beside this file, the shipped calibration and docs/explanation/accuracy.md.

    python studies/gallery/03_held_out.py [--jobs 2] [--write]
"""

import argparse
import sys
from pathlib import Path

from dflash_sim.calibrate.fit.build_factors import with_builds
from dflash_sim.calibrate.fit.fit import fit
from dflash_sim.calibrate.fit.held_out import Validation, held_out, leave_one_out, predicted
from dflash_sim.calibrate.fit.rows import Row, rows_of
from dflash_sim.calibrate.observations.observation import parse_filter
from dflash_sim.calibrate.readers.read import read_observations
from dflash_sim.profiles.calibration import Calibration
from dflash_sim.profiles.engine_sheet import EngineSheet, load_engine
from dflash_sim.studies.compare import validation_tables as show
from dflash_sim.studies.published import fit_tables as fits
from dflash_sim.studies.published.page_slots import refresh
from dflash_sim.studies.show.plain_table import Table, text_of

ROOT = Path(__file__).parents[2]
OUT = Path(__file__).with_suffix(".out")
PAGE = ROOT / "docs/explanation/accuracy.md"
PUBLISHED = ROOT / "profiles/published/throughput.csv"
ENGINE = "sglang-0.5.13"
SHIPPED = ROOT / f"profiles/calibrations/{ENGINE}.toml"
GPU = "b200"


def study(engine: EngineSheet, jobs: int) -> tuple[list[Table], Calibration]:
    """All tables, and the calibration to ship."""
    read = read_observations([PUBLISHED])
    rows, refused = rows_of([o for o in read.observations if o.fields.get("gpu") == GPU], engine)
    build = engine.fit.generation
    home = [row for row in rows if row.observation.generation == build]
    others = [row for row in rows if row.scenario.generation is not None]
    sources = sorted({row.observation.source for row in home})
    joint = fit(
        home,
        engine=engine,
        name=f"{ENGINE}, build {engine.fit.generation}",
        jobs=jobs,
        about={"sources": sources},
        on_row=_Count("joint"),
    )
    models = leave_one_out(home, "model", engine=engine, jobs=jobs, on_row=_Count("models"))
    clients = _one_client(home, engine, jobs)
    old = predicted(others, joint.calibration, engine=engine, held="", jobs=jobs)
    shipped = with_builds(joint.calibration, old, engine.fit.priors.generation)
    tables = [
        fits.conditions(joint, read, refused, len(others)),
        *_renamed("held out by model", show.tables(models)),
        *_renamed("32 clients from one", show.tables(clients)),
        fits.fitted_rows(joint),
        fits.constants(joint),
        fits.correlations(joint),
        fits.limits(joint),
        fits.builds(shipped, old),
        show.rows(models.outcomes, "every held-out row"),
    ]
    return tables, shipped


def _one_client(rows: list[Row], engine: EngineSheet, jobs: int) -> Validation:
    alone, many = parse_filter("concurrency==1"), parse_filter("concurrency==32")
    found, outcomes = held_out(
        [row for row in rows if alone(row.observation)],
        [row for row in rows if many(row.observation)],
        engine=engine,
        held="c=32",
        jobs=jobs,
        on_row=_Count("clients"),
    )
    text = "32 clients from constants fitted on one"
    return Validation(tuple(outcomes), (found,), (found.calibration,), text)


def _renamed(what: str, tables: list[Table]) -> list[Table]:
    return [Table(f"{what}: {t.title}", t.head, t.rows) for t in tables]


class _Count:
    """Counts on a terminal."""

    def __init__(self, what: str) -> None:
        self.what, self.done = what, 0

    def __call__(self) -> None:
        self.done += 1
        if sys.stderr.isatty():
            print(f"\r{self.what} {self.done}", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    tables, shipped = study(load_engine(ENGINE), args.jobs)
    text = text_of(tables)
    if args.write:
        OUT.write_text(text, encoding="utf-8")
        SHIPPED.write_text(shipped.to_toml(), encoding="utf-8")
        PAGE.write_text(refresh(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
