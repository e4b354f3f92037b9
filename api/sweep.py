"""``sweep``: every point of a study, in memory or in a folder that can be gone on with."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from dflash_sim.api.frames import frame
from dflash_sim.api.question import Config, File, Question, asked, takes_question, whole
from dflash_sim.api.show import counted
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.presets import load_preset
from dflash_sim.simulator.row import Row
from dflash_sim.studies.ask.answers import check_options
from dflash_sim.studies.ask.prices import checked_prices
from dflash_sim.studies.ask.question import Layer, left_out
from dflash_sim.studies.ask.study import Study, read_study_file, study_of
from dflash_sim.studies.sweep.folder import SweepFolder
from dflash_sim.studies.sweep.job import (
    Hire,
    crew_for,
    folder_of,
    left,
    shard_of,
    work,
    write_files,
)
from dflash_sim.studies.sweep.rows import chosen_formats
from dflash_sim.studies.sweep.run import answer_all
from dflash_sim.studies.sweep.workers import How

if TYPE_CHECKING:
    import pandas as pd


@takes_question
def sweep(
    study: File | None = None,
    *,
    config: Config | None = None,
    folder: File | None = None,
    resume: bool = True,
    jobs: int = 1,
    shard: str | None = None,
    cluster: str | None = None,
    address: str | None = None,
    formats: str | None = None,
    simulator: str = "auto",
    baseline: bool = True,
    interval: bool = True,
    price: Mapping[str, float] | None = None,
    tag: str | None = None,
    progress: bool = False,
    **question: Unpack[Question],
) -> "pd.DataFrame":
    """Answer every point of a study, however many, and return their rows.

    Every field may have several values. The rows do not depend on who did the work, or in how
    many parts.

    Parameters
    ----------
    study
        A YAML file with ``scenario:``, ``grid:`` and perhaps ``preset:``; keywords come before it.
    config
        Where to start from: a dict of fields, a scenario, or the path of a .yaml file.
    folder
        Where points are kept as they are answered; the same question goes on where it was stopped.
    resume
        False refuses a folder that holds points.
    jobs
        Processes.
    shard
        Only part ``"i/n"`` of the points, in a folder that all parts share.
    cluster, address
        ``"ray"`` and where it listens, or ``"ray://HOST:PORT"``.
    formats
        Of the files in the folder: ``"jsonl,csv,parquet"``; left out, all that can be written.
    simulator, baseline, interval, price, tag, progress
        As for :func:`predict`.
    **question
        As for :func:`predict`.

    Returns
    -------
    pandas.DataFrame
        The columns of the result schema; ``error`` says why a point has no answer.

    Raises
    ------
    UsageError
        A keyword or a value is none that is known, or the folder holds another study.
    DflashSimError
        Workers were lost; in a folder, the points before are kept.

    Examples
    --------
    >>> df = ds.sweep(gpu=["b200", "h200"], block=[8, 16], conc="1-32:x2", folder="runs", jobs=4)
    """
    check_options(simulator)
    jobs = whole("jobs", jobs)
    part, written = shard_of(shard), chosen_formats(formats)
    if folder is None and shard is not None:
        msg = f"shard {shard}: parts need a folder that they share; give folder='runs'."
        raise UsageError(msg)
    if folder is None and formats is not None:
        msg = f"formats {formats}: files need a folder; give folder='runs'."
        raise UsageError(msg)
    if study is None and config is None and not question:
        msg = "nothing to sweep; name a study.yaml, or give lists such as block=[4, 8, 16]."
        raise UsageError(msg)
    files: list[Layer] = []
    if study is not None:
        layer, preset = read_study_file(Path(study))
        files.append(layer)
        if preset is not None and "preset" not in question:
            files.append((f"preset {preset}", load_preset(preset).scenario))
    found = study_of(asked(config, question, files=files))
    prices = checked_prices(price or {}, found.gpus) or None
    how = How(simulator=simulator, baseline=baseline, interval=interval, tag=tag, prices=prices)
    for text in left_out({**found.fields, **found.axes}):
        warnings.warn(text, stacklevel=3)
    hire = crew_for(how, found, jobs=jobs, cores=1, cluster=cluster, address=address, say=_say)
    if folder is None:
        return _in_memory(found, hire, progress=progress)
    made = folder_of(Path(folder), found, how)
    made.claim(resume=resume and (Path(folder) / "study.json").is_file())
    with made.lock(part, lambda text: warnings.warn(text, stacklevel=2)):
        if not resume:
            made.refuse_begun(part)
        todo = left(made, part)
        with counted(len(todo.points), show=progress, what="points") as advance:
            work(made, part, todo.points, hire, on_point=advance)
        return _from_folder(made, written)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _in_memory(study: Study, hire: Hire, *, progress: bool) -> "pd.DataFrame":
    points, rows = study.points(), dict[int, Row]()
    study.check_names(points)
    with counted(len(points), show=progress, what="points") as advance:

        def keep(number: int, row: Row) -> None:
            rows[number] = row
            advance()

        answer_all(study, points, hire(len(points)), write=keep)
    return frame([rows[number] for number in sorted(rows)])


def _from_folder(folder: SweepFolder, formats: Sequence[str]) -> "pd.DataFrame":
    """Return the rows that are there; when all are, their files are written too."""
    done = folder.done()
    if len(done) == len(folder.points):
        write_files(folder, formats)
    return frame(list(folder.rows(done, lambda _: None)))
