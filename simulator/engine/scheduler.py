"""SGLang's batch policy: who is prefilled, who decodes, who is retracted.

The names are SGLang's (``get_next_batch_to_run``, ``batch_is_full``, ``new_token_ratio``). Both
engines call this one policy; they differ only in how they let time pass.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import filterfalse
from operator import attrgetter

from dflash_sim.simulator.engine.radix_cache import Match, Node, RadixCache
from dflash_sim.simulator.requests.prompts import Texts
from dflash_sim.simulator.requests.workload import Workload

_DONE = attrgetter("done")


@dataclass(frozen=True)
class Limits:
    """The bounds of a batch.

    ``kv_tight`` is False when every running request could grow to its cap at once: then KV can
    never run out, and neither admission nor retraction looks at it. ``recv_interval`` is the
    number of scheduler loops between two looks for new requests. While no more than
    ``sorted_up_to`` wait, the one with the most cached tokens is admitted first, else the oldest.
    A prefix cache keeps units of ``cache_unit`` tokens (0: there is none); that of a hybrid model
    the recurrent states that running requests, of ``slots_per_request`` each, leave of
    ``state_slots``.
    """

    max_running_requests: int
    max_prefill_tokens: int
    chunked_prefill_size: int
    kv_tokens: int
    page_size: int
    block: int
    speculative: bool
    max_new_tokens: int
    clip_max_new_tokens: int
    min_free_slots_delay: int
    new_token_ratio_init: float
    new_token_ratio_min: float
    new_token_ratio_decay: float
    retract_decode_steps: int
    kv_tight: bool = True
    recv_interval: int = 1
    sorted_up_to: int = 0
    cache_unit: int = 0
    state_slots: int = 0
    slots_per_request: int = 0

    def for_workload(self, workload: Workload) -> "Limits":
        """These limits, knowing the longest prompt and how many requests are in flight at most.

        What a prefix cache holds depends on every step, as tight KV does.
        """
        longest = int(workload.isl.max())
        each = longest + self.max_new_tokens + 2 * self.block + self.page_size
        running = min(self.max_running_requests, workload.conc)
        keeps = workload.prompts is not None and self.cache_unit > 0
        return replace(self, kv_tight=keeps or running * each > self.kv_tokens)

    def page_ceil(self, tokens: int) -> int:
        """``tokens`` rounded up to whole KV pages."""
        return -(-tokens // self.page_size) * self.page_size


class Req:
    """One request as the scheduler sees it.

    ``generated`` counts tokens the host has processed, ``launched`` and ``seen`` the cycles
    launched on the GPU and processed by the host; under overlap the host is one behind.
    """

    __slots__ = (
        "branch", "cached", "chunk_done", "commits", "done", "epoch", "generated", "isl",
        "kept", "kv", "launched", "node", "osl", "prompt", "rid", "seen",
    )  # fmt: skip

    def __init__(self, rid: int, *, isl: int, osl: int, cached: int, commits: list[int]) -> None:
        self.rid = rid
        self.isl = isl
        self.osl = osl
        self.cached = cached
        self.prompt = isl - cached  # tokens to prefill
        self.kv = isl  # tokens in the cache as the GPU knows it
        self.commits = commits
        self.chunk_done = 0
        self.generated = 0
        self.launched = 0
        self.seen = 0
        self.epoch = 0
        self.done = False
        self.node: Node | None = None  # of the prefix cache, locked
        self.kept = self.branch = 0  # tokens up to it, and those kept without a state


@dataclass(slots=True)
class PrefillBatch:
    """Requests and new tokens of each; ``prefix`` is the mean of cached tokens they attend to."""

    reqs: tuple[Req, ...]
    tokens: int
    prefix: float
    chunked: Req | None = None


@dataclass
class Scheduler:
    """Waiting queue, running batch and the policy between them.

    With the texts of ``prompts`` there is a radix cache, whose room is what running requests leave.
    """

    limits: Limits
    prompts: Texts | None = None
    waiting: deque[Req] = field(default_factory=deque)
    running: list[Req] = field(default_factory=list)
    batch_is_full: bool = False
    chunked_req: Req | None = None
    retractions: int = 0
    new_token_ratio: float = 0.0
    loops_deaf: int = 0  # since the last look for new requests
    # KV slots that running requests hold, and tokens that they may still generate; None: counted.
    kv_known: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.new_token_ratio = self.limits.new_token_ratio_init
        self.cache: RadixCache | None = None
        self.flush_cache()

    def flush_cache(self) -> None:
        """Begin with an empty prefix cache; no request may be running."""
        if self.prompts is not None and self.limits.cache_unit:
            self.cache = RadixCache(self.limits.cache_unit, states=self.limits.state_slots > 0)

    # ---- when new requests are looked for ------------------------------------------------

    def polls(self, *, prefilled: bool) -> bool:
        """Return True if this loop looks for new requests, as SGLang's recv skipper counts.

        A loop counts one; one that follows a prefill always looks.
        """
        self.loops_deaf += 1
        if self.loops_deaf < self.limits.recv_interval and not prefilled:
            return False
        self.loops_deaf = 0
        return True

    @property
    def loops_until_poll(self) -> int:
        """Loops from this one to the next that looks, while only decoding goes on."""
        return self.limits.recv_interval - self.loops_deaf

    def pass_loops(self, loops: int) -> None:
        """Count decode loops in which nothing could be received."""
        self.loops_deaf = (self.loops_deaf + loops) % self.limits.recv_interval

    def idle(self) -> None:
        """Look in the next loop: an idle server runs through an interval in no time."""
        self.loops_deaf = self.limits.recv_interval

    # ---- who runs ------------------------------------------------------------------------

    def filter_finished(self, gone: Req | None = None) -> None:
        """Drop finished requests; only a shrinking batch clears ``batch_is_full``.

        Parameters
        ----------
        gone
            The only one that runs and has finished, where that is known.
        """
        before = len(self.running)
        if gone is not None:
            self.running.remove(gone)
        else:
            self.running = list(filterfalse(_DONE, self.running))
        if len(self.running) < before:
            self.batch_is_full = False

    @property
    def free_slots(self) -> int:
        """Request slots not taken by the running batch."""
        return self.limits.max_running_requests - len(self.running)

    def get_new_batch_prefill(self) -> PrefillBatch | None:
        """The next prefill batch, or None; prefill has priority over decoding."""
        if self.chunked_req is None and (self.batch_is_full or not self.waiting):
            return None
        lim = self.limits
        if self.running and self.chunked_req is None and self.free_slots < lim.min_free_slots_delay:
            return None
        if self.free_slots <= 0:
            self.batch_is_full = True
            return None
        self._make_room()
        if len(self.waiting) <= lim.sorted_up_to:
            for r in self.waiting:
                self._look_up(r)
            if len(self.waiting) > 1:
                self.waiting = deque(sorted(self.waiting, key=lambda r: -r.cached))
        return self._add_requests()

    def _add_requests(self) -> PrefillBatch | None:
        """SGLang's PrefillAdder: first come, first served, within the token budgets."""
        lim, room, tight = self.limits, self.free_slots, self.limits.kv_tight
        rem_chunk = lim.chunked_prefill_size
        if len(self.waiting) == 1 and self.chunked_req is None and not tight:
            req = self.waiting[0]
            if req.prompt <= rem_chunk:  # the budgets are for those behind the first
                self.waiting.popleft()
                req.chunk_done = req.prompt
                return PrefillBatch((req,), req.prompt, float(req.cached))
        rem_input = lim.max_prefill_tokens
        rem_total = self._rem_total() if tight else 0
        reqs: list[Req] = []
        tokens, prefix, ahead = 0, 0.0, 0
        last_chunked: Req | None = None
        while (self.chunked_req or self.waiting) and len(reqs) < room:
            req = self.chunked_req or self.waiting[0]
            if self.cache is not None:
                rem_total -= self._hold(req)
            extend = req.prompt - req.chunk_done
            if tight:
                ahead = self._may_generate(req)
                new = req is not self.chunked_req and (reqs or self.running)
                if new and extend + ahead + lim.page_size >= rem_total:
                    self.batch_is_full = True
                    self._let_go(req)
                    break
            if reqs and lim.page_ceil(extend) >= rem_input:
                self._let_go(req)
                break
            take = min(extend, rem_chunk)
            if take < extend:
                take = take // lim.page_size * lim.page_size
                if take <= 0:
                    self._let_go(req)
                    break
            if req is self.chunked_req:
                self.chunked_req = None
            else:
                self.waiting.popleft()
            prefix += req.cached + req.chunk_done
            req.chunk_done += take
            tokens += take
            reqs.append(req)
            paged = lim.page_ceil(take)
            rem_chunk -= paged
            rem_input -= paged
            rem_total -= paged + ahead + lim.page_size
            if req.chunk_done < req.prompt:
                last_chunked = self.chunked_req = req
                break
            if rem_chunk <= 0 or rem_input <= 0:
                break
        if not reqs:
            return None
        return PrefillBatch(tuple(reqs), tokens, prefix / len(reqs), last_chunked)

    def merge(self, batch: PrefillBatch) -> None:
        """Requests whose prompt is complete join the running batch."""
        if batch.chunked is None:
            self.running += batch.reqs
        else:
            self.running += [r for r in batch.reqs if r is not batch.chunked]

    def _rem_total(self) -> float:
        lim = self.limits
        if self.kv_known is None:
            used, soon = self.held, sum(self._may_generate(r) for r in self.running)
        else:
            used, soon = self.kv_known
        if self.chunked_req is not None:
            used += self.chunked_req.cached + self.chunked_req.chunk_done
        return lim.kv_tokens - used - soon * self.new_token_ratio

    def _may_generate(self, r: Req) -> int:
        """Tokens that ``r`` may still generate, as far as SGLang plans ahead."""
        return min(self.limits.max_new_tokens - r.generated, self.limits.clip_max_new_tokens)

    def _reserved(self, r: Req) -> int:
        """KV slots held: what the host knows to be committed, plus two blocks with speculation."""
        ahead = 2 * self.limits.block if self.limits.speculative else 2
        return self.limits.page_ceil(r.isl + max(0, r.generated - 1) + ahead)

    def check_decode_mem(self) -> list[Req]:
        """Retract until the reservations of the running batch fit; returns the victims.

        With speculation the newest go first; without, those with the fewest generated tokens.
        At least one request is kept.
        """
        lim = self.limits
        self.new_token_ratio = max(
            self.new_token_ratio - lim.new_token_ratio_decay, lim.new_token_ratio_min
        )
        held = self.held
        victims: list[Req] = []
        while held > lim.kv_tokens and len(self.running) > 1:
            if lim.speculative:
                victim = self.running[-1]
            else:
                victim = min(self.running, key=lambda r: (r.generated, -r.isl))
            self.running.remove(victim)
            self._let_go(victim)
            held = self.held
            victims.append(victim)
        if victims:
            self._requeue(victims)
        return victims

    def _requeue(self, victims: list[Req]) -> None:
        lim = self.limits
        self.retractions += len(victims)
        self.batch_is_full = False
        for r in victims:
            r.epoch += 1
            r.chunk_done = r.cached = 0
            r.prompt = r.isl + r.generated
            r.kv = r.prompt
            r.launched = r.seen
            self.waiting.append(r)
        left = len(self.running)
        made = sum(r.generated for r in self.running) + lim.retract_decode_steps * left
        self.new_token_ratio = min(1.0, made / (lim.max_new_tokens * left))

    # ---- the prefix cache ----------------------------------------------------------------

    @property
    def held(self) -> int:
        """KV slots that running requests hold, those that several share counted once."""
        held = sum(self._reserved(r) for r in self.running)
        return held - self.shared

    @property
    def shared(self) -> int:
        """KV slots by which holding them together is less than each for itself."""
        if self.cache is None:
            return 0
        chunked = [self.chunked_req] if self.chunked_req is not None else []
        return sum(r.kept for r in (*self.running, *chunked)) - self.cache.locked

    def prefilled(self, req: Req) -> None:
        """A prompt has been computed: later ones may begin with it."""
        if self.cache is None or self.prompts is None:
            return
        most = req.branch or req.isl
        node = self.cache.insert(self.prompts.asked[req.rid], most)
        self.cache.lock(node)
        self._let_go(req)
        req.node, req.kept = node, self.cache.tokens_to(node)

    def finished(self, req: Req) -> None:
        """A request has been answered: what it read and wrote is kept, and may go."""
        if self.cache is None or self.prompts is None:
            return
        self.cache.insert(self.prompts.answered[req.rid], req.isl + req.osl - 1)
        self._let_go(req)

    def dropped(self, req: Req) -> None:
        """A request was taken back: what it read may go."""
        self._let_go(req)

    def _look_up(self, req: Req) -> Match | None:
        """Find what is kept of a prompt; its last token is always computed."""
        if self.cache is None or self.prompts is None or req.node is not None:
            return None
        found = self.cache.match(self.prompts.asked[req.rid], min(req.isl, req.kv - 1))
        req.cached, req.branch = found.tokens, found.branch
        req.prompt = req.kv - req.cached
        return found

    def _hold(self, req: Req) -> int:
        """Find and lock what is kept of a prompt; returns the tokens that cannot be evicted now."""
        found = self._look_up(req)
        if self.cache is None or found is None:
            return 0
        before = self.cache.locked
        self.cache.lock(found.node)
        req.node, req.kept = found.node, found.tokens
        return self.cache.locked - before

    def _let_go(self, req: Req) -> None:
        if self.cache is not None and req.node is not None:
            self.cache.release(req.node)
            req.node, req.kept = None, 0

    def _make_room(self) -> None:
        """Evict what running requests have no room for beside theirs."""
        if self.cache is None:
            return
        lim, chunked = self.limits, self.chunked_req
        own = sum(self._reserved(r) - r.kept for r in self.running)
        if chunked is not None:
            own += chunked.cached + chunked.chunk_done - chunked.kept
        self.cache.fit(lim.kv_tokens - own)
        running = len(self.running) + (chunked is not None)
        self.cache.fit_states(lim.state_slots - running * lim.slots_per_request)
