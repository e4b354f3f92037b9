"""Functions that need this machine, ``run``, ``measure``, ``validate_real``; tables of its ops."""

import sys
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dflash_sim.api.question import File, folders, truths
from dflash_sim.api.rows import RowView
from dflash_sim.api.spoken import speaking, spoken
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import searching
from dflash_sim.profiles.units import in_percent
from dflash_sim.studies.real.torch_needed import need_gpus, need_torch
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.files import check_writable, write_whole

if TYPE_CHECKING:
    import pandas as pd

    from dflash_sim.calibrate.silicon.import_tables import ImportReport
    from dflash_sim.studies.real.run_question import Ran

Numbers = Sequence[int] | str


class RealRun(RowView):
    """A real run; the fields of its row are attributes, those it does not know are None."""

    def __init__(self, ran: "Ran", rows: int) -> None:
        self.ran, self._rows = ran, rows

    @property
    def row(self) -> dict[str, Any]:
        """The flat row of the result schema, ``kind`` observed."""
        return dict(self.ran.row)

    @cached_property
    def requests(self) -> "pd.DataFrame":
        """One row for each answer, with times from the start of the run [s]."""
        import pandas as pd

        from dflash_sim.realrun.row import request_record

        return pd.DataFrame([request_record(each, self._rows) for each in self.ran.run.answers])

    def trace(self, output: File | None = None) -> dict[str, Any] | Path:
        """Return the timeline for ui.perfetto.dev, or write it to a file."""
        import json

        if output is not None:
            write_whole(Path(output), self.ran.trace())
            return Path(output)
        events: dict[str, Any] = json.loads(self.ran.trace())
        return events

    def __repr__(self) -> str:
        tok_s, answered = self.row["output_throughput"], len(self.ran.run.answers)
        said = "-" if tok_s is None else f"{number(tok_s)} tok/s"
        what = f"{self.row['model']} {self.row['method']}"
        return f"<RealRun: {what}: {said}, {answered} of {self.ran.run.asked} answered>"


def run(**options: Any) -> RealRun:
    """Run draft and verify for real: the cycle that :func:`predict` simulates.

    It needs torch and safetensors. What had been answered is returned even when a worker fails or
    the user interrupts the run, with a warning. In a script, put the call below
    ``if __name__ == "__main__":``, as it starts a process for each rank.

    Parameters
    ----------
    **options
        Those of ``dflash-sim run``, by name and with its defaults: ``model``, ``drafter``,
        ``random_weights``, ``method``, ``block``, ``steps``, ``temperature``, ``accept_length``,
        ``tp``, ``device``, ``dtype``, ``cuda_graphs``, ``engine_mode``, ``page_size``,
        ``chunked_prefill_size``, ``host_work_ms``, ``conc``, ``rate``, ``num_prompts``,
        ``prompts``, ``isl``, ``max_new_tokens``, ``ignore_eos``, ``seed``, ``timeout``, ``tag``.

    Raises
    ------
    UsageError
        Torch is missing, or an option is none.

    Examples
    --------
    >>> ds.run(model="tiny", method="dflash", block=4, conc=4).accept_length
    """
    need_torch("run")
    need_gpus(str(options.get("device", "cpu")), int(options.get("tp", 1)))
    from dflash_sim.studies.real.run_question import Job, RunOptions

    names = _known(options, RunOptions)
    for name in ("drafter", "prompts"):
        if options.get(name) is not None:
            options[name] = Path(options[name])
    with speaking(names):
        job = Job(RunOptions(**options))
        ran = job.run()
    if ran.failure is not None:
        warnings.warn(str(ran.failure), stacklevel=2)
    return RealRun(ran, job.fitted.rows)


def _known(options: dict[str, Any], kind: Any) -> list[str]:
    """Return the names of all options; refuse others, and a switch that is no switch."""
    from dflash_sim.profiles.errors import unknown

    for name in options:
        if name not in kind.__dataclass_fields__:
            raise unknown(kind="keyword", value=name, allowed=kind.__dataclass_fields__)
    switches = [n for n, f in kind.__dataclass_fields__.items() if isinstance(f.default, bool)]
    truths(**{name: options[name] for name in switches if name in options})
    return list(kind.__dataclass_fields__)


