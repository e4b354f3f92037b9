"""The release that a question is about, where it does not say: by build, and by what it drafts."""

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.profiles.find import find_sheet, roots
from dflash_sim.profiles.networks.drafter_shapes import KIND_TITLES
from dflash_sim.profiles.releases.engine_methods import arrivals
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine
from dflash_sim.profiles.releases.engine_versions import match_engine
from dflash_sim.profiles.ways_in import named_path
from dflash_sim.simulator.cost.cycle import Method
from dflash_sim.simulator.cost.methods import METHODS, method_with, spellings

_DFLASH = "dflash"


def method_asked(data: Mapping[str, Any], model: str) -> Method | None:
    """The method of a question; None where none is called so, which its field then says.

    ``dflash`` is what its drafter makes of it: SGLang runs DFlash2 and Domino as ``DFLASH`` too.

    Parameters
    ----------
    model
        The target where the question names none.
    """
    name = spellings().get(str(data.get("method", _DFLASH)).strip().casefold())
    if name is None:
        return None
    method = METHODS[name]
    target, drafter = data.get("model", model), data.get("draft_model")
    if (
        not method.follows_drafter
        or not isinstance(target, str)
        or not isinstance(drafter or "", str)
    ):
        return method
    with suppress(DflashSimError):  # a folder that is not there is refused where it is searched
        folders = [root / "drafters" for root in roots()]
        named = [named_path(drafter)] if drafter else []
        return METHODS[_becomes(name, target, drafter, tuple(map(_as_it_is, folders + named)))]
    return method


def _as_it_is(path: Path) -> tuple[str, ...]:
    """A file, or a folder of them, and when each was written: of another time nothing is known."""
    with suppress(OSError):
        every = (path, *sorted(path.glob("*.json")))
        return tuple(f"{p} {p.stat().st_mtime_ns}" for p in every)
    return (str(path),)


@lru_cache
def _becomes(
    name: str, target: str, drafter: str | None, folders: tuple[tuple[str, ...], ...]
) -> str:
    """The method that this one becomes with the drafters of these folders."""
    method = METHODS[name]
    with suppress(DflashSimError):  # whoever loads the drafter says what is wrong with it
        return method_with(method, method.load_drafter(target, drafter)).name
    return method.name


def release_of(data: Mapping[str, Any], method: Method | None) -> dict[str, Any]:
    """The engine sheet of a build, and how that release runs a method when nobody says otherwise.

    A build that names another release than its sheet's stays named, so that results say so. Where
    no release is named it is home's, or the first that is known to have the method.

    Raises
    ------
    ValueError
        The release does not have the method.
    """
    engine, build = data.get("engine"), data.get("build")
    if not isinstance(engine or "", str) or not isinstance(build or "", str):
        return {}  # not a name: the field's own check says so
    if engine is None and build is not None:
        match = match_engine(build)
        engine = match.engine if match else None
    arrival = arrivals().get(method.name) if method else None
    if engine is None and build is None and arrival is not None:
        engine = arrival.engine.engine
    if arrival is not None and method is not None and arrival.is_before(build or engine or HOME):
        title = KIND_TITLES.get(method.name, method.name)
        msg = (
            f"SGLang {arrival.lacking} and before have no {title}, and {build or engine} is one of "
            f"them; give --engine {arrival.engine.engine} or a later one"
        )
        raise ValueError(msg)
    if engine in (None, HOME):
        return {}
    found = {"engine": engine}
    if find_sheet("engines", engine, ".toml") is None and (match := match_engine(engine)):
        found = {"engine": match.engine} | ({} if match.exact or build else {"build": engine})
    if data.get("engine_mode") is None and method is not None:
        sheet = load_engine(found["engine"])
        branches = "topk" in method.takes and data.get("topk", 1) != 1
        mode = sheet.modes.tree if branches else sheet.modes[method.drafts]
        if not mode:
            msg = (
                f"{sheet.title} has no {method.algorithm or method}; say how its worker "
                "would run it with --engine-mode v1, v2-sync or v2, or name a later --engine"
            )
            raise ValueError(msg)
        found["engine_mode"] = mode
    return found
