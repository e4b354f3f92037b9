"""``dflash-sim predict``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dflash_sim.commands.options import (
    ENGINE,
    HARDWARE,
    METHODS,
    MODEL,
    MODES,
    OUTPUT,
    SIMULATORS,
    SPECULATION,
    WORKLOAD,
    Bool,
    File,
    Format,
    Profiles,
    Str,
    completer,
    number,
    option,
    sheets,
    swept,
    use_profiles,
    warn,
)

if TYPE_CHECKING:
    from dflash_sim.studies.grid import Answer
    from dflash_sim.studies.question import Given


def predict(
    ctx: typer.Context,
    gpu: Annotated[Str, swept(HARDWARE, "GPU kind", sheets("gpus"))] = None,
    num_gpus: Annotated[Str, number(HARDWARE, "GPUs of the server")] = None,
    tp: Annotated[Str, swept(HARDWARE, "Tensor-parallel size")] = None,
    model: Annotated[
        Str,
        option(
            MODEL,
            "Target: a name, Hugging Face id, or path of a config.json",
            autocompletion=sheets("models"),
        ),
    ] = None,
    draft_model: Annotated[
        Str, option(MODEL, "Drafter, in the same forms", autocompletion=sheets("drafters"))
    ] = None,
    method: Annotated[
        Str, swept(SPECULATION, ", ".join(METHODS), completer(lambda: METHODS))
    ] = None,
    block: Annotated[Str, swept(SPECULATION, "Verify window: 1 anchor and B-1 drafts")] = None,
    steps: Annotated[Str, swept(SPECULATION, "Draft steps of mtp and eagle3")] = None,
    window: Annotated[Str, number(SPECULATION, "Draft attention window, tokens")] = None,
    acceptance: Annotated[
        Str, option(SPECULATION, "Such as al:6.6, table:0.9,0.8 or sglang-simulated:3.2")
    ] = None,
    engine: Annotated[Str, option(ENGINE, "Engine sheet")] = None,
    engine_mode: Annotated[
        Str, swept(ENGINE, "v1, v2-sync or v2 (overlap)", completer(lambda: MODES))
    ] = None,
    attention_backend: Annotated[Str, option(ENGINE, "Attention kernels of the target")] = None,
    max_running_requests: Annotated[Str, number(ENGINE, "Cap on requests in a batch")] = None,
    mem_fraction_static: Annotated[
        Str, number(ENGINE, "Share of memory for weights and caches")
    ] = None,
    chunked_prefill_size: Annotated[Str, number(ENGINE, "Prefill tokens per step")] = None,
    cuda_graph_max_bs: Annotated[Str, number(ENGINE, "Largest captured batch")] = None,
    page_size: Annotated[Str, number(ENGINE, "Tokens per KV page")] = None,
    min_free_slots_delay: Annotated[
        Str, number(ENGINE, "Hold prefills until so many slots are free")
    ] = None,
    radix_cache: Annotated[Bool, option(ENGINE, "Prefix cache", metavar="")] = None,
    conc: Annotated[Str, swept(WORKLOAD, "Requests in flight (closed loop)")] = None,
    dataset: Annotated[Str, swept(WORKLOAD, "Prompts and answers", sheets("datasets"))] = None,
    thinking: Annotated[Bool, option(WORKLOAD, "Mode of the answers", metavar="")] = None,
    isl: Annotated[Str, swept(WORKLOAD, "Fixed input length, in place of a data set")] = None,
    osl: Annotated[Str, swept(WORKLOAD, "Fixed output length")] = None,
    max_new_tokens: Annotated[Str, number(WORKLOAD, "Cap on an answer, tokens")] = None,
    rate: Annotated[Str, swept(WORKLOAD, "Arrivals per second (open loop)")] = None,
    burstiness: Annotated[Str, number(WORKLOAD, "Gamma shape of arrivals; 1: Poisson")] = None,
    num_prompts: Annotated[Str, swept(WORKLOAD, "Requests, in place of the card's rule")] = None,
    seed: Annotated[Str, number(WORKLOAD, "Random seed")] = None,
    runs: Annotated[Str, number(WORKLOAD, "Independent runs")] = None,
    preset: Annotated[
        Str,
        option(
            OUTPUT,
            "Start from a named scenario, or a .yaml file of one",
            autocompletion=sheets("presets"),
        ),
    ] = None,
    from_launch: Annotated[
        Str, option(OUTPUT, "Start from a launch command", metavar='"python -m sglang..."')
    ] = None,
    simulator: Annotated[
        str,
        option(OUTPUT, "auto, leap (fast) or event", autocompletion=completer(lambda: SIMULATORS)),
    ] = SIMULATORS[0],
    no_baseline: Annotated[
        bool, option(OUTPUT, "Skip plain decoding", "--no-baseline", metavar="")
    ] = False,
    profiles: Profiles = None,
    tag: Annotated[Str, option(OUTPUT, "Label of the rows")] = None,
    form: Format = None,
    output: Annotated[
        File, option(OUTPUT, "Write here, whole or not at all", "--output", "-o", metavar="FILE")
    ] = None,
    print_config: Annotated[
        bool,
        option(OUTPUT, "Show where every value is from", "--print-config", metavar=""),
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

    use_profiles(profiles)
    if simulator not in SIMULATORS:
        raise unknown(kind="--simulator", value=simulator, allowed=SIMULATORS)
    shape = chosen_format(form, output)
    if output == Path("-"):
        output = None
    if output is not None:
        check_writable(output)
    asked, ignored = ask(ctx.params, preset=preset, from_launch=from_launch)
    if ignored:
        warn(f"--from-launch: not modelled, ignored: {', '.join(ignored)}")
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
        warn(f"{len(failed)} of {len(found)} scenarios have no answer: {failed[0]}")
    if len(failed) == len(found):
        raise typer.Exit(1)
