"""The prefix cache against what can be counted by hand: longest common beginnings, and LRU."""

from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.simulator.engine.radix_cache import Node, RadixCache
from dflash_sim.simulator.requests.prompts import Text, beginning, length

texts = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), min_size=1, max_size=5).map(
    tuple
)


def tokens_of(text: Text) -> list[tuple[int, int]]:
    """A text token by token: one is known by its piece and its place in that."""
    return [(name, i) for name, size in text for i in range(size)]


def common(one: Text, other: Text) -> int:
    """Tokens that two texts begin with."""
    count = 0
    for a, b in zip(tokens_of(one), tokens_of(other), strict=False):
        if a != b:
            break
        count += 1
    return count


def nodes(node: Node) -> list[Node]:
    """Every node below one."""
    return [each for child in node.children.values() for each in (child, *nodes(child))]


@given(kept=st.lists(texts, max_size=12), asked=texts, unit=st.sampled_from([1, 4, 16]))
def test_with_room_for_all_a_prompt_finds_its_longest_common_beginning(
    kept: list[Text], asked: Text, unit: int
) -> None:
    cache = RadixCache(unit)
    for text in kept:
        cache.insert(text)
    longest = max((common(text, asked) // unit for text in kept), default=0)
    assert cache.match(asked).tokens == longest * unit
    assert cache.match(asked, 7).tokens == min(longest * unit, 7 // unit * unit)
    assert cache.tokens == unit * sum(node.units for node in nodes(cache.root))
    different = {
        tuple(tokens_of(t)[: unit * (i + 1)]) for t in kept for i in range(length(t) // unit)
    }
    assert cache.tokens == unit * len(different)


@given(work=st.lists(texts, max_size=12))
def test_without_room_nothing_is_found(work: list[Text]) -> None:
    cache = RadixCache(unit=1)
    for text in work:
        cache.fit(0)
        assert cache.match(text).tokens == 0
        cache.insert(text)
    cache.fit(0)
    assert cache.tokens == 0
    assert not nodes(cache.root)


def hits(names: list[int], room: int, size: int = 8) -> int:
    """Prompts of one block each that are found, with room for so many blocks."""
    cache, found = RadixCache(unit=size), 0
    for name in names:
        cache.fit(room * size)
        found += cache.match(((name, size),)).tokens == size
        cache.insert(((name, size),))
        cache.fit(room * size)
    return found


@given(names=st.lists(st.integers(0, 9), max_size=60))
def test_of_equal_blocks_it_is_lru_and_more_room_never_finds_less(names: list[int]) -> None:
    counts = [hits(names, room) for room in range(11)]
    assert all(more >= less for less, more in pairwise(counts))
    assert counts[0] == 0
    assert counts[10] == len(names) - len(set(names))
    for room in (1, 3, 6):
        lru: OrderedDict[int, None] = OrderedDict()
        found = 0
        for name in names:
            found += name in lru
            lru.pop(name, None)
            lru[name] = None
            if len(lru) > room:
                lru.popitem(last=False)
        assert counts[room] == found


@pytest.mark.parametrize(("sessions", "room"), [(6, 6), (6, 8), (6, 5), (2, 1)])
def test_sessions_in_turn_all_fit_or_none_is_found(sessions: int, room: int) -> None:
    """Under LRU a cycle of sessions one longer than the cache finds nothing at all."""
    rounds = 7
    expected = (rounds - 1) * sessions if room >= sessions else 0
    assert hits(list(range(sessions)) * rounds, room) == expected


def test_growing_conversations_find_all_but_what_is_new() -> None:
    """Each turn adds a question and an answer: the share is that of the turns before."""
    cache, turns, question, answer = RadixCache(unit=1), 10, 50, 30
    found = asked = 0
    for turn in range(turns):
        for session in range(4):
            isl = turn * (question + answer) + question
            text = ((session, isl),)
            found += cache.match(text, isl - 1).tokens
            cache.insert(((session, isl + answer),))
            asked += isl
    share = sum(t * (question + answer) for t in range(turns))
    assert found == 4 * share
    assert asked == 4 * (share + turns * question)


@given(st.data())
def test_what_is_locked_stays_and_all_else_can_go(data: st.DataObject) -> None:
    cache = RadixCache(unit=data.draw(st.sampled_from([1, 4])))
    held: list[tuple[Text, Node]] = []
    for text in data.draw(st.lists(texts, max_size=15)):
        cache.insert(text)
        if data.draw(st.booleans()):
            node = cache.match(text).node
            cache.lock(node)
            held.append((text, node))
        leaves: bool = data.draw(st.booleans())
        if held and leaves:
            which: int = data.draw(st.integers(0, len(held) - 1))
            cache.release(held.pop(which)[1])
        cache.evict(data.draw(st.integers(0, 60)))
        for kept, _ in held:
            assert cache.match(kept).tokens == length(kept) // cache.unit * cache.unit
        assert 0 <= cache.locked <= cache.tokens
    cache.fit(0)
    assert cache.tokens == cache.locked
    for _, node in held:
        cache.release(node)
    cache.fit(0)
    assert cache.tokens == cache.locked == 0


def test_the_leaf_that_was_not_used_for_longest_goes_whole() -> None:
    cache = RadixCache(unit=1)
    old, new = ((0, 100), (1, 60)), ((0, 100), (2, 20))
    cache.insert(old)
    cache.insert(new)
    assert cache.evict(1) == 60
    assert cache.match(old).tokens == 100
    assert cache.match(new).tokens == 120


class TestStates:
    def test_a_prefix_is_found_only_where_a_state_is(self) -> None:
        cache = RadixCache(unit=4, states=True)
        cache.insert(((0, 40),))
        assert cache.match(((0, 80),)).tokens == 40
        found = cache.match(((0, 20), (1, 20)))
        assert (found.tokens, found.branch) == (0, 20)
        cache.insert(((0, 20), (1, 20)), found.branch)  # its state is kept where they part
        assert cache.match(((0, 20), (2, 20))).tokens == 20

    def test_no_more_states_than_slots(self) -> None:
        cache = RadixCache(unit=4, states=True)
        for name in range(5):
            cache.insert(((name, 40),))
            cache.fit_states(3)
        assert cache.kept_states == 3
        found = [cache.match(((name, 40),)).tokens for name in range(5)]
        assert found == [0, 0, 40, 40, 40]
        assert cache.tokens == 120

    def test_a_state_in_the_middle_goes_and_its_keys_stay(self) -> None:
        cache = RadixCache(unit=4, states=True)
        cache.insert(((0, 40),))
        cache.insert(((0, 80),))
        cache.fit_states(1)
        assert cache.tokens == 80
        assert cache.match(((0, 60),)).tokens == 0
        assert cache.match(((0, 80),)).tokens == 80

    @given(work=st.lists(texts, max_size=20), slots=st.integers(0, 4), seed=st.integers(0, 99))
    def test_states_are_counted(self, work: list[Text], slots: int, seed: int) -> None:
        cache = RadixCache(unit=4, states=True)
        rng = np.random.default_rng(seed)
        held: list[Node] = []
        for text in work:
            node = cache.insert(text)
            if rng.random() < 0.3:
                cache.lock(node)
                held.append(node)
            cache.fit_states(slots)
            cache.evict(int(rng.integers(0, 30)))
            every = nodes(cache.root)
            assert cache.kept_states == sum(n.state for n in every)
            assert cache.kept_states <= max(slots, cache.locked_states)
            assert all(n.state or n.children or n.locks for n in every)
        for node in held:
            cache.release(node)
        cache.fit_states(0)
        assert cache.kept_states == 0


@given(text=texts, tokens=st.integers(0, 250))
def test_a_beginning_is_no_longer_than_asked(text: Text, tokens: int) -> None:
    cut = beginning(text, tokens)
    assert length(cut) == min(tokens, length(text))
    assert tokens_of(cut) == tokens_of(text)[: length(cut)]
