"""Requests: lengths, prefix-cache hits, and when each one arrives.

A :class:`Workload` is drawn before the engine runs, so two scenarios with one seed see the same
requests (common random numbers). Closed loop: ``conc`` clients each send their next turn when
the previous answer has come back. Open loop: arrival times are given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dflash_sim.profiles.acceptance.conditions import load_conditions
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_dataset
from dflash_sim.profiles.sheets import Dataset, LengthModel
from dflash_sim.simulator.requests.mixtures import check_shares, parse_shares
from dflash_sim.simulator.requests.prompts import Prompts


@dataclass(frozen=True)
class Workload:
    """One run's requests, in the order clients take them.

    Parameters
    ----------
    isl, osl
        Prompt tokens and generated tokens, the one sampled by the prefill included.
    cached
        Prompt tokens found in the prefix cache.
    measured
        False for the warm-down requests behind the tail.
    follow
        Index of the next turn of the same conversation, or -1.
    arrival_s
        Open loop: arrival times [s]. None: closed loop of ``conc`` clients.
    part
        Of a mixture of data sets, which one each request is of; None of a single one.
    prompts
        What prompts are made of, where the prefix cache is to find out what it holds of them;
        ``cached`` is then of no account.
    delay_s
        From the answer of the turn before to this request [s]; None is no pause. With arrival
        times, those of later turns are when they would come if answers took no time.
    """

    isl: np.ndarray
    osl: np.ndarray
    cached: np.ndarray
    measured: np.ndarray
    follow: np.ndarray
    conc: int
    arrival_s: np.ndarray | None = None
    part: np.ndarray | None = None
    prompts: Prompts | None = None
    delay_s: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.isl)

    @property
    def heads(self) -> list[int]:
        """First turns, in order."""
        later = set(self.follow[self.follow >= 0].tolist())
        return [i for i in range(len(self)) if i not in later]

    @property
    def answers_first(self) -> bool:
        """Return True if some requests come when others have been answered."""
        return bool((self.follow >= 0).any())

    def pause_s(self, rid: int) -> float:
        """From the answer of the turn before to request ``rid`` [s]."""
        return 0.0 if self.delay_s is None else float(self.delay_s[rid])


@dataclass(frozen=True)
class Part:
    """A data set of a mixture, and its share of the requests [1]."""

    dataset: Dataset
    share: float


def parts_of(text: str | None) -> tuple[Part, ...]:
    """Return the data sets of ``humaneval:0.3,mt-bench:0.7``, or the one that is named.

    Raises
    ------
    UsageError
        A name is unknown or comes twice, or the shares do not add up to 1.
    """
    if not text:
        return ()
    found = [Part(_data_set(name), share) for name, share in parse_shares(text)]
    names = [part.dataset.name for part in found]
    check_shares(names, [part.share for part in found], text)  # an alias may name one again
    return tuple(found)


def _data_set(name: str) -> Dataset:
    try:
        return load_dataset(name)
    except UsageError as error:
        if name not in load_conditions().content:
            raise
        msg = (
            f"{error} Lengths of '{name}' are not known, its accept lengths are: give --content "
            f"{name} with --isl and --osl."
        )
        raise UsageError(msg) from None


def mixed_workload(
    parts: Sequence[Part],
    *,
    thinking: bool,
    conc: int,
    max_new_tokens: int,
    cache_unit: int,
    num_prompts: int | None,
    rng: np.random.Generator,
) -> Workload:
    """Conversations of several data sets in random order, their requests in the given shares.

    As many requests as the largest of the data sets has in its own harness, and ``conc`` of
    warm-down behind them, unless ``num_prompts`` says how many conversations.
    """
    turns = np.array([part.dataset.turns for part in parts])
    shares = np.array([part.share for part in parts]) / turns
    shares /= shares.sum()
    sizes = [part.dataset.copies(conc) * part.dataset.num_prompts for part in parts]
    samples = num_prompts or max(sizes)
    counts = _apportioned(shares, samples)
    behind = conc if num_prompts is None and conc > 1 else 0
    extra = _apportioned(shares, behind)
    each = [
        card_workload(
            part.dataset,
            thinking=thinking,
            conc=1,
            max_new_tokens=max_new_tokens,
            cache_unit=cache_unit,
            num_prompts=max(1, n + more),
            rng=rng,
        )
        for part, n, more in zip(parts, counts, extra, strict=True)
    ]
    # Conversations that are measured come first, those behind them after, each in random order.
    first = [(i, c) for i, n in enumerate(counts) for c in range(n)]
    last = [(i, counts[i] + c) for i, n in enumerate(extra) for c in range(n)]
    order = [first[k] for k in rng.permutation(len(first))]
    order += [last[k] for k in rng.permutation(len(last))]
    rows = [(i, c * int(turns[i]) + t) for i, c in order for t in range(int(turns[i]))]
    of = np.array([i for i, _ in rows])

    def taken(name: str) -> np.ndarray:
        return np.array([getattr(each[i], name)[row] for i, row in rows])

    follow = taken("follow")
    later = np.flatnonzero(follow >= 0)
    follow[later] = later + 1
    measured = np.arange(len(rows)) < sum(int(turns[i]) for i, _ in order[: len(first)])
    return Workload(
        isl=taken("isl"),
        osl=taken("osl"),
        cached=taken("cached"),
        measured=measured,
        follow=follow,
        conc=conc,
        part=of,
    )


def _apportioned(shares: np.ndarray, total: int) -> list[int]:
    """Whole numbers in these shares that add up to ``total``, by largest remainder."""
    exact = shares * total
    whole = np.floor(exact).astype(int)
    for i in np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]:
        whole[i] += 1
    return [int(n) for n in whole]


def _lengths(d: LengthModel, n: int, rng: np.random.Generator) -> np.ndarray:
    """Log-normal token counts with the moments of the sheet."""
    mean, sd = d.mean.si, d.sd.si
    var = np.log1p((sd / mean) ** 2)
    lengths: np.ndarray = rng.lognormal(np.log(mean) - var / 2, np.sqrt(var), n)
    return lengths


def _whole(lengths: np.ndarray, cap: int | None = None) -> np.ndarray:
    whole: np.ndarray = np.maximum(1, np.rint(lengths)).astype(np.int64)
    return whole if cap is None else np.minimum(whole, cap)


def card_workload(
    dataset: Dataset,
    *,
    thinking: bool,
    conc: int,
    max_new_tokens: int,
    cache_unit: int,
    num_prompts: int | None,
    rng: np.random.Generator,
) -> Workload:
    """The model cards' harness (published.md section 2c of the card's own benchmark).

    One copy of the data set at concurrency 1; above, whole copies until ``dataset.min_turns``
    generation turns; then ``conc`` warm-down samples that are not measured. With ``num_prompts``
    just those, as ``bench_serving`` does, and the tail drains. Repeated prompts hit the prefix
    cache in units of ``cache_unit`` tokens (0: no cache).
    """
    turns = dataset.turns
    isl = np.column_stack(
        [_whole(_lengths(dataset.isl[t], dataset.num_prompts, rng)) for t in range(turns)]
    )
    answer = dataset.osl[thinking]
    osl = np.column_stack(
        [_whole(_lengths(answer, dataset.num_prompts, rng), max_new_tokens) for _ in range(turns)]
    )
    samples = num_prompts or dataset.copies(conc) * dataset.num_prompts
    behind = conc if num_prompts is None and conc > 1 else 0
    order = np.arange(samples + behind)
    prompt = order % dataset.num_prompts
    again = order >= dataset.num_prompts
    cached = np.zeros((len(order), turns), np.int64)
    if cache_unit:
        # The last token is always computed, and only whole units are kept.
        whole = (isl - 1) // cache_unit * cache_unit
        cached[again] = whole[prompt[again]]
        if turns > 1:
            shared = np.minimum(whole[prompt, :-1], whole[prompt, 1:])
            cached[:, 1:] = np.maximum(cached[:, 1:], shared)
    ids = np.arange(order.size * turns).reshape(-1, turns)
    follow = np.full(ids.shape, -1)
    follow[:, :-1] = ids[:, 1:]
    return Workload(
        isl=isl[prompt].ravel(),
        osl=osl[prompt].ravel(),
        cached=cached.ravel(),
        measured=np.repeat(order < samples, turns),
        follow=follow.ravel(),
        conc=conc,
    )


def with_hits(workload: Workload, share: float, unit: int) -> Workload:
    """Return the same requests, of whose prompts a share is found in the prefix cache.

    Parameters
    ----------
    share
        Of each prompt, to the nearest whole unit [1].
    unit
        Tokens of a unit that is kept whole or not at all; the last token is always computed.
    """
    kept = np.zeros_like(workload.isl)
    if share:
        nearest = np.rint(share * workload.isl / unit).astype(np.int64)
        kept = np.minimum(nearest, (workload.isl - 1) // unit) * unit
    return replace(workload, cached=kept)


def shortened(workload: Workload, turns: int) -> Workload:
    """The first ``turns`` turns or a few more, whole conversations, and warm-down behind them.

    The warm-down keeps clients busy until the last measured turn has ended, in workloads that
    drain too: the drain of a short run would weigh more than that of the whole.
    """
    behind = max(int((~workload.measured).sum()), workload.conc if workload.conc > 1 else 0)
    keep = turns
    while keep < len(workload) and keep in workload.follow:
        keep += 1
    if keep + behind >= len(workload):
        return workload
    n = keep + behind
    while n < len(workload) and n in workload.follow:
        n += 1
    return Workload(
        isl=workload.isl[:n],
        osl=workload.osl[:n],
        cached=workload.cached[:n],
        measured=np.arange(n) < keep,
        follow=workload.follow[:n],
        conc=workload.conc,
        arrival_s=None if workload.arrival_s is None else workload.arrival_s[:n],
        part=None if workload.part is None else workload.part[:n],
        prompts=None if workload.prompts is None else workload.prompts.rows(range(n)),
        delay_s=None if workload.delay_s is None else workload.delay_s[:n],
    )


def fixed_workload(
    *,
    isl: int,
    osl: int,
    requests: int,
    conc: int,
    range_ratio: float = 1.0,
    rng: np.random.Generator | None = None,
) -> Workload:
    """``requests`` requests from ``conc`` closed-loop clients, without warm-down.

    Parameters
    ----------
    range_ratio
        Lengths are uniform between this share and all of ``isl`` and ``osl``, as ``bench_serving
        --random-range-ratio`` draws them; 1 makes all requests equal [1].
    rng
        Needed where lengths differ.
    """
    n = np.full(requests, 1, np.int64)
    lengths = [n * isl, n * osl]
    if range_ratio < 1:
        assert rng is not None
        lengths = [
            rng.integers(max(1, int(x * range_ratio)), x, requests, endpoint=True)
            for x in (isl, osl)
        ]
    return Workload(
        isl=lengths[0],
        osl=lengths[1],
        cached=n * 0,
        measured=n.astype(bool),
        follow=-n,
        conc=conc,
    )


def open_loop(
    workload: Workload, *, rate: float, burstiness: float, rng: np.random.Generator
) -> Workload:
    """Return the same requests with gamma inter-arrival times (shape 1: Poisson), all measured.

    Parameters
    ----------
    rate
        Mean arrivals per second [1/s].
    burstiness
        Gamma shape, as vLLM's ``--burstiness``: below 1 is burstier than Poisson.
    """
    gaps = rng.gamma(burstiness, 1.0 / (rate * burstiness), len(workload))
    n = len(workload)
    return Workload(
        isl=workload.isl,
        osl=workload.osl,
        cached=workload.cached,
        measured=np.ones(n, bool),
        follow=np.full(n, -1),
        conc=n,
        arrival_s=np.cumsum(gaps),
        part=workload.part,
    )


def given_requests(
    *,
    arrival_s: np.ndarray,
    isl: np.ndarray,
    osl: np.ndarray,
    cached: np.ndarray | None = None,
    part: np.ndarray | None = None,
    prompts: Prompts | None = None,
    follow: np.ndarray | None = None,
    delay_s: np.ndarray | None = None,
) -> Workload:
    """Requests of a trace: an open loop with these arrival times [s] and lengths [token].

    Parameters
    ----------
    prompts, follow, delay_s
        As :class:`Workload` has them; without ``follow`` every request comes at its time.
    """
    n = len(arrival_s)
    return Workload(
        isl=np.asarray(isl, np.int64),
        osl=np.asarray(osl, np.int64),
        cached=np.zeros(n, np.int64) if cached is None else np.asarray(cached, np.int64),
        measured=np.ones(n, bool),
        follow=np.full(n, -1) if follow is None else np.asarray(follow, np.int64),
        conc=n,
        arrival_s=np.asarray(arrival_s, float),
        part=part,
        prompts=prompts,
        delay_s=delay_s,
    )
