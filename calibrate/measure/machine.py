"""The machine that a profile was measured on: hardware, driver, versions, clocks; its checks."""

import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dflash_sim.profiles.errors import InfeasibleError, UsageError, unknown
from dflash_sim.profiles.find import aliases, sheets
from dflash_sim.profiles.units import MEGA

DEVICES = ("cuda", "cpu")
MIN_CAPABILITY = (8, 0)  # bfloat16 matrix instructions
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def choose_device(asked: str | None) -> str:
    """``cuda`` or ``cpu``; the GPU where there is one and nothing was said.

    Raises
    ------
    InfeasibleError
        A GPU was asked for and torch sees none that it can use, with the reason.
    """
    if asked is not None and asked not in DEVICES:
        raise unknown(kind="--device", value=asked, allowed=DEVICES)
    if asked == "cpu" or (asked is None and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = (
            f"this torch ({torch.__version__}) is built for CPUs; install one with CUDA"
            if built is None
            else f"torch {torch.__version__} is built for CUDA {built} and sees no GPU, or an "
            "older driver; look at nvidia-smi"
        )
        msg = f"--device cuda: {why}. Or measure a small model with --device cpu."
        raise InfeasibleError(msg)
    have = torch.cuda.get_device_capability()
    if have < MIN_CAPABILITY:
        msg = (
            f"{torch.cuda.get_device_name()} has compute capability {have[0]}.{have[1]}; the "
            f"kernels need {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} or later (A100 and newer)."
        )
        raise InfeasibleError(msg)
    return "cuda"


def choose_dtype(asked: str | None, device: str) -> torch.dtype:
    """Choose bfloat16 on a GPU, and float32 on a CPU, where half types are emulated."""
    name = asked or ("bfloat16" if device == "cuda" else "float32")
    if name not in DTYPES:
        raise unknown(kind="--dtype", value=name, allowed=DTYPES)
    if device == "cpu" and name != "float32":
        msg = f"--dtype {name} is emulated on a CPU and says nothing; measure in float32 there."
        raise UsageError(msg)
    return DTYPES[name]


def describe(device: str) -> dict[str, Any]:
    """The machine header of a profile."""
    about: dict[str, Any] = {
        "device": device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "os": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cpu_cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
    }
    if device == "cuda":
        found = torch.cuda.get_device_properties(0)
        about |= {
            "gpu": found.name,
            "gpus": torch.cuda.device_count(),
            "cuda": torch.version.cuda,
            "driver": _driver(),
            "capability": f"{found.major}.{found.minor}",
        }
        about["triton"] = _version("triton")
    return about


def identity(machine: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a header that must agree for two halves of a profile to fit together."""
    return {k: v for k, v in machine.items() if k not in ("os", "gpus")}


def clocks() -> dict[str, int] | None:
    """SM clock now [MHz] and temperature [degree Celsius], where the driver tells."""
    try:
        return {"sm_mhz": int(torch.cuda.clock_rate()), "celsius": int(torch.cuda.temperature())}
    except Exception:  # pynvml missing, or a driver that does not tell
        return None


def device_sheet(device: str) -> dict[str, Any]:
    """Return the device of a profile without its rates; ``sheet`` is ours of it, if any."""
    if device == "cpu":
        return {"title": _cpu_name(), "vendor": "", "mem_bytes": float(_ram_bytes()), "sheet": None}
    found = torch.cuda.get_device_properties(0)
    return {
        "title": found.name,
        "vendor": "NVIDIA",
        "mem_bytes": float(found.total_memory),
        "sm_count": found.multi_processor_count,
        "l2_bytes": float(found.L2_cache_size),
        "sheet": sheet_of(found.name),
    }


def sheet_of(gpu: str) -> str | None:
    """Our sheet of a GPU as the driver calls it, such as ``NVIDIA H200``."""
    said = f" {_words(gpu)} "
    for path in sheets("devices", ".toml"):
        if any(f" {_words(name)} " in said for name in (path.stem, *aliases(path))):
            return path.stem
    return None


def _words(name: str) -> str:
    return name.lower().replace("-", " ").replace("_", " ")


def free_bytes(device: str) -> float:
    """Memory that tensors can still take [byte]."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        found = next(line for line in text.splitlines() if line.startswith("MemAvailable"))
        return float(found.split()[1]) * 2**10
    except (OSError, StopIteration, ValueError):
        return float(_ram_bytes())


@dataclass
class Neighbours:
    """The share of this machine's processors that others took, the hypervisor included.

    ``share`` is None where the system does not tell (it does on Linux).
    """

    share: float | None = None

    def __enter__(self) -> "Neighbours":
        self._at = time.monotonic(), _busy_s(), _own_s()
        return self

    def __exit__(self, *_: object) -> None:
        (begin, before, own), after = self._at, _busy_s()
        if before is None or after is None:
            return
        others = after - before - (_own_s() - own)
        cores = os.cpu_count() or 1
        self.share = max(0.0, others / (cores * max(time.monotonic() - begin, 1e-9)))


def _busy_s() -> float | None:
    """Seconds that all processors worked, stolen ones included; idle and waiting left out."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, line.split()[1:9])
    ticks = user + nice + system + irq + soft + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    """Processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _ram_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(x.split(":", 1)[1].strip() for x in text.splitlines() if "model name" in x)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _driver() -> str:
    try:
        first = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return "unknown"
    return next((w for w in first.split() if w[:1].isdigit() and "." in w), first)


def _version(module: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(module)
    except PackageNotFoundError:
        return None


def megabytes(nbytes: float) -> str:
    """A size in words."""
    return f"{nbytes / MEGA:,.0f} MB"
