"""Time per token of plain decoding, measured by others on an earlier build of the engine.

The points are InferenceX results that aiconfigurator-core 0.12 ships in ``silicon_sample.csv``;
``id`` is the row there. Lengths vary as in that benchmark. They are predicted as the launch setup
serves, without the flags of their own server; :mod:`serving_rows` has those.
"""

from dataclasses import dataclass

from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.published.serving_rows import serving_rows

SOURCE, MEASURED = "AIC_SILICON_SAMPLE", "2026-02-20"
RANGE_RATIO = 0.8  # of InferenceX's benchmark: lengths are uniform between this share and all


@dataclass(frozen=True)
class ServingPoint:
    """Mean latencies [ms] of ``conc`` clients in a closed loop."""

    id: str
    model: str
    gpu: str
    tp: int
    isl: int
    osl: int
    conc: int
    ttft_ms: float
    tpot_ms: float


def serving_points() -> tuple[ServingPoint, ...]:
    """Return the sweep of one day on B200 from ``profiles/published/serving.csv``."""
    return tuple(
        ServingPoint(
            *(row.about["id"], row.fields["model"], row.fields["gpu"]),
            *(row.fields[name] for name in ("tp", "isl", "osl", "conc")),
            *(row.metrics[f"mean_{name}_ms"] for name in ("ttft", "tpot")),
        )
        for row in serving_rows()
        if row.source == SOURCE and row.about["measured"] == MEASURED
    )


@dataclass(frozen=True)
class Latencies:
    """A point and its prediction [ms]; without speculation an inter-token gap is a TPOT."""

    point: ServingPoint
    ttft_ms: float
    tpot_ms: float
    itl_ms: float


def predicted_latencies(point: ServingPoint, *, build: str | None) -> Latencies:
    """Mean latencies of the same closed loop, as on the fitted build or on another one."""
    scenario = Scenario.parse(
        gpu=point.gpu,
        model=point.model,
        tp=point.tp,
        method="none",
        isl=point.isl,
        osl=point.osl,
        max_new_tokens=point.osl,
        range_ratio=RANGE_RATIO,
        conc=point.conc,
        build=build,
        runs=1,
    )
    values = predict(scenario, with_baseline=False, with_interval=False).values
    return Latencies(point, *(values[f"mean_{name}_ms"] for name in ("ttft", "tpot", "itl")))
