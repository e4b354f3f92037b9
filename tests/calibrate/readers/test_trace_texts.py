"""What prompts of a trace share, and the hit rates that follow from it, beside published ones."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.calibrate.readers.request_traces import Trace, read_trace
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.engine.radix_cache import RadixCache
from dflash_sim.simulator.requests.prompts import begins_with, in_units, joined, length

DATA = Path(__file__).parents[2] / "data/traces"
# Of the last half of the requests of Mooncake's synthetic trace, by blocks of 512 tokens that an
# LRU cache holds: kvcache-simulator 0.1.3 (https://pypi.org/project/kvcache-simulator), qwen3-8b at
# 32 to 2,048 GiB, and its ceiling.
PUBLISHED = {455: 6.0, 1820: 20.6, 7281: 51.8, 14563: 70.7, 29127: 83.4, 10**7: 86.3}


def written(tmp_path: Path, *rows: dict[str, Any]) -> Trace:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return read_trace(path)


def refused(tmp_path: Path, *rows: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as caught:
        written(tmp_path, *rows)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def mooncake(at: int, isl: int, ids: list[int], **more: Any) -> dict[str, Any]:
    return {"timestamp": at, "input_length": isl, "output_length": 10, "hash_ids": ids, **more}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Mooncake's synthetic trace, whose names of blocks are kept as ranges."""
    rows = []
    with (DATA / "mooncake_synthetic.csv").open() as file:
        for i, row in enumerate(csv.DictReader(file)):
            ends = [part.split("-") for part in row["hash_ids"].split()]
            ids = [x for part in ends for x in range(int(part[0]), int(part[-1]) + 1)]
            rows.append(mooncake(256 * i, int(row["input_length"]), ids))
    return written(tmp_path_factory.mktemp("mooncake"), *rows)


@pytest.mark.parametrize("room", PUBLISHED)
def test_published_hit_rates_are_met(synthetic: Trace, room: int) -> None:
    """To two points: SGLang evicts stretches of text, the simulator they are of single blocks."""
    assert synthetic.prompts is not None
    cache, found, half = RadixCache(unit=512), 0, len(synthetic) // 2
    for i, text in enumerate(synthetic.prompts.asked):
        found += cache.match(text).tokens * (i >= half)
        cache.insert(text)
        cache.fit(room * 512)
    share = 100 * found / synthetic.isl[half:].sum()
    assert share == pytest.approx(PUBLISHED[room], abs=0.2 if room == 10**7 else 2)


def test_blocks_that_always_come_together_are_one_piece(synthetic: Trace) -> None:
    assert synthetic.prompts is not None
    assert [length(text) for text in synthetic.prompts.asked] == synthetic.isl.tolist()
    assert sum(map(len, synthetic.prompts.asked)) < 2 * len(synthetic)


@given(st.lists(st.lists(st.integers(0, 6), max_size=6), max_size=6))
def test_joined_blocks_share_what_single_ones_share(drawn: list[list[int]]) -> None:
    # Names of blocks stand for all before them, as hashes do.
    blocks = [[hash(tuple(ids[: i + 1])) for i in range(len(ids))] for ids in drawn]
    whole = [tuple((name, 4 * n) for name, n in pieces) for pieces in joined(blocks)]
    for one, ids in zip(whole, blocks, strict=True):
        for other, them in zip(whole, blocks, strict=True):
            same = next((i for i, (a, b) in enumerate(zip(ids, them)) if a != b), None)  # noqa: B905
            same = min(len(ids), len(them)) if same is None else same
            cache = RadixCache(unit=4)
            cache.insert(one)
            assert cache.match(other).tokens == 4 * same
            assert begins_with(other, one) == (same == len(ids))


@given(
    text=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), max_size=6).map(tuple),
    unit=st.sampled_from([1, 4, 16]),
)
def test_units_are_whole(text: Any, unit: int) -> None:
    assert sum(many for _, _, many in in_units(text, unit)) == length(text) // unit


