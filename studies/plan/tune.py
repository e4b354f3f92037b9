"""The verify width that serves most tokens at each batch size, in the words of vLLM and SGLang.

For each batch and width, requests in the middle of their answers are decoded on the simulated
engine until steps repeat, so that only the steady period of a step is measured. Tokens per step
come from the latent run of many requests, cut at the width, so that nothing else differs.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.intervals import ratio_error
from dflash_sim.simulator.policy.parse import BatchTable
from dflash_sim.simulator.requests.draws import draw_latent, draw_runs
from dflash_sim.simulator.requests.laws import Acceptance, FixedAcceptance
from dflash_sim.simulator.requests.workload import fixed_workload
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.simulator.trial import build_workload, run_engine
from dflash_sim.studies.ask.slots import more_room
from dflash_sim.studies.show.plain_table import Table

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
BATCHES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256)
_STEPS = 24  # of a batch: eight until the pipeline repeats, and those that are timed
_LEAD = 8
# Gain below which a batch keeps the width of the one before. Between the points of op tables times
# are interpolated, from which the best of neighbouring batches goes to and fro by 0.5 to 2 %.
CLEAR = 0.02
_REQUESTS = 1024
_CYCLES = 256

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tuned:
    """Steady throughput by batch size and verify width.

    Parameters
    ----------
    tok_s
        ``[batch, width]`` tokens per second of all requests together [token/s].
    accept_length
        Tokens per cycle by width [token].
    ctx
        Tokens in the cache of each request, the mean while it decodes.
    widest
        The width that is drafted and verified where nothing is tuned.
    error
        How far a gain of one width over another may be off, at 90 % [1].
    additive
        The cost table of a confidence scheduler.
    ends
        Why there is no larger batch; empty where the asker said which to try.
    """

    scenario: Scenario
    batches: tuple[int, ...]
    widths: tuple[int, ...]
    tok_s: Floats
    accept_length: Floats
    ctx: int
    widest: int
    error: float
    additive: "AdditiveCost"
    steps_per_s: Floats
    ends: str = ""

    @property
    def best(self) -> dict[int, int]:
        """The width that serves most tokens, by batch size."""
        at = np.argmax(self.tok_s, axis=1)
        return {b: self.widths[i] for b, i in zip(self.batches, at.tolist(), strict=True)}

    @property
    def chosen(self) -> dict[int, int]:
        """Return a width for each batch size, changed from the widest for a clear gain only."""
        found: dict[int, int] = {}
        at = self.widths.index(self.widest)
        for batch, speeds in zip(self.batches, self.tok_s, strict=True):
            if speeds.max() > (1 + CLEAR) * speeds[at]:
                at = int(np.argmax(speeds))
            found[batch] = self.widths[at]
        return found

    def as_vllm(self) -> list[list[int]]:
        """``num_speculative_tokens_per_batch_size``: ``[[from batch, to batch, drafts], ...]``.

        A batch between two that were tried takes the larger one's, as a graph would be padded.
        """
        rows: list[list[int]] = []
        chosen = self.chosen
        edges = [0, *self.batches]
        for below, batch in pairwise(edges):
            drafts = chosen[batch] - 1
            if rows and rows[-1][2] == drafts:
                rows[-1][1] = batch
            else:
                rows.append([below + 1, batch, drafts])
        return rows

    def as_sglang_json(self, form: str = "additive") -> str:
        """A file for ``--speculative-dspark-sps-table-path``.

        Parameters
        ----------
        form
            ``additive``: step time as a bias, a part by requests and one by tokens.
            ``diagonal``: steps per second by tokens verified, each batch at its full width.
        """
        if form == "additive":
            return json.dumps(self.additive.as_dict())
        if form == "diagonal":
            tokens = [b * self.widest for b in self.batches]
            table = {
                "sample_batch_tokens": tokens,
                "sample_steps_per_sec": self.steps_per_s.tolist(),
                "max_batch_tokens": tokens[-1],
            }
            return json.dumps(table)
        msg = f"no form '{form}' of the cost table; allowed: additive, diagonal"
        raise UsageError(msg)

    def table(self) -> Table:
        """Throughput by batch and block, the best, its gain over the widest, and what it is worth.

        The advice is what the table for a server has; a gain that the model may be off by is told
        as such.
        """
        head = ("batch", *(f"block {w}" for w in self.widths), "best", "gain", "advice")
        rows = []
        for batch, speeds in zip(self.batches, self.tok_s, strict=True):
            gain = float(speeds.max() / speeds[self.widths.index(self.widest)]) - 1
            chosen = self.chosen[batch]
            advice = f"keep block {chosen}" if chosen == self.widest else f"block {chosen}"
            best = self.best[batch]
            if speeds.max() > speeds[self.widths.index(chosen)]:
                advice += f", within error of {best}"
            elif 0 < gain <= self.error:
                advice += ", within error"
            cells = (*(f"{x:,.0f}" for x in speeds), str(best), f"{gain:+.1%}", advice)
            rows.append((str(batch), *cells))
        return Table("output tok/s by batch size", head, tuple(rows))


@dataclass(frozen=True)
class AdditiveCost:
    """Step time ``bias + alpha(requests) + theta(tokens)``, linear between probes.

    SGLang's ``SpsAdditiveCostTable``; ``rms`` is how far it is from the times it was fitted to [1].
    """

    bias_s: float
    requests: tuple[int, ...]
    alpha_s: tuple[float, ...]
    tokens: tuple[int, ...]
    theta_s: tuple[float, ...]
    rms: float

    @classmethod
    def fitted(
        cls, requests: npt.ArrayLike, tokens: npt.ArrayLike, seconds: Floats
    ) -> "AdditiveCost":
        """Least squares on relative errors; neither part falls."""
        r, t = np.asarray(requests), np.asarray(tokens)
        knots_r = np.unique(r)
        top = int(t.max())
        powers = 2 ** np.arange(int(np.log2(top)) + 1)
        knots_t = np.unique([int(t.min()), *powers[powers > t.min()].tolist(), top])
        # The first knot of each part belongs to the bias.
        columns = [np.ones((len(r), 1)), _hats(r, knots_r)[:, 1:], _hats(t, knots_t)[:, 1:]]
        basis = np.concatenate(columns, axis=1) / seconds[:, None]
        x = np.linalg.lstsq(basis, np.ones(len(r)), rcond=None)[0]
        alpha = np.concatenate([np.zeros(1), x[1 : len(knots_r)]])
        theta = np.concatenate([np.zeros(1), x[len(knots_r) :]])
        alpha, theta = np.maximum.accumulate(alpha), np.maximum.accumulate(theta)
        made = x[0] + np.interp(r, knots_r, alpha) + np.interp(t, knots_t, theta)
        rms = float(np.sqrt(np.mean((made / seconds - 1) ** 2)))
        return cls(
            float(x[0]),
            tuple(knots_r.tolist()),
            tuple(alpha.tolist()),
            tuple(knots_t.tolist()),
            tuple(theta.tolist()),
            rms,
        )

    def seconds(self, *, requests: int, tokens: int) -> float:
        """Step time as SGLang reads it from the table."""
        alpha = np.interp(requests, self.requests, self.alpha_s)
        return self.bias_s + float(alpha + np.interp(tokens, self.tokens, self.theta_s))

    def as_dict(self) -> dict[str, float | list[int] | list[float]]:
        """The fields of SGLang's table."""
        return {
            "bias_seconds": self.bias_s,
            "bs_probes": list(self.requests),
            "alpha_seconds": list(self.alpha_s),
            "m_probes": list(self.tokens),
            "theta_seconds": list(self.theta_s),
        }


