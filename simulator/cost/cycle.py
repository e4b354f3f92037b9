"""One decode cycle as phases: which passes run, how often, under how many CUDA graphs.

A method of speculation says which passes those are. :mod:`~dflash_sim.simulator.cost.methods`
has one row for each.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from dflash_sim.profiles.networks.hf_config import (
    Cached,
    DrafterShape,
    Eagle3Shape,
    ModelShape,
)
from dflash_sim.profiles.precision import BF16, Precision
from dflash_sim.simulator.cost import passes
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.ops import AnyCall, with_quantisation
from dflash_sim.simulator.cost.sampling import (
    GREEDY,
    Proposals,
    Sampling,
    draws,
    sampled_rows,
    sampled_tokens,
)

PHASES = ("draft", "verify", "commit", "materialise", "other")
Drafter: TypeAlias = DrafterShape | Eagle3Shape | None  # None: nothing drafts, or the target itself
DraftNetwork = Literal["none", "mtp-layer", "eagle3-head", "dflash-drafter"]


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


@dataclass(frozen=True, slots=True)
class DraftCache:
    """Weights of the drafting network on one rank [byte], and its layers that cache KV.

    ``module`` is the part of the network that they are, which says their formats.
    """

    weight_bytes: int = 0
    layers: tuple[Cached, ...] = ()
    module: str = "drafter"

    def kv_bytes(self, tp: int, precision: Precision = BF16) -> float:
        """KV cache of one token on one of ``tp`` ranks [byte]."""
        own = precision.of(self.module)
        return sum(a.kv_bytes(tp, own) for a in self.layers)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to speculate: everything that the rest of the program asks about it.

    Parameters
    ----------
    name, title, aliases
        What a scenario calls it; what a page calls it, with ``{block}`` and ``{steps}`` filled
        in; what others call it.
    algorithm, algorithm_aliases
        SGLang's ``--speculative-algorithm``, and other spellings of it; None if it has none.
    drafts
        ``none``; ``chain``: one token after the other, so that its width is named by its steps;
        ``block``: all tokens of a block at once, so that its width is named by the block.
    network
        The network that drafts: none, the target's own ``mtp-layer``, or one of its own beside the
        target.
    takes
        Fields of a scenario that only some methods have: ``block``, ``steps``, ``draft_model``,
        ``window``, ``acceptance``, ``policy``.
    law
        The prior on how acceptance decays along the block: a key of ``beta`` in
        ``acceptance/priors.toml``.
    kinds
        Kinds of drafters that it runs (:attr:`DrafterShape.kind`); none where it has no drafter of
        blocks.
    follows_drafter
        True if a drafter of another kind makes another method with the same ``algorithm`` of it.
    counts_drafts
        True if people name its width by the drafts, one less than are verified, as DSpark's block
        does.
    proposals
        What its drafts are at a temperature: the most likely ones as ever (``greedy``), drawn from
        the candidates of a selector (``selected``), or from all of the vocabulary (``sampled``).
    samples
        True if a server can verify its drafts at a temperature.
    own_engine
        True if our own engine (``dflash-sim run``) has it too.
    load_drafter
        ``(model, draft_model) -> Drafter`` reads the drafting network, or raises what is missing.
    sized
        ``model -> Drafter``: what drafts for a target that nobody published a drafter of; None
        where it is not known how large one would be.
    draft
        ``(cycle, one, wide) -> (before, after)`` lists the phases around the verification, for
        sizes of one row and of the whole width per request.
    keep_up
        ``(cycle, size) -> Phase`` is what a cycle without drafts spends so that the next can draft.
    prefill
        ``(cycle, size) -> calls`` fills the drafter's cache during a prefill.
    caches
        ``(model, drafter, tp, precision) -> DraftCache``: what drafting keeps on one rank.
    verify
        ``(cycle, wide) -> calls`` is the verify pass.
    """

    name: str
    title: str
    drafts: Literal["none", "chain", "block"]
    takes: frozenset[str]
    draft: Callable[["Cycle", Rows, Rows], tuple[Phase, Phase]]
    keep_up: Callable[["Cycle", Rows], Phase]
    network: DraftNetwork = "none"
    prefill: Callable[["Cycle", Rows], list[AnyCall]] = lambda cycle, size: []
    load_drafter: Callable[[str, str | None], Drafter] = lambda model, draft_model: None
    sized: Callable[[ModelShape], Drafter] = lambda model: None
    caches: Callable[[ModelShape, Drafter, int, Precision], DraftCache] = lambda *_: DraftCache()
    verify: Callable[["Cycle", Rows], list[AnyCall]] = lambda cycle, size: cycle.target(size)
    algorithm: str | None = None
    algorithm_aliases: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    law: str = "dflash"
    kinds: tuple[str, ...] = ()
    follows_drafter: bool = False
    counts_drafts: bool = False
    own_engine: bool = False
    proposals: Proposals = "greedy"
    samples: bool = True

    @property
    def speculative(self) -> bool:
        """True if anything is drafted."""
        return self.drafts != "none"

    @property
    def sequential(self) -> bool:
        """True if drafts are made one after the other, with a draft-extend after verification."""
        return self.drafts == "chain"

    def steps(self, rows: int) -> int | None:
        """Draft steps that verify ``rows`` tokens per request; None where they do not name it."""
        return rows - 1 if self.drafts == "chain" else None

    def block(self, rows: int) -> int | None:
        """The block that verifies ``rows`` tokens per request; None where it does not name it."""
        return rows if self.drafts == "block" else None


