"""The recurrent cell along a block that Domino corrects its drafts with.

Shapes: ``R`` requests, ``S`` length of the state.

Source: Cho et al., arXiv:1406.1078, as ``torch.nn.GRU`` has it; SGLang ``domino_utils.py``.
"""

import torch
from torch import Tensor

GATES = 3  # reset, update, new: in this order along the rows of both products


def gru_cell(read: Tensor, kept: Tensor, state: Tensor) -> Tensor:
    """The state [R, S] after one more token.

    Parameters
    ----------
    read : [R, 3 S], the token's embedding through the input's weights
    kept : [R, 3 S], ``state`` through the state's weights
    state : [R, S]
    """
    reset, update, new = read.chunk(GATES, -1)
    reset_kept, update_kept, new_kept = kept.chunk(GATES, -1)
    fresh = torch.tanh(new + torch.sigmoid(reset + reset_kept) * new_kept)
    share = torch.sigmoid(update + update_kept)
    return (1 - share) * fresh + share * state
