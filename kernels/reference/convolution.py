"""DFlash2's convolution along a block: every row is mixed with the rows before it.

Shapes: ``R`` requests of ``B`` block rows, ``T = R B``, ``H`` hidden, ``K`` rows that a row is
mixed from, ``G`` groups of channels.

Source: the tensors ``attention_conv`` and ``mlp_conv`` of z-lab/Qwen3.8-27B-DFlash2; SGLang
``dflash.py`` and vLLM ``qwen3_dflash2.py``.
"""

from torch import Tensor


def block_convolution(x: Tensor, base: Tensor, dynamic: Tensor, *, rows: int) -> Tensor:
    """Mix each row of ``x`` [T, H] with the ``K - 1`` rows before it in its block.

    Row ``i`` becomes the sum over ``j`` of ``(base[j] + dynamic[i, j]) * x[i - j]``; rows before
    the block count as zeros, so that nothing crosses from one request to another.

    Parameters
    ----------
    base : [K, H], one weight per channel, the row's own first
    dynamic : [T, K, G], one more per group of ``H / G`` neighbouring channels, from the row itself
    rows : rows of a block, ``B``
    """
    taps, hidden = base.shape
    groups = dynamic.shape[-1]
    blocks = x.view(-1, rows, groups, hidden // groups)
    weights = base.view(taps, groups, -1) + dynamic.view(-1, rows, taps, groups, 1)
    mixed = weights[:, :, 0] * blocks
    for back in range(1, min(taps, rows)):
        mixed[:, back:] += weights[:, back:, back] * blocks[:, : rows - back]
    return mixed.reshape(x.shape)


def halves(product: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """The weights of both sides of a sublayer, each [T, K, G], from one product [T, 2 K G]."""
    before, after = product.view(product.shape[0], 2, taps, -1).unbind(1)
    return before, after
