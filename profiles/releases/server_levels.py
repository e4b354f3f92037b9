"""What servers have in common: factors of a release, a GPU, an attention backend, a machine.

The constants of an engine sheet are those of its *home*: one release on one GPU. Any other server
is told from it by a few factors, each the product of what its levels contribute::

    time of a kernel on this server = constant of the sheet x release x arch x gpu x backend
                                                x precision x server x deployment

What no measurement has spoken of is 1, give or take the prior of its level, so that a server of
which nothing is known has an interval as wide as such servers have been wrong. ``server`` and
``deployment`` are learned from a user's own rows alone.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LEVELS = ("release", "build", "arch", "gpu", "backend", "precision", "server", "deployment")
OWN = ("server", "deployment")  # levels that only the rows of that server speak of
UNSTATED = "unstated"  # the build of measurements that name none: it may be any


@dataclass(frozen=True)
class Factor:
    """One way in which servers differ.

    Parameters
    ----------
    constant
        The constant of the engine sheet that it multiplies.
    scale
        ``log``: levels multiply. ``asinh``: close to 1 as ``log``, and a straight line above,
        for what adds to the time of a step; levels add there.
    words
        What it is a factor on.
    levels
        Where servers differ in it: which experts are used hangs on a server's model and prompts.
    """

    constant: str
    scale: str
    words: str
    levels: tuple[str, ...] = LEVELS


FACTORS: dict[str, Factor] = {
    "time": Factor("time_factor", "log", "all GPU and host time"),
    "host": Factor("host_factor", "log", "host time"),
    "prefill": Factor("prefill_factor", "log", "prefills"),
    "wide": Factor("wide_verify_factor", "log", "verify passes of several rows a request"),
    "kernel": Factor("graph_node_gap", "asinh", "time between kernels"),
    "experts": Factor("expert_skew", "log", "how unevenly experts are used", ("deployment",)),
}


@dataclass(frozen=True)
class Server:
    """The levels that tell a server from home, such as ``("gpu", "h200")``."""

    levels: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls, home: Mapping[str, str], *, precision: Iterable[str] = (), **levels: str | None
    ) -> "Server":
        """Name the levels that differ from ``home``; None is a level that nobody knows.

        Each format of ``precision`` is a level of its own: what is learned of FP8 weights holds
        with a cache in FP8 too.
        """
        named = [(k, v) for k, v in levels.items() if v and v != home.get(k)]
        named += [("precision", name) for name in precision]
        return cls(tuple(sorted(named, key=lambda pair: LEVELS.index(pair[0]))))

    def owned_by(self, owner: str) -> "Server":
        """Return the server with its own levels told from those of other owners."""
        named = ((k, f"{owner}/{v}" if owner and k in OWN else v) for k, v in self.levels)
        return Server(tuple(named))

    @property
    def keys(self) -> tuple[str, ...]:
        """The levels as keys of parameters, such as ``gpu=h200``, always in the same order.

        Factors are multiplied in it: another order would be another last digit.
        """
        return tuple(sorted(f"{level}={name}" for level, name in self.levels))

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Return what this server has that home has not, in words."""
        return tuple(name for level, name in self.levels if level not in OWN)


def together(factor: str, values: Iterable[float]) -> float:
    """The factor of a server from those of its levels."""
    if FACTORS[factor].scale == "log":
        return math.prod(values)
    return math.exp(math.asinh(sum(math.sinh(math.log(v)) for v in values)))


def bend(factor: str, x: float) -> float:
    """How much flatter the log of a factor runs at ``x``, the sum of its levels, than at 0."""
    return 1.0 if FACTORS[factor].scale == "log" else 1 / math.hypot(1.0, x)


def level_of(key: str) -> str:
    """The level of a parameter's key: ``gpu`` of ``gpu=h200``."""
    return key.partition("=")[0]
