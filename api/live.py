"""``live``: a running server measured and fitted."""

import asyncio
import os
import sys
import warnings
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from dflash_sim.api.files import Assume, assumed
from dflash_sim.api.fit import Fit
from dflash_sim.api.question import File, folders, plain, truths, whole
from dflash_sim.api.spoken import spoken
from dflash_sim.jobs.stopping import held_back
from dflash_sim.profiles.errors import UsageError, to_install
from dflash_sim.profiles.find import searching
from dflash_sim.profiles.ways_in import named_path
from dflash_sim.studies.show.files import check_writable

if TYPE_CHECKING:
    import pandas as pd

    from dflash_sim.studies.live.question import Outcome


class Live(Fit):
    """A server that was measured; a ``calibration=`` for every question."""

    def __init__(self, outcome: "Outcome", rows: Path, stopped: str | None) -> None:
        super().__init__(outcome.fit, outcome.chosen)
        self.outcome, self.rows, self.stopped = outcome, rows, stopped

    @cached_property
    def cells(self) -> "pd.DataFrame":
        """Every load that was measured, and how far predictions are off before and after [1]."""
        import pandas as pd

        from dflash_sim.studies.live.question import SHOWN

        table = []
        for k, row in enumerate(self.outcome.fit.rows):
            s = row.scenario
            line: dict[str, Any] = {"conc": s.conc, "isl": s.isl, "osl": s.osl}
            line["output_throughput"] = row.observation.metrics["output_throughput"]
            for m, metric in enumerate(SHOWN):
                line[f"{metric}_before"] = float(self.outcome.before[k, m])
                line[f"{metric}_after"] = float(self.outcome.after[k, m])
            table.append(line)
        return pd.DataFrame(table)

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``--format json`` prints it."""
        from dflash_sim.studies.live.page import summary

        return summary(self.outcome)

    def _page(self) -> RenderableType:
        from dflash_sim.studies.live.page import page

        return Text(page(self.outcome))

    def __repr__(self) -> str:
        early = ", ended early" if self.stopped else ""
        return f"<Live {self.calibration.engine}: {len(self.found.rows)} cells{early}>"


@spoken
def live(
    url: str,
    *,
    rows: File = "server.calibration.rows.jsonl",
    minutes: float = 3.0,
    max_requests: int = 3000,
    assume: Assume | None = None,
    api_key: str | None = None,
    engine: str | None = None,
    prior: File = "shipped",
    jobs: int = 1,
    profiles: File | Sequence[File] | None = None,
    progress: bool = False,
) -> Live:
    """Measure the few loads of a running server that tell most, and fit: ``calibrate live``.

    The server must be idle. Interrupt it at will: the same call goes on where it stopped.

    Parameters
    ----------
    url
        Of an OpenAI server, such as ``http://127.0.0.1:30000``.
    rows
        The file of measured rows, gone on with if it is there.
    minutes, max_requests
        Measure for so long, and with so many requests, at most.
    assume
        What the server does not say, such as ``{"gpu": "b200"}``.
    api_key
        Sent as a bearer token.
    engine
        Its release, if it names none.
    prior
        What is known before: ``shipped``, ``sheet``, or an earlier fit.
    jobs
        Processes.
    profiles
        Folders of sheets to be searched first.
    progress
        Tell on stderr how far it is.

    Raises
    ------
    UsageError
        The address is none, the GPU is not said, or the server cannot be simulated.
    DflashSimError
        It cannot be reached, is loaded, or broke off before enough was measured.

    Examples
    --------
    >>> mine = ds.live("http://127.0.0.1:30000", assume={"gpu": "b200"})
    >>> ds.predict(gpu="b200", conc=32, calibration=mine)
    """
    try:
        from dflash_sim.calibrate.live.client import Client
    except ImportError as error:
        msg = f"live needs {error.name}: {to_install('serve')}."
        raise UsageError(msg) from None
    from dflash_sim.studies.live import page, question

    truths(progress=progress)
    jobs, max_requests = whole("jobs", jobs), whole("max_requests", max_requests)
    allowed = plain(minutes)
    if isinstance(allowed, bool) or not isinstance(allowed, int | float) or not allowed > 0:
        msg = f"minutes={minutes!r}: it is a number above 0."
        raise UsageError(msg)
    for name, file in (("rows", rows), ("prior", prior)):
        if not isinstance(file, str | os.PathLike):
            msg = f"{name}={file!r}: it is no path; give the name of a file."
            raise UsageError(msg)
    kept_in = named_path(rows)
    terms = question.Terms(
        connect=lambda: Client(url, api_key=api_key),
        rows=kept_in,
        minutes=allowed,
        max_requests=max_requests,
        assume=tuple(f"{name}={value}" for name, value in assumed(assume).items()),
        engine=engine,
        prior=os.fspath(prior),
        jobs=jobs,
        run=_run,
    )

    def say(line: str) -> None:
        if progress:
            sys.stderr.write(line + "\n")

    with searching(folders(profiles)):
        target = question.find(terms)
        check_writable(kept_in)
        kept = question.kept_of(terms, target)
        planned = question.plan(terms, target, kept)
        say(page.plan_line(planned, len(kept.rows)))
        stopped = question.experiment(
            terms,
            target,
            planned,
            kept,
            on_row=lambda row: say("  " + page.row_line(kept.cell(row), row)),
        )
        found = question.learn(terms, kept, name="live")
    for said in [*target.notes, *([stopped] if stopped else [])]:
        warnings.warn(said, stacklevel=3)
    return Live(found, kept_in, stopped)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it to its end; in a notebook, whose own loop runs already, in a thread."""
    from dflash_sim.studies.live.question import to_its_end

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return to_its_end(work)
    begun: Future[Callable[[], object]] = Future()

    async def main() -> Any:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        begun.set_result(partial(loop.call_soon_threadsafe, task.cancel))
        return await work

    done: Future[Any] | None = None
    with ThreadPoolExecutor(1) as thread:
        try:
            with held_back():
                done = thread.submit(copy_context().run, to_its_end, main())
            return done.result()
        except KeyboardInterrupt:
            if done is not None:
                with suppress(RuntimeError):  # it has just come to its end
                    begun.result()()
                wait([done])
            raise
