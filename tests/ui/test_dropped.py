"""A dropped file is a launch command, a benchmark, or refused; nothing is lost by it."""

import base64
from pathlib import Path

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.ui.desk import Desk
from dflash_sim.ui.dropped import MOST_BYTES, decoded, read_dropped
from dflash_sim.ui.room import Room
from dflash_sim.ui.state import from_query

DATA = Path(__file__).parents[1] / "data/readers"
PAGE = from_query("?gpu=h200&model=qwen3-8b&method=dflash&block=8&conc=4&isl=512&osl=64")
LAUNCH = (
    "python -m sglang.launch_server --model-path Qwen/Qwen3-8B --tp-size 2 "
    "--speculative-algorithm DFLASH --speculative-num-draft-tokens 16 "
    "--mem-fraction-static 0.8 --enable-metrics\n"
)
ROWS = """gpu,model,method,block,tp,dataset,conc,output_throughput
b200,qwen3.5-397b-a17b,dflash,16,8,humaneval,32,6500
b200,qwen3.5-397b-a17b,dflash,16,8,humaneval,8,2800
b200,qwen3.5-397b-a17b,dflash,8,8,humaneval,32,6100
"""


def test_a_launch_command_keeps_the_load_of_the_page() -> None:
    found = read_dropped(LAUNCH.encode(), "run.sh", PAGE)
    s = found.state.scenario()
    assert (s.tp, s.block, s.mem_fraction_static) == (2, 16, 0.8)
    assert (s.gpu, s.conc, s.isl, s.osl) == ("h200", 4, 512, 64)
    assert found.words.startswith("run.sh: a launch command")
    plain = read_dropped(b"python -m sglang.launch_server --model-path Qwen/Qwen3-8B", "x", PAGE)
    assert plain.state.scenario().method == "none"


def test_a_temperature_of_the_page_stays_under_a_launch() -> None:
    warm = PAGE.but(temperature=0.7)
    assert read_dropped(LAUNCH.encode(), "run.sh", warm).state.scenario().temperature == 0.7


def test_no_command_is_told_of_rows_that_were_pasted() -> None:
    assert "dflash-sim compare bench.csv" in read_dropped(ROWS.encode(), "bench.csv", PAGE).words
    assert "compare" not in read_dropped(ROWS.encode(), "what was pasted", PAGE).words


def test_a_launch_that_cannot_be_read_says_why() -> None:
    with pytest.raises(UsageError, match="--tp"):
        read_dropped(LAUNCH.replace("--tp-size 2", "--tp-size two").encode(), "run.sh", PAGE)
    with pytest.raises(UsageError) as refused:
        read_dropped(f"{LAUNCH.strip()} --no-such-flag 3".encode(), "run.sh", PAGE)
    said = str(refused.value)
    assert said.startswith("run.sh: ")
    assert said.endswith("The page stays as it was.")
    assert "--no-such-flag" in said


def test_rows_of_a_benchmark_are_drawn_beside_their_server() -> None:
    room = Room(Desk())
    found = read_dropped(ROWS.encode(), "bench.csv", PAGE)
    assert {(m.load, m.tok_s) for m in found.measured} == {(32, 6500), (8, 2800)}
    assert all("bench.csv" in m.row for m in found.measured)
    state, name, words = room.opened(room.take(found))
    assert "3 rows read" in words
    assert state.scenario().model == "qwen3.5-397b-a17b"
    assert room.measured(name, state) == found.measured
    assert room.measured(name, state.but(conc=3)) == found.measured
    assert room.measured(name, state.but(block=8)) == ()


def test_the_page_goes_to_the_row_that_drafts_and_says_what_it_took() -> None:
    """Of a file without a GPU the page's stands, in words; all rows of that server are drawn."""
    rows = """model,method,block,tp,dataset,conc,output_throughput
qwen3-8b,none,,1,humaneval,1,170
qwen3-8b,dflash,16,1,humaneval,1,450
qwen3-8b,dflash,16,1,humaneval,8,3000
"""
    found = read_dropped(rows.encode(), "bench.csv", PAGE)
    assert found.state.scenario().method == "dflash"
    assert found.state.scenario().gpu == "h200"
    assert len(found.measured) == 2
    assert "the 2 rows of it; it does not say its gpu h200, which is the page's" in found.words


@pytest.mark.parametrize("tool", ["sglang_bench_serving", "vllm_bench_serve"])
def test_files_of_tools_are_read(tool: str) -> None:
    file = sorted(p for p in (DATA / tool).iterdir() if p.suffix in (".json", ".jsonl"))[0]
    found = read_dropped(file.read_bytes(), file.name, PAGE)
    assert found.words.startswith(f"{file.name}: ")
    assert found.measured


@pytest.mark.parametrize(
    "raw",
    [
        b"hello",
        b"\x89PNG\r\n\x1a\n\0\0",
        b"{}",
        b"[]",
        b"a,b\n1,2\n",
        b'{"model": "x"}',
        b"\xff" * 9,
    ],
)
def test_what_is_no_benchmark_is_refused_in_one_line(raw: bytes) -> None:
    with pytest.raises(UsageError) as refused:
        read_dropped(raw, "holiday.json", PAGE)
    said = str(refused.value)
    assert "holiday.json" in said
    assert "/tmp" not in said
    assert "\n" not in said
    assert "stays as it was" in said


def test_an_upload_is_decoded() -> None:
    sent = "data:text/plain;base64," + base64.b64encode(b"abc").decode()
    assert decoded(sent, "x") == b"abc"
    for bad in ("", "data:text/plain;base64,", "data:;base64,!!!"):
        with pytest.raises(UsageError, match="it is empty"):
            decoded(bad, "x")
    assert MOST_BYTES > 1 << 20


@pytest.mark.parametrize(
    "name", ["../../x.csv", "a.\0", ".\ud800", "", "x" * 5000, "a." + "b" * 300]
)
def test_a_file_may_be_called_anything(name: str) -> None:
    assert len(read_dropped(ROWS.encode(), name, PAGE).measured) == 2
