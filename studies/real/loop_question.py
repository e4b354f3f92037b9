"""The question behind ``validate --real``: this machine measured, predicted, run and compared."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dflash_sim.calibrate.measure.machine import choose_device, choose_dtype, describe, identity
from dflash_sim.calibrate.measure.measure import Measurement, to_text
from dflash_sim.calibrate.measure.subjects import load_subject
from dflash_sim.calibrate.realloop.loop import ClosedLoop
from dflash_sim.calibrate.realloop.outcomes import Config, Outcome, grid
from dflash_sim.jobs.scratch import scratch_folder
from dflash_sim.kernels.layers.spec import read_target
from dflash_sim.profiles.errors import MissingProfileError, UsageError, unknown
from dflash_sim.profiles.find import read_sheet
from dflash_sim.profiles.load import find_drafter, find_network
from dflash_sim.profiles.times.machine_profile import MeasuredProfile, load_measured
from dflash_sim.profiles.units import MS
from dflash_sim.realrun.job.networks import Network
from dflash_sim.realrun.job.prompts import random_prompts, read_prompts, shipped
from dflash_sim.realrun.job.setup import Setup
from dflash_sim.studies.show.files import check_writable, write_whole

MODES = ("v1", "v2-sync", "v2")
SWEEPS = 2  # over all ops before each round


@dataclass(frozen=True, kw_only=True)
class RealOptions:
    """The options of ``validate --real``.

    Parameters
    ----------
    model : a trained pair, such as ``tiny``, or a model of which only the shape is known
    device : cpu or cuda
    accept_length, isl : imposed, and tokens of random prompts, where there are no weights
    grid : lists as typed: verify widths, MTP steps, concurrencies, modes
    rounds : how often all of it is done
    profile : an existing profile of this machine; else it is measured first
    """

    model: str = "tiny"
    device: str = "cpu"
    accept_length: float | None = None
    isl: int = 256
    blocks: str = "4,8,16"
    steps: str = "3"
    concs: str = "1,4,8"
    modes: str = "v1,v2"
    prompts: int = 160
    new_tokens: int = 96
    host_work_ms: float = 0.0
    rounds: int = 3
    profile: Path | None = None


@dataclass(frozen=True)
class Rounds:
    """A closed loop that is ready, and the grid that it is run over."""

    loop: ClosedLoop
    configs: list[Config]
    rounds: int

    @property
    def runs(self) -> int:
        """Outcomes that :meth:`each` yields."""
        return self.rounds * len(self.configs)

    @property
    def machine(self) -> str:
        """Describe what was measured; empty before the first round."""
        return "" if self.loop.profile is None else str(self.loop.profile.device["title"])

    def each(self) -> Iterator[Outcome]:
        """Measure and run; yields what is known of a configuration after each round."""
        yield from self.loop.rounds(self.configs, self.rounds)


@contextmanager
def closed_loop(o: RealOptions, say: Callable[[str], None]) -> Iterator[Rounds]:
    """Check all that was asked, and make a loop of it; it lives as long as the context.

    Parameters
    ----------
    say
        Called with what is being done.
    """
    configs = grid(
        blocks=_numbers(o.blocks, "--blocks", least=2),
        steps=_numbers(o.steps, "--mtp-steps", least=2),
        concs=_numbers(o.concs, "--concs", least=1),
        modes=_modes(o.modes),
    )
    with scratch_folder() as scratch:
        path = o.profile or scratch / "here.profile"
        loop = _loop(o)
        loop.check(configs)
        if path.exists():
            loop.profile = _known(o, path)
        else:
            loop.measure = _Measure(o, path, say)
        yield Rounds(loop, configs, o.rounds)


def progress_line(done: int, of: int, outcome: Outcome) -> str:
    """Tell of one outcome in a line."""
    c = outcome.config
    return (
        f"{done}/{of} {c.name}, c={c.conc}, {c.mode}: predicted "
        f"{outcome.predicted_tok_s:.0f}, ran {outcome.observed_tok_s:.0f} tok/s, "
        f"{100 * outcome.error:+.1f} %"
    )


def disturbed(found: list[Outcome]) -> str | None:
    """Say how many configurations the machine's other work disturbed; None if it did not."""
    moved = sum(not x.steady for x in found)
    if not moved:
        return None
    return (
        f"{moved} of {len(found)} configurations were disturbed (marked !): others used the "
        "processors, or the machine's speed changed within more than half of their runs, which "
        "are left out. Try again on a quiet machine."
    )


