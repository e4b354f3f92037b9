"""Greedy accept, and the commit around it, in one Triton kernel; the argmax that feeds both.

Between two passes an engine needs what was accepted, the KV slots of the rows that stay, the new
context lengths, and the next block's ids, positions and slots: a dozen tiny tensor operations, here
one launch without a host round trip. Everything is integer and exact.
"""

# ruff: noqa: N803
from typing import NamedTuple

import torch
from torch import Tensor

import triton
import triton.language as tl
from dflash_sim.kernels.reference.accept import NO_TOKEN, Accepted
from dflash_sim.kernels.triton.configs import (
    ACCEPT_REQUESTS,
    argmax_tile,
    ceil_div,
    power_of_two,
)
from dflash_sim.kernels.triton.launch import launch, target

# Above every token id; a module constant must be a constexpr for a kernel to read it.
NOWHERE = tl.constexpr(2**31 - 1)


class Commit(NamedTuple):
    """The record that the passes after a verify work on.

    Attributes
    ----------
    context_lens : [R] int64, committed tokens now [tokens]
    kept_slots : [R, B] int64, KV slots of the block's rows; -1 where a row was rejected
    ids, positions, slots : [R, B] int64, the next block: the bonus, then masks
    """

    context_lens: Tensor
    kept_slots: Tensor
    ids: Tensor
    positions: Tensor
    slots: Tensor


