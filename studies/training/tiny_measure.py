"""The real loop over held-out prompts: plain decoding, DFlash blocks, and chains of single drafts.

Everything runs in ``dflash_sim.kernels``, greedily, with a page table, as the engine runs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dflash_sim.kernels.cache import Cache, Placement, place
from dflash_sim.kernels.models.cycle import Dflash, Running
from dflash_sim.kernels.models.drafter import Drafter
from dflash_sim.kernels.models.heads import Eagle3Head, MtpHead
from dflash_sim.kernels.models.target import Hidden, TargetModel
from dflash_sim.kernels.reference.accept import Accepted
from dflash_sim.profiles.networks.hf_config import AttentionShape

PAGE, ROOM = 16, 768  # tokens of a page, and of a request
AHEAD = 32  # more than any cycle writes [tokens]


@dataclass
class Outcome:
    """What a loop emitted for each prompt, and how many tokens each of its verifies gave."""

    texts: list[list[int]]
    gained: list[list[int]] = field(default_factory=list)

    @property
    def accept_length(self) -> float:
        """Tokens per verify, the bonus included."""
        every = [n for request in self.gained for n in request]
        return sum(every) / len(every)


class Plain:
    """Plain greedy decoding; its parts are those of every loop.

    A loop is told the prompts, then runs cycle by cycle over the requests that are not done.
    """

    rows = 1

    def __init__(self, target: TargetModel, requests: int) -> None:
        self.target, each = target, ROOM // PAGE
        self.size = {"pages": requests * each + 1, "page_size": PAGE}
        self.cache = Cache.for_target(
            target.spec.shape, slots=requests + 1, requests=requests, rows=1, **self.size
        )
        pages = 1 + torch.arange(requests * each, dtype=torch.int32)
        self.table = pages.view(requests, each)

    @torch.no_grad()
    def run(self, prompts: Sequence[Sequence[int]], new: int) -> Outcome:
        """``new`` tokens after each of ``prompts``, whatever they are."""
        states = [self.begin(torch.tensor([p]), self._request(i)) for i, p in enumerate(prompts)]
        live = [(i, *state) for i, state in enumerate(states)]
        out = Outcome([[int(running.anchor)] for running, _ in states], [[] for _ in prompts])
        while live:
            who = [i for i, _, _ in live]
            running = _joined([r for _, r, _ in live])
            ahead = int(running.context_lens.max()) + AHEAD
            running = replace(running, page_table=self.table[who, : -(-ahead // PAGE)])
            draft = torch.cat([d for _, _, d in live])
            running, draft, accepted = self.cycle(running, draft)
            live = []
            for row, i in enumerate(who):
                kept = int(accepted.commit_len[row])
                out.texts[i] += accepted.tokens[row, :kept].tolist()
                out.gained[i].append(kept)
                if len(out.texts[i]) < new:
                    one = slice(row, row + 1)
                    live.append((i, _rows(running, one), draft[one]))
        out.texts = [text[:new] for text in out.texts]
        return out

    def begin(self, ids: Tensor, running: Running) -> tuple[Running, Tensor]:
        """Read one prompt [1, n]: the request after it, and what it drafts."""
        at = running.rows(ids.shape[1], PAGE)
        out = self.target(ids.flatten(), at, self.cache, self.taps)
        anchor = self.target.argmax(out.final[-1:])
        after = torch.cat([ids[0, 1:], anchor])
        draft = self.draft(after, out, at, torch.tensor([ids.shape[1]]))
        context_lens = running.context_lens + ids.shape[1]
        return replace(running, anchor=anchor, context_lens=context_lens), draft

    def cycle(self, running: Running, draft: Tensor) -> tuple[Running, Tensor, Accepted]:
        """Verify ``draft`` [R, k], which follows the anchors, and draft again."""
        block = torch.cat([running.anchor[:, None], draft], 1)
        at = running.rows(block.shape[1], PAGE)
        out = self.target(block.flatten(), at, self.cache, self.taps)
        answer = self.target.argmax(out.final).view_as(block)
        accepted = self.target.backend.greedy_accept(block, answer)
        after = accepted.tokens.clamp(min=0).flatten()
        again = self.draft(after, out, at, accepted.commit_len)
        context_lens = running.context_lens + accepted.commit_len
        running = replace(running, anchor=accepted.bonus, context_lens=context_lens)
        return running, again, accepted

    taps: tuple[int, ...] = ()

    def draft(self, after: Tensor, out: Hidden, at: Placement, commit_len: Tensor) -> Tensor:
        """Proposals [R, k], when ``after`` [T] follow the rows of ``out``, so many of them kept."""
        return after.new_empty(at.requests, 0)

    def _request(self, index: int) -> Running:
        zero, one = torch.zeros(1, dtype=torch.int64), slice(index, index + 1)
        return Running(zero, zero, self.table[one], zero + index + 1)


class Blocks(Plain):
    """DFlash, by ``kernels.cycle``."""

    def __init__(self, target: TargetModel, drafter: Drafter, requests: int, rows: int) -> None:
        super().__init__(target, requests)
        memory = Cache.for_attention(drafter.spec.shape.layers, **self.size)
        self.loop = Dflash(target, drafter, self.cache, memory, rows=rows)

    def begin(self, ids: Tensor, running: Running) -> tuple[Running, Tensor]:
        """Read one prompt; a block is drafted when it is needed."""
        return self.loop.prefill(ids, running), torch.zeros(1, 0)

    def cycle(self, running: Running, draft: Tensor) -> tuple[Running, Tensor, Accepted]:
        """One cycle of the real loop."""
        running, accepted = self.loop.cycle(running)
        return running, draft, accepted


class Chain(Plain):
    """Single drafts in a row, by the target's MTP layer or by an EAGLE-3 head.

    The head stands one place behind: its row at ``p`` reads the state there and the token after.
    """

    def __init__(
        self,
        target: TargetModel,
        head: MtpHead | Eagle3Head,
        requests: int,
        steps: int,
        taps: tuple[int, ...] = (),
    ) -> None:
        super().__init__(target, requests)
        self.head, self.steps, self.taps = head, steps, taps
        layer = target.spec.shape.mtp_layer
        mixer = head.attention.shape if isinstance(head, Eagle3Head) else layer and layer.mixer
        assert isinstance(mixer, AttentionShape)
        self.memory = Cache.for_attention([mixer], **self.size)

    def draft(self, after: Tensor, out: Hidden, at: Placement, commit_len: Tensor) -> Tensor:
        """Read what was kept, then ``steps`` drafts, each from the one before."""
        hidden = out.final
        if isinstance(self.head, Eagle3Head):
            assert out.features is not None
            hidden = self.head.fuse(out.features)
        tokens, hidden = self.step(after, hidden, at)
        last = torch.arange(at.requests) * at.rows + commit_len - 1
        tokens, hidden = tokens[last], hidden[last]
        said, lens = [tokens], at.seq_lens.to(torch.int64) - at.rows + commit_len
        for _ in range(self.steps - 1):
            one = place(at.page_table, lens, at.state_slots, rows=1, page_size=PAGE)
            tokens, hidden = self.step(tokens, hidden, one)
            said.append(tokens)
            lens = lens + 1
        return torch.stack(said, 1)

    def step(self, ids: Tensor, hidden: Tensor, at: Placement) -> tuple[Tensor, Tensor]:
        """What follows ``ids`` [T] int64, and the states [T, H] that a next step starts from."""
        x = self.target.vocabulary.embed(ids)
        if isinstance(self.head, Eagle3Head):
            final, carried = self.head(x, hidden, at, self.memory)
            return self.head.argmax(final), carried
        final = self.head(x, hidden, at, self.memory)
        return self.target.argmax(final), final


def _rows(running: Running, part: slice) -> Running:
    return Running(
        running.anchor[part],
        running.context_lens[part],
        running.page_table[part],
        running.state_slots[part],
    )


def _joined(requests: list[Running]) -> Running:
    names = ("anchor", "context_lens", "page_table", "state_slots")
    return Running(*(torch.cat([getattr(r, name) for r in requests]) for name in names))
