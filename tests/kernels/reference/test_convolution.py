"""The convolution along a block, by its definition."""

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from dflash_sim.kernels.reference.convolution import block_convolution, halves  # noqa: E402

torch.set_num_threads(1)
F64 = torch.float64


@given(requests=st.integers(1, 3), rows=st.integers(1, 6), taps=st.integers(1, 4))
def test_every_value_by_its_definition(requests: int, rows: int, taps: int) -> None:
    groups, wide = 3, 2
    draw = torch.Generator().manual_seed(rows * 10 + taps)
    x = torch.randn(requests * rows, groups * wide, generator=draw, dtype=F64)
    base = torch.randn(taps, groups * wide, generator=draw, dtype=F64)
    dynamic = torch.randn(requests * rows, taps, groups, generator=draw, dtype=F64)
    got = block_convolution(x, base, dynamic, rows=rows)
    for row in range(requests * rows):
        for channel in range(groups * wide):
            want = 0.0
            for back in range(min(taps, row % rows + 1)):  # none before the block
                weight = base[back, channel] + dynamic[row, back, channel // wide]
                want += float(weight * x[row - back, channel])
            assert float(got[row, channel]) == pytest.approx(want)


def test_an_identity_kernel_changes_nothing() -> None:
    x = torch.randn(8, 6)
    base = torch.tensor([[1.0] * 6, [0.0] * 6])
    assert torch.equal(block_convolution(x, base, torch.zeros(8, 2, 3), rows=4), x)


def test_a_product_holds_the_side_before_first() -> None:
    """The order of a checkpoint's rows: side, then row back, then group."""
    before, after = halves(torch.arange(12.0)[None], 2)
    assert before.tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert after.tolist() == [[[6, 7, 8], [9, 10, 11]]]
