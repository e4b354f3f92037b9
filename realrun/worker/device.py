"""One rank: its networks, its pools, and the requests it holds, by slot.

Anchors, lengths, page tables, KV and delta-net states stay here. The scheduler says which slots
run, and never waits for a length.
"""

from collections.abc import Sequence
from time import perf_counter

import torch
from torch import Tensor

from dflash_sim.kernels.models.cycle import Drafted, Running, Verified
from dflash_sim.kernels.rank import Rank
from dflash_sim.kernels.reference.accept import Accepted
from dflash_sim.realrun.job.setup import Fitted
from dflash_sim.realrun.worker.judges import Synthetic
from dflash_sim.realrun.worker.methods import build_method


class Spans:
    """When the phases of a command ran, by the monotonic clock [s]."""

    def __init__(self) -> None:
        self._noted: list[tuple[str, float, float]] = []
        self._since = 0.0

    def begin(self) -> None:
        """A command begins."""
        self._noted = []
        self._since = perf_counter()

    def mark(self, name: str) -> None:
        """A phase ends here."""
        now = perf_counter()
        self._noted.append((name, self._since, now))
        self._since = now

    def read(self) -> list[tuple[str, float, float]]:
        """``(name, start, end)`` of the phases since the command began."""
        return self._noted


class Device:
    """The requests of one rank by slot, and the passes over them."""

    def __init__(self, fitted: Fitted, rank: Rank) -> None:
        self.fitted, self.rank, self.spans = fitted, rank, Spans()
        self.method = build_method(fitted, rank)
        slots, device = fitted.setup.max_running_requests + 1, rank.device
        self.on_cpu = torch.device(device).type == "cpu"
        self.anchor = torch.zeros(slots, dtype=torch.int64, device=device)
        self.lens = torch.zeros(slots, dtype=torch.int64, device=device)
        self.keys = torch.zeros(slots, dtype=torch.int64, device=device)
        self.first_draft = torch.zeros(slots, dtype=torch.int64, device=device)
        self.table = torch.zeros((slots, fitted.table_pages), dtype=torch.int32, device=device)
        hidden = fitted.target.shape.hidden
        self.carried = torch.zeros((slots, hidden), dtype=rank.dtype, device=device)
        self._last_slots: tuple[tuple[int, ...], Tensor] = ((), self.anchor[:0])
        self._open: tuple[Tensor, Running] | None = None

    # ---- what the scheduler tells --------------------------------------------------------

    def join(self, joins: Sequence[tuple[int, int]]) -> None:
        """Requests ``(slot, id)`` that begin; nothing of the slot's last owner stays."""
        if not joins:
            return
        slots, keys = self._tensor(joins).unbind(1)
        self.lens[slots] = 0
        self.keys[slots] = keys
        states = self.method.target_cache.gdn
        if states is not None:
            states.reset(slots)

    def map_pages(self, pages: Sequence[tuple[int, int, int]]) -> None:
        """New entries ``(slot, place, page)`` of the page table."""
        if pages:
            slot, place, page = self._tensor(pages).unbind(1)
            self.table[slot, place] = page.to(torch.int32)

    def slots_of(self, slots: tuple[int, ...]) -> Tensor:
        """``slots`` on the device; the same batch twice is sent once."""
        if slots != self._last_slots[0]:
            self._last_slots = slots, self._tensor(slots)
        return self._last_slots[1]

    # ---- passes --------------------------------------------------------------------------

    def prefill(self, rows: Sequence[tuple[int, tuple[int, ...], int]]) -> Tensor:
        """Read prompts in one pass, ``rows`` as in a ``Prefill``; returns the anchors [R]."""
        self.spans.begin()
        slots = self._tensor([slot for slot, _, _ in rows])
        after = self.method.prefill(
            [self._tensor(tokens) for _, tokens, _ in rows],
            self.gather(slots),
            lengths=self._tensor([len(tokens) for _, tokens, _ in rows]),
            following=self._tensor([follows for _, _, follows in rows]),
        )
        self.scatter(slots, after)
        self.spans.mark("prefill")
        return after.anchor

    def begin(self) -> None:
        """A cycle begins: what cannot be in a captured graph."""
        self.spans.begin()
        if isinstance(self.method.judge, Synthetic):
            self.method.judge.draw()

    def cycle(self, slots: Tensor) -> Accepted:
        """Draft, verify, accept and commit for the requests in ``slots`` [R] int64."""
        draft = self.draft(slots)
        verified = self.verify(draft)
        accepted = self.judge(verified)
        self.commit(verified, accepted)
        return accepted

    def draft(self, slots: Tensor) -> Drafted:
        """Return what is drafted; opens a cycle of these requests."""
        running = self.gather(slots)
        self._open = slots, running
        draft = self.method.propose(running)
        if self.method.block_rows > 1:
            self.spans.mark("draft")
        return draft

    def verify(self, draft: Drafted) -> Verified:
        """The target's pass over the open cycle's drafts."""
        verified = self.method.verify(draft, self.running)
        self.spans.mark("verify")
        return verified

    def judge(self, verified: Verified) -> Accepted:
        """Return what is kept; padded rows, in slot 0, keep nothing."""
        accepted = self.method.judge(self.method.target, verified, self.running)
        if not self.on_cpu:
            ours = self.running.state_slots > 0
            accepted = accepted._replace(commit_len=accepted.commit_len * ours)
        self.spans.mark("accept")
        return accepted

    def commit(self, verified: Verified, accepted: Accepted) -> None:
        """Close the cycle: the accepted rows are part of the context."""
        self.scatter(self.slots, self.method.commit(self.running, verified, accepted))
        self._open = None
        self.spans.mark("materialise")

    @property
    def running(self) -> Running:
        """The requests of the open cycle."""
        assert self._open is not None
        return self._open[1]

    @property
    def slots(self) -> Tensor:
        """The slots of the open cycle."""
        assert self._open is not None
        return self._open[0]

    # ---- slots ---------------------------------------------------------------------------

    def gather(self, slots: Tensor) -> Running:
        """Return what is known of the requests in ``slots`` [R]."""
        return Running(
            anchor=self.anchor[slots],
            context_lens=self.lens[slots],
            page_table=self.table[slots],
            state_slots=slots,
            first_draft=self.first_draft[slots],
            carried=self.carried[slots],
            keys=self.keys[slots],
        )

    def scatter(self, slots: Tensor, after: Running) -> None:
        """Keep what has become of them."""
        self.anchor[slots] = after.anchor
        self.lens[slots] = after.context_lens
        if self.fitted.setup.speculation.sequential:
            assert after.first_draft is not None
            assert after.carried is not None
            self.first_draft[slots] = after.first_draft
            self.carried[slots] = after.carried
        if not self.on_cpu:
            self.lens[:1] = 0  # the slot of padded rows

    def _tensor(self, values: Sequence[object]) -> Tensor:
        """On the device; from pageable memory, the copy would wait for the step in flight."""
        here = torch.tensor(values, dtype=torch.int64, pin_memory=not self.on_cpu)
        return here if self.on_cpu else here.to(self.rank.device, non_blocking=True)
