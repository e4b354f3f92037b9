"""Why this speed-up: from plain decoding to the answer, one change of the server at a time.

Every rung is simulated, most of them on servers that cannot exist: one that accepts drafts without
drafting or verifying, one whose scheduler takes no time. A rung's factor is its speed over that of
the rung before, so the factors multiply to the speed-up of the prediction.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dflash_sim.simulator.cost.cycle import PHASES
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.whatif import changed, mixed, with_host, with_step
from dflash_sim.studies.explain.replay import Replay
from dflash_sim.studies.show.titles import phase_title

MODES = ("v1", "v2-sync", "v2")
_MODE_NAMES = {
    "v1": "host and GPU in turns",
    "v2-sync": "V2 worker",
    "v2": "overlap",
}


@dataclass(frozen=True)
class Rung:
    """One change: the speed with it [token/s], its factor, and what it is in words."""

    name: str
    speed_tok_s: float
    factor: float
    why: str


def waterfall(result: Result, replay: Replay) -> tuple[Rung, ...]:
    """The rungs from plain decoding to ``result``, which has a baseline."""
    assert result.baseline is not None
    before = replay.of(result.baseline)
    rungs = [Rung("plain decoding", before, 1.0, _plain_words(result.baseline))]
    for name, speed, why in _rungs(result, result.baseline, replay):
        rungs.append(Rung(name, speed, speed / before, why))
        before = speed
    return tuple(rungs)


def _plain_words(plain: Result) -> str:
    v = plain.values
    return f"a token of each request every {v['step_ms']:.2f} ms"


def _rungs(result: Result, plain: Result, replay: Replay) -> Iterator[tuple[str, float, str]]:
    """Name, speed and words of every change."""
    runs, law = result.scenario.runs, result.expectation
    modes = _modes(result, replay)
    idle = replace(plain.setup, engine=with_host(plain.setup.engine, 0.0))
    speed = replay.speed(idle, None, runs=runs)
    hidden = plain.values["host_exposed_ms"]
    yield "without host time", speed, f"{hidden:.2f} ms of it show in a plain step"
    ideal = modes["v2"].setup
    ideal = replace(ideal, engine=with_host(ideal.engine, 0.0))
    room = min(ideal.limits.max_running_requests, idle.limits.max_running_requests)
    if room < min(idle.limits.max_running_requests, result.scenario.conc or room + 1):
        limits = replace(idle.limits, max_running_requests=room, kv_tokens=ideal.limits.kv_tokens)
        speed = replay.speed(replace(idle, limits=limits), None, runs=runs)
        yield "fewer at once", speed, f"{room} at once: {result.setup.memory.cap_cause}"
    for name, own, why in _phases(modes["v2"], plain):
        borrowed, prefill = frozenset(PHASES) - own, "draft" not in own
        step = mixed(ideal.step, idle.step, phases=borrowed, prefill=prefill)
        yield name, replay.speed(with_step(ideal, step), law, runs=runs), why
    for mode in MODES[: MODES.index(result.scenario.engine_mode) + 1]:
        found = modes[mode]
        yield _MODE_NAMES[mode], replay.of(found), _mode_words(found)


def _phases(found: Result, plain: Result) -> Iterator[tuple[str, frozenset[str], str]]:
    """Yield each rung's name, the phases that are no longer plain decoding's, and why."""
    v, p = found.values, plain.values
    tokens, block = v["accept_length_cycle"], found.setup.block
    yield "acceptance", frozenset(), f"{tokens:.2f} tokens of each request a step"
    own = {"verify"}
    more = f"{block} rows of each: {p['verify_ms']:.2f} -> {v['verify_ms']:.2f} ms"
    yield "verification", frozenset(own), more
    own |= {"draft", "materialise"}
    after = phase_title("materialise", found.setup)
    parts = f"draft {v['draft_ms']:.2f}, {after} {v['materialise_ms']:.2f} ms"
    yield "drafting", frozenset(own), parts
    rest = v["other_ms"] + v["commit_ms"]
    why = f"outside the graphs: {p['other_ms']:.2f} -> {rest:.2f} ms"
    yield "bookkeeping", frozenset(PHASES), why


def _modes(result: Result, replay: Replay) -> dict[str, Result]:
    """The prediction in every engine mode up to its own; overlap also for its setup."""
    s = result.scenario
    found: dict[str, Result] = {s.engine_mode: result}
    for mode in MODES:
        if mode not in found and MODES.index(mode) <= MODES.index(s.engine_mode):
            found[mode] = predict(
                changed(s, engine_mode=mode),
                with_baseline=False,
                with_interval=False,
                on_run=replay.on_run,
            )
    if "v2" not in found:
        found["v2"] = predict(
            changed(s, engine_mode="v2", runs=1), with_baseline=False, with_interval=False
        )
    return found


def _mode_words(found: Result) -> str:
    v = found.values
    return f"{v['host_exposed_ms']:.2f} of {v['host_ms']:.2f} ms of host work show"