def tune_block(
    scenario: Scenario,
    *,
    batches: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
) -> Tuned:
    """The best block of a scenario at each batch size.

    Parameters
    ----------
    batches
        Requests decoding at once; by default powers of two up to the cap on running requests.
    blocks
        Verify widths to try, 1 being no speculation; by default up to the drafter's block. The
        largest is what the drafter drafts where nothing is tuned.

    Raises
    ------
    UsageError
        No speculation to tune, a batch above the cap, or a block above the drafter's.
    """
    setup = _widest(scenario, blocks)
    ctx = _decoding_ctx(setup)
    widest, (cap, cause) = setup.block, _most_requests(setup, ctx)
    tried = tuple(sorted({*(blocks or (w for w in WIDTHS if w < widest)), widest}))
    sizes = tuple(sorted(set(batches or [*(b for b in BATCHES if b < cap), cap])))
    if sizes[0] < 1 or tried[0] < 1:
        msg = f"batches and blocks begin at 1, got {sizes[0]} and {tried[0]}"
        raise UsageError(msg)
    if sizes[-1] > cap:
        msg = (
            f"batch {sizes[-1]} is above the {cap} requests that run at once ({cause}); "
            f"give batches up to {cap}."
        )
        raise UsageError(msg)
    expectation = setup.expectation
    assert expectation is not None
    lengths = _accept_lengths(expectation.acceptance, tried, seed=setup.scenario.seed)
    setup.widths.reach(ctx + 2 * _STEPS * widest)
    periods = np.array([[_period_s(setup, b, w, ctx) for w in tried] for b in sizes])
    tok_s = np.array(sizes)[:, None] * lengths / periods
    return Tuned(
        setup.scenario,
        sizes,
        tried,
        tok_s,
        lengths,
        ctx,
        widest,
        ratio_error(setup),
        _additive(setup, sizes, ctx),
        1 / periods[:, -1],
        "" if batches else _ends(setup, cap, cause),
    )


