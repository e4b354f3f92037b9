"""Options that the commands share, their completion, and words to the user."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

PROGRAM = "dflash-sim"


def completer(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Shell completion of the last name in a comma-separated list."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        try:
            return [before + comma + name for name in known() if name.startswith(last)]
        except Exception:
            return []  # a broken sheet must not print a traceback into the prompt

    return complete


def sheets(kind: str) -> Callable[[str], list[str]]:
    """Completion with the names of one kind of sheet."""

    def known() -> list[str]:
        from dflash_sim.profiles.find import names
        from dflash_sim.profiles.presets import preset_names

        return preset_names() if kind == "presets" else names(kind)

    return completer(known)


def option(panel: str, help: str, *names: str, **rest: Any) -> Any:
    """An option under a heading of the help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **rest)


def swept(panel: str, help: str, complete: Callable[[str], list[str]] | None = None) -> Any:
    """An option that takes a list, and a range where it takes numbers."""
    metavar = "NAMES" if complete else "RANGE"
    return option(panel, help, autocompletion=complete, metavar=metavar)


def number(panel: str, help: str) -> Any:
    """An option whose text the scenario reads, so that every bad number is refused alike."""
    return option(panel, help, metavar="N")


HARDWARE, MODEL, SPECULATION = "Hardware", "Model", "Speculation"
ENGINE, WORKLOAD, OUTPUT = "Engine", "Workload", "Output"


def methods(*, real: bool = False) -> list[str]:
    """Names of the methods of speculation, or of those that our own engine has."""
    from dflash_sim.simulator.cost.methods import METHODS

    return [name for name, method in METHODS.items() if method.own_engine or not real]


def cache_strategies() -> Iterable[str]:
    """Names of the strategies of a hybrid model's prefix cache."""
    from dflash_sim.profiles.releases.memory_rules import STRATEGIES

    return STRATEGIES


def state_formats() -> Iterable[str]:
    """Formats of recurrent states."""
    from dflash_sim.profiles.precision import STATE_DTYPES

    return STATE_DTYPES


def weight_formats() -> Iterable[str]:
    """SGLang's names of formats of weights."""
    from dflash_sim.profiles.formats import formats

    return [name for form in formats().values() for name in form.spelled]


def cache_formats() -> Iterable[str]:
    """SGLang's names of formats of keys and values."""
    from dflash_sim.profiles.formats import formats

    return ["auto", *(name for form in formats().values() if form.kv for name in form.kv.spelled)]


MODES = ("v1", "v2-sync", "v2")
PREFILL_BACKENDS = ("tc_piecewise", "breakable", "disabled")
FORMATS = ("table", "json", "jsonl", "csv")
SIMULATORS = ("auto", "leap", "event")
INTERVALS = ("90", "none")
Str: TypeAlias = str | None
Bool: TypeAlias = bool | None
File: TypeAlias = Path | None
Profiles = Annotated[
    list[Path] | None,
    option(OUTPUT, "Look for sheets here first; repeatable", metavar="DIR"),
]
Format = Annotated[
    Str,
    option(
        OUTPUT,
        "table (default), json, jsonl or csv; -o FILE.csv says it too",
        "--format",
        autocompletion=completer(lambda: FORMATS),
    ),
]
Output = Annotated[
    File, option(OUTPUT, "Write here, whole or not at all", "--output", "-o", metavar="FILE")
]
Html = Annotated[
    File,
    option(
        OUTPUT,
        "Write an HTML page here, with charts, beside what is printed",
        "--html",
        metavar="FILE",
    ),
]
Price = Annotated[
    list[str] | None,
    option(
        HARDWARE,
        "What you pay for a GPU an hour, in place of list prices; repeatable",
        metavar="GPU=USD",
    ),
]
PrintConfig = Annotated[
    bool, option(OUTPUT, "Show where every value is from", "--print-config", metavar="")
]


def show_help(ctx: typer.Context, value: bool) -> None:
    """Print the help and stop."""
    if value:
        typer.echo(ctx.get_help())
        raise typer.Exit


# Typer loads pydantic to read a group's own --help when it is not given; a default spares that.
Help = Annotated[
    bool,
    typer.Option(
        "--help", "-h", help="Show this message", is_eager=True, callback=show_help, metavar=""
    ),
]


def use_profiles(folders: Sequence[Path] | None) -> None:
    """Search the user's folders before the sheets that are shipped, until the command ends."""
    if folders:
        from dflash_sim.profiles.find import search_first

        search_first(folders)


def cores() -> int:
    """Cores that this process may use, which in a job are not all."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def tell(line: str) -> None:
    """A line to the user, apart from the answer."""
    from dflash_sim.profiles.errors import brief
    from dflash_sim.studies.show.visible import visible

    with suppress(OSError):  # who cannot hear it still gets the answer
        print("\n".join(map(brief, visible(line).split("\n"))), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """A warning, marked as one."""
    tell(f"{PROGRAM}: warning: {text}")


@contextmanager
def stoppable(kept: Callable[[], str] = lambda: "nothing was written") -> Iterator[None]:
    """Answer a Ctrl-C within by one line that says what is kept, and the exit code of shells."""
    try:
        yield
    except KeyboardInterrupt:
        from dflash_sim.jobs.stopping import INTERRUPTED

        tell(f"stopped; {kept()}")
        raise typer.Exit(INTERRUPTED) from None
