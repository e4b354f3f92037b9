"""The question behind ``run``: a server and its requests, from the options of a real run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from dflash_sim.kernels.layers.spec import read_target
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.units import MS
from dflash_sim.realrun.job.faults import RunFailedError
from dflash_sim.realrun.job.grown import GROWN, grown
from dflash_sim.realrun.job.journal import Answer, Run
from dflash_sim.realrun.job.networks import Network
from dflash_sim.realrun.job.prompts import (
    poisson_arrivals,
    random_prompts,
    read_prompts,
    shipped,
)
from dflash_sim.realrun.job.requests import Request
from dflash_sim.realrun.job.setup import METHODS, Fitted, Setup, fit
from dflash_sim.realrun.launch import fit_requests, serve
from dflash_sim.realrun.row import Row, observed_row
from dflash_sim.studies.trace.perfetto import Timeline, trace_json

MOST_REQUESTS, MOST_TOKENS = 1_000_000, 100_000_000  # of one run, and of its random prompts
LEAST_RATE, MOST_RATE = 1e-6, 1e9  # arrivals [1/s]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a real run, by the names of the command line.

    Parameters
    ----------
    model, drafter
        ``tiny``, or folders of Hugging Face.
    accept_length
        Imposed mean, whatever is drafted [token].
    host_work_ms
        Other host work per step [ms].
    conc, rate
        Requests in flight at most; arrivals of an open loop [1/s].
    prompts, isl
        A file of prompts, or the length of random ones [token].
    timeout
        Silence after which a worker is lost [s].
    """

    model: str = "tiny"
    drafter: Path | None = None
    random_weights: bool = False
    method: str = "dflash"
    block: int | None = None
    steps: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    accept_length: float | None = None
    tp: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    cuda_graphs: bool = False
    engine_mode: str = "v2"
    page_size: int = 16
    chunked_prefill_size: int = 8192
    host_work_ms: float = 0.0
    conc: int = 1
    rate: float | None = None
    num_prompts: int = 16
    prompts: Path | None = None
    isl: int | None = None
    max_new_tokens: int = 128
    ignore_eos: bool = False
    seed: int = 0
    timeout: float = 60.0
    tag: str | None = None


@dataclass(frozen=True)
class Ran:
    """A run, whole or as far as it came.

    Parameters
    ----------
    row
        Of the result schema.
    failure
        Why not all requests were answered.
    """

    row: Row
    run: Run
    failure: RunFailedError | None

    def trace(self) -> str:
        """Return the timeline as text for the viewers."""
        row = self.row
        title = f"{row['model']} {row['method']} tp{row['tp']} (real)"
        timeline = Timeline(title)
        for interval in self.run.intervals():
            timeline.interval(*interval)
        return trace_json([timeline], {"program": "dflash-sim", "kind": "observed"})


