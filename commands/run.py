"""``dflash-sim run``."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
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
    from dflash_sim.realrun.job.networks import Network
    from dflash_sim.realrun.job.setup import Setup
    from dflash_sim.realrun.row import Row


def run(
    *,
    model: Annotated[str, option(MODEL, "tiny, or a Hugging Face folder", show_default=True)] = (
        "tiny"
    ),
    drafter: Annotated[File, option(MODEL, "Folder of a DFlash drafter or an EAGLE-3 head")] = None,
    random_weights: Annotated[
        bool,
        option(MODEL, "Only config.json is read: for times", "--random-weights", metavar=""),
    ] = False,
    method: Annotated[
        str,
        option(
            SPECULATION,
            "dflash, mtp, eagle3 or none",
            autocompletion=completer(lambda: methods(real=True)),
            show_default=True,
        ),
    ] = "dflash",
    block: Annotated[
        int | None, option(SPECULATION, "Verify window of dflash", metavar="N")
    ] = None,
    steps: Annotated[
        int | None, option(SPECULATION, "Draft steps of mtp and eagle3", metavar="N")
    ] = None,
    temperature: Annotated[
        float, option(SPECULATION, "0 verifies greedily, else by sampling", metavar="T")
    ] = 0.0,
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
    from dflash_sim.profiles.errors import UsageError

    try:
        from dflash_sim.realrun.job.prompts import poisson_arrivals
        from dflash_sim.realrun.job.requests import Request
        from dflash_sim.realrun.job.setup import Setup
        from dflash_sim.realrun.launch import fit_requests, serve
        from dflash_sim.realrun.row import observed_row
    except ImportError as error:
        msg = f"run needs torch and safetensors ({error}); pip install 'dflash-sim[gpu]'"
        raise UsageError(msg) from error
    from dflash_sim.profiles.units import MS
    from dflash_sim.realrun.job.faults import RunFailedError
    from dflash_sim.studies.show.files import check_writable

    for path in (output, requests, trace):
        if path is not None:
            check_writable(path)
    target, drafts = _networks(model, drafter, method, random_weights=random_weights)
    made = Setup(
        target=target,
        drafter=drafts,
        method=method,
        block=block,
        steps=steps,
        tp=tp,
        mode=engine_mode,
        max_running_requests=conc,
        chunked_prefill_size=chunked_prefill_size,
        page_size=page_size,
        temperature=temperature,
        seed=seed,
        accept_length=accept_length,
        host_work_s=host_work_ms * MS,
        device=device,
        dtype=dtype,
        timeout_s=timeout,
        cuda_graphs=cuda_graphs,
    )
    texts = _texts(made, model, prompts, isl, count=num_prompts)
    # What is imposed may hold any token.
    stop = frozenset[int]() if ignore_eos or accept_length else target.end_tokens
    asked = [Request(prompt=t, max_new_tokens=max_new_tokens, stop=stop) for t in texts]
    if rate is not None:
        if not rate > 0:
            msg = f"--rate {rate:g}: arrivals per second must be positive"
            raise UsageError(msg)
        moments = poisson_arrivals(len(asked), rate=rate, seed=seed)
        asked = [replace(r, arrival_s=at) for r, at in zip(asked, moments, strict=True)]
    flight = conc if rate is None else None
    fitted = fit_requests(made, asked, flight)
    failure: RunFailedError | None = None
    with _recorder(requests, fitted.rows) as record:
        try:
            done = serve(made, asked, conc=flight, on_answer=record)
        except RunFailedError as error:
            failure = error
            if error.run is None:
                raise
            done = error.run
    row = observed_row(
        fitted, done, asked, conc=flight, machine=device, rate=rate, tag=tag, failure=failure
    )
    _report(row, done, output)
    if trace is not None:
        _write_trace(done, trace, title=f"{made.target.name} {method} tp{tp} (real)")
    if failure is not None:
        raise failure


def _networks(
    model: str, drafter: Path | None, method: str, *, random_weights: bool
) -> "tuple[Network, Network | None]":
    """The target, and what drafts for it."""
    from dflash_sim.realrun.job.networks import Network
    from dflash_sim.realrun.job.prompts import shipped

    folder = Path(model)
    if model == "tiny" and not folder.exists():
        pair = shipped(model)
        folder, drafter = pair / "target", drafter or pair / method
    target, drafts = Network.folder(folder), None
    if drafter is not None and method in ("dflash", "eagle3"):
        drafts = Network.folder(drafter)
    if random_weights:
        target = Network.random(target.config, target.name)
        drafts = drafts and Network.random(drafts.config, drafts.name)
    return target, drafts


def _texts(
    made: "Setup", model: str, prompts: Path | None, isl: int | None, *, count: int
) -> list[tuple[int, ...]]:
    """``count`` prompts, taken in turn."""
    from dflash_sim.kernels.layers.spec import read_target
    from dflash_sim.profiles.errors import UsageError
    from dflash_sim.realrun.job.prompts import random_prompts, read_prompts, shipped

    vocab = read_target(made.target.config, made.target.name).shape.vocab
    if prompts is None and isl is None and model == "tiny":
        prompts = shipped(model) / "prompts.jsonl"
    if prompts is not None and isl is None:
        texts = read_prompts(prompts, vocab)
    elif isl is not None and prompts is None:
        texts = random_prompts(count, tokens=isl, vocab=vocab, seed=made.seed)
    else:
        msg = "give one of --prompts FILE and --isl N"
        raise UsageError(msg)
    return [texts[i % len(texts)] for i in range(count)]


@contextmanager
def _recorder(path: Path | None, rows: int) -> "Iterator[Callable[[Answer], None] | None]":
    """What writes every answer as a line of its own, so that a broken run leaves whole lines."""
    if path is None:
        yield None
        return
    from dflash_sim.realrun.row import request_record
    from dflash_sim.studies.show.files import writing

    with ExitStack() as opened, writing(path):
        files: list[TextIO] = []

        def record(answer: "Answer") -> None:
            if not files:  # not sooner: ranks that torchrun started share the name
                files.append(opened.enter_context(path.open("w", encoding="utf-8", newline="\n")))
            files[0].write(json.dumps(request_record(answer, rows), allow_nan=False) + "\n")
            files[0].flush()

        yield record
        if not files:
            path.write_text("", encoding="utf-8")
    tell(f"wrote {path}")


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


def _write_trace(done: "Run", path: Path, *, title: str) -> None:
    from dflash_sim.studies.show.files import write_whole
    from dflash_sim.studies.trace.perfetto import Timeline, trace_json

    timeline = Timeline(title)
    for interval in done.intervals():
        timeline.interval(*interval)
    write_whole(path, trace_json([timeline], {"program": "dflash-sim", "kind": "observed"}))
    tell(f"wrote {path}")
