"""What the first tokens of a run say, beside all else that was measured of it.

The clients of a closed loop, a throughput and the latency of a request hang together (Little): what
a request waits less for its first token, it waits more between tokens, while the prefills of others
run, and the throughput stays. How the bursts of a run come apart is not known, so that a first
token that is off pulls the time per token of its row the other way, and not the constants.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.rows import TPOT, TTFT, Row
from dflash_sim.simulator.slopes import METRICS

Floats = npt.NDArray[np.float64]
Index = Sequence[tuple[int, int]]

_MEAN, _MEDIAN = METRICS.index("mean_ttft_ms"), METRICS.index("median_ttft_ms")
_LATENCY = METRICS.index("mean_e2e_latency_ms")


def unsure_medians(index: Index, answers: Floats) -> Floats:
    """Return how far the median first token of each entry lies from the mean, as a log [1].

    They lie apart where some requests wait and others do not. A median is then on one side or the
    other by how many wait, and says little of how long a prefill takes.

    Parameters
    ----------
    index
        Row and metric of each entry.
    answers
        Logs of the metrics, shape [rows, metrics].
    """
    return np.array(
        [abs(answers[i, _MEAN] - answers[i, _MEDIAN]) if m == _MEDIAN else 0.0 for i, m in index]
    )


def exchanged(rows: Sequence[Row], index: Index, answers: Floats) -> Floats:
    """Return the covariance of first tokens and times per token of a row that wait for each other.

    With a share w of first tokens in the latency of a request, a deviation e moves them by
    ``e (1 - w)`` and ``-e w``: together they last as long. Of c clients there are
    ``(c - 1) (1 - w)`` others between tokens, who can be waited for: none beside a client alone,
    and few where nearly all wait for a slot. The variance of a first token itself is among its
    errors already.
    """
    load = np.zeros((len(index), len(rows)))
    for entry, (i, m) in enumerate(index):
        first = next((t for t in TTFT if np.isfinite(rows[i].logs[t])), None)
        clients = rows[i].scenario.conc
        if first is None or not clients or m not in (first, *TPOT):
            continue
        share = math.exp(min(0.0, answers[i, _MEAN] - answers[i, _LATENCY]))
        moved = rows[i].errors[first] * math.sqrt((1 - 1 / clients) * (1 - share))
        load[entry, i] = moved * (1 - share) if m == first else -moved * share
    own = [m in TTFT for _, m in index]
    return np.asarray(load @ load.T - np.diag(own * (load**2).sum(axis=1)))
