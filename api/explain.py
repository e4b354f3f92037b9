"""``explain`` and ``trace``: why an answer is what it is, and a timeline of its steps."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from rich.console import RenderableType

from dflash_sim.api.question import Config, File, Question, asked, takes_question
from dflash_sim.api.show import Paged, counted
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.question import only_scenario
from dflash_sim.studies.explain.explain import Explanation as Found
from dflash_sim.studies.explain.explain import explain as answer
from dflash_sim.studies.explain.explain import simulations, to_json
from dflash_sim.studies.explain.page import explanation_page
from dflash_sim.studies.show.files import check_writable, write_whole
from dflash_sim.studies.trace.simulated import simulated_trace

if TYPE_CHECKING:
    import pandas as pd

    from dflash_sim.api.predict import Result


class Explanation(Paged):
    """A prediction with its reasons, each kind as a data frame; SI units."""

    def __init__(self, found: Found) -> None:
        self.found = found

    @classmethod
    def of(cls, scenario: Scenario, *, progress: bool) -> "Explanation":
        """Explain a scenario."""
        with counted(simulations(scenario), show=progress) as advance:
            return cls(answer(scenario, on_run=advance))

    @cached_property
    def _data(self) -> dict[str, Any]:
        return to_json(self.found)

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as ``--format json`` prints it."""
        return dict(self._data)

    @property
    def result(self) -> "Result":
        """The prediction that is explained."""
        from dflash_sim.api.predict import Result

        return Result(self.found.result)

    @property
    def speedup(self) -> float | None:
        """Of what the waterfall follows: throughput, or in an open loop one request's speed."""
        return self.found.speedup

    @property
    def waterfall(self) -> "pd.DataFrame":
        """From plain decoding to the answer; empty without speculation."""
        return self._table(self._data["waterfall"])

    @property
    def phases(self) -> "pd.DataFrame":
        """Where the time of a step goes."""
        return self._table(self._data["step"]["phases"])

    @property
    def ops(self) -> "pd.DataFrame":
        """The ops of a step."""
        return self._table(self._data["step"]["ops"])

    @property
    def elasticities(self) -> "pd.DataFrame":
        """What the answer hangs on, and how much."""
        return self._table(self._data["elasticities"])

    @property
    def break_even(self) -> dict[str, Any] | None:
        """Where speculation stops to pay; None without speculation."""
        found: dict[str, Any] | None = self._data["break_even"]
        return found

    @property
    def grounds(self) -> "pd.DataFrame":
        """What the answer rests on, with sources."""
        return self._table(self._data["evidence"])

    def _table(self, records: list[dict[str, Any]]) -> "pd.DataFrame":
        from dflash_sim.api.frames import table

        return table(records)

    def _page(self) -> RenderableType:
        return explanation_page(self.found)

    def __repr__(self) -> str:
        return f"<Explanation: {self._data['title']}>"


@takes_question
def explain(
    config: Config | None = None, *, progress: bool = False, **question: Unpack[Question]
) -> Explanation:
    """Say why: from plain decoding to the answer, where its time goes, what would change it.

    It takes ten times as long as :func:`predict`.

    Parameters
    ----------
    config
        Where to start from: a dict of fields, a scenario, or the path of a .yaml file.
    progress
        Tell on stderr how far it is.
    **question
        One scenario, as for :func:`predict`.

    Raises
    ------
    UsageError, InfeasibleError, MissingProfileError
        As :func:`predict` does; several values of a field are refused.

    Examples
    --------
    >>> why = ds.explain(gpu="b200", block=16, conc=32)
    >>> why.waterfall, why.elasticities, why.ops
    """
    return Explanation.of(only_scenario(asked(config, question)), progress=progress)


@takes_question
def trace(
    config: Config | None = None,
    *,
    iterations: int = 32,
    skip: int = 0,
    output: File | None = None,
    **question: Unpack[Question],
) -> dict[str, Any] | Path:
    """Return a timeline of simulated steps, for ui.perfetto.dev, or write it to a file.

    Parameters
    ----------
    config
        Where to start from: a dict of fields, a scenario, or the path of a .yaml file.
    iterations, skip
        Engine iterations to show, and to leave out before them.
    output
        The file, written whole or not at all.
    **question
        One scenario, as for :func:`predict`.

    Returns
    -------
    dict or pathlib.Path
        The trace events, or the file that holds them.

    Examples
    --------
    >>> ds.trace(gpu="b200", conc=8, iterations=16, output="step.json")
    """
    import json

    path = None if output is None else Path(output)
    if path is not None:
        check_writable(path)
    _positive("iterations", iterations, least=1)
    _positive("skip", skip, least=0)
    found = simulated_trace(
        only_scenario(asked(config, question)), iterations=iterations, skip=skip
    )
    if path is not None:
        write_whole(path, found.to_json())
        return path
    events: dict[str, Any] = json.loads(found.to_json())
    return events


def _positive(name: str, value: int, *, least: int) -> None:
    from dflash_sim.profiles.errors import UsageError

    if value < least:
        msg = f"--{name} {value}: it is a whole number from {least} on."
        raise UsageError(msg)
