"""Weights whose scales are of blocks, which the ranks of a server must not cut."""

from collections.abc import Iterator

from dflash_sim.profiles.checkpoints import find_checkpoint
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.formats import format_of
from dflash_sim.profiles.networks.hf_config import DenseMlp, ModelShape, MoeMlp
from dflash_sim.simulator.memory import TP_SIZES

_TITLES = {"mlp": "MLP", "experts": "expert", "shared_expert": "shared expert"}


def cuts_blocks(model: ModelShape, tp: int) -> str | None:
    """Say which MLP has part of a block of scales on each of ``tp`` ranks; None if none has.

    SGLang checks it as weights are loaded (fp8.py and its fused experts): the width on a rank,
    which gate and up have as outputs and down has as inputs, must be a multiple of the block.
    """
    for layer, _ in model.layer_groups:
        formats = layer.in_formats(model.precision)
        for module, width in _widths(layer.mlp):
            block, on_rank = format_of(formats.form(module)).block, width // tp
            if tp > 1 and width % tp == 0 and on_rank % block:
                return (
                    f"leaves each rank {on_rank} of the width of {model.name}'s {_title(module)}, "
                    f"no multiple of the {block} that a block of its FP8 scales is wide"
                )
    return None


def _title(module: str) -> str:
    return _TITLES[module.partition(".")[0]]


def _widths(mlp: DenseMlp | MoeMlp | None) -> Iterator[tuple[str, int]]:
    if isinstance(mlp, DenseMlp):
        yield "mlp", mlp.intermediate
        yield "mlp.down_proj", mlp.intermediate
    elif isinstance(mlp, MoeMlp):
        yield "experts", mlp.intermediate * mlp.ep
        if mlp.shared_intermediate:
            yield "shared_expert", mlp.shared_intermediate
            yield "shared_expert.down_proj", mlp.shared_intermediate


def check_blocks(model: ModelShape, tp: int, *, ep: int) -> None:
    """Refuse ranks that cut blocks of scales.

    Raises
    ------
    UsageError
        Naming the largest ``--tp`` that does not, and the smallest ``--ep-size``.
    """
    why = cuts_blocks(model, tp)
    if why is None:
        return
    ranks = [f"--tp {n}" for n in TP_SIZES if n < tp and n % ep == 0 and not cuts_blocks(model, n)]
    dealt = [f"--ep-size {n}" for n in TP_SIZES if ep < n <= tp and _deals(model, tp, n)]
    named = find_checkpoint(model.name)
    doubt = named is not None and named.assumed is not None
    unless = ", unless its config.json, which can be given by its path, has no blocks"
    msg = (
        f"tp {tp} {why}, and SGLang refuses to load it{unless if doubt else ''}; "
        f"give {' or '.join([*ranks[-1:], *dealt[:1]]) or 'another model'}."
    )
    raise UsageError(msg)


def _deals(model: ModelShape, tp: int, ep: int) -> bool:
    try:
        return cuts_blocks(model.dealt(ep), tp) is None
    except UsageError:  # no experts, or a number that cannot be dealt
        return False
