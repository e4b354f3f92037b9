"""Accept lengths of trees of drafts: those that are published, tree by tree."""

from dflash_sim.profiles.errors import MissingProfileError
from dflash_sim.profiles.load import load_acceptance
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.laws import ParametricAcceptance
from dflash_sim.simulator.requests.survival import fit_one

_TREE = "-tree"  # how rows of published accept lengths name such a method


def of_tree(
    *,
    model: str,
    method: str,
    law: str,
    dataset: str | None,
    thinking: bool,
    temperature: float,
    topk: int,
    steps: int,
    block: int,
) -> Expectation:
    """Return the accept length published for a tree of this very shape.

    Parameters
    ----------
    law
        The drafting method whose prior on the decay along a path holds for it.
    temperature
        Of the sampling; the nearest one that is published speaks [1].
    topk, steps, block
        Paths that go on, steps of each, tokens that are verified.

    Raises
    ------
    MissingProfileError
        None is published for it; says how to give one.
    """
    shape = f"{steps} steps, topk{topk}, tree {block})"
    about = [p for p in load_acceptance() if (p.model, p.method) == (model, f"{method}{_TREE}")]
    own = [
        p
        for p in about
        if p.dataset == dataset and p.thinking in (thinking, None) and shape in p.drafter
    ]
    if not own:
        known = ", ".join(sorted({p.drafter for p in about})[:2]) or "nothing"
        msg = (
            f"no accept length is published for {model} with a tree of {steps} steps, topk {topk}, "
            f"{block} tokens on {dataset or 'no data set'}; published: {known}. Give one, such as "
            "--acceptance al:3.2."
        )
        raise MissingProfileError(msg)
    nearest = min(own, key=lambda p: abs((p.temperature or 0.0) - temperature))
    priors = load_acceptance_priors().on(dataset)
    # A path has no more drafts than there were steps, whatever else the tree has.
    params = fit_one(
        nearest.accept_len, steps + 1, beta=priors.beta_of(law).mean, theta=priors.theta
    )
    return Expectation(
        ParametricAcceptance(params, steps + 1),
        f"published: {nearest.source_id}",
        "published",
        priors.accept_length_error,
    )
