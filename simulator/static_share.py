"""The share of GPU memory for weights and caches where no ``--mem-fraction-static`` is given."""

from collections.abc import Sequence
from dataclasses import dataclass

from dflash_sim.profiles.networks.vision import VisionTower
from dflash_sim.profiles.releases.engine_records import Defaults
from dflash_sim.profiles.releases.memory_rules import VisionRule
from dflash_sim.profiles.units import GiB, MiB

GIVEN = "--mem-fraction-static"


@dataclass(frozen=True, slots=True)
class StaticShare:
    """The share, and how the engine came to it.

    Parameters
    ----------
    mem_fraction
        The share itself [1].
    outside
        What is left outside, each term with its name [MiB]; nothing where the share was given.
    vision_share
        What a vision tower leaves of the share [1].
    """

    mem_fraction: float
    outside: tuple[tuple[str, float], ...] = ()
    vision_share: float = 1.0


def default_share(
    mem_bytes: float,
    defaults: Defaults,
    *,
    chunk: int,
    graph_max_bs: int,
    prefill_sizes: Sequence[int],
    tp: int,
    speculative: bool,
    vision: VisionTower | None,
) -> StaticShare:
    """Return the share that SGLang picks.

    Parameters
    ----------
    mem_bytes
        Memory of the GPU [byte].
    chunk
        Prefill tokens per step.
    graph_max_bs
        Largest captured batch.
    prefill_sizes
        Prefill tokens that may be captured; those above the chunk are not.
    vision
        The vision tower of the checkpoint, if it has one.

    Sources are ``_handle_gpu_memory_settings`` and ``adjust_mem_fraction_for_vlm`` of SGLang
    0.5.9 to 0.5.16, and ``memory_hook`` of 0.5.20 and 0.5.23.
    """
    rule = defaults.outside_static
    captured = defaults.memory.captures_prefills(multimodal=vision is not None)
    graphs = sum(size <= chunk for size in prefill_sizes) if captured else 0
    terms = {
        "constant": rule.base,
        f"prefill chunk of {chunk:,} tokens": rule.per_chunk_token * max(chunk, rule.least_chunk),
        f"decode graphs up to {graph_max_bs:,} requests": rule.per_graph_request * graph_max_bs,
        f"tp {tp}": rule.per_tp * tp,
        f"{graphs} prefill graphs": rule.per_prefill_graph * graphs,
    }
    found = sum(terms.values())
    if mem_bytes > rule.large_gpu_gib * GiB:
        terms["up to the least of a large GPU"] = max(0.0, rule.least_on_large_gpu - found)
    if speculative:
        terms["drafter"] = rule.draft
    left = sum(terms.values()) * MiB
    share = round((mem_bytes - left) / mem_bytes, rule.fraction_digits)
    kept = vision_share(defaults.vision, vision)
    shown = tuple((name, mib) for name, mib in terms.items() if mib)
    return StaticShare(share * kept, shown, kept)


def vision_share(rule: VisionRule, vision: VisionTower | None) -> float:
    """Return the part of the share that a checkpoint keeps beside its vision tower [1]."""
    if vision is None:
        return 1.0
    layers = vision.num_hidden_layers or rule.usual_layers
    hidden = vision.hidden or rule.usual_hidden
    towers = layers * hidden**2 / (rule.usual_layers * rule.usual_hidden**2)
    return rule.share * max(rule.least, min(rule.most, 1 - rule.per_tower * (towers - 1)))
