"""The acceptance of a measured cell, put into its row: what is left to fit is time.

Random prompts are accepted as random prompts are, which says nothing of anybody's traffic; and how
many drafts a few thousand cycles happened to accept is chance that both counters and clocks saw.
A row whose simulation accepts just as many has neither in its residual.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dflash_sim.calibrate.fit.parallel_answers import runs_of
from dflash_sim.calibrate.fit.rows import Row
from dflash_sim.calibrate.readers.sglang_bench_serving import STEPS
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.simulator.slopes import requests_of

_ROUNDS = 4  # each leaves a tenth of what was off
_LEAST = 1.001  # tokens a step of a law that still drafts


def matched(row: Row, engine: EngineSheet, raw: Mapping[str, Any]) -> str | None:
    """The text of an acceptance with which the simulation takes as many steps as were counted.

    In the runs that a fit looks at: requests that happen to accept little are part of a run.

    Returns
    -------
    str or None
        Such as ``al:3.61``; None without speculation, or without a count.
    """
    if row.width == 1 or not raw.get(STEPS):
        return None
    wanted = float(raw["total_output_tokens"]) / float(raw[STEPS])
    length, text = wanted, ""
    for _ in range(_ROUNDS):
        length = float(np.clip(length, _LEAST, row.width - 1 / row.width))
        text = f"al:{length:.4f}"
        scenario = row.scenario.model_copy(update={"acceptance": text})
        length *= wanted / _tokens_a_step(resolve(scenario, engine=row.sheet(engine)), runs_of(row))
    return text


def _tokens_a_step(setup: Setup, runs: int) -> float:
    found = []
    for run in range(runs):
        requests = requests_of(setup, run)
        draws = requests.draws(setup.uncalibrated)
        found.append(requests.workload.osl.sum() / draws.cycles.sum())
    return float(np.mean(found))