class TestSessions:
    def test_a_turn_repeats_the_answer_before_it(self, tmp_path: Path) -> None:
        trace = written(
            tmp_path,
            {"session_id": "a", **mooncake(0, 1200, [1, 2, 3])},
            {"session_id": "a", "delay": 500, **mooncake(0, 1900, [1, 2, 3, 4]), "timestamp": None},
        )
        assert trace.prompts is not None
        assert trace.prompts.asked == (((0, 1200),), ((0, 1900),))
        assert trace.prompts.answered[0] == ((0, 1210),)
        assert trace.follow is not None
        assert trace.delay_s is not None
        assert trace.follow.tolist() == [1, -1]
        assert trace.delay_s.tolist() == [0, 0.5]

    def test_without_names_a_turn_goes_on_from_the_turn_before(self, tmp_path: Path) -> None:
        def turn(isl: int, **more: Any) -> dict[str, Any]:
            return {"session_id": "a", "input_length": isl, "output_length": 10, **more}

        trace = written(tmp_path, turn(100, timestamp=0), turn(150, delay=1), turn(60, delay=1))
        assert trace.prompts is not None
        first, second, third = trace.prompts.asked
        assert begins_with(second, first)
        assert not begins_with(second, third)
        assert any("1 turns are too short" in note for note in trace.sharing)

    def test_rows_that_are_taken_keep_their_turns(self, tmp_path: Path) -> None:
        rows = [{"session_id": "a", **mooncake(0, 512, [1])}]
        for i in range(3):
            rows.append({"session_id": "a", "delay": 1, **mooncake(0, 512, [i + 2])})
            del rows[-1]["timestamp"]
        trace = written(tmp_path, *rows)
        kept = trace.rows(np.array([0, 2, 3]))
        assert kept.follow is not None
        assert kept.follow.tolist() == [1, 2, -1]

    def test_chats_of_qwen(self, tmp_path: Path) -> None:
        def chat(number: int, parent: int, isl: int) -> dict[str, Any]:
            ids = list(range(-(-isl // 16)))
            row = {"chat_id": number, "parent_chat_id": parent, "timestamp": number / 10}
            return {**row, "input_length": isl, "output_length": 8, "hash_ids": ids}

        trace = written(tmp_path, chat(1, -1, 160), chat(2, 1, 200))
        assert trace.follow is None  # both have times
        assert trace.prompts is not None
        assert trace.prompts.answered[0] == ((0, 168),)
        said = refused(tmp_path, chat(1, 2, 160), chat(2, 1, 200))
        assert "trace.jsonl:1" in said
        assert "a cycle" in said
        assert "parent_chat_id" in said
        assert "comes later" in refused(tmp_path, chat(1, 2, 160), chat(2, -1, 200))

    def test_agents(self, tmp_path: Path) -> None:
        def request(t: float, isl: int, ids: list[int], **more: Any) -> dict[str, Any]:
            return {"t": t, "type": "s", "in": isl, "out": 5, "hash_ids": ids, **more}

        def session(name: str, *requests: dict[str, Any]) -> dict[str, Any]:
            scoped = {"id": name, "block_size": 64, "hash_id_scope": "local"}
            return {**scoped, "requests": list(requests)}

        trace = written(
            tmp_path,
            session(
                "a",
                request(0, 100, [1, 2], api_time=2.0),
                {"t": 1, "requests": [request(1, 64, [9])]},
                request(10, 200, [1, 2, 3, 4]),
                request(30, 250, [1, 2, 3, 4], think_time=1.5),
            ),
            session("b", request(0, 100, [1, 2])),
        )
        assert trace.form == "agentx"
        assert trace.arrival_s is None
        assert trace.delay_s is not None
        assert trace.delay_s.tolist() == [0, 8, 1.5, 0]
        assert trace.prompts is not None
        assert begins_with(trace.prompts.asked[2], trace.prompts.asked[1])
        assert trace.prompts.asked[0] != trace.prompts.asked[3]  # names are of a session's own
        assert any("1 request of a sub-agent is left out" in note for note in trace.notes)


def test_names_that_do_not_go_with_a_length(tmp_path: Path) -> None:
    said = refused(tmp_path, mooncake(0, 6758, [1, 2, 3]))
    assert "3 hash_ids of 512 tokens do not make a prompt of 6,758 tokens, which has 14" in said
    assert "block_size" in said
    assert "give a list" in refused(tmp_path, {**mooncake(0, 10, []), "hash_ids": 7})
    assert "block_size" in refused(tmp_path, {**mooncake(0, 10, [1]), "block_size": 0})


def test_a_file_may_say_the_size_of_its_blocks(tmp_path: Path) -> None:
    trace = written(tmp_path, mooncake(0, 100, [1, 2], block_size=64))
    assert trace.prompts is not None
    assert trace.prompts.asked == (((0, 100),),)