@dataclass
class _Measure:
    """Times the ops of this machine, some before each round of runs, into one profile."""

    asked: RealOptions
    path: Path
    say: Callable[[str], None]

    def __call__(self, done: int) -> MeasuredProfile:
        """The profile as of before round ``done``."""
        o, path = self.asked, self.path
        check_writable(path)
        self.say(f"measuring the ops of {o.model} on this machine; --profile FILE keeps them")
        subject, name = load_subject(o.model, None, tp=1, device=o.device, quick=True)
        dtype, sweeps = choose_dtype(None, o.device), SWEEPS * (done + 1)
        job = Measurement(subject, o.device, dtype, name, quick=True, sweeps=sweeps)
        write_whole(path, to_text(job.run(path).profile))
        if done + 1 == o.rounds:
            path.with_name(path.name + ".partial").unlink(missing_ok=True)
        return load_measured(path)


def _known(o: RealOptions, path: Path) -> MeasuredProfile:
    """The profile at ``path``, if it is of this model and machine."""
    found = load_measured(path)
    if not found.covers(model=find_network("models", o.model)[1], tp=1):
        msg = (
            f"{path} was measured for {found.scope['model']}, not for {o.model} on one rank; "
            f"measure: dflash-sim calibrate measure --model {o.model} -o {path}."
        )
        raise UsageError(msg)
    here, there = identity(describe(o.device)), identity(found.machine)
    differ = [name for name, value in here.items() if there.get(name) != value]
    if differ:
        msg = (
            f"{path} was measured on another machine: {differ[0]} was {there.get(differ[0])!r}, "
            f"here it is {here[differ[0]]!r}. Leave --profile out to measure this one."
        )
        raise UsageError(msg)
    return found


def _loop(o: RealOptions) -> ClosedLoop:
    device = choose_device(o.device)
    target, drafter, prompts = _pair(o)
    if len(prompts) < 2 * max(_numbers(o.concs, "--concs", least=1)):
        msg = (
            f"{len(prompts)} prompts are too few for {o.concs} requests in flight: half of them "
            "are run. Give more with --num-prompts, or lower --concs."
        )
        raise UsageError(msg)
    setup = Setup(
        target=target,
        drafter=drafter,
        device=device,
        dtype=str(choose_dtype(None, device)).removeprefix("torch."),
        accept_length=o.accept_length,
        host_work_s=o.host_work_ms * MS,
    )
    return ClosedLoop(o.model, setup, prompts, o.new_tokens, None)


def _pair(o: RealOptions) -> tuple[Network, Network, list[tuple[int, ...]]]:
    """Target, drafter and prompts: of a trained pair, or random ones of a known shape."""
    path, name = find_network("models", o.model)
    target = Network.random(read_sheet(path), name)
    vocab = read_target(target.config, name).shape.vocab
    try:
        pair = shipped(o.model)
    except MissingProfileError as missing:
        if o.accept_length is None:
            msg = (
                f"no weights of {o.model} are shipped, and random ones accept nothing; impose an "
                "accept length: --accept-length 4."
            )
            raise UsageError(msg) from missing
        path, label = find_drafter("drafters", o.model)
        prompts = random_prompts(o.prompts, tokens=o.isl, vocab=vocab, seed=0)
        return target, Network.random(read_sheet(path), label), prompts
    prompts = read_prompts(pair / "prompts.jsonl", vocab)[: o.prompts]
    return Network.folder(pair / "target"), Network.folder(pair / "dflash"), prompts


def _numbers(text: str, flag: str, *, least: int) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts and flag == "--concs":
        msg = "--concs names no number of requests; give --concs 1,8."
        raise UsageError(msg)
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        msg = f"{flag} {text}: expected numbers from {least} on, such as {flag} {least},8."
        raise UsageError(msg)
    return [int(part) for part in parts]


def _modes(text: str) -> list[str]:
    modes = [part.strip() for part in text.split(",")]
    for mode in modes:
        if mode not in MODES:
            raise unknown(kind="--modes", value=mode, allowed=MODES)
    return modes
