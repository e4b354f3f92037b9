"""Predict DFlash speculative-decoding throughput in SGLang before renting the GPUs.

>>> import dflash_sim as ds
>>> ds.predict(gpu="b200", block=16, conc=[1, 8, 32])

Names below are loaded when they are used: the import itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dflash_sim.api.carried import Carried, carried
    from dflash_sim.api.compare import Comparison, compare
    from dflash_sim.api.crossover import Crossover, crossover
    from dflash_sim.api.explain import explain, trace
    from dflash_sim.api.fit import Fit, Validation, fit, validate
    from dflash_sim.api.lists import lists
    from dflash_sim.api.live import Live, live
    from dflash_sim.api.plan import Plan, Tuning, plan, tune
    from dflash_sim.api.predict import config, predict, scenario
    from dflash_sim.api.real import (
        RealRun,
        compare_profiles,
        import_silicon,
        measure,
        run,
        validate_real,
    )
    from dflash_sim.api.result import Explanation, Result
    from dflash_sim.api.sweep import sweep
    from dflash_sim.profiles.errors import (
        DflashSimError,
        InfeasibleError,
        MissingProfileError,
        UsageError,
    )
    from dflash_sim.simulator.scenario import Scenario

__version__ = "0.1.0"

__all__ = [
    "Carried",
    "Comparison",
    "Crossover",
    "DflashSimError",
    "Explanation",
    "Fit",
    "InfeasibleError",
    "Live",
    "MissingProfileError",
    "Plan",
    "RealRun",
    "Result",
    "Scenario",
    "Tuning",
    "UsageError",
    "Validation",
    "carried",
    "compare",
    "compare_profiles",
    "config",
    "crossover",
    "explain",
    "fit",
    "import_silicon",
    "lists",
    "live",
    "measure",
    "plan",
    "predict",
    "run",
    "scenario",
    "sweep",
    "trace",
    "tune",
    "validate",
    "validate_real",
]

_MODULES = {
    "api.carried": ("Carried", "carried"),
    "api.compare": ("Comparison", "compare"),
    "api.crossover": ("Crossover", "crossover"),
    "api.explain": ("explain", "trace"),
    "api.fit": ("Fit", "Validation", "fit", "validate"),
    "api.lists": ("lists",),
    "api.live": ("Live", "live"),
    "api.plan": ("Plan", "Tuning", "plan", "tune"),
    "api.predict": ("config", "predict", "scenario"),
    "api.real": (
        "RealRun",
        "compare_profiles",
        "import_silicon",
        "measure",
        "run",
        "validate_real",
    ),
    "api.result": ("Explanation", "Result"),
    "api.sweep": ("sweep",),
    "profiles.errors": ("DflashSimError", "InfeasibleError", "MissingProfileError", "UsageError"),
    "simulator.scenario": ("Scenario",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module 'dflash_sim' has no attribute '{name}'"
        raise AttributeError(msg)
    found = getattr(import_module(f"dflash_sim.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(["__version__", *__all__])
