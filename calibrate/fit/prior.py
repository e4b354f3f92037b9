"""What is known before the rows of a fit are seen: the engine sheet's priors, or a posterior."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.rows import Row, unknowns
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.calibration import Calibration, Parameter, load_calibration
from dflash_sim.profiles.releases.engine_sheet import EngineSheet

Floats = npt.NDArray[np.float64]

_USUAL = (0.02, 0.02, 1.0)  # discrepancy at home, by setting and by row, within a factor of e
_SURE = 0.5  # a miss is rather a server that differs than a model that is wrong
_LEAST = 1e-12  # of the largest variance: rounded correlations leave directions without any


@dataclass(frozen=True)
class Prior:
    """The unknowns of a fit, what they are thought to be, and how they hang together.

    Parameters
    ----------
    parameters
        Each with its own mean and standard deviation.
    covariance
        Of all of them, on their unbounded scales.
    discrepancy
        What fits usually leave, by setting and by row, and the factor that this is known to, as
        a natural log [1].
    prefills
        Error of a row's prefills that no factor of its server knows [1].
    name
        Where it is from: ``sheet``, or the name of a calibration.
    """

    parameters: tuple[Parameter, ...]
    covariance: Floats
    discrepancy: tuple[float, float, float] = _USUAL
    prefills: float = 0.0
    name: str = "sheet"

    @classmethod
    def independent(cls, parameters: Sequence[Parameter]) -> "Prior":
        """Return a prior of parameters that have nothing to do with each other."""
        return cls(tuple(parameters), np.diag([p.sd**2 for p in parameters]))

    @property
    def mean(self) -> Floats:
        return np.array([p.prior for p in self.parameters])

    @property
    def sd(self) -> Floats:
        return np.array([p.sd for p in self.parameters])

    @property
    def precision(self) -> Floats:
        """The inverse of the covariance."""
        values, vectors = np.linalg.eigh(self.covariance)
        inverse: Floats = (vectors / np.maximum(values, _LEAST * values.max())) @ vectors.T
        return inverse


def prior_of(rows: Sequence[Row], engine: EngineSheet, known: Calibration | None) -> Prior:
    """The prior of a fit: a posterior, or without one the priors of the engine sheet."""
    return posterior_prior(rows, engine, known) if known else sheet_prior(rows, engine)


def known_before(name: str, engine: EngineSheet) -> Calibration | None:
    """What ``--prior`` names: ``shipped``, a file of an earlier fit, or ``sheet``, which is None.

    Raises
    ------
    UsageError
        The file is no calibration, or one of another engine.
    """
    return None if name == "sheet" else load_calibration(name, engine)


def sheet_prior(rows: Sequence[Row], engine: EngineSheet) -> Prior:
    """The priors of the engine sheet for all that the rows speak of.

    They define what is home: a server there differs by the model's discrepancy alone.
    """
    return replace(Prior.independent(unknowns(rows, engine, at_home=False)), discrepancy=_USUAL)


def posterior_prior(rows: Sequence[Row], engine: EngineSheet, known: Calibration) -> Prior:
    """A posterior for what it speaks of, and the sheet's priors for the rest.

    Raises
    ------
    UsageError
        One of the rows has been fitted already: it would count twice.
    """
    refuse_fitted(rows, known)
    asked = unknowns(rows, engine)
    place = {p.name: i for i, p in enumerate(known.parameters)}
    parameters = []
    for p in asked:
        i = place.get(p.name)
        if i is not None:
            p = replace(p, prior=float(known.mean[i]), sd=float(known.sd[i]))
        parameters.append(p)
    covariance = np.diag([p.sd**2 for p in parameters])
    here = [i for i, p in enumerate(asked) if p.name in place]
    there = [place[asked[i].name] for i in here]
    covariance[np.ix_(here, here)] = known.covariance[np.ix_(there, there)]
    return Prior(
        tuple(parameters),
        covariance,
        usual_elsewhere(engine),
        prefills=engine.fit.ttft_rel_err,
        name=known.name,
    )


def usual_elsewhere(engine: EngineSheet) -> tuple[float, float, float]:
    """What a fit usually leaves where factors of the server are free: :attr:`Prior.discrepancy`."""
    return (*engine.fit.discrepancy_elsewhere, _SURE)


def refuse_fitted(rows: Sequence[Row], known: Calibration) -> None:
    """Refuse rows that a posterior was fitted on: the published ones are used once."""
    used, sources = set(known.rows), known.sources
    again = [
        row.observation.row
        for row in rows
        if row.observation.row in used or row.observation.source in sources
    ]
    if again:
        msg = (
            f"{len(again)} of {len(rows)} rows, such as {again[0]}, were fitted in {known.name} "
            "already and would count twice; leave them out, or begin at the priors of the engine "
            "sheet: --prior sheet."
        )
        raise UsageError(msg)
