"""Environment variables of a launch -> what they say about the answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dflash_sim.calibrate.launches.server_flags import variable_of
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.engine_versions import match_engine

_OFF = {"0", "false", "no", "off", "n", ""}
_WORKERS = ("SGLANG_ENABLE_SPEC_V2", "SGLANG_ENABLE_DFLASH_SPEC_V2")
_DEVICES = "CUDA_VISIBLE_DEVICES"
_LIST = re.compile(r"(?:\d+|GPU-[\w-]+|MIG-[\w/-]+)(?:,(?:\d+|GPU-[\w-]+|MIG-[\w/-]+))*")
_ALWAYS_V2 = (0, 5, 14)  # releases from here on have no other worker, and no such variable
_CHAINS_V2 = (0, 5, 13)  # from here on, chains without overlap run in the V2 worker


def check_environment(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Variables that may change speed and are not modelled, with what is simulated instead.

    Raises
    ------
    UsageError
        One asks for what is not simulated.
    """
    found = []
    for name, value in environment.items():
        variable = variable_of(name)
        if variable is None or value in variable.harmless:
            continue
        if variable.harmless == {"0"} and value.lower() in _OFF:
            continue
        if variable.kind == "refused":
            msg = f"--from-launch: {name} is not simulated. {variable.why}"
            raise UsageError(msg)
        if variable.kind == "unmodelled":
            found.append((name, variable.why))
    return found


def check_devices(environment: Mapping[str, str], tp: int, flag: str) -> None:
    """Refuse a server of more GPUs than ``CUDA_VISIBLE_DEVICES`` lists for it.

    Raises
    ------
    UsageError
        It has more, and would not start; names the ``flag`` and the variable.
    """
    listed = environment.get(_DEVICES, "").replace(" ", "")
    count = len(listed.split(","))
    if _LIST.fullmatch(listed) and tp > count:
        msg = (
            f"--from-launch: {flag} {tp} is of {tp} GPUs, and {_DEVICES}={listed[:80]} shows the "
            f"server {count}; change one of them."
        )
        raise UsageError(msg)


@dataclass(frozen=True)
class Worker:
    """The engine mode that variables ask for, and a remark about it."""

    mode: str | None = None
    note: str | None = None


def worker_of(environment: Mapping[str, str], build: str | None, *, chain: bool) -> Worker:
    """The worker of speculation that ``SGLANG_ENABLE_SPEC_V2`` asks for.

    Parameters
    ----------
    build
        Release that serves, where it is known: what the variable does depends on it.
    chain
        True for MTP and EAGLE-3, whose worker changed one release before that of DFlash.
    """
    given = [name for name in _WORKERS if name in environment]
    if not given or any(environment[name].lower() not in _OFF for name in given):
        return Worker()
    matched = match_engine(build) if build else None
    version = matched.version if matched else None
    if version is not None and version >= _ALWAYS_V2:
        return Worker(note=f"{given[0]}: SGLang {build} has no such variable, and runs V2")
    if chain and version is not None and version >= _CHAINS_V2:
        return Worker("v2-sync")
    note = "it is read as the V1 worker; builds from 0.5.14 on have none and run V2"
    return Worker("v1", None if version else note)


def simulated_acceptance(environment: Mapping[str, str]) -> str | None:
    """``SGLANG_SIMULATE_ACC_LEN`` forces the accept length of a real server, and ours."""
    length = environment.get("SGLANG_SIMULATE_ACC_LEN", "-1")
    if length.startswith("-"):
        return None
    how = environment.get("SGLANG_SIMULATE_ACC_METHOD", "match-expected")
    return f"sglang-simulated:{length},{how}"
