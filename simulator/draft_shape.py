"""Trees of drafts: chains that branch (``--speculative-eagle-topk`` above 1), and what bounds them.

Each of ``steps`` steps goes on from the ``topk`` most likely paths, with as many tokens from each.
Of all those drafts the most likely are verified with the last token in one pass, and what is kept
is one path: ``steps`` drafts and a token at most. And whether a drafter is its target's at all.
"""

from collections.abc import Iterator
from typing import Protocol

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.networks.drafter_shapes import DrafterShape, Eagle3Shape
from dflash_sim.profiles.networks.hf_config import ModelShape
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.simulator.cost.cycle import Drafter

# Configs of one vocabulary differ by the rows that pad it; two tokenizers differ by more.
_PADDING = 0.01  # of the target's

FIXED = "fixed"


def most_tokens(topk: int, steps: int) -> int:
    """Return the most tokens that a tree can verify: its drafts and the last token."""
    return 1 + topk + (steps - 1) * topk**2


class Shaped(Protocol):
    """What says which drafts are asked for; a scenario does."""

    topk: int
    steps: int | None
    block: int | None
    policy: str
    speculative_use_rejection_sampling: bool


def draft_shape_problems(method: str, s: Shaped) -> Iterator[str]:
    """Say what is wrong with the shape of the drafts of a sequential method.

    Parameters
    ----------
    method
        Its name, for messages.
    """
    topk, steps, block = s.topk, s.steps, s.block
    if topk == 1:
        if block and steps:
            yield f"method {method}: give steps k or block k+1, not both"
        return
    if s.speculative_use_rejection_sampling:
        yield (
            f"speculative_use_rejection_sampling draws chains alone, and topk {topk} makes a tree; "
            "drop one of them"
        )
    if not steps or not block:
        yield (
            f"topk {topk} makes a tree: give --steps, and with --block the tokens that are "
            "verified, such as --steps 5 --block 16"
        )
        return
    most = most_tokens(topk, steps)
    if block > most:
        yield (
            f"block {block} is more than a tree of {steps} steps and topk {topk} has; it verifies "
            f"{most} tokens at most. Give --block {most} or less"
        )
    if s.policy != FIXED:
        yield (
            f"policy {s.policy} chooses the length of a chain, and topk {topk} makes a tree; "
            "drop one of the two"
        )


def check_drafts(
    s: Shaped, engine: EngineSheet, backend: str, drafter: Drafter, model: ModelShape
) -> None:
    """Refuse trees that attention or the vocabulary has no room for, and drafts nobody can draw.

    Raises
    ------
    UsageError
        It names the backends that mask trees, how wide one can be, or what can draw.
    """
    if s.speculative_use_rejection_sampling:
        _check_drawn(engine, drafter, model)
    known = drafter.draft_vocab if isinstance(drafter, Eagle3Shape) else model.vocab
    if s.topk > known:
        msg = (
            f"topk {s.topk}: a step drafts from {known:,} tokens; give --topk {known} at most. "
            "Servers run with 1 to 10."
        )
        raise UsageError(msg)
    able = engine.attention.trees
    if s.topk == 1 or backend in able:
        return
    msg = (
        f"topk {s.topk}: attention backend {backend} has no kernels for trees of drafts; these "
        f"have: {', '.join(able)}. Give one with --attention-backend, or --topk 1."
    )
    raise UsageError(msg)


def _check_drawn(engine: EngineSheet, drafter: Drafter, model: ModelShape) -> None:
    flag = "--speculative-use-rejection-sampling"
    if engine.defaults.chains.drawn == "never":
        msg = f"{engine.title} has no {flag}; drop it, or give --engine sglang-0.5.14 or later."
        raise UsageError(msg)
    if isinstance(drafter, Eagle3Shape) and drafter.draft_vocab != model.vocab:
        msg = (
            f"{drafter.name} drafts {drafter.draft_vocab:,} of {model.vocab:,} tokens: SGLang does "
            f"not start with {flag} and a drafter of fewer tokens than its target; drop it."
        )
        raise UsageError(msg)


def check_pair(drafter: DrafterShape | Eagle3Shape, model: ModelShape) -> None:
    """Refuse a drafter that reads features or drafts tokens which the target has not.

    Raises
    ------
    UsageError
        It reads features of another width or of layers that are not there, or its vocabulary is
        another.
    """
    if isinstance(drafter, DrafterShape):
        kind, width, reads = "drafter", drafter.hidden, max(drafter.target_layer_ids, default=0)
    else:
        kind, width, reads = "head", drafter.reads or drafter.hidden, 0
    if width != model.hidden or reads >= len(model.layers):
        up_to = f" up to layer {reads}" if reads else ""
        problem = (
            f"reads {width}-wide features{up_to}; {model.name} is {model.hidden} wide and has "
            f"{len(model.layers)} layers"
        )
    elif drafter.vocab and abs(drafter.vocab - model.vocab) > _PADDING * model.vocab:
        problem = (
            f"drafts from {drafter.vocab:,} tokens; {model.name} has {model.vocab:,}, those of "
            "another tokenizer"
        )
    else:
        return
    msg = (
        f"{kind} {drafter.name} {problem}. Give a drafter made for it with --draft-model, or "
        "--method none."
    )
    raise UsageError(msg)
