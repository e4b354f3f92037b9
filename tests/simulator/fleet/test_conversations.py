"""Conversations on a fleet: turns behind answers, prefix caches, a router that knows prompts."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from direct_fleets import assert_same, directly, quickly
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SyntheticStep, System, acceptances, hosts

from dflash_sim.profiles.releases.routers import CacheAwareSheet
from dflash_sim.simulator.fleet.routers import ROUTERS, CacheAware
from dflash_sim.simulator.requests.prompts import Prompts
from dflash_sim.simulator.requests.workload import Workload, given_requests


def talks(rng: np.random.Generator, *, gap_s: float, pause_s: float) -> Workload:
    """A few conversations that begin alike and grow by question and answer."""
    rows: list[dict[str, Any]] = []
    start_s, system = 0.0, int(rng.integers(1, 60))
    for session in range(1, int(rng.integers(2, 9))):
        start_s += rng.exponential(gap_s)
        isl = system
        for turn in range(int(rng.integers(1, 5))):
            isl += int(rng.integers(1, 80))
            osl = int(rng.integers(1, 60))
            rows.append(
                {
                    "at": start_s + turn * 1e-9,
                    "isl": isl,
                    "osl": osl,
                    "delay": rng.exponential(pause_s) if turn else 0.0,
                    "session": session,
                    "turn": turn,
                    "text": ((0, system), (session, isl - system)),
                    "whole": ((0, system), (session, isl + osl - system)),
                }
            )
            isl += osl
    rows.sort(key=lambda row: row["at"])
    place = {(row["session"], row["turn"]): i for i, row in enumerate(rows)}
    return given_requests(
        arrival_s=np.array([row["at"] for row in rows]),
        isl=np.array([row["isl"] for row in rows]),
        osl=np.array([row["osl"] for row in rows]),
        follow=np.array([place.get((row["session"], row["turn"] + 1), -1) for row in rows]),
        delay_s=np.array([row["delay"] for row in rows]),
        prompts=Prompts(tuple(row["text"] for row in rows), tuple(row["whole"] for row in rows)),
    )


@st.composite
def fleets(draw: st.DrawFn) -> tuple[System, int]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    block = draw(st.sampled_from([1, 4, 16]))
    step_s = 1e-3 * rng.uniform(1, 10)
    work = talks(
        rng,
        gap_s=step_s * 30 * rng.choice([0.02, 0.2, 1.0]),
        pause_s=step_s * rng.choice([0.1, 10.0, 100.0]),
    )
    page = int(rng.choice([1, 16]))
    longest = int(work.isl.max()) + 60 + 2 * block + page
    hybrid = bool(rng.random() < 0.3)
    system = System.of(
        work,
        SyntheticStep.around(step_s, rng),
        acceptance=None if block == 1 else draw(acceptances(block)),
        seed=int(rng.integers(2**31)),
        host=draw(hosts(0.1 * step_s)),
        mode=draw(st.sampled_from(["v1", "v2-sync", "v2", "v2"])),
        max_running_requests=int(rng.choice([64, 3, 1])),
        chunked_prefill_size=int(rng.choice([64, 4096])),
        sorted_up_to=int(rng.choice([0, 128])),
        kv_tight=True,
        page_size=page,
        kv_tokens=int(longest * rng.uniform(1, 12)),
        max_new_tokens=60,
        clip_max_new_tokens=60,
        new_token_ratio_init=0.7,
        new_token_ratio_min=0.7,
        cache_unit=page * int(rng.choice([1, 2])),
        state_slots=int(rng.integers(4, 20)) if hybrid else 0,
        slots_per_request=2 if hybrid else 0,
    )
    return system, draw(st.integers(1, 4))


@pytest.mark.parametrize("router", ROUTERS)
@settings(max_examples=25)
@given(fleet=fleets())
def test_turns_find_what_event_engines_find(router: str, fleet: tuple[System, int]) -> None:
    """The leap engine's replicas look into their caches when and where the event engine does."""
    system, replicas = fleet
    found = quickly(system, replicas, router)
    expected = directly(system, replicas, router)
    if expected.retractions:
        return
    assert not found.kv_ran_out
    assert_same(found, expected)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_turn_comes_its_pause_after_the_answer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    work = talks(rng, gap_s=0.05, pause_s=0.1)
    system = System.of(work, SyntheticStep(fixed_s=0.01, prefill_per_token_s=1e-4))
    found = quickly(system, 2, "least-loaded")
    assert work.delay_s is not None
    for rid, follow in enumerate(work.follow.tolist()):
        if follow >= 0:
            pause_s = found.arrival_s[follow] - found.finish_s[rid]
            assert pause_s == pytest.approx(work.delay_s[follow], abs=1e-9)


