"""KV memory under the leap engine: what the scheduler knows of it whenever it decides.

The commits of a request are known beforehand, so what each holds at a step is looked up, and only
where a request may be admitted. Where there is room to spare whatever happens, nothing is looked up
at all. The engine's word ends with the first retraction: from there on every step counts.
"""

from dataclasses import replace

import numpy as np

from dflash_sim.simulator.engine.scheduler import Req, Scheduler
from dflash_sim.simulator.requests.draws import Draws

Tokens = np.ndarray


class KvMemory:
    """KV of the requests that run, by step of the leap engine.

    Parameters
    ----------
    scheduler
        The policy that decides by it; its limits are tight.
    overlapped
        True if the host is one step behind.
    """

    def __init__(self, scheduler: Scheduler, draws: Draws, *, overlapped: bool) -> None:
        self.scheduler, self.draws, self.overlapped = scheduler, draws, overlapped
        self.ran_out = False
        self._tight = scheduler.limits
        self._ample = replace(scheduler.limits, kv_tight=False)
        self._ahead = 2 * self._tight.block if self._tight.speculative else 2
        self._came: dict[int, tuple[int, Tokens]] = {}  # rid -> (first step, tokens before)
        self._gone: list[int] = []

    def admit(self, req: Req, step: int) -> None:
        """A request decodes from ``step`` on."""
        self._came[req.rid] = step, self.draws.before(req.rid)

    def release(self, req: Req) -> None:
        """A request has ended, and leaves the running batch before the next look."""
        self._gone.append(req.rid)

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
        for rid in self._gone:
            self._came.pop(rid, None)
        self._gone.clear()
        if s.chunked_req is None and (s.batch_is_full or not s.waiting):
            return
        lowered = lim.new_token_ratio_init - lim.new_token_ratio_decay * step
        s.new_token_ratio = max(lowered, lim.new_token_ratio_min)
        if self._room_to_spare(cached):
            s.limits = self._ample
            return
        s.limits = lim
        new = {r.rid for r in fresh}
        for r in s.running:
            start, before = self._came[r.rid]
            seen = min(max(0, step - lag - start), len(before) - 1)
            r.generated = 0 if r.rid in new else 1 + int(before[seen])

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
        if batch < 2 or not len(kv) or int(kv.max()) + most <= lim.kv_tokens:
            return
        # The host is one step behind under overlap, but for the step after a prefill.
        steps = np.arange(first, first + len(kv))
        if self.overlapped:
            steps = steps - 1
            steps[0] += after_prefill
        held = np.zeros(len(kv), np.int64)
        for r in running:
            start, tokens = self._came[r.rid]
            seen = np.clip(steps - start, 0, len(tokens) - 1)
            held += -(-(r.isl + tokens[seen] + self._ahead) // lim.page_size) * lim.page_size
        self.ran_out = self.ran_out or bool((held > lim.kv_tokens).any())
