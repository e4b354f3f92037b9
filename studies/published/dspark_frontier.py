"""The measured frontier of DSpark on DeepSeek-V4-Pro, simulated from a published step cost.

The step cost is of another model, V4-Flash, so its shape is carried over: a smooth curve through
the table (its stairs are the graphs and tiles of that server), times one factor, or times one for
streaming weights and one for computing tokens, which differ between the models. The factors are
fitted on decoding without speculation; every speculative cell is held out. Acceptance is that of
the drafter on other prompts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.dspark_published import ADAPTIVE, Measured, load_dspark
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.engine.scheduler import Limits
from dflash_sim.simulator.policy.adaptive_engine import AdaptiveEngine
from dflash_sim.simulator.policy.interface import Policy
from dflash_sim.simulator.policy.parse import BatchTable, parse_policy
from dflash_sim.simulator.requests.draws import draw_latent
from dflash_sim.simulator.requests.laws import TableAcceptance
from dflash_sim.simulator.requests.numerics import gauss_newton
from dflash_sim.simulator.requests.survival import Survival
from dflash_sim.simulator.requests.workload import fixed_workload

Floats = npt.NDArray[np.float64]
Arm = tuple[str, int]  # drafts, requests in flight

PUBLISHED, BEFORE = "graphs-4096", "graphs-1024"
PLAIN = "0"
CONC = (1, 16, 32, 64, 128, 256)
DRAFTS = (PLAIN, "1", "3", "5", "6", "7")
MOST = 7  # drafts of the adaptive arm
CLEAR = 0.03  # gaps between arms that a ranking must get right
_GRAPHS = 1025  # tokens of the largest graph of the step cost, as read off the figure
_PROMPTS, _WAVES = 880, 24
_LONGEST, _SHORTEST = 128, 1 / 16  # scale-free: nothing is priced by context, and prefill is free


@dataclass(frozen=True)
class SmoothCost:
    """``fixed + experts (1 - (1 - each)^T) + token T``: what T tokens of a step cost.

    Weights that every step streams, experts that more tokens reach more of, and work per token.

    Parameters
    ----------
    each : share of the experts that one token reaches [1]
    rms : how far the curve is from the table, relative [1]
    """

    fixed_s: float
    experts_s: float
    each: float
    token_s: float
    rms: float

    def parts(self, tokens: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Seconds of streaming, and of computing, for steps of so many tokens."""
        t = np.asarray(tokens, dtype=float)
        return self.fixed_s + self.experts_s * -np.expm1(t * np.log1p(-self.each)), self.token_s * t


@cache
def smooth_cost() -> SmoothCost:
    """Least squares on the published table, inside the graphs."""
    inside = [(n, s) for n, s in load_dspark().verify_s if n <= _GRAPHS]
    tokens, seconds = np.array(inside).T

    def curve(x: Floats, rms: float = 0.0) -> SmoothCost:
        fixed_s, experts_s, each, token_s = np.exp(x).tolist()
        return SmoothCost(fixed_s, experts_s, each, token_s, rms)

    def misfit(x: Floats) -> Floats:
        return np.asarray(np.log(np.sum(curve(x).parts(tokens), axis=0) / seconds))

    last = seconds[-1] / tokens[-1]
    x, _ = gauss_newton(misfit, np.log([seconds[0], seconds[0], 0.01, last / 2]))
    return curve(x, float(np.sqrt(np.mean(misfit(x) ** 2))))


