"""Policies of verify widths: what they commit, what they pay, and who is best."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import NO_HOST, SyntheticStep, closed, limits

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.policies import LadderSlot, load_policies
from dflash_sim.simulator.engine.records import DECODE, AdaptiveRun, Run
from dflash_sim.simulator.policy.adaptive_engine import AdaptiveEngine
from dflash_sim.simulator.policy.draft_budget import best_budget, top_slots
from dflash_sim.simulator.policy.ema_ladder import EmaLadder
from dflash_sim.simulator.policy.interface import Plan, Policy
from dflash_sim.simulator.policy.parse import BatchTable, parse_policy
from dflash_sim.simulator.predict import predict, simulate
from dflash_sim.simulator.requests.draws import ConfidenceHead, Draws, draw_commits, draw_latent
from dflash_sim.simulator.requests.laws import Acceptance, FixedAcceptance, ParametricAcceptance
from dflash_sim.simulator.requests.survival import FrailtyWeibull, Survival
from dflash_sim.simulator.requests.workload import Workload
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.simulator.slopes import requests_of
from dflash_sim.simulator.trial import run_engine

Floats = npt.NDArray[np.float64]
BLOCK = 8
NAMES = ("table:[[1,2,7],[3,64,3]]", "ema", "ema:1,3,7", "confidence", "confidence:0", "oracle",
    "batch:2", "context:40", "accept", "accept:2.5", "sglang-adaptive", "vllm-example")  # fmt: skip
LAW = ParametricAcceptance(FrailtyWeibull(0.25, 1.1, 0.1), BLOCK)
SMALL = {"gpu": "b200", "model": "qwen3-8b", "tp": 1, "dataset": "gsm8k", "thinking": False}


@dataclass(frozen=True)
class LinearPrices:
    """Seconds linear in rows and in the width drafted; nothing depends on the context."""

    fixed_s: float = 4e-3
    per_row_s: float = 1e-4
    per_draft_s: float = 5e-5
    block: int = BLOCK

    def graph_of(self, batch: int) -> int:
        return batch

    def decode_s(self, batch: int, kv_tokens: float, *, rows: int, drafted: int) -> float:
        rest, draft = self.curve(batch, kv_tokens)
        return float(rest[rows - batch] + draft[drafted - 1])

    def tail_s(self, batch: int, kv_tokens: float, *, rows: int) -> float:
        return 0.0

    def draft_s(self, batch: int, kv_tokens: float, *, drafted: int) -> float:
        return float(self.curve(batch, kv_tokens)[1][drafted - 1])

    def curve(self, batch: int, kv_tokens: float) -> tuple[Floats, Floats]:
        rows = np.arange(batch, batch * self.block + 1)
        widths = np.arange(self.block)
        return self.fixed_s + self.per_row_s * rows, self.per_draft_s * batch * widths


def policy_of(text: str) -> Policy:
    found = parse_policy(text, block=BLOCK)
    assert found is not None
    return found


def latent_of(law: Acceptance, workload: Workload, seed: int = 0) -> Draws:
    return draw_latent(law, workload, np.random.default_rng(seed), spread=2.0)


def serve(
    policy: Policy,
    draws: Draws,
    workload: Workload,
    prices: LinearPrices | None = None,
    mode: str = "v2",
    **limited: Any,
) -> AdaptiveRun:
    """A run on a machine without host time."""
    engine = AdaptiveEngine(
        step=SyntheticStep(prefill_per_token_s=1e-5, block=BLOCK),  # type: ignore[arg-type]
        host=NO_HOST,
        limits=limits(speculative=True, block=BLOCK, **limited),
        workload=workload,
        draws=draws,
        mode=mode,
        widths=prices or LinearPrices(),
        policy=policy,
    )
    return engine.run()


# ---- conservation ------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    mode=st.sampled_from(["v1", "v2-sync", "v2"]),
    conc=st.integers(1, 6),
    tight=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_every_token_is_committed_once(
    name: str, mode: str, conc: int, tight: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    work = closed(rng.integers(1, 60, 3 * conc), conc=conc)
    draws = latent_of(LAW, work, seed)
    pool = {"kv_tight": True, "kv_tokens": 150, "max_new_tokens": 60} if tight else {}
    run = serve(policy_of(name), draws, work, mode=mode, **pool)
    assert np.isfinite(run.finish_s).all()
    for rid in range(len(work)):
        made = run.commits[rid, : run.cycles[rid]]
        assert made.sum() == run.committed[rid] >= work.osl[rid] - 1
        assert made[:-1].sum() < max(1, work.osl[rid] - 1)  # the last cycle was needed
        if not tight:
            assert (made <= draws.commits[rid, : run.cycles[rid]]).all()
    decode = run.kind == DECODE
    assert (run.rows[decode] >= run.batch[decode]).all()
    assert (run.rows[decode] <= run.batch[decode] * run.drafted[decode]).all()
    assert (run.drafted[decode] <= BLOCK).all()
    # What was verified bounds what was committed, and is at least a token of each request.
    assert run.committed.sum() <= run.rows.sum()


@pytest.mark.parametrize("width", [1, 3, BLOCK])
def test_a_width_cuts_the_latent_run_and_nothing_else(width: int) -> None:
    work = closed(np.full(6, 40), conc=3)
    draws = latent_of(LAW, work)
    run = serve(BatchTable(((1, 64, width - 1),)), draws, work)
    for rid in range(len(work)):
        n = run.cycles[rid]
        expected = np.minimum(draws.commits[rid, :n], width)
        np.testing.assert_array_equal(run.commits[rid, :n], expected)


def test_policies_share_the_draws_of_a_fixed_width() -> None:
    """A policy that never cuts commits what the fixed width does, cycle by cycle."""
    work = closed(np.random.default_rng(1).integers(2, 300, 50), conc=4)
    fixed = draw_commits(LAW, work, np.random.default_rng(7))
    whole = latent_of(LAW, work, seed=7)
    for rid in range(len(work)):
        n = fixed.cycles[rid]
        np.testing.assert_array_equal(whole.commits[rid, :n], fixed.commits[rid, :n])
    # Whether a head looks changes nothing.
    unseen = draw_latent(LAW, work, np.random.default_rng(7))
    np.testing.assert_array_equal(unseen.commits, whole.commits)


# ---- one row is the fixed width ----------------------------------------------------------


def assert_same_run(a: Run, b: Run) -> None:
    for f in fields(Run):
        if f.name != "engine":
            np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name), f.name)


@pytest.mark.parametrize("mode", ["v1", "v2-sync", "v2"])
def test_one_row_of_a_table_is_the_fixed_width(mode: str) -> None:
    asked = Scenario.parse(**SMALL, conc=3, num_prompts=6, runs=1, engine_mode=mode, block=8)
    fixed = resolve(asked)
    law = fixed.expectation
    _, expected = simulate(fixed, law, run=0, simulator="event")
    table = resolve(asked.model_copy(update={"policy": "table:[[1,1,7],[2,64,7]]"}))
    _, got = simulate(table, law, run=0)
    assert_same_run(got, expected)
    shorter = resolve(asked.model_copy(update={"policy": "table:[[1,64,6]]"}))
    _, other = simulate(shorter, law, run=0)
    assert other.cycles.sum() > expected.cycles.sum()


def test_a_summary_under_a_policy_adds_up() -> None:
    asked = Scenario.parse(**SMALL, conc=4, num_prompts=12, runs=1, policy="confidence")
    setup = resolve(asked)
    law = setup.expectation
    summary, run = simulate(setup, law, run=0)
    assert isinstance(run, AdaptiveRun)
    decode = run.kind == DECODE
    phases = ("draft", "verify", "commit", "materialise", "other")
    gpu_ms = sum(summary.values[f"{name}_ms"] for name in phases)
    assert gpu_ms == pytest.approx(run.gpu_s[decode].mean() * 1e3, rel=1e-9)
    assert summary.accept_histogram.sum() == run.cycles.sum()
    accepted = summary.accept_histogram @ np.arange(summary.accept_histogram.size)
    assert accepted == (run.committed - run.cycles).sum()
    assert 1 < summary.values["verify_width"] < setup.block
    plain, _ = simulate(resolve(asked.model_copy(update={"policy": "fixed"})), law, run=0)
    assert plain.values["verify_width"] == setup.block
    assert summary.values["accept_rate"] > plain.values["accept_rate"]


# ---- prices ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def setup() -> Setup:
    return resolve(Scenario.parse(**SMALL, conc=8))


def test_uniform_widths_are_priced_as_blocks(setup: Setup) -> None:
    """Width w of the policies is block w of the model, whose draft is as short."""
    eight = resolve(Scenario.parse(**SMALL, conc=8, block=8)).step
    for batch, kv in ((1, 100), (5, 4000)):
        assert setup.widths.at(8).decode_s(batch, kv) == eight.decode_s(batch, kv)
        got = setup.widths.decode_s(batch, kv, rows=8 * batch, drafted=8)
        assert got == eight.decode_s(batch, kv)


def test_ragged_rows_lie_between_uniform_widths(setup: Setup) -> None:
    w, batch, kv = setup.widths, 6, 3000
    curve, draft = w.curve(batch, kv)
    assert curve.size == batch * (setup.block - 1) + 1
    for rows in range(batch, batch * setup.block + 1):
        priced = w.decode_s(batch, kv, rows=rows, drafted=setup.block)
        assert priced == pytest.approx(curve[rows - batch] + draft[-1], rel=1e-12)
        table = w.mixed_table(batch, rows=rows, drafted=setup.block)
        assert table.seconds(kv / batch) == pytest.approx(priced, rel=1e-12)
        assert table.parts[:, :4].sum(axis=(0, 1)) == pytest.approx(table.total, rel=1e-12)
    for width in (1, 4, 8, 16):
        rest = w.at(width).decode_s(batch, kv) - w.at(width).draft_s(batch, kv)
        assert curve[batch * (width - 1)] == pytest.approx(rest, rel=1e-12)
    # Halfway in rows is halfway in price.
    half = w.tail_s(batch, kv, rows=batch * 4 + batch // 2)
    ends = [w.at(width).tail_s(batch, kv) for width in (4, 5)]
    assert half == pytest.approx(np.mean(ends), rel=1e-12)


def test_a_cycle_without_drafts_keeps_the_drafter_up_to_date(setup: Setup) -> None:
    draft, verify, _, tail = setup.widths.at(1).cycle.decode(requests=4, ctx=100.0)
    assert not draft.calls
    assert not draft.graphs
    assert tail.calls
    assert verify.calls
    one = setup.widths.at(1).decode_s(4, 400)
    assert one < setup.widths.at(2).decode_s(4, 400)
    plain = resolve(Scenario.parse(**SMALL, conc=8, method="none")).step.decode_s(4, 400)
    assert plain < one < 1.5 * plain


# ---- SGLang's ladder ---------------------------------------------------------------------


def climber(drafts: Sequence[int], *, up: float = 0.0, down: float = -0.25, **but: int) -> Any:
    sheet = load_policies()
    slot = LadderSlot(1, tuple(drafts), up, down)
    policy = EmaLadder((slot,), sheet.alpha, sheet.update_interval, sheet.warmup_batches)
    prices = LinearPrices(block=but.get("block", BLOCK))
    return policy.start(prices, None)  # type: ignore[arg-type]


def settle(drafts: Sequence[int], accepts: int, steps: int = 200) -> int:
    """Where a ladder stands when every request would accept ``accepts`` drafts, always."""
    ladder = climber(drafts)
    for _ in range(steps):
        now = ladder.slot(2).drafts
        ladder.processed(2, [min(accepts, now)] * 2)
    return int(ladder.slot(2).drafts)


def test_the_ladder_reaches_its_rung() -> None:
    """Worked by hand: a rung is left upwards above its drafts less 1/2, downwards at the rung
    below less 3/4."""
    rungs = [settle((1, 3, 5, 7), accepts) for accepts in range(8)]
    assert rungs == [1, 3, 3, 5, 5, 7, 7, 7]
    assert rungs == sorted(rungs)
    assert settle((1, 3, 5), 7) == 5


def test_the_ladder_waits_and_then_moves_every_fifth_step() -> None:
    ladder = climber((1, 3, 5, 7))
    stands = []
    for _ in range(26):
        ladder.processed(1, [0])
        stands.append(ladder.slot(1).drafts)
    # The mean falls as 6 x 0.8^n: 0.21 after 15 steps, and 0.25 leads to the lowest rung.
    assert stands[:14] == [7] * 14
    assert stands[14:] == [1] * 12


def test_no_drafts_are_probed_from() -> None:
    ladder = climber((0, 1), down=0.0)
    seen = []
    for _ in range(60):
        now = ladder.slot(1).drafts
        ladder.processed(1, [0] * bool(now) or [0])
        seen.append(ladder.slot(1).drafts)
    assert {0, 1} == set(seen[20:])
    assert np.mean(seen[20:]) == pytest.approx(0.5, abs=0.1)
    never = climber((0,), down=0.0)
    for _ in range(60):
        never.processed(1, [0])
    assert never.slot(1).drafts == 0


def test_sglangs_ladder_by_batch() -> None:
    ladder = policy_of("ema").start(LinearPrices(), None)  # type: ignore[arg-type]
    by_batch = {b: ladder.slot(b).ladder.drafts for b in (1, 7, 8, 31, 32, 64, 500)}
    low, middle = (1, 3, 5, 7), (0, 1, 3)
    expected = {1: low, 7: low, 8: middle, 31: middle, 32: (0, 1), 64: (0,), 500: (0,)}
    assert by_batch == expected
    small = parse_policy("ema", block=4)
    assert small is not None
    assert small.start(LinearPrices(block=4), None).slot(1).ladder.drafts == (1, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("commit", "drafts"), [(2, 3), (5, 5), (8, 7)])
def test_the_ladder_settles_in_the_engine(commit: int, drafts: int) -> None:
    work = closed(np.full(4, 900), conc=2)
    run = serve(policy_of("ema:1,3,5,7"), latent_of(FixedAcceptance(commit, BLOCK), work), work)
    late = run.drafted[run.kind == DECODE][-50:]
    assert set(late.tolist()) == {drafts + 1}


# ---- budgets -----------------------------------------------------------------------------


@st.composite
def survivals(draw: st.DrawFn) -> Floats:
    n, k = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return np.cumprod(rng.random((n, k)), axis=1)


@given(survivals(), st.data())
def test_top_slots_are_the_best_subset(s: Floats, data: st.DataObject) -> None:
    budget = data.draw(st.integers(0, s.size))
    got = top_slots(s, budget)
    assert got.sum() == budget
    chosen = [s[r, :w] for r, w in enumerate(got.tolist())]
    best = np.sort(s, axis=None)[::-1][:budget].sum()
    assert sum(map(np.sum, chosen)) == pytest.approx(best)


@given(survivals(), st.integers(0, 2**16))
def test_a_budget_is_the_best_ratio(s: Floats, seed: int) -> None:
    seconds = np.cumsum(np.random.default_rng(seed).random(s.size + 1) + 0.01)
    got = best_budget(s, seconds)

    def ratio(budget: int) -> float:
        widths = top_slots(s, budget)
        expected = sum(float(s[r, :w].sum()) for r, w in enumerate(widths.tolist()))
        return float((len(s) + expected) / seconds[budget])

    assert ratio(got) == pytest.approx(max(ratio(b) for b in range(s.size + 1)))


@given(survivals())
def test_what_costs_nothing_is_verified(s: Floats) -> None:
    assert best_budget(s, np.ones(s.size + 1)) == s.size
    dear = 1.0 + 10 * np.arange(s.size + 1)
    assert best_budget(s, dear) == 0


# ---- what a confidence head knows --------------------------------------------------------

CYCLES = (400, 500)
LONG = closed(np.full(CYCLES[0], CYCLES[1] + 1), conc=1)
ALIKE = ParametricAcceptance(FrailtyWeibull(0.22, 1.1), BLOCK)


def head_of(draws: Draws) -> tuple[ConfidenceHead, npt.NDArray[np.integer]]:
    """The head and the runs, without the columns behind the last token."""
    assert draws.head is not None
    cycles = CYCLES[1]
    return replace(draws.head, factor=draws.head.factor[:, :cycles]), draws.commits[:, :cycles]


def first_draft(head: ConfidenceHead, commits: npt.NDArray[np.integer]) -> tuple[Floats, Any]:
    told = np.exp(-head.factor * head.hazards[0]).ravel().astype(float)
    return told, (commits > 1).ravel()


def auc(told: Floats, kept: npt.NDArray[np.bool_]) -> float:
    """P(a kept draft was told to be likelier than a rejected one)."""
    order = np.argsort(told)
    ranks = np.empty(told.size)
    ranks[order] = np.arange(1, told.size + 1)
    yes = int(kept.sum())
    return float((ranks[kept].sum() - yes * (yes + 1) / 2) / (yes * (told.size - yes)))


def miscalibration(head: ConfidenceHead, commits: npt.NDArray[np.integer], k: int) -> float:
    """Largest gap between told and kept over ten equal bins, in standard errors."""
    told = np.exp(-head.factor * head.hazards[k - 1]).ravel().astype(float)
    kept = (commits > k).ravel()
    worst = 0.0
    for part in np.array_split(np.argsort(told), 10):
        p = float(told[part].mean())
        error = max(np.sqrt(p * (1 - p) / part.size), 1 / part.size)
        worst = max(worst, abs(float(kept[part].mean()) - p) / error)
    return worst


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_a_head_is_calibrated(spread: float, k: int) -> None:
    """Of the drafts told to survive with p, p do: at every position."""
    draws = draw_latent(ALIKE, LONG, np.random.default_rng(3), spread=spread)
    head, commits = head_of(draws)
    assert miscalibration(head, commits, k) < 4.5
    # A head that watched another run is as sure, and wrong.
    other = draw_latent(ALIKE, LONG, np.random.default_rng(4), spread=spread)
    assert miscalibration(head_of(other)[0], commits, k) > 10


def test_the_default_head_is_as_good_as_the_papers() -> None:
    """Area under the ROC curve 0.81 to 0.91 (DSpark paper); a blind head tosses a coin."""
    for acceptance in (0.74, 0.84, 0.90):
        law = ParametricAcceptance(FrailtyWeibull(-np.log(acceptance), 1.1), BLOCK)
        spread = load_policies().spread
        draws = draw_latent(law, LONG, np.random.default_rng(5), spread=spread)
        head, commits = head_of(draws)
        assert 0.81 < auc(*first_draft(head, commits)) < 0.91
        other, _ = head_of(draw_latent(law, LONG, np.random.default_rng(6), spread=spread))
        assert auc(*first_draft(other, commits)) == pytest.approx(0.5, abs=0.01)


def test_a_head_without_spread_knows_the_mean_only() -> None:
    draws = draw_latent(ALIKE, LONG, np.random.default_rng(3), spread=0.0)
    head, _ = head_of(draws)
    got = head.survival(np.array([0, 5]), np.array([0, 9]))
    np.testing.assert_allclose(got, np.tile(ALIKE.survival().s, (2, 1)), rtol=1e-6)


def test_a_planner_does_not_peek() -> None:
    """Lossless: who is verified may hang on what the head says, not on what will be accepted."""
    work = closed(np.full(8, 50), conc=4)
    draws = latent_of(LAW, work)
    hidden = replace(draws, commits=np.ones_like(draws.commits))
    reqs: Any = [SimpleNamespace(rid=r, launched=c) for r, c in ((0, 0), (3, 2), (5, 9))]
    for name in ("confidence", "confidence:0", "ema", "batch:2", "accept", NAMES[0]):
        plans = [policy_of(name).start(LinearPrices(), d).plan(reqs, 0) for d in (draws, hidden)]
        assert plans[0] == plans[1]
    seen, blind = (
        policy_of("oracle").start(LinearPrices(), d).plan(reqs, 0) for d in (draws, hidden)
    )
    assert seen != blind
    assert blind.widths == [1, 1, 1]


Seen = tuple[tuple[tuple[int, int], ...], int, tuple[int, ...], int]


@dataclass
class Recorded:
    """A policy whose plans are written down: requests with their cycles, cached tokens, widths."""

    policy: Policy
    plans: list[Seen]

    @property
    def spread(self) -> float | None:
        return self.policy.spread

    def start(self, prices: Any, draws: Draws) -> "Recorded":
        self.chooser = self.policy.start(prices, draws)
        return self

    def plan(self, reqs: Any, kv_tokens: int) -> Any:
        plan = self.chooser.plan(reqs, kv_tokens)
        asked = tuple((r.rid, r.launched) for r in reqs)
        self.plans.append((asked, kv_tokens, tuple(plan.widths), plan.drafted))
        return plan

    def processed(self, batch: int, accepted: Sequence[int]) -> None:
        self.chooser.processed(batch, accepted)


@dataclass
class Echo:
    """Whatever it is told moves its next width: what the engine tells too early shows at once."""

    told: int = 0
    spread: float | None = None

    def start(self, prices: Any, draws: Draws) -> "Echo":
        return self

    def plan(self, reqs: Any, kv_tokens: int) -> Plan:
        return Plan.uniform(len(reqs), 1 + self.told % BLOCK)

    def processed(self, batch: int, accepted: Sequence[int]) -> None:
        self.told += sum(accepted)


@dataclass
class Peeking:
    """Verifies as much as a cycle will commit, ``ahead`` cycles from now: what nobody may know."""

    ahead: int
    spread: float | None = None

    def start(self, prices: Any, draws: Draws) -> "Peeking":
        self.commits = draws.commits
        return self

    def plan(self, reqs: Any, kv_tokens: int) -> Plan:
        last = self.commits.shape[1] - 1
        at = [min(r.launched + self.ahead, last) for r in reqs]
        return Plan([int(self.commits[r.rid, c]) for r, c in zip(reqs, at, strict=True)], BLOCK)

    def processed(self, batch: int, accepted: Sequence[int]) -> None:
        """It knew."""


def with_another_future(draws: Draws, cycle: int) -> Draws:
    """The same up to a cycle of each request, whose outcome and whatever follows is another."""
    assert draws.head is not None
    commits, factor = draws.commits.copy(), draws.head.factor.copy()
    commits[:, cycle:] = BLOCK + 1 - commits[:, cycle:]  # never what it was: nine is odd
    factor[:, cycle + 1 :] += 1
    return replace(draws, commits=commits, head=replace(draws.head, factor=factor))


def plans_until(policy: Policy, draws: Draws, work: Workload, cycle: int, mode: str) -> list[Seen]:
    """Every plan of the engine up to the first of that cycle of any request."""
    recorded = Recorded(policy, [])
    serve(recorded, draws, work, mode=mode)
    there = [max(c for _, c in asked) >= cycle for asked, *_ in recorded.plans]
    return recorded.plans[: 1 + there.index(True) if any(there) else None]


MODES = st.sampled_from(["v1", "v2-sync", "v2"])


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["echo", *(name for name in NAMES if name != "oracle")]),
    mode=MODES,
    conc=st.integers(1, 4),
    cycle=st.integers(0, 30),
    seed=st.integers(0, 2**16),
)
def test_plans_do_not_depend_on_what_comes(
    name: str, mode: str, conc: int, cycle: int, seed: int
) -> None:
    """In the engine: what a cycle commits, and all that follows it, moves no plan up to it."""
    work = closed(np.random.default_rng(seed).integers(2, 120, 3 * conc), conc=conc)
    draws = latent_of(LAW, work, seed)
    now, other = (
        plans_until(Echo() if name == "echo" else policy_of(name), d, work, cycle, mode)
        for d in (draws, with_another_future(draws, cycle))
    )
    assert now
    assert now == other


@settings(max_examples=20, deadline=None)
@given(ahead=st.sampled_from([0, 1, 3]), mode=MODES, seed=st.integers(0, 2**16))
def test_a_policy_that_peeks_is_found_out(ahead: int, mode: str, seed: int) -> None:
    work = closed(np.full(4, 200), conc=2)
    draws = latent_of(LAW, work, seed)
    for policy in (Peeking(ahead), policy_of("oracle")):
        now, other = (
            plans_until(policy, d, work, 10, mode) for d in (draws, with_another_future(draws, 10))
        )
        assert now != other


# ---- who is best -------------------------------------------------------------------------


def rate(policy: Policy, draws: Draws, prices: LinearPrices, batch: int, steps: int) -> float:
    """Tokens per second of ``batch`` requests that never end, over the same cycles [token/s]."""
    chooser = policy.start(prices, draws)
    reqs: Any = [SimpleNamespace(rid=r, launched=0) for r in range(batch)]
    tokens, seconds = 0, 0.0
    for cycle in range(steps):
        plan = chooser.plan(reqs, 0)
        cut = np.minimum(draws.commits[:batch, cycle], plan.widths)
        chooser.processed(batch, (cut - 1).tolist())
        tokens += int(cut.sum())
        rows = sum(plan.widths)
        seconds += prices.decode_s(batch, 0, rows=rows, drafted=plan.drafted)
        for r in reqs:
            r.launched += 1
    return tokens / seconds


FIXED = tuple(f"table:[[1,64,{k}]]" for k in range(BLOCK))


@settings(max_examples=10, deadline=None)
@given(
    batch=st.integers(1, 6),
    q=st.floats(0.3, 0.95),
    per_row=st.floats(1e-3, 0.3),
    per_draft=st.floats(0.0, 0.1),
    seed=st.integers(0, 2**16),
)
def test_the_oracle_beats_every_policy(
    batch: int, q: float, per_row: float, per_draft: float, seed: int
) -> None:
    """Requests that never end, prices without context, the same cycles for all: nobody commits
    more per second than who knows the runs. It learns its rate on the way: 0.1 % is for that."""
    steps = 400
    law = ParametricAcceptance(FrailtyWeibull(-np.log(q), 1.1, 0.05), BLOCK)
    work = closed(np.full(batch, steps + 2), conc=batch)
    draws = latent_of(law, work, seed)
    prices = LinearPrices(1e-3, per_row * 1e-3, per_draft * 1e-3)
    best = rate(policy_of("oracle"), draws, prices, batch, steps)
    for name in (*FIXED, "ema:0,1,3,7", "confidence", "confidence:8"):
        assert best >= 0.999 * rate(policy_of(name), draws, prices, batch, steps), name


def test_an_oracle_of_other_runs_is_none() -> None:
    steps, batch = 400, 4
    work = closed(np.full(batch, steps + 2), conc=batch)
    draws = latent_of(LAW, work)
    prices = LinearPrices(1e-3, 2e-4, 1e-5)
    misled = replace(draws, commits=np.random.default_rng(0).permuted(draws.commits, axis=1))
    chooser = policy_of("oracle").start(prices, misled)

    class Misled:
        spread = None

        def start(self, prices: Any, draws: Draws) -> Any:
            return chooser

    right = rate(policy_of("oracle"), draws, prices, batch, steps)
    wrong = rate(Misled(), draws, prices, batch, steps)
    fixed = max(rate(policy_of(name), draws, prices, batch, steps) for name in FIXED)
    assert wrong < fixed < right


def test_knowing_more_is_worth_more() -> None:
    """Ever better heads, up to the oracle: the drafts that are worth verifying are found."""
    steps, batch = 600, 8
    work = closed(np.full(batch, steps + 2), conc=batch)
    prices = LinearPrices(1e-3, 3e-4, 0.0)
    rates = []
    for spread in (0.0, 0.5, 2.0, 20.0):
        draws = draw_latent(LAW, work, np.random.default_rng(1), spread=spread)
        rates.append(rate(policy_of("confidence"), draws, prices, batch, steps))
    rates.append(rate(policy_of("oracle"), draws, prices, batch, steps))
    assert rates == sorted(rates)
    assert rates[2] > 1.05 * rates[0]


# ---- what a user asks for ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("table:[[1,8,7],[10,32,3]]", "leaves a gap: it should begin at batch 9"),
        ("table:[[2,8,7]]", "leaves a gap: it should begin at batch 1"),
        ("table:[[1,8,7],[8,32,3]]", "overlaps the one before: it should begin at batch 9"),
        ("table:[[1,8,7],[9,4,3]]", "ends before it begins"),
        ("table:[[1,8,8]]", "8 drafts need a verify window of 9, and the block is 8"),
        ("table:[[1,8]]", "no list of [from, to, drafts]"),
        ("table:[]", "no list of"),
        ("table:[[1,8,true]]", "no list of"),
        ("table", "no list of"),
        ("ema:3,1", "the rungs must rise"),
        ("ema:1,9", "9 drafts need"),
        ("ema:fast", "no list of draft counts"),
        ("batch:0", "no number of requests above 0"),
        ("batch", "no number of requests above 0"),
        ("context:8k", "no number of tokens above 0"),
        ("accept:9", "no number of tokens a cycle from 1 to the block's 8"),
        ("sglang-adaptiv", "sglang-adaptive"),
        ("confidence:-1", "no variance"),
        ("confidence:nan", "no variance"),
        ("oracle:1", "takes no value"),
        ("fixed:8", "takes no value"),
        ("tabel:[[1,8,7]]", "tabel"),
    ],
)
def test_bad_policies_are_told(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=r".") as error:
        parse_policy(text, block=BLOCK)
    assert said in str(error.value)


def test_a_table_is_vllms() -> None:
    """Drafts, not widths; the last row goes on for larger batches."""
    table = policy_of("table:[[1,8,7],[9,32,3],[33,64,0]]")
    assert isinstance(table, BatchTable)
    assert [table.drafts(b) for b in (1, 8, 9, 32, 33, 64, 999)] == [7, 7, 3, 3, 0, 0, 0]


def test_fixed_is_no_policy() -> None:
    assert parse_policy("fixed", block=BLOCK) is None
    assert resolve(Scenario.parse(**SMALL)).policy is None


def test_a_table_wider_than_the_drafter_is_refused() -> None:
    with pytest.raises(UsageError, match="16 drafts need a verify window of 17"):
        resolve(Scenario.parse(**SMALL, policy="table:[[1,8,16]]"))


def test_the_leap_engine_refuses_by_name() -> None:
    asked = Scenario.parse(**SMALL, num_prompts=2, runs=1, policy="ema")
    with pytest.raises(UsageError, match="policy ema chooses a verify width in every step"):
        predict(asked, simulator="leap", with_interval=False, with_baseline=False)
    result = predict(asked, with_interval=False, with_baseline=False)
    assert result.simulator_used == "event"
    assert result.published is None


def test_questions_about_one_width_say_so() -> None:
    setup = resolve(Scenario.parse(**SMALL, num_prompts=2, policy="oracle"))
    requests = requests_of(setup, 0)
    with pytest.raises(UsageError, match="about a fixed width"):
        run_engine(setup, requests.workload, requests.draws(setup.expectation))


def test_plain_decoding_takes_no_policy() -> None:
    with pytest.raises(UsageError, match="takes no policy; drop it"):
        Scenario.parse(method="none", policy="ema")


def test_a_batchs_draw_takes_no_policy() -> None:
    asked = Scenario.parse(**SMALL, acceptance="sglang-simulated:3", policy="ema", num_prompts=2)
    with pytest.raises(UsageError, match="drawn once for a whole batch"):
        predict(asked, with_interval=False, with_baseline=False)


def test_a_speed_up_is_over_plain_decoding() -> None:
    asked = Scenario.parse(**SMALL, num_prompts=4, runs=1, policy="confidence")
    result = predict(asked)
    assert result.speedup is not None
    assert result.speedup > 1
    assert result.baseline is not None
    assert result.baseline.scenario.policy == "fixed"
    low, high = result.intervals["output_throughput"]
    assert low < result.values["output_throughput"] < high


def test_a_survival_that_ends_is_no_trouble_for_a_head() -> None:
    """Nothing beyond a certain position is ever accepted: it is told to die."""
    law = Survival.table([0.8, 0.5, 0.0, 0.0])
    commits = 1 + (np.random.default_rng(0).random((50, 20, 1)) < law.s[:2]).sum(axis=2)
    head = ConfidenceHead.beside(commits, law, spread=2.0, rng=np.random.default_rng(1))
    told = head.survival(np.arange(50), np.zeros(50, np.int64))
    assert np.isfinite(told).all()
    assert told[:, 2:].max() < 1e-6
