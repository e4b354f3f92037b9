"""Whole experts on some ranks: the same bytes and exchange, and a rank that others wait for."""

from collections import Counter
from dataclasses import replace

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_model
from dflash_sim.simulator.cost.expert_ranks import EVEN
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.ops import Collective, Moe
from dflash_sim.simulator.cost.origin import origin
from dflash_sim.simulator.cost.passes import target_forward
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

PLAIN = {"gpu": "b200", "tp": 8, "conc": 16, "method": "none", "isl": 1024, "osl": 128}
MOE = "qwen3.5-397b-a17b"


def asked(**fields: object) -> Setup:
    return resolve(Scenario.parse(**PLAIN | {"model": MOE} | fields))


def experts(setup: Setup, tokens: int) -> Moe:
    calls = target_forward(setup.model, tp=setup.tp, size=Rows(tokens, 1, 1024.0))
    return next(call.op for call in calls if isinstance(call.op, Moe))


@pytest.mark.parametrize("ep", [2, 4, 8])
def test_a_rank_holds_as_many_bytes_in_other_shapes(ep: int) -> None:
    whole, dealt = asked(), asked(ep_size=ep)
    assert dealt.memory == whole.memory
    one, other = experts(whole, 64), experts(dealt, 64)
    assert (one.tp, one.ep) == (8, 1)
    assert (other.tp, other.ep) == (8 // ep, ep)
    assert (other.flops, other.nbytes) == (one.flops, one.nbytes)


def test_ranks_are_summed_as_without() -> None:
    """SGLang's own exchange: every rank has all tokens, and its share of the sum."""

    def sums(setup: Setup) -> Counter[Collective]:
        calls = target_forward(setup.model, tp=setup.tp, size=Rows(64, 1, 1024.0))
        return Counter(
            {call.op: int(call.count) for call in calls if isinstance(call.op, Collective)}
        )

    assert sums(asked(ep_size=8)) == sums(asked())


@pytest.mark.parametrize(("ep", "parts"), [(1, False), (2, True), (8, False)])
def test_whole_experts_that_nobody_timed_are_parts_and_say_so(ep: int, parts: bool) -> None:
    """On H200 those of gpt-oss were timed on all ranks or dealt to all, and not in between."""
    made = asked(gpu="h200", model="gpt-oss-20b", ep_size=ep)
    calls = target_forward(made.model, tp=8, size=Rows(64, 1, 1024.0))
    call = next(call for call in calls if isinstance(call.op, Moe))
    assert ("as parts of every expert" in origin(made.step.cost, call)) == parts
    timing = made.step.cost.table_time(call.op)
    assert timing is not None
    assert timing.evidence == "fitted"


@pytest.mark.parametrize("tokens", [1, 16, 256, 4096])
def test_the_busiest_rank_decides(tokens: int) -> None:
    fp8 = "Qwen/Qwen3.5-397B-A17B-FP8"  # timed in SGLang's own kernels, however it is dealt
    cost = asked(model=fp8).step.cost
    ranks = {n: experts(asked(model=fp8, ep_size=n), tokens) for n in (1, 2, 4, 8)}
    assert cost.busiest(ranks[1]) is EVEN
    shares = [cost.busiest(op).load for op in ranks.values()]
    assert shares == sorted(shares)
    times = [cost.op(op).seconds for op in ranks.values()]
    assert max(times) < 2.5 * min(times)
    over = cost.touched(ranks[8]) / cost.touched(ranks[1])
    assert over == pytest.approx(cost.busiest(ranks[8]).touched)


def test_whole_experts_have_a_table_of_their_own_or_that_of_their_parts() -> None:
    """B200 timed both; without a table of whole experts a rank has as many bytes and products."""
    cost = asked().step.cost
    dealt = experts(asked(ep_size=8), 64)
    found = cost.table_time(dealt)
    assert found is not None
    assert found.row[4:6] == (1, 8)
    assert cost.tables is not None
    untimed = replace(dealt, tp=3, ep=8)
    assert cost.table_time(untimed) is None  # neither 3 x 8 ranks nor 24 were timed


def test_explain_says_what_the_busiest_rank_rests_on() -> None:
    setup = asked(ep_size=8)
    calls = target_forward(setup.model, tp=8, size=Rows(16, 1, 1024.0))
    call = next(call for call in calls if isinstance(call.op, Moe))
    assert "of the mean on the busiest rank (assumed)" in origin(setup.step.cost, call)
    plain = next(
        call
        for call in target_forward(asked().model, tp=8, size=Rows(16, 1, 1024.0))
        if isinstance(call.op, Moe)
    )
    assert "busiest" not in origin(setup.step.cost, plain)


def test_more_ways_to_divide_experts() -> None:
    """Experts of 768 columns cannot be split over ranks of 512, but whole ones can be dealt."""
    model = load_model(MOE)
    assert model.dealt(1) is model
    assert model.dealt(8).mtp_layer is not None
    assert model.dealt(8).mtp_layer.mlp.ep == 8
    assert model.dealt(8).params == model.params


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "qwen3-8b"}, "ep_size 8: qwen3-8b has no experts to deal to ranks"),
        ({"ep_size": 3}, "ep_size 3 does not divide the 512 experts of qwen3.5-397b-a17b"),
        ({"tp": 4}, "ep_size 8 does not divide tp 4; give --ep-size 1, 2, 4, or another --tp."),
        ({"ep_size": 0}, "--ep-size 0: input should be greater than or equal to 1"),
        ({"ep_size": True}, "not true or false"),
    ],
)
def test_what_cannot_be_dealt_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as error:
        asked(**{"ep_size": 8} | fields)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_enough_ranks_are_taken_where_nobody_says_how_many() -> None:
    setup = resolve(
        Scenario.parse(gpu="b300", model="qwen3-30b-a3b", method="none", isl=9, osl=9, ep_size=4)
    )
    assert (setup.tp, setup.num_gpus) == (4, 4)
