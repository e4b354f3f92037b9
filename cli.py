"""The ``dflash-sim`` command: parse, call, print, exit code. Imports only typer at the top."""

import gc
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextvars import copy_context
from copy import copy
from functools import cache
from typing import Annotated, NoReturn

import typer

from dflash_sim.commands.calibrate import app as calibrate
from dflash_sim.commands.compare import compare
from dflash_sim.commands.crossover import crossover
from dflash_sim.commands.explain import explain
from dflash_sim.commands.listing import list_
from dflash_sim.commands.options import PROGRAM, Help, tell
from dflash_sim.commands.plan import plan
from dflash_sim.commands.predict import predict
from dflash_sim.commands.run import run as run_
from dflash_sim.commands.serve import serve
from dflash_sim.commands.sweep import sweep
from dflash_sim.commands.trace import trace
from dflash_sim.commands.ui import ui
from dflash_sim.commands.validate import validate

_OBJECTS = 50_000  # made between two looks for garbage, of which there is little


def _our_name(name: str) -> str:
    from dflash_sim.studies.ask.names import our_name

    return our_name(name).replace("_", "-")


app = typer.Typer(
    no_args_is_help=True,
    add_help_option=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _our_name},
)
app.command()(predict)
app.command()(sweep)
app.command()(plan)
app.command()(crossover)
app.command()(explain)
app.command()(ui)
app.command()(trace)
app.command()(compare)
app.command()(validate)
app.command("run")(run_)
app.command()(serve)
app.command("list")(list_)
app.add_typer(calibrate, name="calibrate")


@app.callback()
def options(
    help: Help = False,
    version: Annotated[bool, typer.Option("--version", help="Show it", metavar="")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error is from", metavar="")
    ] = False,
) -> None:
    """Predict DFlash speculative-decoding throughput in SGLang before renting the GPUs."""


@cache
def _parser(name: str) -> Callable[..., object]:
    """The parser of a command, or of all where none has the name: all take a while to be made."""
    own = copy(app)
    own.registered_commands = [c for c in app.registered_commands if _called(c) == name]
    own.registered_groups = [group for group in app.registered_groups if group.name == name]
    known = own.registered_commands or own.registered_groups
    command = typer.main.get_command(own if known else app)
    for flag in command.params:
        flag.default = flag.default or False  # as with Help
    return command


def _called(command: typer.models.CommandInfo) -> str:
    return command.name or typer.main.get_command_name(command.callback.__name__)  # type: ignore[union-attr]


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; an expected error is one line on stderr."""
    words = [word for word in arguments if word not in ("--debug", "--version")]
    try:
        if "--version" in arguments:
            from dflash_sim import __version__

            print(PROGRAM, __version__)
            return 0
        parser = _parser(words[0] if words else "")
        # What a command sets for itself, such as folders of sheets, ends with it.
        code = copy_context().run(parser, words, prog_name=PROGRAM, standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        from dflash_sim.jobs.stopping import INTERRUPTED, asked_to_stop

        tells = isinstance(error, Exception) and _exit_code(error) == INTERRUPTED  # what was kept
        if isinstance(error, KeyboardInterrupt | typer.Abort) or (asked_to_stop() and not tells):
            tell("stopped")
            return INTERRUPTED
        message = _expected(error)
        if message is None:
            raise
        if "--debug" in arguments:
            import traceback

            traceback.print_exception(error)
        if message:  # the parser has shown its help otherwise
            tell(f"{PROGRAM}: {_one_line(message)}")
        return _exit_code(error)
    return code if isinstance(code, int) else 0


def _expected(error: Exception) -> str | None:
    """The message of an error that is not a bug: ours, or the option parser's."""
    from dflash_sim.profiles.errors import DflashSimError

    if isinstance(error, DflashSimError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return _refused_by_system(error)
    unknown = hasattr(error, "possibilities")  # else an option of ours, without its value
    if unknown and (told := _of_server(getattr(error, "option_name", ""))):
        return told
    if hasattr(error, "format_message"):
        path = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
        said = str(error.format_message()).rstrip(".")
        stop = "" if said.endswith("?") else "."
        return f'{said}{stop} Try "{path} --help".' if said else ""
    return None


def _of_server(option: str) -> str | None:
    """What is known of a flag of SGLang's server that is none of a command; None if it is not."""
    from dflash_sim.calibrate.launches.server_flags import spellings

    known = spellings()
    found = known.get(option) or known.get(f"--enable-{option.removeprefix('--')}")
    if not option or found is None or found.flag.kind == "modelled":
        return None
    if found.flag.kind == "refused":
        return f"{found.text}: {found.flag.why}"
    return f"{found.text} is no option here: {found.flag.why.rstrip('.')}. Leave it out."


def _refused_by_system(error: OSError) -> str:
    """The message for a full disk or a name that no file can have; we learn of it by trying."""
    if error.filename is None:
        return f"cannot write the answer: {error.strerror}; choose another place for it."
    return f"cannot use '{error.filename}': {error.strerror}; name another file or folder."


def _exit_code(error: Exception) -> int:
    """2 where a file that was named cannot be used, else what the error says, else 1."""
    if isinstance(error, OSError):
        return 1 if error.filename is None else 2
    return int(getattr(error, "exit_code", 1))


def _one_line(message: str) -> str:
    from dflash_sim.profiles.errors import brief

    return brief(" ".join(message.split()))


def main() -> NoReturn:
    """Run the command that was typed, and exit with its code."""
    # NumPy's matrices are small here: threads would only wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # no look at all that is installed
    gc.set_threshold(_OBJECTS)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the caller has closed it, and wants nothing of it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper):  # letters that it cannot carry are spelt out
        sys.stdout.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        if code == 0 and not isinstance(error, BrokenPipeError):  # of a closed pipe, no word
            tell(f"{PROGRAM}: {_refused_by_system(error)}")
            code = 1
        # The interpreter flushes once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
