"""What answers points, in this process, in others of this machine, or in those of a Ray cluster.

Every crew is given one point to a worker at a time, so that a point is in flight or written, and
rows cannot depend on who answered them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dflash_sim.jobs.crew import Alone, Crew
from dflash_sim.jobs.processes import Processes
from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.row import Row
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.answers import Answer, answers
from dflash_sim.studies.predict.table import answer_row


@dataclass(frozen=True)
class How:
    """The options of ``predict`` with which points are answered; ``prices`` by GPU [USD/h]."""

    simulator: str = "auto"
    baseline: bool = True
    interval: bool = True
    tag: str | None = None
    prices: Mapping[str, float] | None = None


class Worker:
    """Answers points one by one, and keeps what the points of a group share."""

    def __init__(self, how: How) -> None:
        self.how = how
        self.group: tuple[Any, ...] | None = None
        self.baselines: dict[str, Result] = {}

    def answer(self, group: tuple[Any, ...], scenario: Scenario) -> Row:
        """Return the row of a scenario; what cannot be answered is a row with its error.

        Parameters
        ----------
        group
            Scenarios of one group share their plain decoding.
        """
        if group != self.group:
            self.group, self.baselines = group, {}
        try:
            (answer,) = answers(
                [scenario],
                simulator=self.how.simulator,
                with_baseline=self.how.baseline,
                with_interval=self.how.interval,
                baselines=self.baselines,
                prices=self.how.prices,
            )
        except DflashSimError as error:
            answer = Answer(scenario, error)
        return answer_row(answer, self.how.tag)


def crew_of(how: How, jobs: int) -> Crew:
    """One worker without a process of its own, or several with."""
    return Processes(jobs, Worker, how) if jobs > 1 else Alone(Worker, how)