class Job:
    """A server and its requests, checked and ready to run.

    Raises
    ------
    UsageError, InfeasibleError
        Options that do not go together, or that do not fit.
    """

    def __init__(self, o: RunOptions) -> None:
        self.options = o
        check_width(o.method, block=o.block, steps=o.steps)
        target, drafts = networks(o.model, o.drafter, o.method, random_weights=o.random_weights)
        self.setup = Setup(
            target=target,
            drafter=drafts,
            method=o.method,
            block=o.block,
            steps=o.steps,
            tp=o.tp,
            mode=o.engine_mode,
            max_running_requests=o.conc,
            chunked_prefill_size=o.chunked_prefill_size,
            page_size=o.page_size,
            temperature=o.temperature,
            top_k=o.top_k,
            top_p=o.top_p,
            seed=o.seed,
            accept_length=o.accept_length,
            host_work_s=o.host_work_ms * MS,
            device=o.device,
            dtype=o.dtype,
            timeout_s=o.timeout,
            cuda_graphs=o.cuda_graphs,
        )
        if o.num_prompts > MOST_REQUESTS:
            msg = f"--num-prompts {o.num_prompts}: one run has {MOST_REQUESTS:,} requests at most"
            raise UsageError(msg)
        if o.isl is not None:  # before so many tokens are drawn
            if o.isl * o.num_prompts > MOST_TOKENS:
                msg = (
                    f"{o.num_prompts} random prompts of {o.isl} tokens: one run draws "
                    f"{MOST_TOKENS:,} at most; give a smaller --isl or --num-prompts"
                )
                raise UsageError(msg)
            fit(self.setup, longest_text=o.isl + o.max_new_tokens)
        texts = _texts(self.setup, o.model, o.prompts, o.isl, count=o.num_prompts)
        # What is imposed may hold any token.
        stop = frozenset[int]() if o.ignore_eos or o.accept_length else target.end_tokens
        asked = [Request(prompt=t, max_new_tokens=o.max_new_tokens, stop=stop) for t in texts]
        if o.rate is not None:
            if not LEAST_RATE <= o.rate <= MOST_RATE:
                msg = (
                    f"--rate {o.rate:g}: arrivals per second must be from {LEAST_RATE:g} to "
                    f"{MOST_RATE:g}"
                )
                raise UsageError(msg)
            moments = poisson_arrivals(len(asked), rate=o.rate, seed=o.seed)
            asked = [replace(r, arrival_s=at) for r, at in zip(asked, moments, strict=True)]
        self.requests = asked
        self.in_flight = o.conc if o.rate is None else None
        self.fitted: Fitted = fit_requests(self.setup, asked, self.in_flight)

    def run(self, on_answer: Callable[[Answer], None] | None = None) -> Ran:
        """Run it; what had been answered is kept when a worker fails or the user stops it.

        Parameters
        ----------
        on_answer
            Called with every answer as it is finished.

        Raises
        ------
        RunFailedError
            Nothing had been answered.
        """
        o, failure = self.options, None
        try:
            done = serve(self.setup, self.requests, conc=self.in_flight, on_answer=on_answer)
        except RunFailedError as error:
            if error.run is None:
                raise
            failure, done = error, error.run
        row = observed_row(
            self.fitted,
            done,
            self.requests,
            conc=self.in_flight,
            machine=o.device,
            rate=o.rate,
            tag=o.tag,
            failure=failure,
        )
        return Ran(row, done, failure)


def check_width(method: str, *, block: int | None, steps: int | None) -> None:
    """Refuse the width of another kind of draft, which nothing would read."""
    if method not in METHODS:  # another check names those that there are
        return
    drafts = METHODS[method].drafts
    widths = {"block": ("--block", block), "chain": ("--steps", steps)}
    taken = widths.get(drafts, ("",))[0]
    for flag, value in widths.values():
        if value is not None and flag != taken:
            instead = f"give {taken} or drop it" if taken else "drop it"
            msg = f"method {method} takes no {flag}; {instead}."
            raise UsageError(msg)


def networks(
    model: str, drafter: Path | None, method: str, *, random_weights: bool
) -> tuple[Network, Network | None]:
    """The target, and what drafts for it: of the shipped pair, or of folders."""
    folder = Path(model)
    if model == "tiny" and not folder.exists():
        pair = shipped(model)
        folder, drafter = pair / "target", drafter or pair / method
    target, drafts = Network.folder(folder), None
    known = METHODS.get(method)  # another name is refused with the rest of the setup
    if drafter is not None and known is not None and "draft_model" in known.takes:
        made_up = drafter.parent == folder.parent and method in GROWN
        drafts = grown(drafter.parent, method) if made_up else Network.folder(drafter)
    if random_weights:
        target = Network.random(target.config, target.name)
        drafts = drafts and Network.random(drafts.config, drafts.name)
    return target, drafts


def _texts(
    made: Setup, model: str, prompts: Path | None, isl: int | None, *, count: int
) -> list[tuple[int, ...]]:
    """``count`` prompts, taken in turn."""
    vocab = read_target(made.target.config, made.target.name).shape.vocab
    if prompts is None and isl is None and model == "tiny":
        prompts = shipped(model) / "prompts.jsonl"
    if prompts is not None and isl is None:
        texts = read_prompts(prompts, vocab)
    elif isl is not None and prompts is None:
        texts = random_prompts(count, tokens=isl, vocab=vocab, seed=made.seed)
    else:
        msg = "give one of --prompts FILE and --isl N"
        raise UsageError(msg)
    return [texts[i % len(texts)] for i in range(count)]
