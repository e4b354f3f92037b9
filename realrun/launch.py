"""Start the workers, run the requests, and leave no process behind."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from dflash_sim.kernels.comm import OneRank
from dflash_sim.kernels.layers.spec import DrafterSpec, Eagle3Spec
from dflash_sim.kernels.models.drafter import Drafter
from dflash_sim.kernels.models.heads import Eagle3Head, MtpHead
from dflash_sim.kernels.models.target import TargetModel
from dflash_sim.kernels.rank import Rank
from dflash_sim.profiles.errors import UsageError
from dflash_sim.realrun.job.faults import InterruptedRunError, RunFailedError, WorkerLostError
from dflash_sim.realrun.job.journal import Answer, Run
from dflash_sim.realrun.job.requests import Request
from dflash_sim.realrun.job.setup import Fitted, Setup, fit
from dflash_sim.realrun.scheduler.crew import Crew, enlist
from dflash_sim.realrun.scheduler.scheduler import Scheduler
from dflash_sim.realrun.scheduler.torchrun import Torchrun


def serve(
    setup: Setup,
    requests: Sequence[Request],
    *,
    conc: int | None = None,
    on_answer: Callable[[Answer], None] | None = None,
) -> Run:
    """Answer ``requests``; the workers live for as long as this takes.

    Under ``torchrun``, a process of rank 1 and up does not return from this.

    Parameters
    ----------
    conc
        Closed loop: requests in flight. Without, each arrives at its ``arrival_s``.
    on_answer
        Called with every answer as it is finished.

    Raises
    ------
    UsageError, InfeasibleError
        Before anything starts.
    RunFailedError
        A worker died, raised an error or did not answer, or the user stopped the run; its
        ``run`` is what was done before.
    """
    fitted = fit_requests(setup, requests, conc)
    check_weights(fitted)
    torchrun = Torchrun.of_environment()
    if torchrun is not None:
        if torchrun.size != setup.tp:
            msg = f"torchrun started {torchrun.size} ranks, tp is {setup.tp}"
            raise UsageError(msg)
        if torchrun.rank > 0:
            enlist(fitted, torchrun)
    scheduler: Scheduler | None = None
    try:
        with Crew(fitted) as crew:
            scheduler = Scheduler(fitted, crew, requests, conc=conc, on_answer=on_answer)
            return scheduler.run()
    except WorkerLostError as lost:
        done = None if scheduler is None else scheduler.so_far()
        raise RunFailedError(str(lost) + _answered(done), done) from lost
    except KeyboardInterrupt as stop:
        done = None if scheduler is None else scheduler.so_far()
        raise InterruptedRunError("stopped" + _answered(done), done) from stop


def fit_requests(setup: Setup, requests: Sequence[Request], conc: int | None) -> Fitted:
    """The setup for these requests; no more slots than can be in use."""
    if not requests:
        msg = "there is no request to run"
        raise UsageError(msg)
    if conc is not None:
        if conc < 1:
            msg = f"conc is {conc}; at least one request must be in flight"
            raise UsageError(msg)
        setup = replace(setup, max_running_requests=min(setup.max_running_requests, conc))
    fitted = fit(setup, longest_text=max(len(r.prompt) + r.max_new_tokens for r in requests))
    vocab = fitted.target.shape.vocab
    for i, r in enumerate(requests):
        if not r.prompt or r.max_new_tokens < 1:
            msg = f"request {i} has an empty prompt or asks for no token"
            raise UsageError(msg)
        outside = [t for t in r.prompt if not 0 <= t < vocab]
        if outside:
            msg = f"request {i}: token {outside[0]} is not in a vocabulary of {vocab}"
            raise UsageError(msg)
    return fitted


class FirstOf(OneRank):
    """The first rank of a group that is not there yet: enough to cut weights."""

    def __init__(self, size: int) -> None:
        self.size = size


def check_weights(fitted: Fitted) -> None:
    """Build every network without its values: what is missing or misshapen is named here."""
    setup, tokens = fitted.setup, 1
    outline = Rank(comm=FirstOf(setup.tp), device="meta")
    TargetModel(fitted.target, setup.target.outline(), outline, tokens=tokens)
    if fitted.drafts_itself:
        MtpHead(fitted.target, setup.target.outline(), outline, tokens=tokens)
    if setup.drafter is not None and isinstance(fitted.drafter, DrafterSpec):
        Drafter(fitted.drafter, setup.drafter.outline(), outline, tokens=tokens)
    if setup.drafter is not None and isinstance(fitted.drafter, Eagle3Spec):
        Eagle3Head(fitted.drafter, setup.drafter.outline(), outline, tokens=tokens)


def _answered(run: Run | None) -> str:
    if run is None:
        return "; nothing had been answered"
    return f"; {len(run.answers)} of {run.asked} requests had been answered"
