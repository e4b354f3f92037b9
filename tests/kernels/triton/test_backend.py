"""The Triton table of ops can stand where the reference stands."""

import inspect
from dataclasses import fields

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("triton", reason="needs triton")

from dflash_sim.kernels.reference.backend import REFERENCE
from dflash_sim.kernels.triton.backend import TRITON

NAMES = [field.name for field in fields(REFERENCE)]
OURS = [name for name in NAMES if getattr(TRITON, name) is not getattr(REFERENCE, name)]


def test_what_is_fused() -> None:
    assert len(OURS) == 9


@pytest.mark.parametrize("name", OURS)
def test_a_kernel_is_called_as_its_reference_is(name: str) -> None:
    expected = inspect.signature(getattr(REFERENCE, name)).parameters
    got = inspect.signature(getattr(TRITON, name)).parameters
    extra = list(got.values())[len(expected) :]
    assert list(got)[: len(expected)] == list(expected)
    for parameter in expected.values():
        assert got[parameter.name].kind == parameter.kind
        assert got[parameter.name].default == parameter.default
    assert all(x.kind == x.KEYWORD_ONLY and x.default is not x.empty for x in extra)
