"""Warnings that a user should read before believing a number, from before and after the run."""

from collections.abc import Mapping

from dflash_sim.profiles.calibration import Calibration
from dflash_sim.profiles.engine_sheet import EngineSheet
from dflash_sim.profiles.networks.hf_config import ModelShape
from dflash_sim.profiles.sheets import Device
from dflash_sim.profiles.times.machine_profile import MeasuredProfile
from dflash_sim.simulator.memory import MemoryPlan
from dflash_sim.simulator.scenario import Scenario


def cautions(
    s: Scenario,
    memory: MemoryPlan,
    device: Device,
    engine: EngineSheet,
    calibration: Calibration | None,
    *,
    measured: MeasuredProfile | None,
    model: ModelShape,
    tp: int,
) -> list[str]:
    """Return what is doubtful about a setup before anything is run, each in one sentence."""
    out = []
    if measured is not None and not measured.covers(model=model.name, tp=tp):
        out.append(
            f"{measured.path.name} was measured for {measured.scope['model']} on "
            f"{measured.scope['tp']} ranks: anything that differs from that falls back to tables"
        )
    if not known_build(s.build, engine, calibration):
        spread = engine.fit.priors.build
        out.append(
            f"build {s.build} is not among the fitted ones; predicted as "
            f"{engine.fit.build}, and the interval allows for +-{spread:.0%} more"
        )
    if s.conc is not None and s.conc > memory.max_running_requests:
        out.append(
            f"{device.name}: only {memory.max_running_requests} of {s.conc} requests run at once "
            f"({memory.cap_cause}); the rest wait"
        )
    if measured is None and not confirmed(device, engine, calibration):
        out.append(f"{device.name}: no measurement there has confirmed a prediction yet")
    return out


def confirmed(device: Device, engine: EngineSheet, calibration: Calibration | None) -> bool:
    """Return True if measurements on this GPU stand behind the constants."""
    fitted = calibration.about.get("gpus", ()) if calibration else ()
    return device.name in (*engine.defaults.confirmed_gpus, *fitted)


def known_build(build: str | None, engine: EngineSheet, calibration: Calibration | None) -> bool:
    """Return True if the constants are of this build, or relative to it."""
    return engine.is_home(build) or (calibration is not None and build in calibration.builds)


def overload(s: Scenario, engine: EngineSheet, gpu: str, values: Mapping[str, float]) -> list[str]:
    """Say in words what an open loop or a full KV cache did to the run."""
    out = []
    served = values["request_throughput"]
    if s.rate is not None and served < engine.defaults.keeps_up_share * s.rate:
        out.append(
            f"{gpu}: {s.rate:g} requests/s arrive and {served:.2g} are served; "
            "the queue grows, and latencies depend on the length of the run"
        )
    if values["retractions"]:
        out.append(
            f"{gpu}: the KV cache ran out ({values['retractions']:.0f} retractions a run); "
            f"{values['mean_batch']:.1f} requests ran at once on average"
        )
    return out