def validate_real(*, progress: bool = False, **options: Any) -> "pd.DataFrame":
    """Measure this machine, predict runs of our own engine, run them: ``validate --real``.

    It needs torch and safetensors, and a quiet machine. In a script, put the call below
    ``if __name__ == "__main__":``.

    Parameters
    ----------
    progress
        Tell of every run on stderr.
    **options
        ``model``, ``device``, ``accept_length``, ``isl``, ``blocks``, ``steps``, ``concs``,
        ``modes``, ``prompts``, ``new_tokens``, ``host_work_ms``, ``rounds``, ``profile``.

    Returns
    -------
    pandas.DataFrame
        A row for each configuration: predicted and observed throughput, and how quiet it was.
    """
    need_torch("validate --real")
    from dflash_sim.api.frames import table
    from dflash_sim.calibrate.realloop.outcomes import as_row
    from dflash_sim.studies.real.loop_question import (
        RealOptions,
        closed_loop,
        disturbed,
        progress_line,
    )

    names = _known(options, RealOptions)
    truths(progress=progress)
    for name in ("blocks", "steps", "concs", "modes"):
        given = options.get(name)
        if given is not None and not isinstance(given, str):
            several = given if isinstance(given, list | tuple | range) else [given]
            options[name] = ",".join(map(str, several))
    if options.get("profile") is not None:
        options["profile"] = Path(options["profile"])

    def say(line: str) -> None:
        if progress:
            sys.stderr.write(line + "\n")

    with speaking(names), closed_loop(RealOptions(**options), say) as rounds:
        for done, outcome in enumerate(rounds.each(), start=1):
            say(progress_line(done, rounds.runs, outcome))
        found = rounds.loop.outcomes()
    said = disturbed(found)
    if said is not None:
        warnings.warn(said, stacklevel=2)
    return table([as_row(each) for each in found])


@spoken
def measure(
    output: File,
    *,
    model: str = "qwen3.5-397b-a17b",
    drafter: str | None = None,
    tp: int = 1,
    device: str | None = None,
    dtype: str | None = None,
    block: Numbers | None = None,
    conc: Numbers | None = None,
    ctx: Numbers | None = None,
    quick: bool = False,
    profiles: File | Sequence[File] | None = None,
    progress: bool = False,
) -> Path:
    """Time this machine's kernels at the shapes of a model: ``calibrate measure``.

    It needs torch. Interrupt it at will: the same call goes on where it stopped.

    Parameters
    ----------
    output
        The profile, for ``gpu=``; by custom NAME.profile.
    model, drafter
        Target and DFlash drafter; a name, or a folder.
    tp
        Ranks; the shard of one is measured.
    device, dtype
        ``cuda`` or ``cpu``; ``bfloat16``, ``float16`` or ``float32``.
    block, conc, ctx
        Verify widths, requests of a batch, and cached tokens of each request to measure at.
    quick
        Fewer sizes and repetitions: under two minutes.
    profiles
        Folders of sheets to be searched first.
    progress
        Tell on stderr how far it is.

    Returns
    -------
    pathlib.Path
        The profile: ``ds.predict(gpu=path, model=...)``.
    """
    truths(quick=quick, progress=progress)
    need_torch("calibrate measure")
    from dflash_sim.calibrate.measure.machine import choose_device, choose_dtype
    from dflash_sim.calibrate.measure.measure import Measurement, to_text
    from dflash_sim.calibrate.measure.subjects import load_subject

    path = Path(output).absolute()
    check_writable(path)

    def show(done: int, total: int) -> None:
        if progress:
            sys.stderr.write(f"\r{done:,} of {total:,} times")

    with searching(folders(profiles)):
        where = choose_device(device)
        kind = choose_dtype(dtype, where)
        sizes: dict[str, Any] = {"blocks": block, "requests": conc, "ctx": ctx}
        texts = {name: _text(value) for name, value in sizes.items()}
        subject, name = load_subject(model, drafter, tp=tp, device=where, quick=quick, **texts)
        job = Measurement(subject, where, kind, name, quick=quick, on_progress=show)
        report = job.run(path)
    write_whole(path, to_text(report.profile))
    Path(f"{path}.partial").unlink(missing_ok=True)
    if report.drifted:
        drift = in_percent(report.drift)
        text = f"the machine drifted by {drift} while it was measured; measure again"
        warnings.warn(text, stacklevel=3)
    return path


def _text(value: Numbers | int | None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return ",".join(map(str, [value] if isinstance(value, int) else value))


@spoken
def compare_profiles(
    a: File, b: File, *, profiles: File | Sequence[File] | None = None
) -> "pd.DataFrame":
    """Compare two profiles op by op: the time in ``a`` over that in ``b``.

    Parameters
    ----------
    a, b
        Profiles that :func:`measure` made; one of them may be a GPU with tables.
    profiles
        Folders of sheets to be searched first.
    """
    import os

    from dflash_sim.api.frames import table
    from dflash_sim.studies.compare.profile_ratio import compared

    with searching(folders(profiles)):
        return table(compared(os.fspath(a), os.fspath(b)).rows())


@spoken
def import_silicon(
    system: str, out: File = "profiles-local", *, data_dir: File | None = None
) -> "ImportReport":
    """Make operator tables from the measurements in aiconfigurator-core.

    Parameters
    ----------
    system
        Of that package, such as ``b200_sxm``, or our GPU name.
    out
        Profiles directory to write into; give it as ``profiles=`` afterwards.
    data_dir
        Its tables; left out, those of the installed package.
    """
    from dflash_sim.calibrate.silicon.import_tables import import_silicon as make

    if not system:
        msg = "no system; name one of aiconfigurator-core, such as b200_sxm."
        raise UsageError(msg)
    return make(system, Path(out), None if data_dir is None else Path(data_dir))
