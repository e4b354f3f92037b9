"""Trees of drafts: chains that branch (``--speculative-eagle-topk`` above 1), and what bounds them.

Each of ``steps`` steps goes on from the ``topk`` most likely paths, with as many tokens from each.
Of all those drafts the most likely are verified with the last token in one pass, and what is kept
is one path: ``steps`` drafts and a token at most.
"""

from collections.abc import Iterator

FIXED = "fixed"


def most_tokens(topk: int, steps: int) -> int:
    """Return the most tokens that a tree can verify: its drafts and the last token."""
    return 1 + topk + (steps - 1) * topk**2


def draft_shape_problems(
    method: str, *, topk: int, steps: int | None, block: int | None, policy: str
) -> Iterator[str]:
    """Say what is wrong with the shape of the drafts of a sequential method.

    Parameters
    ----------
    method
        Its name, for messages.
    block
        Tokens that are verified; for a chain they follow from the steps.
    policy
        How the width is chosen.
    """
    if topk == 1:
        if block and steps:
            yield f"method {method}: give steps k or block k+1, not both"
        return
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
    if policy != FIXED:
        yield (
            f"policy {policy} chooses the length of a chain, and topk {topk} makes a tree; "
            "drop one of the two"
        )
