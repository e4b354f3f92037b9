"""The words about a price name every factor in it: those of a table's row give the price again."""

import re
from dataclasses import replace
from math import prod

import pytest

from dflash_sim.simulator.cost.ops import Attention, Call, Collective, GdnRecurrent, Gemm, Moe, Op
from dflash_sim.simulator.cost.origin import origin
from dflash_sim.simulator.cost.price import CostModel
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

FACTOR = re.compile(r" x (\w+) ([\d.]+) ")
FACTORS = {  # that two digits hold
    "verify_attention_factor": 1.25,
    "table_factor": 1.5,
    "gdn_verify_factor": 0.75,
    "collective_factor": 2.0,
    "shared_expert_exposed": 0.25,
    "time_factor": 1.75,
}


@pytest.fixture(scope="module")
def calls() -> list[Call[Op]]:
    """The verify pass of the launch."""
    cycle = resolve(Scenario.parse()).step.cycle
    (verify,) = [p for p in cycle.decode(requests=32, ctx=0) if p.name == "verify"]
    at = [c.op.at(4000.0) if isinstance(c.op, Attention) else c.op for c in verify.calls]
    return [replace(c, op=op) for c, op in zip(verify.calls, at, strict=True)]


def model(**factors: float) -> CostModel:
    setup = resolve(Scenario.parse())
    cost = setup.step.cost
    return CostModel(
        cost.device, setup.engine.with_constants(**FACTORS | factors), cost.tables, cost.backend
    )


def test_factors_and_the_row_are_the_price(calls: list[Call[Op]]) -> None:
    """With all factors 1 the price is what the table says; the words bring it back."""
    cost, bare = model(), model(**dict.fromkeys(FACTORS, 1.0))
    seen = set()
    for call in calls:
        if not isinstance(call.op, Gemm | Moe | Attention | Collective | GdnRecurrent):
            continue
        told = {
            name: float(value) for name, value in FACTOR.findall(origin(cost, call, "time_factor"))
        }
        price, table = cost.calls([replace(call, count=1)]), bare.op(call.op)
        of_step = told["time_factor"]
        working_s = of_step * (price.seconds - price.idle_s)
        assert working_s == pytest.approx((table.seconds - table.idle_s) * prod(told.values()))
        seen |= told.keys()
    assert seen == FACTORS.keys()


def test_a_factor_of_one_is_not_told(calls: list[Call[Op]]) -> None:
    (call,) = [c for c in calls if c.op.name == "qkv_proj"]
    assert "factor" not in origin(model(table_factor=1.0, time_factor=1.0), call)
    assert "table_factor 1.50 (fitted)" in origin(model(), call)


def test_products_that_take_longer_have_no_factor(calls: list[Call[Op]]) -> None:
    """Attention of very many rows takes its products' time, whatever the decode kernel takes."""
    (call,) = [c for c in calls if c.op.name == "attention"]
    assert isinstance(call.op, Attention)
    wide = replace(call, op=replace(call.op, rows=512))
    assert "verify_attention_factor" in origin(model(), call)
    assert "verify_attention_factor" not in origin(model(), wide)
