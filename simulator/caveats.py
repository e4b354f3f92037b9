"""Warnings that a user should read before believing a number, from before and after the run."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from dflash_sim.profiles.load import load_model, load_published
from dflash_sim.profiles.networks.drafters import SIZED_LIKE
from dflash_sim.profiles.networks.hf_config import ModelShape
from dflash_sim.profiles.networks.layers import (
    AttentionShape,
    CompressedShape,
    GdnShape,
    KdaShape,
    Mamba2Shape,
    Mixer,
    MlaShape,
)
from dflash_sim.profiles.releases.calibration import Calibration
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.releases.server_levels import OWN, UNSTATED, Server
from dflash_sim.profiles.sheets import Device
from dflash_sim.profiles.times.machine_profile import MeasuredProfile
from dflash_sim.profiles.units import GIGA, MEGA, in_percent
from dflash_sim.simulator.cost.cycle import Drafter
from dflash_sim.simulator.cost.sampling import (
    AT_TEMPERATURE,
    GREEDY,
    Sampling,
    draws,
    extra_bytes,
)
from dflash_sim.simulator.defaults import default_backend, why_tp
from dflash_sim.simulator.memory import MemoryPlan
from dflash_sim.simulator.number_formats import (
    drafter_follows,
    drafter_taken_for,
    needs_bfloat16,
)
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.state_pool import NO_BUFFER, NO_RADIX

QUEUE_GROWS = "the queue grows"
_KINDS: Mapping[type, str] = {
    CompressedShape: "compressed attention (CSA)",
    GdnShape: "gated delta networks",
    KdaShape: "Kimi delta attention (KDA)",
    Mamba2Shape: "Mamba-2 layers",
}
_LEVEL_WORDS = {
    "release": "release",
    "build": "build",
    "arch": "architecture",
    "gpu": "GPU",
    "backend": "attention backend",
    "precision": "precision",
}


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
    server: Server,
    backend: str,
    block: int,
) -> list[str]:
    """Return what is doubtful about a setup before anything is run, each in one sentence."""
    out = [f"{model.name}: {model.caution}"] if model.caution else []
    if picked := why_tp(s, device, engine, model, tp):
        out.append(picked)
    if measured is not None and not measured.covers(model=model.name, tp=tp):
        out.append(
            f"{measured.path.name} was measured for {measured.scope['model']} on "
            f"{measured.scope['tp']} ranks: anything that differs from that falls back to tables"
        )
    if waits := over_cap(s, memory, device):
        out.append(waits)
    if s.conc is not None and in_flight(s) != s.conc:
        out.append(
            f"there are {s.num_prompts} requests, of which {s.conc} were to be in flight: give "
            f"--num-prompts {s.conc} or more"
        )
    if not s.temperature and (s.top_p < 1 or s.top_k is not None):
        given = [name for name, said in (("top-p", s.top_p < 1), ("top-k", s.top_k)) if said]
        verb = "change" if len(given) > 1 else "changes"
        out.append(
            f"{' and '.join(given)} {verb} nothing at temperature 0, which is greedy; give "
            "--temperature"
        )
    if s.temperature and Sampling.of(s).greedy:
        out.append(
            f"top-k {s.top_k} takes the likeliest token at any temperature: predicted as greedy"
        )
    if s.speculative_use_rejection_sampling and Sampling.of(s).greedy:
        out.append(_drawn_and_greedy(engine))
    if device.vendor == "AMD" and s.speculation.sequential and not Sampling.of(s).greedy:
        out += _of_amd(s, engine)
    batch = min(memory.max_running_requests, s.conc or memory.max_running_requests)
    drawn = extra_bytes(
        Sampling.of(s),
        vocab=model.vocab,
        requests=batch,
        rows=block,
        chain=s.speculation.sequential,
    )
    if drawn > (left := memory.free_bytes - memory.static_bytes):
        out.append(
            f"sampling {batch} requests takes {drawn / GIGA:.1f} GB, and {left / GIGA:.1f} GB are "
            "left outside the static share; lower --mem-fraction-static"
        )
    usual = default_backend(s, device, engine, model)
    if model.latent_layers and backend != usual:
        out.append(
            f"the latent attention of {model.name} was timed with one backend: the kernels of "
            f"{backend} are priced as those of {usual}, the default of {device.name}"
        )
    if needs_bfloat16(s, device, engine, model) and s.mamba_ssm_dtype is None:
        out.append(
            f"{device.name}: --linear-attn-decode-backend flashinfer takes recurrent states in "
            "bfloat16 alone there, and SGLang asks for --mamba-ssm-dtype bfloat16; "
            "predicted with it"
        )
    if drafter_follows(s):
        out.append(
            f"--quantization {s.quantization} quantises the drafter too, and its keys and values "
            "of all layers are then projected one by one; "
            "--speculative-draft-model-quantization unquant leaves it in bf16"
        )
    if taken := drafter_taken_for(s):
        out.append(taken)
    if memory.strategy == NO_BUFFER and s.engine_mode == "v2":
        out.append(
            f"{engine.title} runs hybrid models without the overlap scheduler where the prefix "
            "cache has the strategy no_buffer, its default; predicted so (--engine-mode v2-sync), "
            "unlike with --mamba-radix-cache-strategy extra_buffer, or --no-radix-cache"
        )
    if memory.strategy == NO_RADIX and model.gdn_layers and s.radix_cache:
        out.append(
            f"{engine.title} switches the prefix cache of this hybrid model off where its "
            "strategy is no_buffer, its default; predicted so"
        )
    if new := unconfirmed(server, calibration):
        sds = engine.fit.priors.levels["time"]
        spread = math.sqrt(sum(sds[level] ** 2 for level in (*(level for level, _ in new), *OWN)))
        named = ", ".join(
            f"{_LEVEL_WORDS[level]} {name}" for level, name in new if name != UNSTATED
        )
        why = [f"no measurement of {named} stands behind this"] if named else []
        if ("build", UNSTATED) in new:
            why.append("nothing says which release of the engine was measured (build)")
        out.append(
            f"unconfirmed: {', and '.join(why)}; the interval allows for "
            f"+-{in_percent(spread)} more"
        )
    if new_kinds := unconfirmed_attention(model, server, calibration):
        out.append(
            f"unconfirmed: no measured server with {' or '.join(new_kinds)} stands behind this: "
            "what such layers take is the time of their kernels alone, and the interval does not "
            "allow for more"
        )
    return out


def _drawn_and_greedy(engine: EngineSheet) -> str:
    flag = "--speculative-use-rejection-sampling"
    if not draws(engine.defaults.chains.drawn, GREEDY):
        return (
            f"{flag} changes nothing at temperature 0: {engine.title} takes the likeliest drafts; "
            "a draw in each cycle is left, which nothing reads"
        )
    return (
        f"{flag}: {engine.title} draws the drafts of greedy requests too, as at temperature 1, and "
        "fewer are accepted, as up to 0.5.20; leave it out at temperature 0"
    )


def _of_amd(s: Scenario, engine: EngineSheet) -> list[str]:
    """No kernel there verifies sampled trees: the one of drawn chains does, where it is used."""
    flag = "--speculative-use-rejection-sampling"
    if engine.defaults.chains.drawn != AT_TEMPERATURE:
        return [
            f"on AMD GPUs {engine.title} verifies the drafts of {s.speculation.title} greedily at "
            f"any temperature, with {flag} too: predicted as if they were sampled"
        ]
    own_layer = s.speculation.network == "mtp-layer"
    if own_layer and s.topk == 1 and not s.speculative_use_rejection_sampling:
        return [f"on AMD GPUs {engine.title} sets {flag} for MTP by itself; give it here"]
    return []


def in_flight(s: Scenario) -> int | None:
    """Requests in flight, of those that there are; None where they arrive at a rate."""
    return None if s.conc is None else min(s.conc, s.num_prompts or s.conc)


def asked_at_once(s: Scenario, values: Mapping[str, float]) -> float:
    """Requests in flight; where they arrive at a rate, on average over a run."""
    asked = in_flight(s)
    return values["concurrency"] if asked is None else asked


def held_at_once(values: Mapping[str, Any], kv_tokens: int) -> int:
    """Return how many requests of the mean length of a run the keys and values have room for."""
    tokens = values["total_input_tokens"] + values["total_output_tokens"]
    return int(kv_tokens / max(tokens / max(values["completed"], 1), 1))


def over_cap(s: Scenario, memory: MemoryPlan, device: Device) -> str | None:
    """Say that not all requests in flight run at once, where that is so."""
    asked = in_flight(s)
    if asked is None or asked <= memory.max_running_requests:
        return None
    return (
        f"{device.name}: only {memory.max_running_requests} of {asked} requests run at once "
        f"({memory.cap_cause}); the rest wait"
    )


def drafter_cautions(drafter: Drafter) -> list[str]:
    """Say that nobody described the drafting network, where that is so."""
    if drafter is None or SIZED_LIKE not in drafter.name:
        return []
    what = drafter.name.partition(f" {SIZED_LIKE} ")[0]
    return [
        f"no config of {what} for {drafter.target} is known: predicted with one of "
        f"{drafter.params / MEGA:,.0f} M weights, {drafter.source}; give yours with --draft-model "
        "path/to/config.json"
    ]


def unconfirmed(server: Server, calibration: Calibration | None) -> tuple[tuple[str, str], ...]:
    """The levels of a server, such as ``("gpu", "h200")``, that no measured row has spoken of."""
    known = calibration.known_levels if calibration else frozenset()
    if any(f"{level}={name}" in known for level, name in server.levels if level in OWN):
        return ()  # rows of this very server
    return tuple(
        (level, name)
        for level, name in server.levels
        if level not in OWN and f"{level}={name}" not in known
    )


def unconfirmed_attention(
    model: ModelShape, server: Server, calibration: Calibration | None
) -> tuple[str, ...]:
    """The kinds of attention of a model that no model has whose rows were fitted, in words."""
    known = calibration.known_levels if calibration else frozenset()
    if any(f"{level}={name}" in known for level, name in server.levels if level in OWN):
        return ()  # rows of this very server
    asked = _attention_kinds(model)
    fitted = _fitted_kinds(calibration.sources if calibration else frozenset()) if asked else ()
    return tuple(sorted(asked.difference(fitted)))


@cache
def _fitted_kinds(sources: frozenset[str]) -> frozenset[str]:
    models = {p.model for p in load_published() if p.source_id in sources}
    return frozenset().union(*(_attention_kinds(load_model(name)) for name in models))


def _attention_kinds(model: ModelShape) -> frozenset[str]:
    """What the layers of a model are called that are no plain softmax attention."""
    return frozenset(filter(None, map(_kind, {x.mixer for x, _ in model.layer_groups})))


def _kind(mixer: Mixer | None) -> str:
    if isinstance(mixer, AttentionShape):
        return "block-sparse attention (MSA)" if mixer.chosen else ""
    if isinstance(mixer, MlaShape):
        return "sparse latent attention (DSA)" if mixer.indexer else "latent attention (MLA)"
    return _KINDS.get(type(mixer), "")


def same_latents(
    s: Scenario, model: ModelShape, tp: int, memory: MemoryPlan, values: Mapping[str, float]
) -> list[str]:
    """Say that ranks hold copies of one cache, where more of it would let more requests run."""
    held = held_at_once(values, memory.kv_tokens)
    short = held < min(asked_at_once(s, values), memory.max_running_requests)
    if tp == 1 or not model.latent_layers or not (short or values["retractions"]):
        return []
    return [
        f"the latent cache of {model.name} is the same on each of {tp} ranks, and limits the "
        f"requests; --enable-dp-attention would hold {tp} times as many; it is not simulated"
    ]


def overload(
    s: Scenario, engine: EngineSheet, gpu: str, values: Mapping[str, float], growth: float
) -> list[str]:
    """Say in words what an open loop or a full KV cache did to the run.

    Parameters
    ----------
    growth
        As :func:`~.engine.metrics.queue_growth` has it, on average over the runs.
    """
    out = []
    if s.rate is not None and 1 - growth < engine.defaults.keeps_up_share:
        out.append(
            f"{gpu}: of {s.rate:g} requests/s that arrive {in_percent(growth)} are added to those "
            f"who wait; {QUEUE_GROWS}, and latencies depend on the length of the run"
        )
    if values["retractions"]:
        out.append(
            f"{gpu}: the KV cache ran out ({values['retractions']:.0f} retractions a run); "
            f"{values['mean_batch']:.1f} requests ran at once on average"
        )
    return out