@dataclass(frozen=True)
class Prices:
    """Step cost of the frontier's model.

    Parameters
    ----------
    streaming, computing
        Factors on the parts of the table's curve; drafts take the first [1].
    stairs
        The table as it is, in place of the curve; beyond the graphs it goes on with the curve's
        slope, or with the table's cliff.
    cliff
        Steps beyond the graphs cost what they cost outside of them.
    """

    streaming: float
    computing: float
    stairs: bool = False
    cliff: bool = False
    block: int = MOST + 1
    _curves: dict[int, tuple[Floats, Floats]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def verify_s(self, tokens: npt.ArrayLike) -> Floats:
        """Seconds to verify so many tokens."""
        t = np.asarray(tokens, dtype=float)
        stream, compute = smooth_cost().parts(t)
        upto, seconds = np.array(load_dspark().verify_s).T
        if self.stairs:
            table = seconds[np.minimum(np.searchsorted(upto, t), len(upto) - 1)]
            beyond = (t > _GRAPHS) & (not self.cliff)
            stream = np.where(beyond, stream, table - compute)
        elif self.cliff:
            stream = np.where(t > _GRAPHS, seconds[-1] - compute, stream)
        return self.streaming * stream + self.computing * compute

    def drafting_s(self, requests: int) -> float:
        """Seconds of a draft: the same for any number of drafts."""
        upto, seconds = np.array(load_dspark().draft_s).T
        found = seconds[min(int(np.searchsorted(upto, requests)), len(upto) - 1)]
        return self.streaming * float(found)

    def graph_of(self, batch: int) -> int:
        return batch

    def decode_s(self, batch: int, kv_tokens: float, *, rows: int, drafted: int) -> float:
        rest, draft = self.curve(batch, kv_tokens)
        return float(rest[rows - batch] + draft[drafted - 1])

    def tail_s(self, batch: int, kv_tokens: float, *, rows: int) -> float:
        return 0.0

    def draft_s(self, batch: int, kv_tokens: float, *, drafted: int) -> float:
        return self.drafting_s(batch) if drafted > 1 else 0.0

    def curve(self, batch: int, kv_tokens: float) -> tuple[Floats, Floats]:
        if batch not in self._curves:
            draft = np.full(self.block, self.drafting_s(batch))
            draft[0] = 0.0
            rows = np.arange(batch, batch * self.block + 1)
            self._curves[batch] = self.verify_s(rows), draft
        return self._curves[batch]

    def prefill_s(self, *, requests: int, tokens: int, prefix: float = 0.0) -> float:
        """Nothing is published of it."""
        return 0.0

    def prefill_launch_s(self, tokens: int) -> float:
        """Nor of its launches."""
        return 0.0


def fitted(*, factors: int, stairs: bool = False, cliff: bool = False) -> Prices:
    """Prices whose factors are fitted on the speed per user without speculation.

    Parameters
    ----------
    factors : 1 on all of the table, 2 apart on streaming and computing
    """
    plain = load_dspark().frontier[BEFORE if cliff else PUBLISHED]
    step_s = np.array([1 / plain[PLAIN, c].user_tok_s for c in CONC])
    unit = Prices(1, 1, stairs=stairs)
    compute = smooth_cost().parts(CONC)[1]
    parts = np.stack([unit.verify_s(CONC) - compute, compute], axis=1)
    if factors == 1:
        parts = parts.sum(axis=1, keepdims=True)
    found = np.linalg.lstsq(parts / step_s[:, None], np.ones(len(CONC)), rcond=None)[0]
    return Prices(float(found[0]), float(found[-1]), stairs=stairs, cliff=cliff)


def drafter() -> TableAcceptance:
    """The drafter on the coding prompts that its accept lengths are published for."""
    lengths = {k + 1: a for k, a in load_dspark().accept_length.items() if k <= MOST}
    return TableAcceptance(Survival.from_accept_lengths(lengths), MOST + 1)


def simulated(prices: Prices, law: TableAcceptance, arm: Arm) -> Measured:
    """One cell: the event engine on the benchmark's closed loop."""
    drafts, conc = arm
    work = fixed_workload(
        isl=1,
        osl=_LONGEST,
        requests=min(_PROMPTS, _WAVES * conc),
        conc=conc,
        range_ratio=_SHORTEST,
        rng=np.random.default_rng(0),
    )
    policy = _policy(drafts)
    draws = draw_latent(law, work, np.random.default_rng(1), spread=policy.spread)
    engine = AdaptiveEngine(
        step=prices,  # type: ignore[arg-type]
        host=HostTime.none(),
        limits=_unbounded(conc),
        workload=work,
        draws=draws,
        widths=prices,
        policy=policy,
    )
    run = engine.run()
    decoding = (run.finish_s - run.first_token_s) / np.maximum(1, work.osl - 1)
    return Measured(float(work.osl.sum() / run.finish_s.max()), float(1 / decoding.mean()))


def _policy(drafts: str) -> Policy:
    if drafts != ADAPTIVE:
        return BatchTable(((1, max(CONC), int(drafts)),))
    policy = parse_policy("confidence", block=MOST + 1)
    assert policy is not None
    return policy


def _unbounded(conc: int) -> Limits:
    most = 10**9
    return Limits(
        max_running_requests=conc,
        max_prefill_tokens=most,
        chunked_prefill_size=most,
        kv_tokens=most,
        page_size=1,
        block=MOST + 1,
        speculative=True,
        max_new_tokens=_LONGEST,
        clip_max_new_tokens=_LONGEST,
        min_free_slots_delay=0,
        new_token_ratio_init=0.0,
        new_token_ratio_min=0.0,
        new_token_ratio_decay=0.0,
        retract_decode_steps=0,
        kv_tight=False,
    )


def steady(prices: Prices, law: TableAcceptance, arm: Arm) -> float:
    """Throughput of a fixed arm that never ramps up or drains [token/s]."""
    drafts, conc = int(arm[0]), arm[1]
    length = law.table.truncate(drafts + 1).mean_accept_length
    rows = conc * (drafts + 1)
    return conc * length / prices.decode_s(conc, 0, rows=rows, drafted=drafts + 1)


def frontier(
    prices: Prices,
    law: TableAcceptance,
    *,
    drafts: Iterable[str] = (*DRAFTS, ADAPTIVE),
    conc: Iterable[int] = CONC,
) -> dict[Arm, float]:
    """Simulated throughput of every arm [token/s]."""
    arms = [(d, c) for d in drafts for c in conc]
    return {arm: simulated(prices, law, arm).output_tok_s for arm in arms}


@dataclass(frozen=True)
class Pair:
    """Two fixed arms whose measured gap is clear, and the simulated one: ratios of throughput."""

    conc: int
    first: str
    second: str
    measured: float
    simulated: float

    @property
    def agrees(self) -> bool:
        """Return True if the simulation ranks them as they were measured."""
        return (self.measured - 1) * (self.simulated - 1) > 0


def pairs(
    measured: Mapping[Arm, Measured],
    found: Mapping[Arm, float],
    *,
    drafts: Sequence[str] = DRAFTS,
    conc: Iterable[int] = CONC,
) -> list[Pair]:
    """Every pair of fixed arms at one concurrency that differ by more than ``CLEAR``."""
    out = []
    for c in conc:
        for a, b in combinations(drafts, 2):
            ratio = measured[a, c].output_tok_s / measured[b, c].output_tok_s
            if max(ratio, 1 / ratio) > 1 + CLEAR:
                out.append(Pair(c, a, b, ratio, found[a, c] / found[b, c]))
    return out
