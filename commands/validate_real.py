"""``dflash-sim validate --real``: this machine measured, predicted, run and compared."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dflash_sim.commands.options import tell, warn
from dflash_sim.commands.torch_needed import need_torch

if TYPE_CHECKING:
    from dflash_sim.calibrate.realloop.loop import ClosedLoop
    from dflash_sim.calibrate.realloop.outcomes import Config, Outcome
    from dflash_sim.profiles.times.machine_profile import MeasuredProfile
    from dflash_sim.realrun.job.networks import Network

_INTERRUPTED = 130
SWEEPS = 2  # over all ops before each round


@dataclass(frozen=True)
class RealOptions:
    """What ``validate`` was given that concerns a real run.

    Parameters
    ----------
    model : a trained pair, such as ``tiny``, or a model of which only the shape is known
    device : cpu or cuda
    accept_length, isl : imposed, and tokens of random prompts, where there are no weights
    grid : lists as typed: verify widths, MTP steps, concurrencies, modes
    rounds : how often all of it is done
    profile : an existing profile of this machine; else it is measured first
    """

    model: str
    device: str
    accept_length: float | None
    isl: int
    blocks: str
    steps: str
    concs: str
    modes: str
    prompts: int
    new_tokens: int
    host_work_ms: float
    rounds: int
    profile: Path | None


def validate_real(o: RealOptions, *, shape: str, output: Path | None, report: Path | None) -> None:
    """Measure, predict, run, compare; every row is told as it is done."""
    need_torch("validate --real")
    from dflash_sim.calibrate.realloop.outcomes import grid

    configs = grid(
        blocks=_numbers(o.blocks, "--blocks", least=2),
        steps=_numbers(o.steps, "--mtp-steps", least=2),
        concs=_numbers(o.concs, "--concs", least=1),
        modes=_modes(o.modes),
    )
    with tempfile.TemporaryDirectory(prefix="dflash-sim-") as scratch:
        path = o.profile or Path(scratch) / "here.profile"
        loop = _loop(o)
        loop.check(configs)
        if path.exists():
            loop.profile = _known(o, path)
        else:
            loop.measure = _Measure(o, path)
        found = _outcomes(loop, configs, o.rounds, shape, output)
    machine = "" if loop.profile is None else str(loop.profile.device["title"])
    _conclude(found, o, shape=shape, output=output, report=report, machine=machine)


def _outcomes(
    loop: "ClosedLoop", configs: "list[Config]", rounds: int, shape: str, output: Path | None
) -> "list[Outcome]":
    """All of them; if that breaks off, what there is is put out before."""
    from dflash_sim.profiles.errors import DflashSimError

    done, asked = 0, rounds * len(configs)
    try:
        for outcome in loop.rounds(configs, rounds):
            done += 1
            c = outcome.config
            tell(
                f"{done}/{asked} {c.name}, c={c.conc}, {c.mode}: predicted "
                f"{outcome.predicted_tok_s:.0f}, ran {outcome.observed_tok_s:.0f} tok/s, "
                f"{100 * outcome.error:+.1f} %"
            )
    except (KeyboardInterrupt, DflashSimError) as error:
        if not done:
            raise
        what = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        warn(f"{what}; what follows is from {done} of {asked} runs")
        _deliver(loop.outcomes(), shape, output)
        raise typer.Exit(getattr(error, "exit_code", _INTERRUPTED)) from None
    return loop.outcomes()


def _conclude(
    found: "list[Outcome]",
    o: RealOptions,
    *,
    shape: str,
    output: Path | None,
    report: Path | None,
    machine: str,
) -> None:
    from dflash_sim.calibrate.realloop.outcomes import as_row
    from dflash_sim.studies.compare.real_tables import tables
    from dflash_sim.studies.show.files import as_text
    from dflash_sim.studies.show.plain_table import text_of
    from dflash_sim.studies.show.terminal import deliver

    if shape == "table":
        deliver(text_of(tables(found)), output)
    else:
        deliver(as_text([as_row(x) for x in found], shape), output)
    if report is not None:
        from dflash_sim.studies.compare.real_tables import write_report

        write_report(found, report, machine=machine, model=o.model)
        tell(f"wrote {report}")
    moved = sum(not x.steady for x in found)
    if moved:
        warn(
            f"{moved} of {len(found)} configurations were disturbed (marked !): others used the "
            "processors, or the machine's speed changed within more than half of their runs, which "
            "are left out. Try again on a quiet machine."
        )


def _deliver(found: "list[Outcome]", shape: str, output: Path | None) -> None:
    from dflash_sim.calibrate.realloop.outcomes import as_row
    from dflash_sim.studies.show.files import as_text
    from dflash_sim.studies.show.terminal import deliver

    deliver(as_text([as_row(x) for x in found], "jsonl" if shape == "table" else shape), output)


@dataclass
class _Measure:
    """Times the ops of this machine, some before each round of runs, into one profile."""

    asked: RealOptions
    path: Path

    def __call__(self, done: int) -> "MeasuredProfile":
        """The profile as of before round ``done``."""
        from dflash_sim.calibrate.measure.machine import choose_dtype
        from dflash_sim.calibrate.measure.measure import Measurement, to_text
        from dflash_sim.calibrate.measure.subjects import load_subject
        from dflash_sim.profiles.times.machine_profile import load_measured
        from dflash_sim.studies.show.files import check_writable, write_whole

        o, path = self.asked, self.path
        check_writable(path)
        tell(f"measuring the ops of {o.model} on this machine; --profile FILE keeps them")
        subject, name = load_subject(o.model, None, tp=1, device=o.device, quick=True)
        dtype, sweeps = choose_dtype(None, o.device), SWEEPS * (done + 1)
        job = Measurement(subject, o.device, dtype, name, quick=True, sweeps=sweeps)
        write_whole(path, to_text(job.run(path).profile))
        if done + 1 == o.rounds:
            path.with_name(path.name + ".partial").unlink(missing_ok=True)
        return load_measured(path)


def _known(o: RealOptions, path: Path) -> "MeasuredProfile":
    """The profile at ``path``, if it is of this model and machine."""
    from dflash_sim.calibrate.measure.machine import describe, identity
    from dflash_sim.profiles.errors import UsageError
    from dflash_sim.profiles.load import find_network
    from dflash_sim.profiles.times.machine_profile import load_measured

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


def _loop(o: RealOptions) -> "ClosedLoop":
    from dflash_sim.calibrate.measure.machine import choose_device, choose_dtype
    from dflash_sim.calibrate.realloop.loop import ClosedLoop
    from dflash_sim.profiles.errors import UsageError
    from dflash_sim.profiles.units import MS
    from dflash_sim.realrun.job.setup import Setup

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


def _pair(o: RealOptions) -> "tuple[Network, Network, list[tuple[int, ...]]]":
    """Target, drafter and prompts: of a trained pair, or random ones of a known shape."""
    from dflash_sim.kernels.layers.spec import read_target
    from dflash_sim.profiles.errors import MissingProfileError, UsageError
    from dflash_sim.profiles.find import read_sheet
    from dflash_sim.profiles.load import find_drafter, find_network
    from dflash_sim.realrun.job.networks import Network
    from dflash_sim.realrun.job.prompts import random_prompts, read_prompts, shipped

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
    from dflash_sim.profiles.errors import UsageError

    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts and flag == "--concs":
        msg = "--concs names no number of requests; give --concs 1,8."
        raise UsageError(msg)
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        msg = f"{flag} {text}: expected numbers from {least} on, such as {flag} {least},8."
        raise UsageError(msg)
    return [int(part) for part in parts]


def _modes(text: str) -> list[str]:
    from dflash_sim.commands.options import MODES
    from dflash_sim.profiles.errors import unknown

    modes = [part.strip() for part in text.split(",")]
    for mode in modes:
        if mode not in MODES:
            raise unknown(kind="--modes", value=mode, allowed=MODES)
    return modes
