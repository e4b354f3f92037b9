"""One prediction as an object, and its explanation."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from dflash_sim.api.rows import RowView
from dflash_sim.api.show import Paged, counted
from dflash_sim.profiles.find import searching
from dflash_sim.profiles.sheets import PriceRange
from dflash_sim.simulator.predict import Result as Prediction
from dflash_sim.simulator.row import to_row
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.explain.explain import Explanation as Found
from dflash_sim.studies.explain.explain import explain, simulations, to_json
from dflash_sim.studies.explain.page import explanation_page
from dflash_sim.studies.explain.phase import phase_detail, phase_rows
from dflash_sim.studies.predict.memory import memory_steps
from dflash_sim.studies.predict.page import present
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.titles import effective, title

if TYPE_CHECKING:
    import pandas as pd


class Result(RowView, Paged):
    """The prediction of one scenario.

    Every field of the result schema is an attribute (``r.output_throughput``, ``r.speedup``,
    ``r.mean_tpot_ms``), and so is every field of the scenario as it was run (``r.conc``, ``r.tp``).

    Parameters
    ----------
    prediction
        What the simulator found.
    given
        Fields that were asked for; the others are defaults.
    folders
        Of sheets that were searched before the others.
    price
        What the asker pays for a GPU, if it is not what its sheet says.
    """

    def __init__(
        self,
        prediction: Prediction,
        *,
        tag: str | None = None,
        given: tuple[str, ...] = (),
        folders: tuple[Path, ...] = (),
        price: PriceRange | None = None,
    ) -> None:
        self.prediction, self._tag, self._given = prediction, tag, given
        self._folders, self._price = folders, price

    @cached_property
    def row(self) -> dict[str, Any]:
        """The flat row of the result schema, as ``--format json`` prints it."""
        return to_row(self.prediction, tag=self._tag, price=self._price)

    @property
    def scenario(self) -> Scenario:
        """The question, as the simulator was asked it."""
        return self.prediction.scenario

    @property
    def evidence(self) -> dict[str, float]:
        """Shares of the simulated time: measured, fitted, roofline and assumed [1]."""
        return dict(self.row["source_share"])

    @property
    def memory(self) -> "pd.DataFrame":
        """Say step by step how the memory of a GPU is divided: ``predict --memory``.

        The columns are ``step``, ``size`` with its unit, and ``how`` it came about. Single figures
        are attributes as well, such as ``r.max_running_requests`` and ``r.kv_tokens``.
        """
        from dflash_sim.api.frames import table

        steps = memory_steps(self.prediction.setup)
        return table([dict(zip(("step", "size", "how"), step, strict=True)) for step in steps])

    @property
    def baseline(self) -> "Result | None":
        """The answer without speculation; None for plain decoding, or if not asked for."""
        plain = self.prediction.baseline
        if plain is None:
            return None
        return Result(plain, tag=self._tag, folders=self._folders, price=self._price)

    def explain(self, *, progress: bool = False) -> "Explanation":
        """Say why the answer is what it is; it takes ten times as long as the answer."""
        with searching(self._folders):
            return Explanation.of(
                self.scenario,
                progress=progress,
                tag=self._tag,
                given=self._given,
                folders=self._folders,
                price=self._price,
            )

    def phase(self, name: str) -> "pd.DataFrame":
        """Return the ops of one phase of a step, with where their prices are from.

        ``explain --phase``: ``draft``, ``verify``, ``commit``, ``materialise``, ``other``, or
        ``host`` for the stages of the scheduler.
        """
        from dflash_sim.api.frames import table

        with searching(self._folders):
            return table(list(phase_rows(phase_detail(self.scenario, name))))

    def _more(self) -> dict[str, Any]:
        return effective(self.prediction)

    def _page(self) -> RenderableType:
        return present(self.prediction, given=self._given, price=self._price)

    def __repr__(self) -> str:
        answer = f"{number(self.output_throughput)} tok/s"
        if self.prediction.intervals:
            low, high = map(number, self.interval("output_throughput"))
            answer += f" ({low} to {high})"
        if self.prediction.speedup is not None:
            answer += f", {self.prediction.speedup:.2f} x plain"
        return f"<Result: {title(self.prediction)}: {answer}>"


class Explanation(Paged):
    """A prediction with its reasons, each kind as a data frame; SI units.

    Parameters
    ----------
    about
        Tag, given fields, folders and price of its :class:`Result`.
    """

    def __init__(self, found: Found, **about: Any) -> None:
        self.found, self._about = found, about

    @classmethod
    def of(cls, scenario: Scenario, *, progress: bool, **about: Any) -> "Explanation":
        """Explain a scenario."""
        with counted(simulations(scenario), show=progress) as advance:
            return cls(explain(scenario, on_run=advance), **about)

    @cached_property
    def _data(self) -> dict[str, Any]:
        return to_json(self.found)

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as ``--format json`` prints it."""
        return dict(self._data)

    @property
    def result(self) -> Result:
        """The prediction that is explained."""
        return Result(self.found.result, **self._about)

    @property
    def speedup(self) -> float | None:
        """The speed-up in throughput, or in an open loop in one request's speed."""
        return self.found.speedup

    @property
    def waterfall(self) -> "pd.DataFrame":
        """From plain decoding to the answer; empty without speculation."""
        return self._table(self._data["waterfall"])

    @property
    def phases(self) -> "pd.DataFrame":
        """The phases of a step, and the time of each."""
        return self._table(self._data["step"]["phases"])

    @property
    def ops(self) -> "pd.DataFrame":
        """The ops of a step."""
        return self._table(self._data["step"]["ops"])

    @property
    def elasticities(self) -> "pd.DataFrame":
        """The quantities that the answer hangs on, and how much."""
        return self._table(self._data["elasticities"])

    @property
    def break_even(self) -> dict[str, Any] | None:
        """The point where speculation stops to pay; None without speculation."""
        found: dict[str, Any] | None = self._data["break_even"]
        return found

    @property
    def grounds(self) -> "pd.DataFrame":
        """The grounds of the answer, with sources."""
        return self._table(self._data["evidence"])

    def _table(self, records: list[dict[str, Any]]) -> "pd.DataFrame":
        from dflash_sim.api.frames import table

        return table(records)

    def _page(self) -> RenderableType:
        return explanation_page(self.found)

    def __repr__(self) -> str:
        return f"<Explanation: {self._data['title']}>"
