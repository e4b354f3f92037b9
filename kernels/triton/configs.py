"""Launch configurations, chosen by shape and architecture from a table of our own.

No autotuner: a captured CUDA graph needs a fixed choice, and a profile must be repeatable. What the
numbers rest on: tiles that compile without spills (``compile_check``), enough loads in flight for
HBM, and padding of small matrices to what a tensor core instruction takes.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import torch

HOPPER, BLACKWELL = 90, 100


@dataclass(frozen=True)
class Machine:
    """A machine that kernels run on.

    Attributes
    ----------
    arch : compute capability times ten: 90 is Hopper, 100 is Blackwell
    sms : streaming multiprocessors
    """

    arch: int
    sms: int


OFFLINE = {HOPPER: Machine(arch=HOPPER, sms=132), BLACKWELL: Machine(arch=BLACKWELL, sms=148)}
INTERPRETER = Machine(arch=HOPPER, sms=4)


@cache
def machine_of(device: torch.device) -> Machine:
    """The GPU behind ``device``; on a CPU, a small made-up one for the interpreter."""
    if device.type != "cuda":
        return INTERPRETER
    props = torch.cuda.get_device_properties(device)
    return Machine(arch=10 * props.major + props.minor, sms=props.multi_processor_count)


def power_of_two(n: int, *, at_least: int = 1) -> int:
    """The smallest power of two that is not below ``n`` or ``at_least``."""
    return max(at_least, 1 << max(n - 1, 0).bit_length())


def ceil_div(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


# What an instruction can name. Left alone, ptxas may stop earlier and spill, for occupancy.
MOST_REGISTERS = 255


@dataclass(frozen=True)
class AttentionTile:
    """Packed query rows times keys per step, and how many such programs one SM holds."""

    rows: int
    keys: int
    warps: int
    stages: int
    per_sm: int


def attention_tile(*, rows: int, head_dim: int, item_bytes: int) -> AttentionTile:
    """The tile for ``rows`` packed queries (block rows x query heads per KV head).

    Up to 16 rows take the small instruction (``mma.sync``); more are padded to the 64 or 128 that
    ``wgmma`` and ``tcgen05`` work on, which is free while keys and values come from memory.
    float32 (``item_bytes`` 4) has no such instruction, and small tiles. Three stages or more, so
    that loads overlap products inside a program too.
    """
    deep = head_dim > 128
    if item_bytes > 2:
        return AttentionTile(16, 16, 8, 1, 1)
    if rows <= 16:
        return AttentionTile(16, 32, 4, 4, 2) if deep else AttentionTile(16, 64, 4, 3, 2)
    if rows <= 64:
        return AttentionTile(64, 64, 8, 3, 1) if deep else AttentionTile(64, 64, 4, 3, 2)
    return AttentionTile(128, 32, 8, 4, 1) if deep else AttentionTile(128, 64, 8, 3, 1)


# Keys per split below which writing and reading a partial sum costs more than it saves.
LEAST_SPLIT_KEYS = 128
# Share of the best achievable filling that ends the search for fewer parts.
FILLED_ENOUGH = 0.85


@lru_cache(maxsize=1024)  # every layer of a pass asks the same
def attention_splits(machine: Machine, tile: AttentionTile, *, programs: int, keys: int) -> int:
    """Parts the context is cut into, so that few requests with a long one still fill the GPU.

    The fewest that leave no more of the last wave of programs idle than they must.

    Parameters
    ----------
    programs : programs without splitting
    keys : the longest context that the page table can hold [tokens]

    Source: the heuristic of FlashAttention's ``num_splits_heuristic``.
    """
    room = machine.sms * tile.per_sm

    def filled(splits: int) -> float:
        return programs * splits / (room * ceil_div(programs * splits, room))

    choices = range(1, max(1, min(room, keys // LEAST_SPLIT_KEYS)) + 1)
    enough = FILLED_ENOUGH * max(map(filled, choices))
    return next(splits for splits in choices if filled(splits) >= enough)


# Partial sums that one program of the joining kernel holds: 64 registers in 128 threads.
JOINED = 8192


def join_columns(splits: int, head_dim: int) -> int:
    """Output columns per program of the kernel that joins ``splits`` parts."""
    return min(head_dim, max(16, JOINED // power_of_two(splits)))


@dataclass(frozen=True)
class TurnTile:
    """Heads of tokens that one program norms, rotates and stores."""

    rows: int
    warps: int


def turn_tile(*, head_dim: int) -> TurnTile:
    """About 2,048 values per program: four 16-byte loads in flight in each of 128 threads."""
    return TurnTile(max(4, 2048 // power_of_two(head_dim)), 4)


@dataclass(frozen=True)
class GdnTile:
    """Value columns of a state per program."""

    columns: int
    warps: int
    stages: int
    registers: int


def gdn_tile(machine: Machine, *, heads: int, value_dim: int) -> GdnTile:
    """The tile for ``heads`` states (requests x value heads).

    Wide tiles write whole cache lines. Narrow ones are more programs, and keep the sum over key
    dimensions inside one warp: right for few requests.
    """
    if value_dim % 32 == 0 and heads * (value_dim // 32) >= 2 * machine.sms:
        return GdnTile(32, 4, 3, 128)
    return GdnTile(min(8, value_dim), 1, 3, 128)


# More rows than this of one request are a prefill: matrix products beat walking them.
RECURRENT_ROWS = 32

# Rows of a chunk of such a prefill, and of those that are solved one after the other.
CHUNK_ROWS, SOLVED_ROWS = 64, 16
# Value columns of the state in a program that walks chunks, and its warps: wider ones spill.
WALK_COLUMNS, CHUNK_WARPS = 16, 8

# Values that one program of a plain copy moves: eight 16-byte loads in each of 128 threads.
COPY_BLOCK = 4096


@dataclass(frozen=True)
class ExpertTile:
    """Rows of one expert, its output features and the inner dimension, per program and step."""

    rows: int
    features: int
    inner: int
    warps: int
    stages: int


def expert_tile(
    *, pairs: int, experts: int, inner: int, gated: bool, item_bytes: int
) -> ExpertTile:
    """The tile for ``pairs`` (token, expert) rows spread over ``experts``.

    Weights are the left factor: 64 or 128 features fill a tensor core instruction while the few
    rows of an expert pad to 16 only. Gate and up are two tiles of 64.
    """
    each = pairs / max(1, min(experts, pairs))
    rows = 16 if each <= 8 else 32 if each <= 24 else 64
    if item_bytes > 2:
        return ExpertTile(rows, 64, 32, 4, 2)
    depth = 128 if inner % 128 == 0 and inner > 128 else 64
    # Room for stages that a short inner dimension never fills would be taken from other programs.
    stages = min(3, ceil_div(inner, depth) + 1)
    return ExpertTile(rows, 64 if gated else 128, depth, 4, stages)


# The counting sort: pairs that a program places, pairs it compares them with at a time, pairs that
# the table of tiles reads at a time. Every pair meets every other, so for many torch sorts instead.
PLACED_PAIRS, COMPARED_PAIRS, COUNTED_PAIRS = 32, 256, 1024
MOST_COUNTED_PAIRS = 8192

# Features per program of the weighted sum.
SUM_BLOCK = 1024


# Requests per program of the accept kernel: one warp on up to 16 rows of each.
ACCEPT_REQUESTS = 4


@dataclass(frozen=True)
class ArgmaxTile:
    """Logits per load and loads per program."""

    block: int
    steps: int


def argmax_tile(machine: Machine, *, rows: int, width: int) -> ArgmaxTile:
    """Four 16-byte loads in each of 128 threads, and twice that where rows are many."""
    block = min(4096, power_of_two(width))
    many = rows * ceil_div(width, 2 * block) >= 4 * machine.sms
    return ArgmaxTile(block, 2 if many else 1)
