"""A subject from names: configs read, sizes chosen, what cannot be measured refused."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dflash_sim.calibrate.measure.machine import free_bytes, megabytes
from dflash_sim.calibrate.measure.subject import Subject, default_sizes
from dflash_sim.kernels.layers.spec import DrafterSpec, read_drafter, read_target
from dflash_sim.profiles.errors import InfeasibleError, MissingProfileError, UsageError
from dflash_sim.profiles.find import read_sheet
from dflash_sim.profiles.load import find_drafter, find_network
from dflash_sim.profiles.networks.hf_config import check_tp

MOST = 4096  # of a list of sizes
CPU_BYTES = 2.0e9  # of float32 weights: beyond it a pass on a CPU takes minutes


def load_subject(
    model: str,
    drafter: str | None,
    *,
    tp: int,
    device: str,
    quick: bool,
    blocks: str | None = None,
    requests: str | None = None,
    ctx: str | None = None,
) -> tuple[Subject, Mapping[str, Any]]:
    """The subject, and the names that its profile goes by.

    Raises
    ------
    UsageError, InfeasibleError
        Unknown names, an impossible ``tp``, a model too large for a CPU.
    """
    path, label = find_network("models", model)
    target = read_target(read_sheet(path), label)
    check_tp(target.shape, tp)
    made = _drafter(drafter, model)
    if made is not None:
        check_tp(made.shape, tp)
        _check_pair(made, target.shape.hidden, len(target.shape.layers), label)
    if device == "cpu":
        _check_small(target.shape.weight_bytes(tp) * 2, label)
    sizes = default_sizes(device, quick=quick)
    if blocks:
        sizes = replace(sizes, blocks=_numbers(blocks, "--block", least=2))
        if made is not None and max(sizes.blocks) > made.shape.block_size:
            msg = (
                f"--block {max(sizes.blocks)} is above the {made.shape.block_size} that "
                f"{made.shape.name} was trained for."
            )
            raise UsageError(msg)
    if requests:
        sizes = replace(sizes, requests=_numbers(requests, "--conc"))
    if ctx:
        sizes = replace(sizes, ctx=_numbers(ctx, "--ctx", most=2**20))
    name = {"model": label, "drafter": made.shape.name if made is not None else None}
    return Subject(target, made, tp, sizes), name


def _drafter(drafter: str | None, model: str) -> DrafterSpec | None:
    if drafter == "none":
        return None
    try:
        path, label = (
            find_network("drafters", drafter) if drafter else find_drafter("drafters", model)
        )
    except (MissingProfileError, UsageError):
        if drafter:
            raise
        return None  # plain decoding is measured all the same
    return read_drafter(read_sheet(path), label)


def _check_pair(made: DrafterSpec, hidden: int, depth: int, label: str) -> None:
    reads = max(made.shape.target_layer_ids, default=0)
    if made.shape.hidden != hidden or reads >= depth:
        msg = (
            f"drafter {made.shape.name} reads {made.shape.hidden}-wide features up to layer "
            f"{reads}; {label} is {hidden} wide and has {depth} layers. Name another --drafter."
        )
        raise UsageError(msg)


def _check_small(nbytes: float, label: str) -> None:
    allowed = min(CPU_BYTES, free_bytes("cpu") / 2)
    if nbytes > allowed:
        msg = (
            f"{label}: {megabytes(nbytes)} of float32 weights; on a CPU up to {megabytes(allowed)} "
            "are measured here. Name a small model, such as --model tiny, or use a GPU."
        )
        raise InfeasibleError(msg)


def _numbers(text: str, flag: str, *, least: int = 1, most: int = MOST) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    good = all(part.isdecimal() and least <= int(part) <= most for part in parts)
    if not good:
        msg = f"{flag} {text}: expected numbers from {least} to {most}, such as {flag} 8,16."
        raise UsageError(msg)
    return tuple(sorted({int(part) for part in parts}))
