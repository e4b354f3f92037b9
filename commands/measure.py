"""``dflash-sim calibrate measure`` and ``compare-profiles``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dflash_sim.commands.options import (
    HARDWARE,
    MODEL,
    OUTPUT,
    PROGRAM,
    SPECULATION,
    Format,
    Profiles,
    Str,
    number,
    option,
    sheets,
    stoppable,
    tell,
    use_profiles,
    warn,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from dflash_sim.calibrate.measure.subject import Subject

_SHOWN = 8


def measure(
    output: Annotated[
        Path,
        option(
            OUTPUT,
            'The profile, for "predict --gpu"; by custom NAME.profile',
            "--output",
            "-o",
            metavar="FILE",
        ),
    ],
    model: Annotated[
        str, option(MODEL, "Target; a name, or a folder", autocompletion=sheets("models"))
    ] = "qwen3.5-397b-a17b",
    drafter: Annotated[
        Str,
        option(
            SPECULATION,
            "DFlash drafter; none, or by default the one made for the model",
            autocompletion=sheets("drafters"),
        ),
    ] = None,
    tp: Annotated[int, option(HARDWARE, "Ranks; the shard of one is measured", min=1)] = 1,
    device: Annotated[
        Str, option(HARDWARE, "cuda or cpu; default: a GPU where there is one")
    ] = None,
    dtype: Annotated[
        Str, option(HARDWARE, "bfloat16 (default), float16 or float32 (the only one on a CPU)")
    ] = None,
    block: Annotated[Str, number(SPECULATION, "Verify widths, such as 8,16")] = None,
    conc: Annotated[Str, number(OUTPUT, "Requests of a batch, such as 1,8,32")] = None,
    ctx: Annotated[Str, number(OUTPUT, "Cached tokens of each request, such as 1024,8192")] = None,
    quick: Annotated[
        bool, option(OUTPUT, "Fewer sizes and repetitions: under two minutes", metavar="")
    ] = False,
    profiles: Profiles = None,
) -> None:
    """Time this machine's kernels at the shapes of a model, into a profile that predicts.

    Ops, layers and whole passes of one rank, with our own kernels and random weights. Interrupt it
    at will: the same command goes on where it stopped. Then: "dflash-sim predict --gpu FILE".
    """
    from dflash_sim.studies.real.torch_needed import need_torch

    need_torch("calibrate measure")
    from dflash_sim.calibrate.measure.machine import choose_device, choose_dtype
    from dflash_sim.calibrate.measure.measure import Measurement, to_text
    from dflash_sim.calibrate.measure.subjects import load_subject
    from dflash_sim.studies.show.files import check_writable
    from dflash_sim.studies.show.terminal import Progress, deliver

    use_profiles(profiles)
    check_writable(output)
    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    subject, name = load_subject(
        model, drafter, tp=tp, device=where, quick=quick, blocks=block, requests=conc, ctx=ctx
    )
    _say(subject, where)
    with Progress(1) as progress:

        def show(done: int, total: int) -> None:
            progress.total = total
            progress.done = done - 1
            progress.advance(0)

        job = Measurement(subject, where, kind, name, quick=quick, on_progress=show)
        with stoppable(lambda: f"what was measured is kept in {output}.partial; run this again"):
            report = job.run(output)
    deliver(to_text(report.profile), output)
    Path(f"{output}.partial").unlink(missing_ok=True)
    _conclude(report.profile, output)
    if report.drifted:
        from dflash_sim.profiles.units import in_percent

        warn(
            f"the machine drifted by {in_percent(report.drift)} while it was measured: something "
            "else ran on it, or its clock changed. Measure again when it is quiet."
        )


def _say(subject: "Subject", device: str) -> None:
    if sys.stderr.isatty():
        drafter = subject.drafter.shape.name if subject.drafter else "no drafter"
        tell(f"{subject.model.name}, {drafter}, one rank of {subject.tp}, on {device}")


def _conclude(profile: "Mapping[str, Any]", output: Path) -> None:
    """Tell what is in it, what is not, and what to type next."""
    from dflash_sim.studies.compare.profile_page import page
    from dflash_sim.studies.show.terminal import as_page, deliver

    deliver(as_page(page(profile), to_file=False))
    skipped = profile["skipped"]
    for row in skipped[:_SHOWN]:
        tell(f"  not measured: {row['op']}: {row['why']}")
    if len(skipped) > _SHOWN:
        tell(f"  and {len(skipped) - _SHOWN} more, in the profile")
    tell(f"use it with: {PROGRAM} predict --gpu {_typed(output)} --model ... ")


def _typed(path: Path) -> str:
    return str(path) if path.is_absolute() or "/" in str(path) else f"./{path}"


def compare_profiles(
    a: Annotated[str, typer.Argument(help="A profile, or a GPU with tables", metavar="A")],
    b: Annotated[str, typer.Argument(help="Another", metavar="B")],
    profiles: Profiles = None,
    form: Format = None,
    output: Annotated[
        Path | None, option(OUTPUT, "Write here", "--output", "-o", metavar="FILE")
    ] = None,
) -> None:
    """Two profiles op by op: the time in A over that in B.

    At the shapes that A was measured at; where A is a GPU with tables, at those of B.
    """
    from dflash_sim.studies.compare.profile_ratio import compared, ratio_page
    from dflash_sim.studies.show.files import as_text, check_writable, chosen_format
    from dflash_sim.studies.show.terminal import as_page, deliver

    use_profiles(profiles)
    if output is not None:
        check_writable(output)
    shape = chosen_format(form, output)
    found = compared(a, b)
    if shape == "table":
        deliver(as_page(ratio_page(found), to_file=output is not None), output)
    else:
        deliver(as_text(found.rows(), shape), output)
