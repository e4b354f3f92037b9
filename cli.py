"""The ``dflash-sim`` command: parse, call, print, exit code. Imports only typer at the top."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from dflash_sim.studies.grid import Answer
    from dflash_sim.studies.question import Given

PROGRAM = "dflash-sim"
# What SGLang and its benchmark call our options: accepted everywhere, shown nowhere.
ENGINE_NAMES = {
    "tp-size": "tp",
    "tensor-parallel-size": "tp",
    "model-path": "model",
    "speculative-draft-model-path": "draft-model",
    "speculative-dflash-block-size": "block",
    "speculative-num-draft-tokens": "block",
    "speculative-num-steps": "steps",
    "speculative-draft-window-size": "window",
    "cuda-graph-max-bs-decode": "cuda-graph-max-bs",
    "max-concurrency": "conc",
    "request-rate": "rate",
    "dataset-name": "dataset",
    "random-input-len": "isl",
    "random-output-len": "osl",
}
KINDS = ("gpus", "models", "drafters", "datasets", "presets", "engines", "tables")


def _our_name(name: str) -> str:
    name = name.replace("_", "-")
    return ENGINE_NAMES.get(name, name)


app = typer.Typer(
    no_args_is_help=True,
    add_help_option=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _our_name},
)
calibrate = typer.Typer(no_args_is_help=True, add_help_option=False)
app.add_typer(calibrate, name="calibrate")


def _completer(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Shell completion of the last name in a comma-separated list."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        try:
            return [before + comma + name for name in known() if name.startswith(last)]
        except Exception:
            return []  # a broken sheet must not print a traceback into the prompt

    return complete


def _sheets(kind: str) -> Callable[[str], list[str]]:
    def known() -> list[str]:
        from dflash_sim.profiles.find import names
        from dflash_sim.profiles.presets import preset_names

        return preset_names() if kind == "presets" else names(kind)

    return _completer(known)


def _option(panel: str, help: str, *names: str, **rest: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **rest)


def _sweep(panel: str, help: str, complete: Callable[[str], list[str]] | None = None) -> Any:
    """An option that takes a list, and a range where it takes numbers."""
    metavar = "NAMES" if complete else "RANGE"
    return _option(panel, help, autocompletion=complete, metavar=metavar)


def _number(panel: str, help: str) -> Any:
    """An option whose text the scenario reads, so that every bad number is refused alike."""
    return _option(panel, help, metavar="N")


HARDWARE, MODEL, SPECULATION = "Hardware", "Model", "Speculation"
ENGINE, WORKLOAD, OUTPUT = "Engine", "Workload", "Output"
METHODS = ("none", "mtp", "eagle3", "dflash", "injection-only", "diffusion-only")
MODES = ("v1", "v2-sync", "v2")
FORMATS = ("table", "json", "jsonl", "csv")
SIMULATORS = ("auto", "leap", "event")
Str: TypeAlias = str | None
Bool: TypeAlias = bool | None
File: TypeAlias = Path | None
Profiles = Annotated[
    list[Path] | None,
    _option(OUTPUT, "Look for sheets here first; repeatable", metavar="DIR"),
]
Format = Annotated[
    Str,
    _option(
        OUTPUT,
        "table (default on a terminal), json, jsonl (default in a pipe) or csv",
        "--format",
        autocompletion=_completer(lambda: FORMATS),
    ),
]


@app.command()
def predict(
    ctx: typer.Context,
    gpu: Annotated[Str, _sweep(HARDWARE, "GPU kind", _sheets("gpus"))] = None,
    num_gpus: Annotated[Str, _number(HARDWARE, "GPUs of the server")] = None,
    tp: Annotated[Str, _sweep(HARDWARE, "Tensor-parallel size")] = None,
    model: Annotated[
        Str,
        _option(
            MODEL,
            "Target: a name, Hugging Face id, or path of a config.json",
            autocompletion=_sheets("models"),
        ),
    ] = None,
    draft_model: Annotated[
        Str, _option(MODEL, "Drafter, in the same forms", autocompletion=_sheets("drafters"))
    ] = None,
    method: Annotated[
        Str, _sweep(SPECULATION, ", ".join(METHODS), _completer(lambda: METHODS))
    ] = None,
    block: Annotated[Str, _sweep(SPECULATION, "Verify window: 1 anchor and B-1 drafts")] = None,
    steps: Annotated[Str, _sweep(SPECULATION, "Draft steps of mtp and eagle3")] = None,
    window: Annotated[Str, _number(SPECULATION, "Draft attention window, tokens")] = None,
    acceptance: Annotated[
        Str, _option(SPECULATION, "Such as al:6.6, table:0.9,0.8 or sglang-simulated:3.2")
    ] = None,
    engine: Annotated[Str, _option(ENGINE, "Engine sheet")] = None,
    engine_mode: Annotated[
        Str, _sweep(ENGINE, "v1, v2-sync or v2 (overlap)", _completer(lambda: MODES))
    ] = None,
    attention_backend: Annotated[Str, _option(ENGINE, "Attention kernels of the target")] = None,
    max_running_requests: Annotated[Str, _number(ENGINE, "Cap on requests in a batch")] = None,
    mem_fraction_static: Annotated[
        Str, _number(ENGINE, "Share of memory for weights and caches")
    ] = None,
    chunked_prefill_size: Annotated[Str, _number(ENGINE, "Prefill tokens per step")] = None,
    cuda_graph_max_bs: Annotated[Str, _number(ENGINE, "Largest captured batch")] = None,
    page_size: Annotated[Str, _number(ENGINE, "Tokens per KV page")] = None,
    min_free_slots_delay: Annotated[
        Str, _number(ENGINE, "Hold prefills until so many slots are free")
    ] = None,
    radix_cache: Annotated[Bool, _option(ENGINE, "Prefix cache", metavar="")] = None,
    conc: Annotated[Str, _sweep(WORKLOAD, "Requests in flight (closed loop)")] = None,
    dataset: Annotated[Str, _sweep(WORKLOAD, "Prompts and answers", _sheets("datasets"))] = None,
    thinking: Annotated[Bool, _option(WORKLOAD, "Mode of the answers", metavar="")] = None,
    isl: Annotated[Str, _sweep(WORKLOAD, "Fixed input length, in place of a data set")] = None,
    osl: Annotated[Str, _sweep(WORKLOAD, "Fixed output length")] = None,
    max_new_tokens: Annotated[Str, _number(WORKLOAD, "Cap on an answer, tokens")] = None,
    rate: Annotated[Str, _sweep(WORKLOAD, "Arrivals per second (open loop)")] = None,
    burstiness: Annotated[Str, _number(WORKLOAD, "Gamma shape of arrivals; 1: Poisson")] = None,
    num_prompts: Annotated[Str, _sweep(WORKLOAD, "Requests, in place of the card's rule")] = None,
    seed: Annotated[Str, _number(WORKLOAD, "Random seed")] = None,
    runs: Annotated[Str, _number(WORKLOAD, "Independent runs")] = None,
    preset: Annotated[
        Str,
        _option(
            OUTPUT,
            "Start from a named scenario, or a .yaml file of one",
            autocompletion=_sheets("presets"),
        ),
    ] = None,
    from_launch: Annotated[
        Str, _option(OUTPUT, "Start from a launch command", metavar='"python -m sglang..."')
    ] = None,
    simulator: Annotated[
        str,
        _option(
            OUTPUT, "auto, leap (fast) or event", autocompletion=_completer(lambda: SIMULATORS)
        ),
    ] = SIMULATORS[0],
    no_baseline: Annotated[
        bool, _option(OUTPUT, "Skip plain decoding", "--no-baseline", metavar="")
    ] = False,
    profiles: Profiles = None,
    tag: Annotated[Str, _option(OUTPUT, "Label of the rows")] = None,
    form: Format = None,
    output: Annotated[
        File, _option(OUTPUT, "Write here, whole or not at all", "--output", "-o", metavar="FILE")
    ] = None,
    print_config: Annotated[
        bool,
        _option(OUTPUT, "Show where every value is from", "--print-config", metavar=""),
    ] = False,
) -> None:
    """Predict throughput and latencies; with nothing else given, of the launch on 8 x B200.

    A RANGE is a number, a list 1,2,4, or 1-32:x2 (times two), 8-16:4 (steps of four), 1-8.
    Several values make a table, one line per combination. SGLang's own flag names work too.
    """
    from dflash_sim.profiles.errors import unknown
    from dflash_sim.studies.export import check_writable, chosen_format
    from dflash_sim.studies.grid import answers
    from dflash_sim.studies.question import as_yaml, ask, scenarios
    from dflash_sim.studies.terminal import Progress, deliver

    _use_profiles(profiles)
    if simulator not in SIMULATORS:
        raise unknown(kind="--simulator", value=simulator, allowed=SIMULATORS)
    shape = chosen_format(form, output)
    if output == Path("-"):
        output = None
    if output is not None:
        check_writable(output)
    asked, ignored = ask(ctx.params, preset=preset, from_launch=from_launch)
    if ignored:
        _warn(f"--from-launch: not modelled, ignored: {', '.join(ignored)}")
    points = scenarios(asked)
    if print_config:
        deliver(as_yaml(asked), output)
        return
    with Progress(sum(point.runs for point in points)) as progress:
        work = answers(
            points,
            simulator=simulator,
            with_baseline=not no_baseline,
            on_run=progress.advance,
        )
        found = list(work)
    _report(found, shape, output, given=asked, tag=tag)


def _report(
    found: "Sequence[Answer]",
    shape: str,
    output: Path | None,
    *,
    given: "Mapping[str, Given]",
    tag: str | None,
) -> None:
    from dflash_sim.studies.export import as_text
    from dflash_sim.studies.gridtable import GridTable, answer_row
    from dflash_sim.studies.present import present
    from dflash_sim.studies.terminal import as_page, deliver

    failed = [answer.error for answer in found if answer.error is not None]
    if len(found) == 1 and failed:
        raise failed[0]
    if shape == "table":
        only = found[0].result if len(found) == 1 else None
        page = present(only, given=given) if only is not None else GridTable(found)
        deliver(as_page(page, to_file=output is not None), output)
    else:
        deliver(as_text([answer_row(answer, tag) for answer in found], shape), output)
    if failed:
        _warn(f"{len(failed)} of {len(found)} scenarios have no answer: {failed[0]}")
    if len(failed) == len(found):
        raise typer.Exit(1)


@app.command("list")
def list_(
    kind: Annotated[
        str,
        typer.Argument(help=", ".join(KINDS), autocompletion=_completer(lambda: KINDS)),
    ],
    profiles: Profiles = None,
    form: Format = None,
) -> None:
    """List what can be named: GPUs, models, drafters, data sets, presets, engines, tables."""
    from dflash_sim.profiles.errors import unknown
    from dflash_sim.studies.export import as_text, chosen_format
    from dflash_sim.studies.listing import rows, table
    from dflash_sim.studies.terminal import as_page, deliver

    if kind not in KINDS:
        raise unknown(kind="kind of list", value=kind, allowed=KINDS)
    _use_profiles(profiles)
    shape = chosen_format(form, None)
    found = rows(kind)
    text = as_page(table(found), to_file=False) if shape == "table" else as_text(found, shape)
    deliver(text)


@calibrate.command("import-silicon")
def import_silicon(
    system: Annotated[
        str, typer.Option(help="System of aiconfigurator-core, such as b200_sxm, or our GPU name")
    ],
    data_dir: Annotated[
        Path | None, typer.Option(help="Its tables; default: the installed package")
    ] = None,
    out: Annotated[Path, typer.Option(help="Profiles directory to write into")] = Path(
        "profiles-local"
    ),
) -> None:
    """Make operator tables from the measurements in aiconfigurator-core."""
    from dflash_sim.calibrate.silicon import import_silicon as make
    from dflash_sim.studies.terminal import deliver

    report = make(system, out, data_dir, on_progress=_tell if sys.stderr.isatty() else None)
    lines = [f"{report.folder}: operator times of {report.gpu} from {report.system}"]
    for name, size in report.files.items():
        cells = report.cells.get(name.removesuffix(".csv"))
        lines.append(f"  {name:<14} {size:>9,} bytes" + (f"  {cells:>7,} times" if cells else ""))
    lines.append("  error on points held out of the table (median, 90th percentile):")
    for what, miss in report.held_out.items():
        lines.append(f"    {what:<20} {100 * miss.median:5.1f} % {100 * miss.p90:6.1f} %")
    deliver("\n".join(lines) + "\n")
    _tell(f"use it with: {PROGRAM} predict --profiles {out}")


def _show_help(ctx: typer.Context, value: bool) -> None:
    if value:
        typer.echo(ctx.get_help())
        raise typer.Exit


# Typer loads pydantic to read a group's own --help when it is not given; a default spares that.
Help = Annotated[
    bool,
    typer.Option(
        "--help", "-h", help="Show this message", is_eager=True, callback=_show_help, metavar=""
    ),
]


@calibrate.callback()
def calibrate_options(help: Help = False) -> None:
    """Make profiles from measurements."""


@app.callback()
def options(
    help: Help = False,
    version: Annotated[bool, typer.Option("--version", help="Show it", metavar="")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error is from", metavar="")
    ] = False,
) -> None:
    """Predict DFlash speculative-decoding throughput in SGLang before renting the GPUs."""


def _use_profiles(folders: Sequence[Path] | None) -> None:
    if folders:
        from dflash_sim.profiles.errors import UsageError
        from dflash_sim.profiles.find import ENV

        for folder in folders:
            if not folder.is_dir():
                msg = f"--profiles {folder}: no such directory; give one that holds sheets."
                raise UsageError(msg)
        before = [os.environ[ENV]] if os.environ.get(ENV) else []
        os.environ[ENV] = os.pathsep.join([*map(str, folders), *before])


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _warn(text: str) -> None:
    _tell(f"{PROGRAM}: warning: {text}")


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; an expected error is one line on stderr."""
    words = [word for word in arguments if word not in ("--debug", "--version")]
    if "--version" in arguments:
        from dflash_sim import __version__

        print(PROGRAM, __version__)
        return 0
    try:
        command = typer.main.get_command(app)
        for flag in command.params:
            flag.default = flag.default or False  # as with Help
        code = command(words, prog_name=PROGRAM, standalone_mode=False)
    except Exception as error:
        message = _expected(error)
        if message is None:
            raise
        if "--debug" in arguments:
            import traceback

            traceback.print_exception(error)
        if message:  # the parser has shown its help otherwise
            _tell(f"{PROGRAM}: {' '.join(message.split())}")
        return int(getattr(error, "exit_code", 1))
    return code if isinstance(code, int) else 0


def _expected(error: Exception) -> str | None:
    """The message of an error that is not a bug: ours, or the option parser's."""
    from dflash_sim.profiles.errors import DflashSimError

    if isinstance(error, DflashSimError):
        return str(error)
    if hasattr(error, "format_message"):
        path = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
        said = str(error.format_message()).rstrip(".")
        return f'{said}. Try "{path} --help".' if said else ""
    return None


def main() -> None:
    """The console script."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads any more: not worth a word
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
