"""Methods that draft a block at a time: what DFlash and those that descend from it run in a cycle.

:func:`of_blocks` makes the rows of :mod:`~dflash_sim.simulator.cost.methods`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dflash_sim.profiles.load import default_drafter, load_drafter
from dflash_sim.profiles.networks.drafter_shapes import BLOCK_KINDS
from dflash_sim.profiles.networks.hf_config import DrafterShape, ModelShape
from dflash_sim.profiles.precision import Precision
from dflash_sim.simulator.cost import draft_parts, passes
from dflash_sim.simulator.cost.cycle import Cycle, DraftCache, Drafter, Method, Phase
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.ops import AnyCall

OF_DRAFTER = frozenset({"draft_model", "speculative_draft_model_quantization"})
EVERY = frozenset({"block", "acceptance", "policy"}) | OF_DRAFTER


def _block_drafter(*kinds: str) -> Callable[[str, str | None], Drafter]:
    """Return what loads the drafter that is named, or that of the target, of the first kind."""

    def load(model: str, draft_model: str | None) -> Drafter:
        return load_drafter(draft_model) if draft_model else default_drafter(model, kinds=kinds)

    return load


def _block_pass(cycle: Cycle, size: Rows) -> list[AnyCall]:
    assert isinstance(cycle.drafter, DrafterShape)
    return passes.draft_block(
        cycle.drafter,
        cycle.model,
        tp=cycle.tp,
        size=size,
        window=cycle.window,
        precision=cycle.precision,
    )


def _head(cycle: Cycle, rows: int) -> list[AnyCall]:
    return passes.draft_head(cycle.model, tp=cycle.tp, rows=rows, precision=cycle.precision)


def _inject(cycle: Cycle, size: Rows) -> list[AnyCall]:
    assert isinstance(cycle.drafter, DrafterShape)
    return passes.materialise(
        cycle.drafter, tp=cycle.tp, tokens=size.tokens, precision=cycle.precision
    )


def condition(cycle: Cycle, size: Rows) -> list[AnyCall]:
    """Without KV injection the features pass fc and norm, and go no further."""
    return _inject(cycle, size)[:2]


def _keep_injected(cycle: Cycle, size: Rows) -> Phase:
    return Phase("materialise", _inject(cycle, size), 0)


def _whole_block(cycle: Cycle, wide: Rows) -> Phase:
    drafted = wide.requests * (cycle.block - 1)
    return Phase("draft", _block_pass(cycle, wide) + _head(cycle, drafted), 1)


def dflash(cycle: Cycle, one: Rows, wide: Rows) -> tuple[Phase, Phase]:
    """A block in one pass, whose rows draft each by itself; then what was kept is injected."""
    return _whole_block(cycle, wide), Phase("materialise", _inject(cycle, wide), 0)


def dflash2(cycle: Cycle, one: Rows, wide: Rows) -> tuple[Phase, Phase]:
    """A block with convolutions, and a walk through the best drafts of its rows."""
    drafter, drafted = cycle.drafter, wide.requests * (cycle.block - 1)
    assert isinstance(drafter, DrafterShape)
    if drafter.selector is None:
        return dflash(cycle, one, wide)
    walk = draft_parts.select_path(
        drafter.selector, cycle.model, tp=cycle.tp, rows=drafted, precision=cycle.precision
    )
    draft = Phase("draft", _block_pass(cycle, wide) + walk, 1)
    return draft, Phase("materialise", _inject(cycle, wide), 0)


def dspark(cycle: Cycle, one: Rows, wide: Rows) -> tuple[Phase, Phase]:
    """A block and a Markov head along it, in one graph.

    The anchor's row drafts too, so that a block has one row less than is verified.
    """
    assert isinstance(cycle.drafter, DrafterShape)
    assert cycle.drafter.markov is not None
    own = replace(wide, rows=cycle.block - 1)
    steps = draft_parts.markov_steps(
        cycle.drafter.markov, drafts=own.rows, **_of_logits(cycle, wide)
    )
    draft = Phase("draft", _block_pass(cycle, own) + _logits(cycle, own.tokens) + steps, 1)
    return draft, Phase("materialise", _inject(cycle, wide), 0)


def domino(cycle: Cycle, one: Rows, wide: Rows) -> tuple[Phase, Phase]:
    """A block and a recurrent head along it, in one graph."""
    assert isinstance(cycle.drafter, DrafterShape)
    assert cycle.drafter.recurrent is not None
    drafts = cycle.block - 1
    steps = draft_parts.recurrent_steps(
        cycle.drafter.recurrent, drafts=drafts, **_of_logits(cycle, wide)
    )
    logits = _logits(cycle, wide.requests * drafts)
    draft = Phase("draft", _block_pass(cycle, wide) + logits + steps, 1)
    return draft, Phase("materialise", _inject(cycle, wide), 0)


def _logits(cycle: Cycle, rows: int) -> list[AnyCall]:
    return draft_parts.base_logits(cycle.model, tp=cycle.tp, rows=rows, precision=cycle.precision)


def _of_logits(cycle: Cycle, wide: Rows) -> dict[str, Any]:
    """What the heads that draft along a block are told of the batch."""
    return {
        "model": cycle.model,
        "tp": cycle.tp,
        "requests": wide.requests,
        "precision": cycle.precision,
    }


def diffusion_only(cycle: Cycle, one: Rows, wide: Rows) -> tuple[Phase, Phase]:
    """A block that reads features as its input alone: nothing is injected."""
    return _whole_block(cycle, wide), Phase("materialise", condition(cycle, wide), 0)


def injection_only(cycle: Cycle, one: Rows, wide: Rows) -> tuple[Phase, Phase]:
    """The rows of a block one after the other, each in a pass of its own."""
    steps = cycle.block - 1
    step = _block_pass(cycle, one) + _head(cycle, one.tokens)
    draft = Phase("draft", step * steps, 1, steps)
    return draft, Phase("materialise", _inject(cycle, wide), 0)


def _block_cache(model: ModelShape, drafter: Drafter, tp: int, precision: Precision) -> DraftCache:
    assert isinstance(drafter, DrafterShape)
    return DraftCache(drafter.weight_bytes(tp, precision.of("drafter")), drafter.layers)


def of_blocks(
    name: str,
    title: str,
    draft: Callable[[Cycle, Rows, Rows], tuple[Phase, Phase]],
    kinds: tuple[str, ...] = ("dflash",),
    **own: Any,
) -> Method:
    """Return the row of a method whose drafter fills a block, and is kept up by injection."""
    usual: dict[str, Any] = {
        "kinds": kinds,
        "load_drafter": _block_drafter(*(BLOCK_KINDS if own.get("follows_drafter") else kinds)),
        "caches": _block_cache,
        "keep_up": _keep_injected,
        "prefill": _inject,
    }
    return Method(
        name=name,
        title=title,
        drafts="block",
        network="dflash-drafter",
        takes=EVERY | {"window"},
        draft=draft,
        **usual | own,
    )