def _ends(setup: Setup, cap: int, cause: str) -> str:
    """Say what the largest batch is, and what would let more requests run."""
    room = more_room(setup)
    more = f"; with {room.words} up to {room.at_once:,} would" if room else ""
    return f"no more than {cap:,} requests run at once ({cause}){more}"


def _widest(scenario: Scenario, blocks: Sequence[int] | None) -> Setup:
    """The scenario at the widest block to try, without a policy."""
    if not scenario.speculation.speculative:
        msg = "method none has no block to tune. Try --method dflash."
        raise UsageError(msg)
    fields = scenario.model_dump() | {"policy": "fixed"}
    if blocks is not None and max(blocks) > 1:
        fields |= {"block": max(blocks), "steps": None}
    elif scenario.speculation.drafts == "block":
        fields |= {"block": None}
    return resolve(Scenario.parse(**fields))


def _most_requests(setup: Setup, ctx: int) -> tuple[int, str]:
    """Requests that decode at once in the middle of their answers, and what bounds them."""
    held = setup.limits.kv_tokens // (ctx + 2 * setup.block)
    if held < setup.limits.max_running_requests:
        return held, f"the KV cache holds {setup.limits.kv_tokens:,} tokens, {ctx} of each"
    return setup.limits.max_running_requests, setup.memory.cap_cause


def _decoding_ctx(setup: Setup) -> int:
    """Tokens in a request's cache in the middle of its answer, longer answers counting more."""
    lengths, arrivals = (np.random.default_rng([setup.scenario.seed, i]) for i in range(2))
    work = build_workload(setup, lengths, arrivals)
    osl = work.osl.astype(float)
    return round(float((osl * (work.isl + osl / 2)).sum() / osl.sum()))


def _accept_lengths(law: Acceptance, widths: Sequence[int], *, seed: int) -> Floats:
    """Tokens over cycles of requests of equal length, by width."""
    if law.shared_batch_draw:
        msg = f"acceptance {law.name} is drawn for a whole batch; widths cannot cut it"
        raise UsageError(msg)
    tokens = np.full(_REQUESTS, _CYCLES)
    latent = draw_runs(law, np.random.default_rng(seed), tokens, whole=True).commits
    means = [np.minimum(latent, w).mean(axis=1) for w in widths]
    return np.array([1 / (1 / each).mean() for each in means])


def _period_s(setup: Setup, batch: int, width: int, ctx: int) -> float:
    """Seconds from one result to the next of a batch that stays as it is."""
    tokens = _STEPS * width
    work = fixed_workload(isl=max(1, ctx - tokens // 2), osl=tokens + 1, requests=batch, conc=batch)
    every = draw_latent(FixedAcceptance(width, width), work, np.random.default_rng(0))
    policy = BatchTable(((1, batch, width - 1),))
    # Whether so many are admitted is another question.
    roomy = replace(setup.limits, kv_tokens=2 * batch * (ctx + setup.limits.max_new_tokens))
    run = run_engine(setup.under(policy, roomy), work, every)
    emit = run.emit_s[run.kind == 0]
    return float(emit[_STEPS - 1] - emit[_LEAD]) / (_STEPS - 1 - _LEAD)


def _additive(setup: Setup, batches: Sequence[int], ctx: int) -> AdditiveCost:
    """SGLang's table of GPU seconds, over batches and rows of each request from 1 to the widest."""
    requests, tokens, seconds = [], [], []
    for batch in batches:
        for width in range(1, setup.block + 1):
            rows = batch * width
            priced = setup.widths.decode_s(batch, batch * ctx, rows=rows, drafted=setup.block)
            requests.append(batch)
            tokens.append(rows)
            seconds.append(priced)
    return AdditiveCost.fitted(requests, tokens, np.array(seconds))


def _hats(x: npt.NDArray[np.int64], knots: npt.NDArray[np.int64]) -> Floats:
    """``[x, knot]`` weights of linear interpolation."""
    return np.stack([np.interp(x, knots, row) for row in np.eye(len(knots))], axis=1)
