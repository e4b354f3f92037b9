"""SGLang's batch policy over real pools: it says who is prefilled and who decodes.

The names are SGLang's. A request is admitted when the pool could hold everything admitted at its
longest, so nothing is ever retracted.
"""

from collections import deque
from dataclasses import dataclass

from dflash_sim.profiles.errors import InfeasibleError
from dflash_sim.realrun.job.messages import GOES_ON
from dflash_sim.realrun.job.requests import Req
from dflash_sim.realrun.job.setup import Fitted
from dflash_sim.realrun.scheduler.pools import Pool

Mapped = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class PrefillBatch:
    """Requests with the range of their prompt that is read; ``chunked`` has more to come."""

    reqs: tuple[Req, ...]
    ranges: tuple[tuple[int, int], ...]
    chunked: Req | None

    @property
    def tokens(self) -> int:
        """New tokens."""
        return sum(end - start for start, end in self.ranges)


class Batching:
    """Waiting queue, running batch, pools, and the policy between them."""

    def __init__(self, fitted: Fitted) -> None:
        setup = fitted.setup
        self.page_size = setup.page_size
        self.chunked_prefill_size = setup.chunked_prefill_size
        self.max_prefill_tokens = setup.max_prefill_tokens
        self.ahead = 2 * fitted.rows  # the step in flight and the new one
        self.pages = Pool(fitted.pages, "KV pages")
        self.slots = Pool(setup.max_running_requests, "request slots")
        self.waiting: deque[Req] = deque()
        self.running: list[Req] = []
        self.chunked_req: Req | None = None
        self.promised = 0  # pages that admitted requests hold or may come to need

    def filter_finished(self) -> None:
        """Drop finished requests from the running batch."""
        if any(r.done for r in self.running):
            self.running = [r for r in self.running if not r.done]

    def get_new_batch_prefill(self) -> PrefillBatch | None:
        """The next prefill batch, or None; prefill has priority over decoding.

        SGLang's ``PrefillAdder``: first come, first served, within the token budgets; a prompt
        that does not fit is cut at a page and goes on first in the next batch.
        """
        if self.chunked_req is None and not self.waiting:
            return None
        rem_chunk, rem_input = self.chunked_prefill_size, self.max_prefill_tokens
        reqs: list[Req] = []
        ranges: list[tuple[int, int]] = []
        chunked: Req | None = None
        while rem_chunk > 0 and rem_input > 0 and (self.chunked_req or self.waiting):
            req = self.chunked_req or self.waiting[0]
            extend = len(req.prompt) - req.chunk_done
            if req is not self.chunked_req and not self._fits(req):
                break
            if reqs and self._page_ceil(extend) >= rem_input:
                break
            take = min(extend, rem_chunk)
            if take < extend:
                take = take // self.page_size * self.page_size
                if take <= 0:
                    break
            self._admit(req)
            ranges.append((req.chunk_done, req.chunk_done + take))
            req.chunk_done += take
            req.committed = req.chunk_done
            reqs.append(req)
            rem_chunk -= self._page_ceil(take)
            rem_input -= self._page_ceil(take)
            if req.chunk_done < len(req.prompt):
                chunked = self.chunked_req = req
                break
        if not reqs:
            return None
        self.running += [r for r in reqs if r is not chunked]
        return PrefillBatch(tuple(reqs), tuple(ranges), chunked)

    def _fits(self, req: Req) -> bool:
        if self._most_pages(req) > self.pages.size:
            msg = f"request {req.rid} needs {self._most_pages(req)} of {self.pages.size} KV pages"
            raise InfeasibleError(msg)
        return self.slots.free > 0 and self.promised + self._most_pages(req) <= self.pages.size

    def _admit(self, req: Req) -> None:
        if req is self.chunked_req:
            self.chunked_req = None
            return
        self.waiting.popleft()
        self.promised += self._most_pages(req)
        [req.slot] = self.slots.take(1)

    def reserve(self, reqs: list[Req] | tuple[Req, ...]) -> tuple[Mapped, ...]:
        """Pages up to two blocks beyond what is known to be committed: ``(slot, place, page)``."""
        mapped: list[Mapped] = []
        size, ahead = self.page_size, self.ahead
        for r in reqs:
            held = len(r.pages)
            missing = -(-(r.committed + ahead) // size) - held
            if missing > 0:
                taken = self.pages.take(missing)
                mapped += [(r.slot, held + i, page) for i, page in enumerate(taken)]
                r.pages += taken
        return tuple(mapped)

    def release(self, req: Req) -> None:
        """A finished request gives back what it held; work in flight precedes a new owner's."""
        self.promised -= self._most_pages(req)
        self.pages.give_back(req.pages)
        self.slots.give_back([req.slot])
        req.pages = []

    def _most_pages(self, req: Req) -> int:
        return -(-(len(req.prompt) + req.max_new + self.ahead) // self.page_size)

    def _page_ceil(self, tokens: int) -> int:
        return -(-tokens // self.page_size) * self.page_size


def prompt_rows(batch: PrefillBatch) -> tuple[tuple[int, tuple[int, ...], int], ...]:
    """``(slot, tokens, token that follows)`` of each row, the last negative at a prompt's end."""
    rows = []
    for r, (start, end) in zip(batch.reqs, batch.ranges, strict=True):
        follows = r.prompt[end] if end < len(r.prompt) else GOES_ON
        rows.append((r.slot, tuple(r.prompt[start:end]), follows))
    return tuple(rows)
