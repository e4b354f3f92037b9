"""Servers away from home: what their rows say of releases, GPUs and attention backends.

The constants of home keep what their own rows said: rows of other servers move factors alone, each
the product of what servers have in common. What is left to a server of its own is not kept, since
no prediction of another one needs it.
"""

from dataclasses import replace

import numpy as np

from dflash_sim.calibrate.fit.fit import Fit
from dflash_sim.profiles.releases.calibration import Calibration
from dflash_sim.profiles.releases.server_levels import FACTORS, OWN, level_of


def with_levels(home: Calibration, servers: Fit) -> Calibration:
    """The calibration of home with the levels that the rows of servers speak of."""
    sources = sorted({row.observation.source for row in servers.rows})
    named = replace(servers.calibration, about={"server_sources": sources})
    return with_known_levels(home, named)


def with_known_levels(home: Calibration, fitted: Calibration) -> Calibration:
    """The calibration of home with the levels that servers have in common.

    Constants and acceptance stay those of home: what rows elsewhere say of them is the doubt of
    their own conditions too.
    """
    keep = [
        i
        for i, p in enumerate(fitted.parameters)
        if p.kind in FACTORS and level_of(p.key) not in OWN
    ]
    size, more = len(home.parameters), len(keep)
    covariance = np.zeros((size + more, size + more))
    covariance[:size, :size] = home.covariance
    covariance[size:, size:] = fitted.covariance[np.ix_(keep, keep)]
    sources = fitted.about.get("server_sources", [])
    return replace(
        home,
        parameters=(*home.parameters, *(fitted.parameters[i] for i in keep)),
        mean=np.array([*home.mean, *fitted.mean[keep]]),
        covariance=covariance,
        about={**home.about, "server_sources": sources},
    )
