"""Other builds of an engine: one time factor each, relative to the build that was fitted.

A factor on all GPU and host time moves the log of a throughput by minus its log, so its posterior
has a closed form, and rows of an old build need not move the constants of the new one.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dflash_sim.calibrate.fit.held_out import Outcome
from dflash_sim.profiles.calibration import Calibration, Parameter


def with_builds(
    calibration: Calibration, outcomes: Sequence[Outcome], prior_sd: float
) -> Calibration:
    """The calibration with a time factor for each build among the outcomes.

    Parameters
    ----------
    outcomes
        Rows of other builds, predicted as if they were of the fitted one.
    prior_sd
        Of the log of a factor [1].
    """
    misses: dict[str, list[Outcome]] = defaultdict(list)
    for o in outcomes:
        build = o.row.scenario.build
        if build is not None:
            misses[build].append(o)
    parameters, mean, variance = [], [], []
    for build, rows in sorted(misses.items()):
        m, v = factor(rows, prior_sd)
        parameters.append(Parameter("build", build, "log", 0.0, prior_sd))
        mean.append(m)
        variance.append(v)
    size = len(calibration.parameters)
    covariance = np.zeros((size + len(mean), size + len(mean)))
    covariance[:size, :size] = calibration.covariance
    covariance[range(size, size + len(mean)), range(size, size + len(mean))] = variance
    sources = sorted({o.row.observation.source for o in outcomes})
    return replace(
        calibration,
        parameters=(*calibration.parameters, *parameters),
        mean=np.array([*calibration.mean, *mean]),
        covariance=covariance,
        about={**calibration.about, "build_sources": sources},
    )


def factor(outcomes: Sequence[Outcome], prior_sd: float) -> tuple[float, float]:
    """Posterior mean and variance of the log time factor of one build.

    Rows of one setting count once. The variance is that of a further setting's factor: settings
    of an old build differ by more than their mean is uncertain.
    """
    by_setting: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for o in outcomes:
        by_setting[o.row.setting].append(float(np.log(o.predicted / o.observed)))
    slower = np.array([np.mean(each) for each in by_setting.values()])
    spread = float(np.var(slower, ddof=1)) if len(slower) > 1 else prior_sd**2
    weight = prior_sd**2 / (prior_sd**2 + spread / len(slower))
    return weight * float(slower.mean()), (1 - weight) * prior_sd**2 + spread
