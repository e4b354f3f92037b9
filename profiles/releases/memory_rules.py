"""Records of an engine sheet that say how a release divides the memory of a GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dflash_sim.profiles.errors import UsageError, unknown

# What a key may say, by its name; the first of each is what the home sheet has.
WORDS: Mapping[str, tuple[str, ...]] = {
    "formula": ("joint", "reserve-first"),
    "auto_strategy": ("by-overlap", "no_buffer"),
    "unbuffered_speculation": ("refused", "without prefix cache"),
    "draft_kv": ("as-target", "own"),
    "prefill_graphs": ("text", "all", "none"),
    "sliding_draft": ("none", "chain", "own"),
    "picked": ("softmax", "argmax", "fused"),
    "extended": ("picked", "all", "last"),
    "drawn": ("multinomial", "race", "race-at-temperature", "never"),
}
STRATEGIES = ("auto", "extra_buffer", "extra_buffer_lazy", "no_buffer")
# Static shares to advise [1]: SGLang takes any below 1, and activations need what is left.
ADVISED_SHARES = tuple(percent / 100 for percent in range(1, 96))


@dataclass(frozen=True)
class OutsideStatic:
    """Memory that SGLang leaves outside weights and caches [MiB], by its own formula.

    Parameters
    ----------
    per_prefill_graph
        For every captured prefill size, of models that have such graphs.
    draft
        For the drafting network and its graphs, on top of everything else.
    fraction_digits
        Decimals that the memory fraction is rounded to.
    """

    base: float
    per_chunk_token: float
    least_chunk: int
    per_tp: float
    per_graph_request: float
    per_prefill_graph: float
    least_on_large_gpu: float
    large_gpu_gib: float
    draft: float
    fraction_digits: int
    source: str


@dataclass(frozen=True)
class VisionRule:
    """Share of the memory fraction that a checkpoint with a vision tower keeps [1].

    Parameters
    ----------
    share
        With a tower of the usual size.
    per_tower
        Less of it for every further tower of the usual size, by layers x hidden squared.
    least, most
        Bounds of that correction.
    usual_layers, usual_hidden
        The usual tower, also where a config does not say its own.
    """

    share: float
    per_tower: float
    least: float
    most: float
    usual_layers: int
    usual_hidden: int
    source: str


@dataclass(frozen=True)
class StateSlots:
    """State slots per running request, by the strategy of the prefix cache; 0: not in this release.

    Parameters
    ----------
    extra_buffer_sync
        ``extra_buffer`` without the overlap scheduler.
    no_radix
        Without a prefix cache.
    """

    no_buffer: int
    extra_buffer: int
    extra_buffer_sync: int
    extra_buffer_lazy: int
    no_radix: int


@dataclass(frozen=True)
class StatePoolRules:
    """How the recurrent states of hybrid models are sized.

    Parameters
    ----------
    formula
        ``reserve-first``: the scratch of all requests comes off before states and KV cache are
        split; ``joint``: it must fit into the states' share.
    spare_slot
        True if the pools' padding slot is counted too.
    auto_strategy
        What ``auto`` means: ``by-overlap``, extra_buffer where the overlap scheduler or pages
        above one token want it; or ``no_buffer``.
    unbuffered_speculation
        What speculation does with ``no_buffer``: ``refused``, or ``without prefix cache``.
    lazy_speculates
        True if ``extra_buffer_lazy`` goes with speculation.
    bfloat16_decode
        Architectures of GPUs whose FlashInfer kernels take states in bfloat16 alone.
    """

    formula: str
    spare_slot: bool
    auto_strategy: str
    unbuffered_speculation: str
    lazy_speculates: bool
    bfloat16_decode: tuple[str, ...]
    slots: StateSlots
    source: str


@dataclass(frozen=True)
class MemoryRules:
    """How a release divides the memory of a GPU besides recurrent states.

    Parameters
    ----------
    draft_weights
        True if the draft is loaded, and counted, before the caches are sized.
    draft_kv
        Keys and values of the drafter per token: ``own``, or ``as-target``, those of as many
        layers of the target.
    image_cache
        Held for images before the caches are sized, of multimodal models [MiB].
    prefill_graphs
        Models whose prefills are captured: ``text`` (none that is multimodal), ``all``, ``none``.
    graphs_capped_by_requests
        True if no decode graph above ``max_running_requests`` is captured by default.
    sliding_pools, sliding_share
        Families whose sliding layers have a pool of their own, and its tokens over those of the
        other layers' pool (``--swa-full-tokens-ratio``) [1].
    sliding_draft
        The drafter's keys and values where there are such pools: ``none`` are counted; those of a
        ``chain`` as layers of the target; or its ``own``, and a chain's as before.
    """

    draft_weights: bool
    draft_kv: str
    image_cache: float
    prefill_graphs: str
    graphs_capped_by_requests: bool
    sliding_pools: tuple[str, ...]
    sliding_share: float
    sliding_draft: str
    source: str

    def captures_prefills(self, *, multimodal: bool) -> bool:
        """Return True if prefills of such a model are captured by default."""
        return self.prefill_graphs == "all" or (self.prefill_graphs == "text" and not multimodal)


def check_words(records: Sequence[object], path: str) -> None:
    """Refuse words that no release knows.

    Raises
    ------
    UsageError
        It names the file, the key, its value and what is allowed.
    """
    for record in records:
        for key, allowed in WORDS.items():
            said = getattr(record, key, allowed[0])
            if said not in allowed:
                raise unknown(kind=f"{key} of {path}", value=said, allowed=allowed)


def check_memory(
    memory: MemoryRules, pool: StatePoolRules, outside: OutsideStatic, vision: VisionRule, path: str
) -> None:
    """Refuse sizes that nothing can be divided by.

    Raises
    ------
    UsageError
        It names the file, the key, its value and what is allowed.
    """
    slots = pool.slots
    for key in ("no_buffer", "extra_buffer", "extra_buffer_sync", "no_radix"):
        if getattr(slots, key) < 1:
            msg = f"{path}, defaults.state_pool.slots, {key} is {getattr(slots, key)}; 1 or more."
            raise UsageError(msg)
    sizes = {
        "state_pool.slots, extra_buffer_lazy": slots.extra_buffer_lazy,
        "memory, image_cache": memory.image_cache,
        "memory, sliding_share": memory.sliding_share,
        "outside_static, draft": outside.draft,
        "outside_static, per_prefill_graph": outside.per_prefill_graph,
        "outside_static, fraction_digits": outside.fraction_digits,
    }
    for key, value in sizes.items():
        if value < 0:
            msg = f"{path}, defaults.{key} is {value:g}; it must be 0 or more."
            raise UsageError(msg)
    shares = (vision.share, vision.least, vision.most, vision.usual_layers, vision.usual_hidden)
    if min(shares) <= 0 or vision.least > vision.most:
        msg = f"{path}, defaults.vision: every size is above 0, and least is not above most."
        raise UsageError(msg)
