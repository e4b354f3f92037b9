"""``dflash-sim predict``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dflash_sim.commands.options import (
    INTERVALS,
    OUTPUT,
    SIMULATORS,
    Format,
    Html,
    Output,
    Price,
    PrintConfig,
    Str,
    completer,
    cores,
    option,
    tell,
    warn,
)
from dflash_sim.commands.scenario_options import Flags, takes_scenario, what_is_asked

if TYPE_CHECKING:
    from dflash_sim.simulator.scenario import Scenario
    from dflash_sim.studies.ask.answers import Answer
    from dflash_sim.studies.ask.question import Given


@takes_scenario
def predict(
    flags: Flags,
    *,
    simulator: Annotated[
        str,
        option(OUTPUT, "auto, leap (fast) or event", autocompletion=completer(lambda: SIMULATORS)),
    ] = SIMULATORS[0],
    no_baseline: Annotated[
        bool, option(OUTPUT, "Skip plain decoding", "--no-baseline", metavar="")
    ] = False,
    interval: Annotated[
        str, option(OUTPUT, "90, or none for speed", autocompletion=completer(lambda: INTERVALS))
    ] = INTERVALS[0],
    brief: Annotated[
        bool, option(OUTPUT, "A short answer; for one scenario", "--brief", metavar="")
    ] = False,
    memory: Annotated[
        bool,
        option(
            OUTPUT, "Show how memory is divided, in place of a prediction", "--memory", metavar=""
        ),
    ] = False,
    price: Price = None,
    tag: Annotated[Str, option(OUTPUT, "Label of the rows")] = None,
    jobs: Annotated[
        int | None,
        option(OUTPUT, "Processes for a table; default: as many as pay", min=1, metavar="N"),
    ] = None,
    html: Html = None,
    form: Format = None,
    output: Output = None,
    print_config: PrintConfig = False,
) -> None:
    """Predict throughput and latencies; with nothing else given, of the launch on 8 x B200.

    A RANGE is a number, a list 1,2,4, or 1-32:x2 (times two), 8-16:4 (steps of four), 1-8.
    Several values make a table, one line per combination. SGLang's own flag names work too.
    """
    from dflash_sim.profiles.errors import UsageError
    from dflash_sim.studies.ask.answers import answers, check_options, worthwhile
    from dflash_sim.studies.ask.prices import checked_prices
    from dflash_sim.studies.ask.question import as_yaml, left_out, scenarios
    from dflash_sim.studies.show.files import check_writable, chosen_format
    from dflash_sim.studies.show.terminal import Progress, deliver

    check_options(simulator, interval)
    if output == Path("-"):
        output = None
    if brief and memory:
        msg = "--brief and --memory are two pages; leave one of them out."
        raise UsageError(msg)
    if brief and form is None and not (output and output.suffix):
        form = "table"
    shape = chosen_format(form, output)
    for target in filter(None, (output, html)):
        check_writable(target)
    for name, unread in (("html", html), ("price", price)):
        if memory and unread:
            msg = f"--memory has no charts and no cost; leave --{name} out."
            raise UsageError(msg)
    asked = what_is_asked(flags)
    points = scenarios(asked)
    prices = checked_prices(price or (), (point.gpu for point in points))
    for text in left_out({name: given.value for name, given in asked.items()}):
        warn(text)
    if brief:
        _check_brief(shape, len(points))
    if print_config:
        deliver(as_yaml(asked), output)
        return
    if memory:
        _memory(points, shape, output)
        return
    with Progress(sum(point.runs for point in points)) as progress:
        work = answers(
            points,
            simulator=simulator,
            with_baseline=not no_baseline,
            with_interval=interval != "none",
            jobs=jobs or worthwhile(len(points), cores()),
            prices=prices,
            on_run=progress.advance,
        )
        found = list(work)
    if html is not None:
        _page(html, found)
    if brief and found[0].result is not None:
        from dflash_sim.studies.predict.brief import brief as short_page
        from dflash_sim.studies.show.terminal import as_page

        shown = short_page(found[0].result, price=found[0].price)
        deliver(as_page(shown, to_file=output is not None), output)
        return
    _report(found, shape, output, given=asked, tag=tag)


def _page(path: Path, found: "Sequence[Answer]") -> None:
    """Write the page of charts, unless nothing has an answer."""
    from dflash_sim.studies.predict.report import write_rows
    from dflash_sim.studies.predict.table import GridTable

    if any(answer.result is not None for answer in found):
        table = GridTable(found)
        gains, remarks, prices = table.gains(), table.warnings(), table.prices()
        differing = table.varying
        write_rows(
            path, table.rows, differing=differing, gains=gains, remarks=remarks, prices=prices
        )
        tell(f"wrote {path}")


def _memory(points: "Sequence[Scenario]", shape: str, output: Path | None) -> None:
    """Print how each scenario divides the memory of a GPU; nothing is simulated."""
    from dflash_sim.profiles.errors import InfeasibleError
    from dflash_sim.simulator.setup import resolve
    from dflash_sim.studies.predict.memory import memory_page, memory_row
    from dflash_sim.studies.show.files import as_text
    from dflash_sim.studies.show.terminal import as_page, deliver

    setups, failed = [], []
    for point in points:
        try:
            setups.append(resolve(point))
        except InfeasibleError as error:
            failed.append(error)
    if not setups:
        raise failed[0]
    if shape == "table":
        pages = [as_page(memory_page(setup), to_file=output is not None) for setup in setups]
        deliver("\n".join(pages), output)
    else:
        deliver(as_text([memory_row(setup) for setup in setups], shape), output)
    if failed:
        warn(f"{len(failed)} of {len(points)} scenarios do not fit: {failed[0]}")


def _check_brief(shape: str, points: int) -> None:
    """Refuse ``--brief`` where there is no page to shorten."""
    from dflash_sim.profiles.errors import UsageError

    if shape != "table":
        msg = f"--brief is a page for people, and --format {shape} is not; leave one of them out."
        raise UsageError(msg)
    if points > 1:
        msg = (
            f"--brief answers one scenario, and {points} are asked for; leave it out for a table, "
            "or give one value each."
        )
        raise UsageError(msg)


def _report(
    found: "Sequence[Answer]",
    shape: str,
    output: Path | None,
    *,
    given: "Mapping[str, Given]",
    tag: str | None,
) -> None:
    from dflash_sim.studies.predict.page import present
    from dflash_sim.studies.predict.table import GridTable, answer_row
    from dflash_sim.studies.show.files import as_text
    from dflash_sim.studies.show.terminal import as_page, deliver

    failed = [answer.error for answer in found if answer.error is not None]
    if len(found) == 1 and failed:
        raise failed[0]
    if shape == "table":
        only = found[0] if len(found) == 1 else None
        to_file = output is not None
        if only is not None and only.result is not None:
            text = as_page(present(only.result, given=given, price=only.price), to_file=to_file)
        else:
            text = as_page(GridTable(found), to_file=to_file)
        deliver(text, output)
    else:
        deliver(as_text([answer_row(answer, tag) for answer in found], shape), output)
    if failed:
        warn(f"{len(failed)} of {len(found)} scenarios have no answer: {failed[0]}")
    if len(failed) == len(found):
        raise typer.Exit(1)
