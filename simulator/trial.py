"""One run of a scenario: its requests, and the engine that serves them."""

from dataclasses import replace
from typing import Any

import numpy as np

from dflash_sim.jobs.leaving import may_leave
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.simulator.engine.again import walked_again
from dflash_sim.simulator.engine.leap import LeapEngine, refusal
from dflash_sim.simulator.engine.records import Run
from dflash_sim.simulator.engine.rough_clock import decided
from dflash_sim.simulator.requests.draws import Draws
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.workload import (
    Workload,
    card_workload,
    fixed_workload,
    mixed_workload,
    open_loop,
    with_hits,
)
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve


def build_workload(
    setup: Setup, rng_lengths: np.random.Generator, rng_arrivals: np.random.Generator
) -> Workload:
    """The requests of one run."""
    s = setup.scenario
    defaults = setup.engine.defaults
    if s.dataset is None:
        assert s.isl is not None
        assert s.osl is not None
        few = max(defaults.min_requests, defaults.requests_per_client * (s.conc or 0))
        count = s.num_prompts or (few if s.rate is None else defaults.min_requests_open_loop)
        osl = min(s.osl, s.max_new_tokens)
        work = fixed_workload(
            isl=s.isl,
            osl=osl,
            requests=count,
            conc=s.conc or count,
            range_ratio=s.range_ratio,
            rng=rng_lengths,
        )
    elif setup.parts:
        most = max(p.dataset.num_prompts * p.dataset.copies(conc=2) for p in setup.parts)
        work = mixed_workload(
            setup.parts,
            thinking=s.thinking,
            conc=s.conc or 1,
            max_new_tokens=s.max_new_tokens,
            cache_unit=setup.cache_unit,
            num_prompts=s.num_prompts or (None if s.rate is None else most),
            rng=rng_lengths,
        )
    else:
        dataset = setup.dataset
        assert dataset is not None
        enough = dataset.num_prompts * dataset.copies(conc=2)
        work = card_workload(
            dataset,
            thinking=s.thinking,
            conc=s.conc or 1,
            max_new_tokens=s.max_new_tokens,
            cache_unit=setup.cache_unit,
            num_prompts=s.num_prompts or (None if s.rate is None else enough),
            rng=rng_lengths,
        )
    if s.cache_hit is not None:
        work = with_hits(work, s.cache_hit, hit_unit(setup))
    _refuse_endless(setup, work)
    if s.rate is None:
        return work
    return open_loop(work, rate=s.rate, burstiness=s.burstiness, rng=rng_arrivals)


def hit_unit(setup: Setup) -> int:
    """Return the tokens of a unit of the prefix cache, where hits are asked for.

    Raises
    ------
    UsageError
        The server keeps none.
    """
    share = setup.scenario.cache_hit
    if share and not setup.cache_unit:
        msg = (
            f"--cache-hit {share:g}: {setup.model.name} runs without a prefix cache as it is "
            "launched here; give --mamba-radix-cache-strategy extra_buffer, or drop it."
        )
        raise UsageError(msg)
    return setup.cache_unit


