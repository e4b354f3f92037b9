"""Domino's recurrent cell is torch's."""

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch.nn.functional import linear  # noqa: E402

from dflash_sim.kernels.reference.recurrent import GATES, gru_cell  # noqa: E402


@given(requests=st.integers(1, 4), width=st.integers(1, 6), size=st.integers(1, 6))
def test_it_is_the_gated_unit_of_torch(requests: int, width: int, size: int) -> None:
    draw = torch.Generator().manual_seed(width * size)
    cell = torch.nn.GRUCell(width, size, bias=False, dtype=torch.float64)
    x, state = (
        torch.randn(requests, n, generator=draw, dtype=torch.float64) for n in (width, size)
    )
    with torch.no_grad():
        want = cell(x, state)
        found = gru_cell(linear(x, cell.weight_ih), linear(state, cell.weight_hh), state)
    assert torch.allclose(found, want)


def test_a_state_is_kept_where_nothing_updates_it() -> None:
    """An update gate that is wide open keeps what there was, whatever is read."""
    state = torch.tensor([[0.25, -0.5]])
    gates = torch.zeros(1, GATES, 2)
    gates[:, 1] = 50.0
    kept = gates.flatten(1)
    assert torch.equal(gru_cell(torch.randn(1, GATES * 2) * (kept == 0), kept, state), state)
