"""The acceptance that a resolved scenario asks for: of its text, its lengths, its sampling."""

from collections.abc import Sequence
from typing import Any, Protocol

from dflash_sim.profiles.acceptance.conditions import FULL, NATIVE, WINDOWED, load_conditions
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_dataset
from dflash_sim.profiles.networks.hf_config import AttentionShape, DrafterShape, ModelShape
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.profiles.releases.calibration import Calibration
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.sheets import Dataset
from dflash_sim.simulator.cost.cycle import Drafter, Method
from dflash_sim.simulator.cost.sampling import Sampling, draws
from dflash_sim.simulator.requests.expected import (
    Expectation,
    calibrated,
    expected_acceptance,
)
from dflash_sim.simulator.requests.mixtures import MixedAcceptance, parse_shares
from dflash_sim.simulator.requests.parse import mixed_forms, mixed_shares, parse_acceptance
from dflash_sim.simulator.requests.tree_lengths import of_tree
from dflash_sim.simulator.requests.workload import Part
from dflash_sim.simulator.scenario import Scenario


class Server(Protocol):
    """What a resolved scenario says of its acceptance; :class:`Setup` does."""

    @property
    def scenario(self) -> Scenario: ...
    @property
    def engine(self) -> EngineSheet: ...
    @property
    def model(self) -> ModelShape: ...
    @property
    def drafter(self) -> Drafter: ...
    @property
    def method(self) -> Method: ...
    @property
    def speculative(self) -> bool: ...
    @property
    def block(self) -> int: ...
    @property
    def most_tokens(self) -> int: ...
    @property
    def window(self) -> int | None: ...
    @property
    def dataset(self) -> Dataset | None: ...
    @property
    def parts(self) -> Sequence[Part]: ...
    @property
    def calibration(self) -> Calibration | None: ...
    @property
    def given_expectation(self) -> Expectation | None: ...


def uncalibrated(setup: Server) -> Expectation | None:
    """Return the acceptance that is given or published, before any calibration."""
    return _expected(setup, refined=False)


def expected(setup: Server) -> Expectation | None:
    """Return the acceptance to expect, refined by the calibration; None where nothing is drafted.

    Raises
    ------
    MissingProfileError
        None is given, and none is published.
    """
    return _expected(setup, refined=True)


def _expected(setup: Server, *, refined: bool) -> Expectation | None:
    if setup.given_expectation is not None or not setup.speculative:
        return setup.given_expectation
    text = setup.scenario.acceptance
    parts = asked_parts(setup)
    forms = mixed_forms(text) if text is not None else None
    if forms is not None:
        return _of_forms(setup, forms, parts)
    each = [(_of(setup, name, refined=refined), share, name) for name, share in parts]
    return each[0][0] if len(each) == 1 else _mixed(each)


def asked_parts(setup: Server) -> list[tuple[str | None, float]]:
    """Return data sets or kinds of text, and their shares of the requests."""
    content = setup.scenario.content
    if content is not None and setup.parts:
        msg = (
            f"--content {content}: the data sets of --dataset {setup.scenario.dataset} say already "
            "what the requests are about; drop one of the two."
        )
        raise UsageError(msg)
    if content is not None:
        check = load_conditions().check_content
        return [(check(name), share) for name, share in parse_shares(content)]
    if setup.parts:
        return [(part.dataset.name, part.share) for part in setup.parts]
    return [(setup.dataset.name if setup.dataset else None, 1.0)]


def memory(setup: Server) -> str:
    """Return what the drafter sees of a long context."""
    if setup.method.network == "mtp-layer":
        return NATIVE
    drafter = setup.drafter
    if not isinstance(drafter, DrafterShape):
        return FULL
    windows = [
        layer.window is not None for layer in drafter.layers if isinstance(layer, AttentionShape)
    ]
    return WINDOWED if setup.window is not None or any(windows) else FULL


def _of(setup: Server, name: str | None, *, refined: bool) -> Expectation:
    """Return the acceptance on one data set."""
    s = setup.scenario
    about: dict[str, Any] = {
        "model": setup.model.behaves_as,
        "method": s.method,
        "dataset": name,
        "thinking": s.thinking,
    }
    if s.topk > 1 and s.acceptance is None:
        return of_tree(
            **about,
            law=setup.method.law,
            temperature=Sampling.of(s).degrees,
            topk=s.topk,
            steps=s.steps or 0,
            block=setup.block,
        )
    found = expected_acceptance(
        **about,
        law=setup.method.law,
        block=setup.most_tokens,
        text=s.acceptance,
        temperature=Sampling.of(s).degrees,
        context=_context(setup),
        memory=memory(setup),
        drawn=_drawn(s, setup),
    )
    if not refined:
        return found
    return calibrated(found, setup.calibration, **about, given=s.acceptance is not None)


def _drawn(s: Scenario, setup: Server) -> float:
    """Return the temperature that drafts are drawn at: SGLang serves 0 as 1, with a top-k of 1."""
    how = setup.engine.defaults.chains.drawn if s.speculative_use_rejection_sampling else ""
    return (s.temperature or 1.0) if draws(how, Sampling.of(s)) else 0.0


def _context(setup: Server) -> float | None:
    """Return the mean context of lengths that are not a data set's own, in its figures [token]."""
    s, dataset = setup.scenario, setup.dataset
    if s.isl is not None and s.osl is not None:
        of_nominal = (1 + s.range_ratio) / 2
        return of_nominal * (s.isl + min(s.osl, s.max_new_tokens) / 2)
    if dataset is None or dataset.isl == load_dataset(dataset.name).isl:
        return None
    isl = sum(turn.mean.si for turn in dataset.isl) / len(dataset.isl)
    return isl + min(dataset.osl[s.thinking].mean.si, s.max_new_tokens) / 2


def _mixed(each: list[tuple[Expectation, float, str | None]]) -> Expectation:
    law = MixedAcceptance(
        tuple(e.acceptance for e, _, _ in each),
        tuple(share for _, share, _ in each),
        tuple(str(name) for _, _, name in each),
    )
    sources = "; ".join(f"{share:.3g} {name}: {e.source}" for e, share, name in each)
    certain = all(e.evidence == "published" for e, _, _ in each)
    # Errors of the parts may go together: the mean of the parts' errors, none of it averaged out.
    err = sum(share * e.rel_err for e, share, _ in each)
    evidence = "published" if certain else "assumed"
    inferred = any(e.inferred for e, _, _ in each)
    return Expectation(law, sources, evidence, err, inferred)


def _of_forms(
    setup: Server, forms: list[tuple[str, str]], parts: list[tuple[str | None, float]]
) -> Expectation:
    """Return a mix that is given form by form, by shares or by the names of its parts."""
    named = {name: share for name, share in parts if name is not None}
    found = mixed_shares(forms, named)
    priors = load_acceptance_priors()
    laws = [
        parse_acceptance(form, block=setup.most_tokens, priors=priors, law=setup.method.law)
        for _, _, form in found
    ]
    if len(laws) == 1:
        return Expectation(laws[0], f"given: {laws[0].name}", "assumed", 0.0)
    shares, labels = tuple(s for _, s, _ in found), tuple(name for name, _, _ in found)
    law = MixedAcceptance(tuple(laws), shares, labels)
    return Expectation(law, f"given: {law.name}", "assumed", 0.0)
