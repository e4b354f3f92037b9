"""KV memory under the leap engine: what the scheduler knows of it whenever it decides.

The commits of a request are known beforehand, so what each holds at a step is looked up, and only
where a request may be admitted. Where there is room to spare whatever happens, nothing is looked up
at all. The engine's word ends with the first retraction: from there on every step counts.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from dflash_sim.simulator.engine.scheduler import Req, Scheduler

Tokens = npt.NDArray[np.int64]
_CHUNK = 2**14


class KvMemory:
    """KV of the requests that run, by step of the leap engine.

    Parameters
    ----------
    scheduler
        The policy that decides by it; its limits are tight.
    requests
        Their number.
    overlapped
        True if the host is one step behind.
    """

    def __init__(self, scheduler: Scheduler, requests: int, *, overlapped: bool) -> None:
        self.scheduler, self.overlapped = scheduler, overlapped
        self.ran_out = False
        self._tight = scheduler.limits
        self._ample = replace(scheduler.limits, kv_tight=False)
        self._ahead = 2 * self._tight.block if self._tight.speculative else 2
        none = np.zeros(requests, np.int64)
        self._isl, self._cycles, self._came = none, none.copy(), none.copy()
        self._at = np.full(requests, -1)
        self._before = np.zeros(_CHUNK, np.int64)  # tokens before each cycle, request by request
        self._filled = 0

    def admit(self, req: Req, step: int, before: Tokens) -> None:
        """A request decodes from ``step`` on, with so many tokens committed before each cycle."""
        if self._filled + len(before) > len(self._before):
            self._make_room(len(before))
        rid, at = req.rid, self._filled
        self._filled = at + len(before)
        self._before[at : self._filled] = before
        self._isl[rid], self._cycles[rid] = req.isl, len(before) - 1
        self._came[rid], self._at[rid] = step, at

    def _make_room(self, more: int) -> None:
        """Keep the requests that run, and room for as much again."""
        parts = [np.zeros(0, np.int64)]
        filled = 0
        for rid in (r.rid for r in self.scheduler.running):
            at = self._at[rid]
            if at >= 0:
                parts.append(self._before[at : at + self._cycles[rid] + 1])
                self._at[rid] = filled
                filled += len(parts[-1])
        self._filled = filled
        self._before = np.concatenate([*parts, np.zeros(max(_CHUNK, filled + more), np.int64)])

    def _committed(self, rids: Tokens, step: int) -> Tokens:
        """Tokens that decode steps before ``step`` committed for each request."""
        seen = np.minimum(np.maximum(0, step - self._came[rids]), self._cycles[rids])
        found: Tokens = self._before[self._at[rids] + seen]
        return found

    def look(self, step: int, *, cached: int, lag: int, fresh: tuple[Req, ...]) -> None:
        """Tell the scheduler what it knows before it looks for a prefill.

        Parameters
        ----------
        cached
            Tokens cached at ``step``, those of requests about to end included [token].
        lag
            Decode steps launched whose result the host has not processed.
        fresh
            Requests whose first token it has not processed.
        """
        s, lim = self.scheduler, self._tight
        if s.chunked_req is None and (s.batch_is_full or not s.waiting):
            return
        lowered = lim.new_token_ratio_init - lim.new_token_ratio_decay * step
        s.new_token_ratio = max(lowered, lim.new_token_ratio_min)
        if s.cache is None and self._room_to_spare(cached):
            s.limits = self._ample
            return
        s.limits = lim
        rids = np.array([r.rid for r in s.running], np.int64)
        committed = self._committed(rids, step - lag)
        generated = 1 + committed
        if fresh:
            generated[np.isin(rids, [r.rid for r in fresh])] = 0
        if s.cache is not None:  # some of it is shared, and the cache has what they leave
            for r, tokens in zip(s.running, generated.tolist(), strict=True):
                r.generated = tokens
            return
        soon = np.minimum(lim.max_new_tokens - generated, lim.clip_max_new_tokens).sum()
        s.kv_known = int(self._reserved(rids, committed).sum()), int(soon)

    def _reserved(self, rids: Tokens, committed: Tokens) -> Tokens:
        page = self._tight.page_size
        return -(-(self._isl[rids] + committed + self._ahead) // page) * page

    def _room_to_spare(self, cached: int) -> bool:
        """Return True if all that waits could be admitted, whatever was reserved."""
        s, lim = self.scheduler, self._tight
        each = min(lim.max_new_tokens, lim.clip_max_new_tokens)
        waiting = [*s.waiting] if s.chunked_req is None else [s.chunked_req, *s.waiting]
        held = cached + len(s.running) * (self._ahead + lim.page_size + each * s.new_token_ratio)
        coming = len(waiting) * (each + 2 * lim.page_size)
        left = lim.kv_tokens - held - coming
        return left > 0 and sum(r.isl for r in waiting) < left

    def decoded(self, first: int, kv: Tokens, *, after_prefill: bool) -> None:
        """Steps from ``first`` on were launched, with ``kv`` tokens cached before each."""
        lim, running = self._tight, self.scheduler.running
        batch = len(running)
        most = batch * (self._ahead + lim.page_size - 1)
        room = lim.kv_tokens + self.scheduler.shared
        if batch < 2 or not len(kv) or int(kv.max()) + most <= room:
            return
        # The host is one step behind under overlap, but for the step after a prefill.
        steps = range(first, first + len(kv))
        rids = np.array([r.rid for r in running], np.int64)
        for i in np.flatnonzero(kv + most > room):
            known = steps[i] - (self.overlapped and not (i == 0 and after_prefill))
            if self._reserved(rids, self._committed(rids, known)).sum() > room:
                self.ran_out = True
                return
