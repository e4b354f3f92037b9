"""A method's cycle as phases: which passes run, how often, under how many CUDA graphs.

============== =======================================================================
none           decode
mtp            (k-1) MTP steps, verify k+1, GDN commit, draft-extend k+1
eagle3         (k-1) EAGLE-3 steps, verify k+1, GDN commit, draft-extend k+1
dflash         draft block of B rows, draft head of B-1 rows, verify B, GDN commit,
               materialise B (KV injection)
injection-only B-1 autoregressive drafter steps with injected KV, verify B, materialise B
diffusion-only draft block and head, verify B, fc of the features (input conditioning only)
============== =======================================================================

The last two are the ablations of the DFlash paper (arXiv 2602.06036, table 9). A policy may choose
width 1 for a cycle: nothing is drafted, and the drafter's cache is kept up to date.
"""

from dataclasses import dataclass

from dflash_sim.profiles.networks.hf_config import DrafterShape, Eagle3Shape, ModelShape
from dflash_sim.simulator.cost import passes as graph
from dflash_sim.simulator.cost.ops import AnyCall, Call, Elementwise
from dflash_sim.simulator.cost.passes import Rows

METHODS = ("none", "mtp", "eagle3", "dflash", "injection-only", "diffusion-only")
BLOCK_METHODS = ("dflash", "injection-only", "diffusion-only")
PHASES = ("draft", "verify", "commit", "materialise", "other")


@dataclass(frozen=True, slots=True)
class Phase:
    """Passes that run back to back; ``graphs`` CUDA graphs are replayed for them.

    ``steps`` is the length of a sequential draft: each step waits for the token before it.
    """

    name: str
    calls: list[AnyCall]
    graphs: int
    steps: int = 0

    @property
    def launches(self) -> int:
        """Kernels launched."""
        return sum(call.count for call in self.calls)


@dataclass(frozen=True)
class Cycle:
    """One method on one target: builds the phases of a decode cycle and of a prefill.

    Parameters
    ----------
    block
        Verify rows per request: 1 for ``none``, k+1 for chains, B for DFlash.
    window
        Committed tokens that draft attention sees (``--speculative-draft-window-size``).
    chain_kernels
        Small kernels per step of a sequential draft: SGLang's ``select_top_k_tokens``.
    """

    method: str
    model: ModelShape
    tp: int
    block: int
    drafter: DrafterShape | None = None
    eagle: Eagle3Shape | None = None
    window: int | None = None
    chain_kernels: int = 0

    @property
    def sequential(self) -> bool:
        """Whether drafts are made one after the other, with a draft-extend after verification."""
        return self.method in ("mtp", "eagle3")

    def decode(self, *, requests: int, ctx: float) -> tuple[Phase, ...]:
        """Phases of one cycle of ``requests`` running requests with ``ctx`` cached tokens each."""
        one, wide = Rows(requests, 1, ctx), Rows(requests, self.block, ctx)
        target = graph.target_forward(self.model, tp=self.tp, size=wide)
        if self.method == "none":
            return (Phase("verify", target, 1),)
        commit = Phase("commit", graph.gdn_commit(self.model, tp=self.tp, requests=requests), 0)
        draft, tail = self._draft(one, wide)
        return (draft, Phase("verify", target, 1), commit, tail)

    def _draft(self, one: Rows, wide: Rows) -> tuple[Phase, Phase]:
        """The phases before and after verification."""
        tp, model, steps = self.tp, self.model, self.block - 1
        if not steps:
            return Phase("draft", [], 0), self._keep_up(wide)
        select: list[AnyCall] = [Call(Elementwise("select_top_k_tokens", 0.0), self.chain_kernels)]
        if self.method == "mtp":
            step = graph.mtp_step(model, tp=tp, size=one) + select
            extend = graph.mtp_step(model, tp=tp, size=wide) + select
            return _chain(step * (steps - 1), extend, steps)
        if self.method == "eagle3":
            step = graph.eagle3_step(self._eagle, tp=tp, size=one, fuse_features=False) + select
            extend = graph.eagle3_step(self._eagle, tp=tp, size=wide, fuse_features=True) + select
            return _chain(step * (steps - 1), extend, steps)
        inject = graph.materialise(self._drafter, tp=tp, tokens=wide.tokens)
        if self.method == "injection-only":
            step = self._block(one) + graph.draft_head(model, tp=tp, rows=one.tokens)
            return Phase("draft", step * steps, 1, steps), Phase("materialise", inject, 0)
        head = graph.draft_head(model, tp=tp, rows=wide.requests * steps)
        draft = Phase("draft", self._block(wide) + head, 1)
        if self.method == "diffusion-only":
            inject = inject[:2]
        return draft, Phase("materialise", inject, 0)

    def _keep_up(self, size: Rows) -> Phase:
        """What a cycle without drafts spends so that the next one can draft."""
        if self.method == "mtp":
            return Phase("materialise", graph.mtp_step(self.model, tp=self.tp, size=size), 1)
        if self.method == "eagle3":
            fill = graph.eagle3_step(self._eagle, tp=self.tp, size=size, fuse_features=True)
            return Phase("materialise", fill, 1)
        fill = graph.materialise(self._drafter, tp=self.tp, tokens=size.tokens)
        return Phase("materialise", fill[:2] if self.method == "diffusion-only" else fill, 0)

    def _block(self, size: Rows) -> list[AnyCall]:
        return graph.draft_block(
            self._drafter, self.model, tp=self.tp, size=size, window=self.window
        )

    def prefill(self, *, requests: int, seq: int, prefix: float) -> tuple[Phase, ...]:
        """Phases of a prefill of ``seq`` new tokens per request, their draft KV included."""
        size = Rows(requests, seq, prefix, prefill=True)
        phases = [Phase("verify", graph.target_forward(self.model, tp=self.tp, size=size), 0)]
        if self.method == "mtp":
            fill = graph.mtp_step(self.model, tp=self.tp, size=size)
        elif self.method == "eagle3":
            fill = graph.eagle3_step(self._eagle, tp=self.tp, size=size, fuse_features=True)
        elif self.method in BLOCK_METHODS:
            fill = graph.materialise(self._drafter, tp=self.tp, tokens=size.tokens)
        else:
            fill = []
        return (*phases, Phase("materialise", fill, 0))

    @property
    def _drafter(self) -> DrafterShape:
        assert self.drafter is not None
        return self.drafter

    @property
    def _eagle(self) -> Eagle3Shape:
        assert self.eagle is not None
        return self.eagle


def _chain(draft: list[AnyCall], extend: list[AnyCall], steps: int) -> tuple[Phase, Phase]:
    """A sequential draft: the extend after verification makes its first token."""
    first = Phase("materialise", extend, graphs=1, steps=1)
    return Phase("draft", draft, graphs=int(steps > 1), steps=steps - 1), first
