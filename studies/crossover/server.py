"""One server along an axis: its speed and what that hangs on, each position asked once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.simulator.intervals import Sensitivity, sensitivity
from dflash_sim.simulator.predict import simulate
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.crossover.axis import Axis
from dflash_sim.studies.show.titles import method_title


@dataclass
class Server:
    """A plain or a speculative server, wherever along the axis it is asked for.

    Parameters
    ----------
    base
        The server where the scenario puts it.
    on_run
        Called after each run.
    """

    base: Setup
    axis: Axis
    on_run: Callable[[int], None]
    _setups: dict[float, Setup | DflashSimError] = field(default_factory=dict)
    _values: dict[float, Mapping[str, float] | DflashSimError] = field(default_factory=dict)
    _sensitivities: dict[float, Sensitivity] = field(default_factory=dict)

    @cached_property
    def title(self) -> str:
        """The method and its width in words."""
        return method_title(self.base)

    def setup(self, value: float) -> Setup:
        """The server at a position.

        Raises
        ------
        DflashSimError
            There is no such server; it is not tried twice.
        """
        at = self._key(value)
        if at not in self._setups:
            try:
                self._setups[at] = self.axis.setup(self.base, value)
            except DflashSimError as error:
                self._setups[at] = error
        found = self._setups[at]
        if isinstance(found, DflashSimError):
            raise found
        return found

    def values(self, value: float) -> Mapping[str, float]:
        """What the first run of the requests there shows, by result-schema name.

        Raises
        ------
        DflashSimError
            There is no such server, or nothing is known about its drafts.
        """
        at = self._key(value)
        if at not in self._values:
            try:
                setup = self.setup(value)
                self._values[at] = simulate(setup, setup.expectation, run=0)[0].values
                self.on_run(0)
            except DflashSimError as error:
                self._values[at] = error
        found = self._values[at]
        if isinstance(found, DflashSimError):
            raise found
        return found

    def sensitivity(self, value: float) -> Sensitivity:
        """How the speed there moves with what is uncertain."""
        at = self._key(value)
        if at not in self._sensitivities:
            found = self.axis.setup(self.base, value, own_prices=True)
            self._sensitivities[at] = sensitivity(found)
            self.on_run(0)
        return self._sensitivities[at]

    def _key(self, value: float) -> float:
        """The position, or any, where nothing changes along the axis."""
        moves = self.base.speculative or self.axis.moves_plain
        return value if moves else 0.0