@dataclass(frozen=True)
class Cycle:
    """One method on one target: builds the phases of a decode cycle and of a prefill.

    Parameters
    ----------
    block
        Verify rows per request: 1 for plain decoding, k+1 for chains, B for blocks.
    window
        Committed tokens that draft attention sees (``--speculative-draft-window-size``).
    sampling
        How tokens are drawn: greedy, or by what that takes outside the graphs.
    steps, topk
        Of a tree, its steps and the paths that each goes on from; of a chain, 0 and 1.
    chain_kernels
        Small kernels per step of a sequential draft: SGLang's ``select_top_k_tokens``.
    picked, extended
        How a release picks the drafts of a chain, and of which rows, as :class:`Chains` has it.
    drawn
        How it draws them, as :class:`Chains` has it; empty where it is not asked to.
    replays_states
        True if verification keeps the inputs of recurrent states, and not a state for each row.
    gathers_logits
        True if verification gathers all logits over the ranks before it takes their maximum.
    joined, kv_casts, pool_tokens
        What its release and its backend run in a layer, as :class:`Rows` has it.
    captured_pool
        Latents that are cast in each layer of a captured prefill.
    """

    method: Method
    model: ModelShape
    tp: int
    block: int
    drafter: Drafter = None
    window: int | None = None
    chain_kernels: int = 0
    picked: str = "argmax"
    extended: str = "picked"
    drawn: str = ""
    precision: Precision = BF16
    gathers_logits: bool = True
    joined: bool = True
    kv_casts: int = 0
    pool_tokens: int = 0
    captured_pool: int = 0
    replays_states: bool = False
    steps: int = 0
    topk: int = 1
    sampling: Sampling = GREEDY

    @property
    def depth(self) -> int:
        """Drafts along a path."""
        return self.steps or self.block - 1

    @property
    def draws(self) -> bool:
        """True if every draft of a chain is drawn, and not the most likely."""
        return draws(self.drawn, self.sampling)

    def target(self, size: Rows) -> list[AnyCall]:
        """The target's forward pass with its head."""
        return passes.target_forward(
            self.model,
            tp=self.tp,
            size=size,
            precision=self.precision,
            gathered=self.gathers_logits
            or size.rows == 1
            or size.prefill
            or not self.sampling.greedy,
            chosen=self.sampling.greedy,
        )

    def decode(self, *, requests: int, ctx: float) -> tuple[Phase, ...]:
        """Phases of one cycle of ``requests`` running requests with ``ctx`` cached tokens each."""
        one = replace(self._rows, requests=requests, ctx=ctx, pool_tokens=self.pool_tokens)
        wide = replace(one, rows=self.block, saves=not self.replays_states)
        verify = Phase("verify", self.method.verify(self, wide), 1)
        if not self.method.speculative:
            return self._launched(verify, *self._drawn(requests))
        committed = 0 if self.replays_states else requests
        moved = passes.gdn_commit(
            self.model, tp=self.tp, requests=committed, precision=self.precision
        )
        commit = Phase("commit", moved, 0)
        if self.block == 1:
            before, after = Phase("draft", [], 0), self.method.keep_up(self, wide)
        else:
            before, after = self.method.draft(self, one, wide)
        return self._launched(before, verify, *self._drawn(requests), commit, after)

    def prefill(
        self, *, requests: int, seq: int, prefix: float, captured: bool = False
    ) -> tuple[Phase, ...]:
        """Phases of a prefill of ``seq`` new tokens per request, their draft KV included."""
        pool = self.captured_pool if captured else 0
        size = replace(self._rows, rows=seq, ctx=prefix, prefill=True, pool_tokens=pool)
        size = replace(size, requests=requests)
        filled = self.method.prefill(self, size)
        first = sampled_tokens(self.sampling, vocab=self.model.vocab, requests=requests)
        return self._launched(
            Phase("verify", self.target(size) + first, 0), Phase("materialise", filled, 0)
        )

    @property
    def _rows(self) -> Rows:
        joined = self.joined or not self.model.gdn_layers
        return Rows(1, 1, joined=joined, kv_casts=self.kv_casts)

    def _drawn(self, requests: int) -> tuple[Phase, ...]:
        """What sampling adds to a cycle; nothing to a greedy one."""
        if self.sampling.greedy:
            return ()
        return (Phase("other", self.sampled(requests), 0),)

    def sampled(self, requests: int) -> list[AnyCall]:
        """The kernels that draw a cycle's tokens, all of them outside the graphs."""
        vocab = self.model.vocab
        if self.block == 1:
            return sampled_tokens(self.sampling, vocab=vocab, requests=requests)
        return sampled_rows(
            self.sampling,
            vocab=vocab,
            requests=requests,
            rows=self.block,
            proposals="drawn" if self.drawn else self.method.proposals,
            chain=self.method.sequential,
            tp=self.tp,
        )

    def _launched(self, *phases: Phase) -> tuple[Phase, ...]:
        """The phases with the kernels that quantise activations."""
        return tuple(replace(p, calls=with_quantisation(p.calls)) for p in phases)