def _refuse_endless(setup: Setup, work: Workload) -> None:
    """Plain decoding takes a step per token: more steps than memory holds are refused."""
    defaults = setup.engine.defaults
    most, many = defaults.max_iterations, defaults.max_requests
    steps = int(work.osl.sum()) // min(work.conc, setup.limits.max_running_requests)
    if steps > most or len(work) > many:
        fits = max(1, min(len(work) * most // max(1, steps), many))
        msg = (
            f"{len(work):,} requests mean up to {steps:,} decode steps in one run; at most "
            f"{many:,} requests and {most:,} steps are simulated. Try --num-prompts {fits}."
        )
        raise UsageError(msg)


def run_engine(
    setup: Setup,
    workload: Workload,
    draws: Draws,
    *,
    simulator: str = "auto",
    **watch: Any,
) -> Run:
    """One run on the leap engine, or on the event engine where leap refuses.

    Parameters
    ----------
    simulator
        ``auto``, ``leap`` (an error where it refuses) or ``event``.
    watch
        What only the event engine takes: ``on_interval``, ``on_count``, ``stop_after``.
    """
    may_leave()
    _reach(setup, workload)
    limits = setup.limits.for_workload(workload)
    parts: dict[str, Any] = {
        "step": setup.step,
        "host": setup.host,
        "limits": limits,
        "workload": workload,
        "draws": draws,
        "mode": setup.scenario.engine_mode,
        "host_length_sync": setup.host_length_sync,
        "turnaround_s": setup.engine["client_turnaround"],
    }
    if setup.policy is not None and not draws.latent:
        msg = (
            f"policy {setup.scenario.policy} is answered by predict, compare and sweep; this "
            "question is about a fixed width. Drop --policy, or give --policy fixed."
        )
        raise UsageError(msg)
    keeps = workload.prompts is not None and limits.cache_unit > 0
    why = refusal(draws, keeps=keeps)
    if setup.policy is not None:
        why = f"policy {setup.scenario.policy} chooses a verify width in every step"
    if simulator != "event" and not watch and not why:
        engine = LeapEngine(**parts)
        run = decided(engine) or engine.run()
        if run is not None:
            return run
        why = "the KV cache runs out, and requests are retracted"
    if simulator == "leap" and why:
        msg = f"the leap engine refuses this scenario: {why}. Use the event engine."
        raise UsageError(msg)
    # SimPy is imported only where it runs: it is a tenth of a cold answer.
    if setup.policy is not None:
        from dflash_sim.simulator.policy.adaptive_engine import AdaptiveEngine

        parts |= {"widths": setup.widths, "policy": setup.policy}
        return AdaptiveEngine(**parts, **watch).run()
    from dflash_sim.simulator.engine.events import EventEngine

    return EventEngine(**parts, **watch).run()


def run_again(setup: Setup, run: Run, workload: Workload, draws: Draws) -> Run:
    """A run at the prices of ``setup``: walked again, or by an engine where decisions move.

    Parameters
    ----------
    run
        What the same requests, draws and limits gave at other prices.
    """
    may_leave()
    waits = workload.delay_s is not None  # between the turns of a conversation
    if setup.policy is None and not waits:
        _reach(setup, workload)
        found = walked_again(
            run,
            setup.step,
            setup.host,
            mode=setup.scenario.engine_mode,
            speculative=setup.limits.speculative,
            syncs=setup.host_length_sync and setup.limits.speculative,
            turnaround_s=setup.engine["client_turnaround"],
        )
        if found is not None:
            return found
    return run_engine(setup, workload, draws)


def beside(setup: Setup, scenario: Scenario, *, expectation: Expectation | None = None) -> Setup:
    """Resolve another question to the same server: its constants, times and lengths stand.

    Parameters
    ----------
    expectation
        Stands in for the acceptance of the other question.
    """
    return resolve(
        scenario,
        engine=setup.engine,
        tables=setup.tables,
        calibration=setup.calibration,
        dataset=setup.dataset,
        expectation=expectation,
    )


def with_engine(setup: Setup, engine: EngineSheet) -> Setup:
    """Return the same server with other constants; prices that rest on none are shared."""
    other = replace(setup, engine=engine)
    kernels = "chain_step_kernels"  # a part of the cycle itself
    if round(engine[kernels]) == round(setup.engine[kernels]):
        other.__dict__["step"] = setup.step.at(engine)
    return other


def accepting(setup: Setup, expectation: Expectation, text: str) -> Setup:
    """Return the same server with other acceptance, called ``text``; all prices are shared."""
    scenario = setup.scenario.model_copy(update={"acceptance": text})
    other = replace(setup, scenario=scenario, given_expectation=expectation)
    other.__dict__.update(host=setup.host, step=setup.step, widths=setup.widths)
    return other


def _reach(setup: Setup, workload: Workload) -> None:
    """Price contexts up to those of the longest prompt."""
    longest = int(workload.isl.max())
    setup.widths.reach(longest + setup.limits.max_new_tokens + setup.block)
