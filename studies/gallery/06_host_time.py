"""When does host time matter? The launch post has 15.3 k tok/s with Spec V2 where V1 makes 11.4 k
(Qwen3-8B, one B200, 32 clients). What of other models and GPUs, and of a backend that waits?

V1 takes turns with the GPU; V2 plans a step while the GPU runs the one before. Some attention
backends plan with lengths that the host must wait for, and then V2 cannot run ahead.

    python studies/gallery/06_host_time.py [--write]
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from dflash_sim.profiles.phases import load_phases
from dflash_sim.profiles.units import MS
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.published import exhibit as ex
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.plain_table import Table

Pair = tuple[Result, Result]
SMALL, LARGE = "qwen3-8b", "qwen3.5-397b-a17b"
MODELS = ("qwen3-4b", SMALL, "qwen3.6-35b-a3b", LARGE)
OTHER_GPUS = ("h100", "a100")
CLIENTS, TRACED = (1, 32), (1, 16)
HEAD = ("model", "gpu", "c", "V1", "V2", "V2 over V1", "90 % interval", "published", "step [ms]",
        "V1 host [ms]")  # fmt: skip
WAIT_HEAD = ("model", "c", "V1", "V2 waits, plans", "V2 waits", "V2", "GPU idles [ms]", "costs")


def pair(model: str, conc: int, gpu: str = "b200", **how: Any) -> Pair:
    """V1 and V2; small models as in the pull request that measured Qwen3-8B."""
    asked = how | {"model": model, "conc": conc, "gpu": gpu, "block": 16}
    if model in MODELS[:2]:
        asked |= {"dataset": "gsm8k", "thinking": False, "max_new_tokens": 2048}
        asked |= {"num_prompts": min(128 * conc, 1024)}
    return ex.predicted(engine_mode="v1", **asked), ex.predicted(engine_mode="v2", **asked)


def line(where: tuple[str, int, str], found: Pair) -> tuple[str, ...]:
    """V1 beside V2."""
    (model, conc, gpu), (v1, v2) = where, found
    gain = (ex.times(ex.ratio(v2, v1)), ex.span(ex.ratio_span(v2, v1)))
    seen = ex.times(ex.published_ratio(v2, v1))
    times = (number(v2.values["step_ms"]), number(v1.values["host_exposed_ms"]))
    return (model, gpu, str(conc), *(number(ex.tok_s(r)) for r in found), *gain, seen, *times)


def waiting(setup: Setup, plan_s: float = 0.0) -> Result:
    """The answer with a backend that waits for lengths, then plans for ``plan_s``."""
    engine = setup.engine
    sync = replace(engine.attention.host_length_sync, block=(setup.backend,))
    engine = engine.with_constants(run_batch_first=engine["run_batch_first"] + plan_s)
    engine = replace(engine, attention=replace(engine.attention, host_length_sync=sync))
    other = replace(setup, engine=engine)
    return predict(setup.scenario, with_baseline=False, with_interval=False, setup=other)


def traced_idle_s(conc: int) -> float:
    """How much longer a traced cycle idles on a server that waits than on one that does not."""
    idle = {
        p.target_attention: p.seconds
        for p in load_phases()
        if p.phase == "host_gap" and p.conc == conc
    }
    return idle["flashinfer"] - idle["triton"]


def waits(model: str, conc: int) -> tuple[tuple[str, ...], str]:
    """What waiting costs, and waiting and planning as long as was traced; and what V2 then is."""
    v1, v2 = pair(model, conc, interval=False)
    wait = waiting(v2.setup)
    plan = waiting(v2.setup, traced_idle_s(conc) - wait.values["host_exposed_ms"] * MS)
    speeds = [number(ex.tok_s(r)) for r in (v1, plan, wait, v2)]
    idle = " / ".join(f"{r.values['host_exposed_ms']:.2f}" for r in (wait, plan))
    costs = " / ".join(ex.share(1 - ex.ratio(r, v2)) for r in (wait, plan))
    left = f"{ex.ratio(plan, v1):.2f} x instead of {ex.ratio(v2, v1):.2f} for {model} at c={conc}"
    return (model, str(conc), *speeds, idle, costs), left


def verdict(found: Mapping[tuple[str, int, str], Pair]) -> str:
    """V1 against V2 in words."""
    gain = {where: ex.ratio(v2, v1) for where, (v1, v2) in found.items()}
    most, least = (pick(gain, key=lambda where: gain[where]) for pick in (max, min))

    def place(where: tuple[str, int, str]) -> str:
        model, conc, gpu = where
        step_ms = found[where][1].values["step_ms"]
        return f"{model} on {gpu} at c={conc} ({gain[where]:.2f} x, a step of {step_ms:.1f} ms)"

    said = []
    for conc in CLIENTS:
        here = [pair for (_, c, _), pair in found.items() if c == conc]
        host = max(v1.values["host_exposed_ms"] for v1, _ in here)
        saved = [v1.values["step_ms"] - v2.values["step_ms"] for v1, v2 in here]
        long_ms = 10 * sum(saved) / len(saved)
        said.append(
            f"At c={conc} V1 shows up to {host:.1f} ms of host time a step; V2 gains less than a "
            f"tenth where its step takes over {long_ms:.0f} ms."
        )
    said.append(
        f"The gain is largest for {place(most)}, and smallest for {place(least)}. The host stages "
        f"of V1 are those of {SMALL} on B200 everywhere: this part "
        "is not confirmed elsewhere."
    )
    return " ".join(said)


def story() -> Iterator[ex.Part]:
    asked = [(m, c, "b200") for m in MODELS for c in CLIENTS]
    asked += [(SMALL, c, gpu) for gpu in OTHER_GPUS for c in CLIENTS]
    found = {where: pair(*where) for where in asked}
    yield Table("V1 and V2, tok/s", HEAD, tuple(line(w, p) for w, p in found.items()))
    yield verdict(found)
    cells, left = zip(*(waits(m, c) for m in (SMALL, LARGE) for c in TRACED), strict=True)
    yield Table("V2 with a backend that waits, tok/s", WAIT_HEAD, cells)
    yield (
        "Pairs are waiting alone / waiting and planning. Waiting alone costs the part of a step's "
        "start that would have been hidden. A backend that also plans on the host costs more: "
        "there the GPU idles as long as on a GH200 server with FlashInfer beyond one with Triton "
        "(VP_GH200_PROFILE, Qwen3.5-4B; tracing inflates it). Over V1, V2 is then left with "
        f"{ex.listed(left)}."
    )
    yield ex.rests_on([r for p in found.values() for r in p])


if __name__ == "__main__":
    ex.show(__file__, __doc__, story)