def room_for(work: Workload, tokens: int, unit: int = 1) -> System:
    return System.of(
        work,
        SyntheticStep(fixed_s=0.01, prefill_per_token_s=1e-4),
        kv_tight=True,
        kv_tokens=tokens,
        max_new_tokens=60,
        clip_max_new_tokens=60,
        cache_unit=unit,
        page_size=unit,
    )


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), unit=st.sampled_from([1, 16]))
def test_with_room_for_all_a_turn_computes_what_is_new(seed: int, unit: int) -> None:
    """One server with memory enough: a turn finds the whole turn before, its last token not."""
    work = talks(np.random.default_rng(seed), gap_s=0.05, pause_s=0.1)
    found = quickly(room_for(work, 10**7, unit), 1, "round-robin")
    for rid, follow in enumerate(work.follow.tolist()):
        if follow >= 0:
            before = work.isl[rid] + work.osl[rid] - 1
            assert found.cached[follow] == before // unit * unit


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_without_a_cache_nothing_is_found(seed: int) -> None:
    work = talks(np.random.default_rng(seed), gap_s=0.05, pause_s=0.1)
    system = room_for(work, 10**7)
    found = quickly(system.but(limits=replace(system.limits, cache_unit=0)), 2, "cache-aware")
    assert not found.cached.any()


def test_a_router_that_knows_prompts_keeps_conversations_where_they_are() -> None:
    """Conversations that share nothing, on three servers: none moves, so all is found again."""
    rng = np.random.default_rng(5)
    work = talks(rng, gap_s=0.05, pause_s=0.3)
    own = tuple(text[1:] for text in work.prompts.asked)  # type: ignore[union-attr]
    whole = tuple(text[1:] for text in work.prompts.answered)  # type: ignore[union-attr]
    isl = np.array([sum(size for _, size in text) for text in own])
    work = replace(work, isl=isl, prompts=Prompts(own, whole))
    shares = {}
    for router in ROUTERS:
        found = quickly(room_for(work, 10**6), 3, router)
        shares[router] = found.cached.sum() / work.isl.sum()
        if router == "cache-aware":
            for rid, follow in enumerate(work.follow.tolist()):
                assert follow < 0 or found.replica[follow] == found.replica[rid]
    assert shares["cache-aware"] > shares["round-robin"]
    assert shares["cache-aware"] >= shares["least-loaded"]


def test_the_policy_of_the_router_step_by_step() -> None:
    prompts = Prompts((((1, 100),), ((1, 100), (2, 50)), ((3, 10), (1, 90))), ((), (), ()))
    sheet = CacheAwareSheet(share=0.3, apart=4, ratio=1.5)
    router = CacheAware(prompts, 3, sheet)
    assert router.choose(0, [2, 1, 3]) == 1  # nothing is known: the least loaded
    assert router.choose(1, [2, 4, 3]) == 1  # two thirds of it went there
    assert router.choose(2, [0, 4, 3]) == 0  # another beginning
    assert router.choose(1, [0, 5, 3]) == 0  # more than four apart, and 1.5 times
    assert router.choose(1, [3, 2, 3]) == 0  # both know it whole now: the latest
    assert router.choose(1, [20, 25, 18]) == 0  # seven apart, not 1.5 times
