"""SGLang's batch policy: who is prefilled, who decodes, who is retracted.

The names are SGLang's (``get_next_batch_to_run``, ``batch_is_full``, ``new_token_ratio``). Both
engines call this one policy; they differ only in how they let time pass.
"""

from collections import deque
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Limits:
    """The bounds of a batch.

    ``kv_tight`` is False when every running request could grow to its cap at once: then KV can
    never run out, and neither admission nor retraction looks at it. ``recv_interval`` is the
    number of scheduler loops between two looks for new requests. While no more than
    ``sorted_up_to`` wait, the one with the most cached tokens is admitted first, else the oldest.
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

    def for_workload(self, *, longest_prompt: int, conc: int) -> "Limits":
        """These limits, knowing the longest prompt [token] and the most requests in flight."""
        each = longest_prompt + self.max_new_tokens + 2 * self.block + self.page_size
        running = min(self.max_running_requests, conc)
        return replace(self, kv_tight=running * each > self.kv_tokens)

    def page_ceil(self, tokens: int) -> int:
        """``tokens`` rounded up to whole KV pages."""
        return -(-tokens // self.page_size) * self.page_size


class Req:
    """One request as the scheduler sees it.

    ``generated`` counts tokens the host has processed, ``launched`` and ``seen`` the cycles
    launched on the GPU and processed by the host; under overlap the host is one behind.
    """

    __slots__ = (
        "cached", "chunk_done", "commits", "done", "epoch", "generated", "isl",
        "kv", "launched", "osl", "prompt", "rid", "seen",
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


@dataclass(frozen=True, slots=True)
class PrefillBatch:
    """Requests and new tokens of each; ``prefix`` is the mean of cached tokens they attend to."""

    reqs: tuple[Req, ...]
    tokens: int
    prefix: float
    chunked: Req | None = None


@dataclass
class Scheduler:
    """Waiting queue, running batch and the policy between them."""

    limits: Limits
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

    def filter_finished(self) -> None:
        """Drop finished requests; only a shrinking batch clears ``batch_is_full``."""
        before = len(self.running)
        self.running = [r for r in self.running if not r.done]
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
        if len(self.waiting) <= lim.sorted_up_to:
            self.waiting = deque(sorted(self.waiting, key=lambda r: -r.cached))
        return self._add_requests()

    def _add_requests(self) -> PrefillBatch | None:
        """SGLang's PrefillAdder: first come, first served, within the token budgets."""
        lim = self.limits
        rem_chunk = lim.chunked_prefill_size
        rem_input = lim.max_prefill_tokens
        rem_total = self._rem_total() if lim.kv_tight else 0
        reqs: list[Req] = []
        tokens, prefix = 0, 0.0
        last_chunked: Req | None = None
        while (self.chunked_req or self.waiting) and len(reqs) < self.free_slots:
            req = self.chunked_req or self.waiting[0]
            extend = req.prompt - req.chunk_done
            ahead = self._may_generate(req)
            new = lim.kv_tight and req is not self.chunked_req and (reqs or self.running)
            if new and extend + ahead + lim.page_size >= rem_total:
                self.batch_is_full = True
                break
            if reqs and lim.page_ceil(extend) >= rem_input:
                break
            take = min(extend, rem_chunk)
            if take < extend:
                take = take // lim.page_size * lim.page_size
                if take <= 0:
                    break
            if req is self.chunked_req:
                self.chunked_req = None
            else:
                self.waiting.popleft()
            prefix += req.cached + req.chunk_done
            req.chunk_done += take
            tokens += take
            reqs.append(req)
            rem_chunk -= lim.page_ceil(take)
            rem_input -= lim.page_ceil(take)
            rem_total -= lim.page_ceil(take) + ahead + lim.page_size
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
        self.running += [r for r in batch.reqs if r is not batch.chunked]

    def _rem_total(self) -> float:
        lim = self.limits
        if self.kv_known is None:
            used = sum(self._reserved(r) for r in self.running)
            soon = sum(self._may_generate(r) for r in self.running)
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
        held = sum(self._reserved(r) for r in self.running)
        victims: list[Req] = []
        while held > lim.kv_tokens and len(self.running) > 1:
            if lim.speculative:
                victim = self.running[-1]
            else:
                victim = min(self.running, key=lambda r: (r.generated, -r.isl))
            self.running.remove(victim)
            held -= self._reserved(victim)
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
