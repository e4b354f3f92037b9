"""``dflash-sim run``."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from dflash_sim.commands.options import (
    ENGINE,
    HARDWARE,
    MODEL,
    MODES,
    OUTPUT,
    SPECULATION,
    WORKLOAD,
    File,
    Output,
    Str,
    completer,
    methods,
    option,
    tell,
    warn,
)

if TYPE_CHECKING:
    from dflash_sim.realrun.job.journal import Answer, Run
    from dflash_sim.realrun.row import Row


def run(
    *,
    model: Annotated[str, option(MODEL, "tiny, or a Hugging Face folder", show_default=True)] = (
        "tiny"
    ),
    drafter: Annotated[File, option(MODEL, "Folder of a block drafter or an EAGLE-3 head")] = None,
    random_weights: Annotated[
        bool,
        option(MODEL, "Only config.json is read: for times", "--random-weights", metavar=""),
    ] = False,
    method: Annotated[
        str,
        option(
            SPECULATION,
            "dflash, dflash2, dspark, domino, mtp, eagle3 or none",
            autocompletion=completer(lambda: methods(real=True)),
            show_default=True,
        ),
    ] = "dflash",
    block: Annotated[
        int | None,
        option(SPECULATION, "Verify window of a block drafter", metavar="N"),
    ] = None,
    steps: Annotated[
        int | None, option(SPECULATION, "Draft steps of mtp and eagle3", metavar="N")
    ] = None,
    temperature: Annotated[
        float, option(SPECULATION, "0 verifies greedily, else by sampling", metavar="T")
    ] = 0.0,
    top_k: Annotated[
        int | None, option(SPECULATION, "Sample among so many tokens", metavar="N")
    ] = None,
    top_p: Annotated[
        float, option(SPECULATION, "Sample among the likeliest with this share", metavar="P")
    ] = 1.0,
    accept_length: Annotated[
        float | None,
        option(SPECULATION, "Impose this mean accept length, whatever is drafted", metavar="X"),
    ] = None,
    tp: Annotated[int, option(HARDWARE, "Tensor-parallel ranks", metavar="N")] = 1,
    device: Annotated[str, option(HARDWARE, "cpu or cuda", show_default=True)] = "cpu",
    dtype: Annotated[str, option(HARDWARE, "Of weights and KV", show_default=True)] = "float32",
    cuda_graphs: Annotated[
        bool, option(HARDWARE, "Replay captured decode steps", "--cuda-graphs", metavar="")
    ] = False,
    engine_mode: Annotated[
        str,
        option(
            ENGINE,
            "v1, v2-sync or v2 (overlap)",
            autocompletion=completer(lambda: MODES),
            show_default=True,
        ),
    ] = "v2",
    page_size: Annotated[int, option(ENGINE, "Tokens per KV page", metavar="N")] = 16,
    chunked_prefill_size: Annotated[int, option(ENGINE, "Prefill tokens per step", metavar="N")] = (
        8192
    ),
    host_work_ms: Annotated[
        float, option(ENGINE, "Other host work per step, such as detokenisation", metavar="MS")
    ] = 0.0,
    conc: Annotated[int, option(WORKLOAD, "Requests in flight at most", metavar="N", min=1)] = 1,
    rate: Annotated[
        float | None,
        option(WORKLOAD, "Arrivals per second (open loop), waiting beyond --conc", metavar="R"),
    ] = None,
    num_prompts: Annotated[int, option(WORKLOAD, "Requests", metavar="N", min=1)] = 16,
    prompts: Annotated[File, option(WORKLOAD, 'JSON lines of {"prompt": ids}', metavar="FILE")] = (
        None
    ),
    isl: Annotated[
        int | None, option(WORKLOAD, "Random prompts of so many tokens", metavar="N", min=1)
    ] = None,
    max_new_tokens: Annotated[int, option(WORKLOAD, "Cap on an answer, tokens", metavar="N")] = 128,
    ignore_eos: Annotated[
        bool, option(WORKLOAD, "Answer to the cap", "--ignore-eos", metavar="")
    ] = False,
    seed: Annotated[int, option(WORKLOAD, "Random seed", metavar="N")] = 0,
    timeout: Annotated[
        float, option(ENGINE, "A worker that is silent for longer is lost, seconds", metavar="S")
    ] = 60.0,
    tag: Annotated[Str, option(OUTPUT, "Label of the row")] = None,
    output: Output = None,
    requests: Annotated[
        File,
        option(OUTPUT, "Write every answer here as it comes: AIPerf's records", metavar="FILE"),
    ] = None,
    trace: Annotated[
        File, option(OUTPUT, "Write a timeline for ui.perfetto.dev", metavar="FILE")
    ] = None,
) -> None:
    """Run draft and verify for real: the cycle that "dflash-sim predict" simulates.

    One scheduler and one process per rank; torch and safetensors are needed. What had been
    answered is written even when a worker fails or Ctrl-C stops the run.
    """
    from dflash_sim.studies.real.torch_needed import need_gpus, need_torch

    need_torch("run")
    need_gpus(device, tp)
    from dflash_sim.studies.real.run_question import Job, RunOptions
    from dflash_sim.studies.show.files import check_writable, write_whole

    for path in (output, requests, trace):
        if path is not None:
            check_writable(path)
    job = Job(
        RunOptions(
            model=model,
            drafter=drafter,
            random_weights=random_weights,
            method=method,
            block=block,
            steps=steps,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            accept_length=accept_length,
            tp=tp,
            device=device,
            dtype=dtype,
            cuda_graphs=cuda_graphs,
            engine_mode=engine_mode,
            page_size=page_size,
            chunked_prefill_size=chunked_prefill_size,
            host_work_ms=host_work_ms,
            conc=conc,
            rate=rate,
            num_prompts=num_prompts,
            prompts=prompts,
            isl=isl,
            max_new_tokens=max_new_tokens,
            ignore_eos=ignore_eos,
            seed=seed,
            timeout=timeout,
            tag=tag,
        )
    )
    drafts = job.setup.drafter
    if drafts is not None and drafts.note:
        tell(drafts.note)
    with _recorder(requests, job.fitted.rows) as record:
        ran = job.run(record)
        _report(ran.row, ran.run, output)
        if trace is not None:
            write_whole(trace, ran.trace())
            tell(f"wrote {trace}")
    if ran.failure is not None:
        raise ran.failure


@contextmanager
def _recorder(path: Path | None, rows: int) -> "Iterator[Callable[[Answer], None] | None]":
    """Return a writer of one line per answer, so that a broken run leaves whole lines."""
    if path is None:
        yield None
        return
    from dflash_sim.realrun.row import request_record
    from dflash_sim.studies.show.files import writing

    with ExitStack() as opened:
        files: list[TextIO] = []
        failures: list[OSError] = []

        def record(answer: "Answer") -> None:
            if failures:  # a full disk ends the record, not the run
                return
            line = json.dumps(request_record(answer, rows), allow_nan=False) + "\n"
            try:
                if not files:  # not sooner: ranks that torchrun started share the name
                    files.append(path.open("w", encoding="utf-8", newline="\n", buffering=1))
                    opened.callback(_closed, files[0])
                files[0].write(line)
            except OSError as error:
                failures.append(error)

        yield record
        with writing(path):
            if failures:
                raise failures[0]
            if not files:
                path.write_text("", encoding="utf-8")
    tell(f"wrote {path}")


def _closed(file: "TextIO") -> None:
    """Close a file; what a full disk did not take is told by whoever wrote it."""
    with suppress(OSError):
        file.close()


def _report(row: "Row", done: "Run", output: Path | None) -> None:
    """A short table on stdout; the row in a file."""
    from dflash_sim.studies.show.files import as_text, write_whole
    from dflash_sim.studies.show.plain_table import Table, text_of

    shown = (
        ("answered", f"{len(done.answers)} of {done.asked}"),
        ("output token/s", _figure(row["output_throughput"], 1)),
        ("accept length", _figure(row["accept_length_cycle"], 2)),
        ("step ms", _figure(row["step_ms"], 3)),
        ("draft ms", _figure(row["draft_ms"], 3)),
        ("verify ms", _figure(row["verify_ms"], 3)),
        ("host ms", _figure(row["host_ms"], 3)),
        ("host exposed ms", _figure(row["host_exposed_ms"], 3)),
        ("mean TTFT ms", _figure(row["mean_ttft_ms"], 2)),
        ("mean TPOT ms", _figure(row["mean_tpot_ms"], 3)),
    )
    load = "open loop" if row["max_concurrency"] is None else f"{row['max_concurrency']} in flight"
    title = f"{row['model']}, {row['method']}, {row['engine_mode']}, {load}"
    typer.echo(text_of([Table(title, ("figure", "measured"), shown)]), nl=False)
    if output is not None:
        write_whole(output, as_text([row], "jsonl"))
        tell(f"wrote {output}")
    if len(done.answers) < done.asked:
        warn(f"{done.asked - len(done.answers)} of {done.asked} requests were not answered")


def _figure(value: object, decimals: int) -> str:
    return f"{value:.{decimals}f}" if isinstance(value, int | float) else "-"
