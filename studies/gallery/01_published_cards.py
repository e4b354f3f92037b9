"""How far is the simulator from published throughput? Every open row of the current model cards.

Nothing is fitted on these rows. Prints tables; ``--write`` updates the .out beside this file and
docs/explanation/accuracy.md.

    python studies/gallery/01_published_cards.py [--runs 3] [--jobs 2] [--write]
"""

import argparse
import sys
from itertools import chain
from pathlib import Path

from dflash_sim.studies.published import cards as study
from dflash_sim.studies.published import cards_tables as show
from dflash_sim.studies.published.page_slots import refresh
from dflash_sim.studies.published.serving_latency import (
    Latencies,
    predicted_latencies,
    serving_points,
)
from dflash_sim.studies.show.plain_table import Table, text_of

HERE = Path(__file__)
OUT = HERE.with_suffix(".out")
PAGE = HERE.parents[2] / "docs/explanation/accuracy.md"
SERVING_BUILD = "2026-02"
SENSITIVITY_DATASETS = ("humaneval", "mt-bench")  # and Qwen3-8B, which has GSM8K only


def tables(*, runs: int, jobs: int) -> list[Table]:
    """All tables of the study; everything but the card rows in one run."""
    cards = study.card_rows()
    few = [p for p in cards if p.dataset in SENSITIVITY_DATASETS or p.model == "qwen3-8b"]
    read_as = [study.Variant(mode, engine_mode=mode) for mode in ("v1", "v2")]
    parts = [
        [study.Task(p, runs) for p in cards],
        *([study.Task(p, 1, v) for p in few] for v in (study.AS_SHIPPED, *study.VARIANTS)),
        *([study.Task(p, 1, v) for p in study.old_rows()] for v in read_as),
        [study.Task(p, 1) for p in study.baseline_rows()],
    ]
    outcomes = iter(study.evaluate_all(list(chain(*parts)), jobs=jobs, on_row=_progress))
    done = [[next(outcomes) for _ in part] for part in parts]
    shipped, plain = done[0], done[-1]
    changed = dict(zip(("as shipped", *(v.name for v in study.VARIANTS)), done[1:-3], strict=True))
    old = dict(zip(("v1", "v2"), done[-3:-1], strict=True))
    conditions = (("engine", "sglang-0.5.13"), ("runs", str(runs)), ("seed", "0"))
    return [
        Table("conditions", ("what", "value"), conditions),
        show.headline(shipped),
        show.by_method(shipped),
        show.by_config(shipped),
        show.ranking(shipped),
        show.speedups(shipped),
        show.failures(shipped),
        show.worst(shipped),
        show.sensitivity(changed),
        show.older(old),
        show.builds(shipped, old["v2"]),
        show.plain_elsewhere(plain),
        show.all_plain(shipped, old["v2"], plain),
        *show.serving(_latencies()),
        show.every_row(shipped),
    ]


def _latencies() -> list[tuple[Latencies, Latencies]]:
    points = serving_points()
    ours = [predicted_latencies(p, generation=None) for p in points]
    theirs = [predicted_latencies(p, generation=SERVING_BUILD) for p in points]
    return list(zip(ours, theirs, strict=True))


def _progress(done: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} rows", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    text = text_of(tables(runs=args.runs, jobs=args.jobs))
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if args.write:
        OUT.write_text(text, encoding="utf-8")
        PAGE.write_text(refresh(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
