"""``dflash-sim plan``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dflash_sim.commands.options import (
    OUTPUT,
    File,
    Format,
    Output,
    Price,
    PrintConfig,
    Str,
    completer,
    cores,
    number,
    option,
    stoppable,
    tell,
)
from dflash_sim.commands.scenario_options import Flags, takes_scenario, what_is_asked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dflash_sim.studies.ask.question import Given
    from dflash_sim.studies.plan.question import Numbers

OBJECTIVE, DEMAND, SEARCH = "Objective", "Demand", "Search"
ROUTERS = ("round-robin", "least-loaded", "cache-aware")
TUNABLE = ("block",)
MAXIMISED = ("rate", "users")
OVER_LONG = ("refuse", "drop", "truncate")


@takes_scenario
def plan(
    flags: Flags,
    *,
    trace: Annotated[
        Str, option(DEMAND, "Requests: mooncake, qwen, agentx, azure, burstgpt, sglang, vidur, csv",
                    metavar="FILE[:FORMAT]")
    ] = None,
    time_unit: Annotated[Str, option(DEMAND, "Of the trace's times: s, ms, us or ns")] = None,
    over_long: Annotated[
        Str,
        option(DEMAND, "Prompts longer than the model's context: refuse, drop or truncate [refuse]",
               autocompletion=completer(lambda: OVER_LONG)),
    ] = None,
    busiest: Annotated[Str, number(DEMAND, "Only the busiest seconds of the trace")] = None,
    duration: Annotated[Str, number(DEMAND, "Seconds of arrivals at --rate [600]")] = None,
    ttft: Annotated[Str, number(OBJECTIVE, "Limit on time to first token, ms")] = None,
    tpot: Annotated[Str, number(OBJECTIVE, "Limit on time per output token, ms")] = None,
    e2e: Annotated[Str, number(OBJECTIVE, "Limit on the whole answer, ms")] = None,
    percentile: Annotated[
        Str, number(OBJECTIVE, "Percent of the requests that keep each limit [95]")
    ] = None,
    confidence: Annotated[
        Str, number(OBJECTIVE, "Over what is uncertain of the prediction [0.9]")
    ] = None,
    router: Annotated[
        Str,
        option(SEARCH, ", ".join(ROUTERS) + f" [{ROUTERS[0]}]",
               autocompletion=completer(lambda: ROUTERS)),
    ] = None,
    max_gpus: Annotated[Str, number(SEARCH, "Largest fleet [512]")] = None,
    gpus: Annotated[
        Str, number(SEARCH, "GPUs that you own: what do they carry? With --maximise")
    ] = None,
    maximise: Annotated[
        Str,
        option(SEARCH, "What --gpus shall carry most of: rate (requests/s) or users (in flight)",
               autocompletion=completer(lambda: MAXIMISED)),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        option(SEARCH, "Two candidates side by side, such as b200/none b200/dflash",
               metavar="A B"),
    ] = None,
    price: Price = None,
    hours: Annotated[
        Str,
        option(DEMAND, "Shares of --rate by hour of the day, as 0-7:0.2,8-19:1,20-23:0.5",
               metavar="H:SHARE,..."),
    ] = None,
    jobs: Annotated[Str, number(SEARCH, "Processes; all cores if left out")] = None,
    tune: Annotated[
        Str,
        option(SEARCH, "block: the best block by batch size for vLLM; -o a cost table for SGLang",
               autocompletion=completer(lambda: TUNABLE)),
    ] = None,
    report: Annotated[
        File, option(OUTPUT, "Write an HTML page here", "--report", "--html", metavar="FILE")
    ] = None,
    write_compose: Annotated[
        File, option(OUTPUT, "Write a Docker Compose file of the fleet", metavar="FILE")
    ] = None,
    write_k8s: Annotated[
        File, option(OUTPUT, "Write Kubernetes objects of the fleet", metavar="FILE")
    ] = None,
    form: Format = None,
    output: Output = None,
    print_config: PrintConfig = False,
) -> None:  # fmt: skip
    """Find the fewest GPUs, and the cheapest, that keep latencies for a rate or a trace.

    Lists of --gpu, --tp, --method, --block, --steps and --max-running-requests are candidates;
    each is a server, and fleets of it stand behind a router. By default b200 and h200, TP 1 to 8,
    plain decoding and DFlash.
    """
    from dflash_sim.calibrate.launches.router import router_of_launch
    from dflash_sim.studies.plan.deploy import check_writes, fewest, write_files
    from dflash_sim.studies.plan.page import PlanPage
    from dflash_sim.studies.plan.question import config, numbers_of, question
    from dflash_sim.studies.plan.rows import plan_rows, to_json
    from dflash_sim.studies.plan.search import plan as answer
    from dflash_sim.studies.plan.search import steps
    from dflash_sim.studies.show.files import as_text, check_writable, chosen_format
    from dflash_sim.studies.show.terminal import Progress, as_page, deliver

    if tune is not None:
        _tune(tune, flags, output, refused={
            "trace": trace, "time_unit": time_unit, "over_long": over_long,
            "busiest": busiest, "duration": duration,
            "ttft": ttft, "tpot": tpot, "e2e": e2e, "percentile": percentile,
            "confidence": confidence, "router": router, "max_gpus": max_gpus, "jobs": jobs,
            "report": report, "format": form, "print_config": print_config or None,
            "gpus": gpus, "maximise": maximise, "compare": compare, "price": price or None,
            "hours": hours, "write_compose": write_compose, "write_k8s": write_k8s,
        })  # fmt: skip
        return
    shape = chosen_format(form, output)
    if output == Path("-"):
        output = None
    for target in filter(None, (output, report, write_compose, write_k8s)):
        check_writable(target)
    check_writes(write_compose, write_k8s)
    if report is not None:
        from dflash_sim.studies.plan.report import write_report
    own = numbers_of(
        ttft=ttft, tpot=tpot, e2e=e2e, percentile=percentile, confidence=confidence,
        busiest=busiest, duration=duration, max_gpus=max_gpus, jobs=jobs,
    )  # fmt: skip
    several = flags["max_running_requests"]
    asked = what_is_asked({**flags, "max_running_requests": None}, planned=True)
    about: dict[str, Any] = {"caps": several, "trace": trace, "time_unit": time_unit}
    router = router or router_of_launch(flags["from_launch"])
    about |= {"router": router or ROUTERS[0], **own.of_question()}
    about |= {"over_long": over_long or OVER_LONG[0]}
    about |= {"hours": hours, "prices": price or (), "compare": compare or ()}
    if gpus is not None or maximise is not None:
        _carried(
            asked, own, shape, output, gpus=gpus, maximise=maximise, about=about, report=report,
            files={"compose_to": write_compose, "k8s_to": write_k8s},
            refused={"max_gpus": max_gpus, "print_config": print_config or None},
        )  # fmt: skip
        return
    made = question(asked, **about)
    if print_config:
        words: dict[str, Any] = {"trace": trace, "time_unit": time_unit, "over_long": over_long}
        words |= {"router": router, "hours": hours, "price": price, "compare": compare}
        named = [name for name, value in words.items() if value is not None]
        deliver(config(asked, given={*own.values, *named}, **about), output)
        return
    processes = own.whole("jobs") or cores()
    with stoppable(), Progress(steps(made)) as progress:
        found = answer(made, jobs=processes, on_step=progress.advance)
    if report is not None:
        write_report(report, found)
        tell(f"wrote {report}")
    for path in write_files(fewest(found), compose_to=write_compose, k8s_to=write_k8s):
        tell(f"wrote {path}")
    if shape == "table":
        deliver(as_page(PlanPage(found), to_file=output is not None), output)
    else:
        rows = plan_rows(found) if shape == "csv" else [to_json(found)]
        deliver(as_text(rows, shape), output)


def _carried(
    asked: "Mapping[str, Given]",
    own: "Numbers",
    shape: str,
    output: Path | None,
    *,
    gpus: str | None,
    maximise: str | None,
    about: "Mapping[str, Any]",
    report: Path | None,
    files: "Mapping[str, Path | None]",
    refused: "Mapping[str, Any]",
) -> None:
    """The most that owned GPUs carry."""
    from dflash_sim.profiles.errors import UsageError
    from dflash_sim.studies.plan.deploy import write_files
    from dflash_sim.studies.plan.most import DURATION_S, most, refuse
    from dflash_sim.studies.plan.most_page import MostPage, rows, servers_of, to_json
    from dflash_sim.studies.plan.question import numbers_of, owned
    from dflash_sim.studies.show.files import as_text
    from dflash_sim.studies.show.terminal import as_page, deliver

    if gpus is None or maximise is None:
        msg = "--gpus and --maximise go together, as in --gpus 16 --maximise rate; or give --rate."
        raise UsageError(msg)
    refuse([name for name, value in refused.items() if value is not None], maximise)
    made = owned(asked, maximise, **about)
    count = numbers_of(gpus=gpus).whole("gpus") or 1
    duration_s = own.values.get("duration", DURATION_S)
    jobs = own.whole("jobs") or cores()
    with stoppable():
        found = most(made, gpus=count, what=maximise, duration_s=duration_s, jobs=jobs)
    if report is not None:
        from dflash_sim.studies.plan.most_report import write_report

        write_report(report, found)
        tell(f"wrote {report}")
    for path in write_files(servers_of(found), **files):
        tell(f"wrote {path}")
    if shape == "table":
        deliver(as_page(MostPage(found), to_file=output is not None), output)
    else:
        deliver(as_text(rows(found) if shape == "csv" else [to_json(found)], shape), output)


def _tune(what: str, flags: Flags, output: Path | None, *, refused: "Mapping[str, Any]") -> None:
    """The best block by batch size: what it was chosen from, and words for a server."""
    import json

    from dflash_sim.profiles.errors import UsageError, unknown
    from dflash_sim.studies.plan.question import tunable
    from dflash_sim.studies.plan.tune import tune_block
    from dflash_sim.studies.show.files import check_writable
    from dflash_sim.studies.show.terminal import deliver

    if what not in TUNABLE:
        raise unknown(kind="--tune", value=what, allowed=TUNABLE)
    given = ["--" + name.replace("_", "-") for name, value in refused.items() if value is not None]
    if given:
        msg = f"--tune {what} plans no fleet and takes no {', '.join(given)}: leave that out."
        raise UsageError(msg)
    if output == Path("-"):
        output = None
    if output is not None:
        check_writable(output)
    scenario, blocks = tunable(what_is_asked(flags))
    tuned = tune_block(scenario, blocks=blocks)
    tell(tuned.table().text())
    tell(tuned.ends)
    deliver(json.dumps(tuned.as_vllm()) + "\n")
    if output is not None:
        deliver(tuned.as_sglang_json() + "\n", output)
