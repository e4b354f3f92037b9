"""The pool of recurrent states of a hybrid model, by the formula of each SGLang release.

Every running request holds several state slots: its own, and those that feed the prefix cache.
With speculation it also owns scratch for one state per verified position, so that the accepted one
can be kept.
"""

from dataclasses import dataclass
from math import floor

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.releases.memory_rules import STRATEGIES, StatePoolRules

NO_RADIX = "no prefix cache"
NO_BUFFER = "no_buffer"  # states are not copied ahead of a step, which no overlapped loop can do


@dataclass(frozen=True, slots=True)
class StatePool:
    """State slots and scratch, and what they leave [byte].

    Parameters
    ----------
    slots
        State slots that requests and the prefix cache share.
    requests
        Requests that run at once, as far as states go.
    slot_bytes, scratch_bytes
        All slots, and all scratch, padding included where the release counts it.
    kv_bytes
        What is left for keys and values; negative if the states do not fit.
    """

    slots: int
    requests: int
    slot_bytes: float
    scratch_bytes: float
    kv_bytes: float


@dataclass(frozen=True, slots=True)
class Demand:
    """What a server asks of the pool.

    Parameters
    ----------
    state_bytes
        One state slot on this rank, convolution windows included [byte].
    rows
        Verified positions per request, ``speculative_num_draft_tokens``; 0 without speculation.
    requests
        ``max_running_requests``, also where it is the default of speculation; None if nobody says.
    slots_per_request
        By :func:`slots_per_request`.
    radix_cache
        False if there is no prefix cache: then every request has its slot, and nothing is split.
    slots
        ``max_mamba_cache_size``; None if nobody says.
    ratio
        ``mamba_full_memory_ratio``: states over KV cache, in bytes [1].
    """

    state_bytes: float
    rows: int
    requests: int | None
    slots_per_request: int
    radix_cache: bool
    slots: int | None
    ratio: float

    @property
    def fixed_slots(self) -> int | None:
        """Slots that no memory decides."""
        return self.requests if self.slots is None and not self.radix_cache else self.slots

    def running(self, slots: int) -> int:
        """Return how many requests ``slots`` let run at once."""
        able = slots // self.slots_per_request
        return able if self.requests is None else min(self.requests, able)


def state_pool(rest_bytes: float, demand: Demand, *, formula: str, spare_slot: bool) -> StatePool:
    """Divide what the weights leave between states and KV cache, as SGLang does.

    Parameters
    ----------
    rest_bytes
        Static memory without weights [byte].
    formula, spare_slot
        Of :class:`~dflash_sim.profiles.releases.memory_rules.StatePoolRules`.

    Sources are ``handle_max_mamba_cache`` of SGLang 0.5.9 to 0.5.16 and
    ``_handle_max_mamba_cache`` of 0.5.20 and 0.5.23.
    """
    d, spare = demand, int(spare_slot)
    share = d.ratio / (1 + d.ratio)
    if formula == "reserve-first":
        scratch = d.state_bytes * (d.requests or 0) * d.rows
        slots = d.fixed_slots
        if slots is None:
            slots = floor((rest_bytes - scratch) * share / d.state_bytes)
    else:
        slots = d.fixed_slots
        if slots is None:
            each = d.state_bytes * (1 + d.rows / d.slots_per_request)
            padding = spare * d.state_bytes * (1 + d.rows)
            slots = floor((rest_bytes * share - padding) / each)
        scratch = d.state_bytes * (max(0, d.running(slots)) + spare) * d.rows
    slots = max(0, slots)
    slot_bytes = (slots + spare) * d.state_bytes
    kv_bytes = rest_bytes - scratch - slot_bytes
    return StatePool(slots, d.running(slots), slot_bytes, scratch, kv_bytes)


def slots_per_request(rules: StatePoolRules, strategy: str, *, overlap: bool) -> int:
    """Return the state slots that a running request holds under a strategy."""
    slots = rules.slots
    if strategy == NO_RADIX:
        return slots.no_radix
    if strategy == "extra_buffer" and not overlap:
        return slots.extra_buffer_sync
    found: int = getattr(slots, strategy)
    return found


def cache_strategy(
    rules: StatePoolRules,
    asked: str,
    *,
    radix_cache: bool,
    speculative: bool,
    overlap: bool,
    page_size: int,
    paged: bool = False,
) -> str:
    """Return the strategy of the prefix cache of a hybrid model: given, or as the release picks it.

    Parameters
    ----------
    asked
        ``--mamba-radix-cache-strategy``.
    overlap
        True if the overlap scheduler is wanted. Up to 0.5.13 ``no_buffer`` switches it off.
    page_size
        Tokens of a KV page that are wanted; up to 0.5.13 ``no_buffer`` makes that one.
    paged
        True if the attention backend has no pages of one token: there ``no_buffer`` means no
        prefix cache up to 0.5.13.

    Raises
    ------
    UsageError
        The release does not start with this strategy; says what it would start with.
    """
    flag = "--mamba-radix-cache-strategy"
    if asked not in STRATEGIES:
        raise unknown(kind=flag, value=asked, allowed=STRATEGIES)
    if not radix_cache:
        if rules.auto_strategy == NO_BUFFER and asked.startswith("extra_buffer"):
            msg = f"{flag} {asked} needs the prefix cache; drop it, or --no-radix-cache."
            raise UsageError(msg)
        return NO_RADIX
    if asked == "auto":
        if rules.auto_strategy == "by-overlap":
            return "extra_buffer" if overlap or page_size > 1 else NO_BUFFER
        # There auto is no_buffer. Where speculation refuses it, whoever ran it said extra_buffer.
        refused = speculative and rules.unbuffered_speculation == "refused"
        asked = "extra_buffer" if refused else rules.auto_strategy
    if problem := _refused(
        rules, asked, speculative=speculative, overlap=overlap, page_size=page_size
    ):
        msg = f"{flag} {asked}: {problem}; give extra_buffer, or --no-radix-cache."
        raise UsageError(msg)
    if asked == NO_BUFFER and rules.auto_strategy == NO_BUFFER and (speculative or paged):
        return NO_RADIX
    return asked


def _refused(
    rules: StatePoolRules, asked: str, *, speculative: bool, overlap: bool, page_size: int
) -> str:
    """Return why a release refuses a strategy; nothing if it does not."""
    if asked == NO_BUFFER and rules.auto_strategy == NO_BUFFER:
        refused = speculative and rules.unbuffered_speculation == "refused"
        return "this release refuses it with speculation" if refused else ""
    if asked == NO_BUFFER and overlap:
        return "it goes without the overlap scheduler alone (--engine-mode v2-sync)"
    if asked == NO_BUFFER and page_size > 1:
        return (
            f"it takes KV pages of one token, not {page_size} (--page-size 1, and no "
            "--attention-backend trtllm_mha)"
        )
    if asked == "extra_buffer_lazy":
        if not rules.slots.extra_buffer_lazy:
            return "this release has no such strategy"
        if not overlap:
            return "it needs the overlap scheduler (--engine-mode v2)"
        if speculative and not rules.lazy_speculates:
            return "this release refuses it with speculation"
    return ""
