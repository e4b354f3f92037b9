"""The executor of a rank on a CPU: commands become passes of the networks it holds."""

import torch

from dflash_sim.kernels.comm import OneRank
from dflash_sim.kernels.models.cycle import Verified, greedy
from dflash_sim.kernels.reference.accept import assemble
from dflash_sim.realrun.job.messages import (
    Command,
    Commit,
    Decode,
    Draft,
    Prefill,
    Result,
    Verify,
)
from dflash_sim.realrun.worker.comm import ProcessRank
from dflash_sim.realrun.worker.device import Device
from dflash_sim.realrun.worker.executor import Executor


class Worker(Executor):
    """The executor of one rank; results are read on the host before the next command."""

    def __init__(self, device: Device, comm: OneRank | ProcessRank) -> None:
        self.device, self.comm = device, comm
        self._verified: Verified | None = None

    def run(self, command: Command) -> Result:
        """Do what is asked, and read what came of it."""
        before = getattr(self.comm, "spent_s", 0.0)
        tokens, lens, draft = self._answer(command)
        spent = getattr(self.comm, "spent_s", 0.0) - before
        return Result(tokens, lens, draft, self.device.spans.read(), spent)

    def _answer(self, command: Command) -> tuple[list[list[int]], list[int], list[list[int]]]:
        device = self.device
        match command:
            case Prefill(rows, joins, pages):
                device.join(joins)
                device.map_pages(pages)
                return device.prefill(rows)[:, None].tolist(), [1] * len(rows), []
            case Decode(slots, pages):
                device.map_pages(pages)
                device.begin()
                accepted = device.cycle(device.slots_of(slots))
                return accepted.tokens.tolist(), accepted.commit_len.tolist(), []
            case Draft(slots, pages):
                device.map_pages(pages)
                device.begin()
                self._draft = device.draft(device.slots_of(slots))
                return [], [], self._draft.tokens.tolist()
            case Verify():
                return self._verify()
            case Commit(commit_len, bonus):
                self._commit(commit_len, bonus)
        return [], [], []

    def _verify(self) -> tuple[list[list[int]], list[int], list[list[int]]]:
        """V1: the host finds what a greedy verify accepts; other verdicts are told to it."""
        device = self.device
        device.spans.begin()
        self._verified = verified = device.verify(self._draft)
        draft = verified.draft.tolist()
        if device.method.judge is greedy:
            answer = device.method.target.argmax(verified.out.final).view_as(verified.draft)
            return answer.tolist(), [], draft
        accepted = device.judge(verified)
        return accepted.tokens.tolist(), accepted.commit_len.tolist(), draft

    def _commit(self, commit_len: tuple[int, ...], bonus: tuple[int, ...]) -> None:
        assert self._verified is not None
        self.device.spans.begin()
        draft = self._verified.draft
        kept, last = (torch.tensor(x, device=draft.device) for x in (commit_len, bonus))
        self.device.commit(self._verified, assemble(draft, kept - 1, last))
