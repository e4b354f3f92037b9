"""Priors on acceptance, from profiles/acceptance/priors.toml."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

from dflash_sim.profiles.errors import unknown

_PRIORS = Path(__file__).parent / "acceptance" / "priors.toml"


@dataclass(frozen=True)
class Prior:
    """A Gaussian prior on one dimensionless number, and where it comes from."""

    mean: float
    sd: float
    source: str
    evidence: str


@dataclass(frozen=True)
class AcceptancePriors:
    """Assumptions about acceptance beyond the accept lengths given.

    Parameters
    ----------
    theta : variance between requests of the factor on the rejection rate [1]
    theta_by_dataset : the same where a data set is known to differ [1]
    accept_length_error : relative standard error of one published accept length [1]
    data_set_spread : relative standard deviation of accept lengths between data sets [1]
    beta : decay of acceptance along the block, by drafting method
    """

    theta: float
    theta_by_dataset: Mapping[str, float]
    accept_length_error: float
    data_set_spread: float
    beta: Mapping[str, Prior]

    def on(self, dataset: str | None) -> "AcceptancePriors":
        """The priors for the prompts of one data set."""
        theta = self.theta_by_dataset.get(dataset or "", self.theta)
        return replace(self, theta=theta)

    def beta_of(self, method: str) -> Prior:
        """The prior on beta of a drafting method such as ``dflash`` or ``mtp``."""
        if method not in self.beta:
            raise unknown(kind="drafting method", value=method, allowed=self.beta)
        return self.beta[method]


@cache
def load_acceptance_priors() -> AcceptancePriors:
    """Read the priors shipped with the package."""
    sheet = tomllib.loads(_PRIORS.read_text())
    beta = {
        method: Prior(mean=p["mean"], sd=p["sd"], source=p["source"], evidence=p["evidence"])
        for method, p in sheet["beta"].items()
    }
    return AcceptancePriors(
        theta=sheet["theta"]["value"],
        theta_by_dataset={k: v["value"] for k, v in sheet["theta"]["by_dataset"].items()},
        accept_length_error=sheet["accept_length_error"]["value"],
        data_set_spread=sheet["data_set_spread"]["value"],
        beta=MappingProxyType(beta),
    )


@dataclass(frozen=True)
class Family:
    """Models that lend each other accept lengths, and from which sources."""

    name: str
    members: tuple[str, ...]
    sources: tuple[str, ...]
    rel_err: float


@dataclass(frozen=True)
class Preference:
    """The published source that speaks for a model."""

    order: tuple[str, ...]
    ablations: Mapping[str, str]
    families: tuple[Family, ...]

    def rank(self, source_id: str) -> int:
        """Position in the order of preference; unlisted sources are last."""
        return self.order.index(source_id) if source_id in self.order else len(self.order)


@cache
def load_preference() -> Preference:
    """Read the order of preference shipped with the package."""
    raw = tomllib.loads((_PRIORS.parent / "preference.toml").read_text(encoding="utf-8"))
    families = tuple(
        Family(f["name"], tuple(f["members"]), tuple(f["sources"]), f["rel_err"])
        for f in raw["families"]
    )
    return Preference(tuple(raw["order"]), MappingProxyType(raw["ablations"]), families)