@triton.jit
def _accept(
    draft: tl.tensor,
    answer: tl.tensor,
    accept_len: tl.tensor,
    commit_len: tl.tensor,
    bonus: tl.tensor,
    tokens: tl.tensor,
    context_lens: tl.tensor,
    page_table: tl.tensor,
    new_lens: tl.tensor,
    kept_slots: tl.tensor,
    ids: tl.tensor,
    positions: tl.tensor,
    slots: tl.tensor,
    requests: tl.tensor,
    table_row: tl.tensor,
    mask_id: tl.tensor,
    ROWS: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    REQUESTS: tl.constexpr,
    ABSENT: tl.constexpr,
) -> None:
    request = tl.program_id(0) * REQUESTS + tl.arange(0, REQUESTS)
    step = tl.arange(0, ROW_BLOCK)[None, :]
    live = request < requests
    inside = live[:, None] & (step < ROWS)
    place = request[:, None] * ROWS + step
    proposed = inside & (step < ROWS - 1)
    ask = tl.load(draft + place + 1, mask=proposed, other=0)
    said = tl.load(answer + place, mask=inside, other=0)
    # The first row whose answer is not the next proposal; the last row has none.
    kept = tl.min(tl.where(proposed & (ask == said), ROW_BLOCK, step), 1)
    last = step == kept[:, None]
    extra = tl.sum(tl.where(last, said, 0), 1)
    tl.store(accept_len + request, kept, mask=live)
    tl.store(commit_len + request, kept + 1, mask=live)
    tl.store(bonus + request, extra, mask=live)
    chosen = tl.where(step < kept[:, None], ask, tl.where(last, said, ABSENT))
    tl.store(tokens + place, chosen, mask=inside)
    if context_lens is not None:
        before = tl.load(context_lens + request, mask=live, other=0).to(tl.int64)
        after = before + kept + 1
        tl.store(new_lens + request, after, mask=live)
        pages = page_table + request.to(tl.int64)[:, None] * table_row
        was = before[:, None] + step
        page = tl.load(pages + was // PAGE, mask=inside, other=0).to(tl.int64)
        stays = step <= kept[:, None]
        tl.store(kept_slots + place, tl.where(stays, page * PAGE + was % PAGE, -1), mask=inside)
        at = after[:, None] + step
        page = tl.load(pages + at // PAGE, mask=inside, other=0).to(tl.int64)
        tl.store(slots + place, page * PAGE + at % PAGE, mask=inside)
        tl.store(positions + place, at, mask=inside)
        tl.store(ids + place, tl.where(step == 0, extra[:, None], mask_id), mask=inside)


def _start(
    draft: Tensor,
    answer: Tensor,
    context_lens: Tensor | None,
    page_table: Tensor | None,
    *,
    page_size: int,
    mask_id: int,
) -> tuple[Accepted, Commit | None]:
    draft, answer = draft.contiguous(), answer.contiguous()
    requests, rows = draft.shape
    commit = None
    if context_lens is not None:
        commit = Commit(
            context_lens=torch.empty_like(context_lens, dtype=torch.int64),
            kept_slots=torch.empty_like(draft),
            ids=torch.empty_like(draft),
            positions=torch.empty_like(draft),
            slots=torch.empty_like(draft),
        )
    accepted = Accepted(
        accept_len=draft.new_empty(requests, dtype=torch.int32),
        commit_len=draft.new_empty(requests, dtype=torch.int32),
        bonus=draft.new_empty(requests),
        tokens=torch.empty_like(draft),
    )
    launch(
        _accept,
        (ceil_div(requests, ACCEPT_REQUESTS),),
        warps=1,
        draft=draft,
        answer=answer,
        accept_len=accepted.accept_len,
        commit_len=accepted.commit_len,
        bonus=accepted.bonus,
        tokens=accepted.tokens,
        context_lens=context_lens,
        page_table=page_table,
        new_lens=commit and commit.context_lens,
        kept_slots=commit and commit.kept_slots,
        ids=commit and commit.ids,
        positions=commit and commit.positions,
        slots=commit and commit.slots,
        requests=requests,
        table_row=0 if page_table is None else page_table.stride(0),
        mask_id=mask_id,
        ROWS=rows,
        ROW_BLOCK=power_of_two(rows),
        PAGE=page_size,
        REQUESTS=ACCEPT_REQUESTS,
        ABSENT=NO_TOKEN,
    )
    return accepted, commit


def greedy_accept(draft: Tensor, target: Tensor) -> Accepted:
    """Do the same as :func:`dflash_sim.kernels.reference.accept.greedy_accept`."""
    return _start(draft, target, None, None, page_size=1, mask_id=0)[0]


def accept_and_commit(
    draft: Tensor,
    target: Tensor,
    context_lens: Tensor,
    page_table: Tensor,
    *,
    page_size: int,
    mask_id: int,
) -> tuple[Accepted, Commit]:
    """Accept, and everything that the KV injection and the next draft pass are called with.

    Parameters
    ----------
    draft, target : [R, B] int64, as in :func:`greedy_accept`
    context_lens : [R], tokens committed before this block [tokens]
    page_table : [R, max_pages] int32, with pages for this block and the next
    mask_id : the drafter's mask token
    """
    accepted, commit = _start(
        draft, target, context_lens, page_table, page_size=page_size, mask_id=mask_id
    )
    assert commit is not None
    return accepted, commit


@triton.jit
def _part_argmax(
    logits: tl.tensor,
    best: tl.tensor,
    where: tl.tensor,
    width: tl.tensor,
    row_stride: tl.tensor,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    row = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK * STEPS
    high = tl.full([BLOCK], float("-inf"), tl.float32)
    at = tl.full([BLOCK], NOWHERE, tl.int32)
    for i in tl.static_range(STEPS):
        index = first + i * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(logits + row * row_stride + index, mask=index < width, other=float("-inf"))
        value = value.to(tl.float32)
        # Equal values keep the lower index; an index past the end never wins.
        better = (value > high) | ((at == NOWHERE) & (index < width))
        high = tl.where(better, value, high)
        at = tl.where(better, index, at)
    top = tl.max(high, 0)
    tl.store(best + row * SPLITS + tl.program_id(0), top)
    lowest = tl.min(tl.where(high == top, at, NOWHERE), 0)
    tl.store(where + row * SPLITS + tl.program_id(0), lowest)


@triton.jit
def _join_argmax(
    best: tl.tensor,
    where: tl.tensor,
    maximum: tl.tensor,
    ids: tl.tensor,
    first_id: tl.tensor,
    SPLITS: tl.constexpr,
    SPLIT_BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    part = tl.arange(0, SPLIT_BLOCK)
    here = part < SPLITS
    high = tl.load(best + row * SPLITS + part, mask=here, other=float("-inf"))
    at = tl.load(where + row * SPLITS + part, mask=here, other=NOWHERE)
    top = tl.max(high, 0)
    tl.store(maximum + row, top.to(maximum.dtype.element_ty))
    lowest = tl.min(tl.where((high == top) & here, at, NOWHERE), 0)
    tl.store(ids + row, lowest.to(tl.int64) + first_id)


def local_argmax(logits: Tensor, first_id: int) -> tuple[Tensor, Tensor]:
    """Do the same as ``draft.local_argmax``, without its two passes over memory."""
    rows, width = logits.shape
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    tile = argmax_tile(target(logits), rows=rows, width=width)
    splits = ceil_div(width, tile.block * tile.steps)
    best = logits.new_empty((rows, splits), dtype=torch.float32)
    where = logits.new_empty((rows, splits), dtype=torch.int32)
    maximum, ids = logits.new_empty(rows), logits.new_empty(rows, dtype=torch.int64)
    launch(
        _part_argmax,
        (splits, rows),
        warps=4,
        logits=logits,
        best=best,
        where=where,
        width=width,
        row_stride=logits.stride(0),
        SPLITS=splits,
        BLOCK=tile.block,
        STEPS=tile.steps,
    )
    launch(
        _join_argmax,
        (rows,),
        warps=1,
        best=best,
        where=where,
        maximum=maximum,
        ids=ids,
        first_id=first_id,
        SPLITS=splits,
        SPLIT_BLOCK=power_of_two(splits),
    )
    return maximum, ids
