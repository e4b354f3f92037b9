"""How long a large plan takes, printed and never asserted: ``pytest -m bench -s tests/bench``."""

import resource
import time
from pathlib import Path

import numpy as np
import pytest

from dflash_sim.cli import run

pytestmark = pytest.mark.bench

HOUR_S, RATE = 3600.0, 20.0
GRID = ["--gpu", "b200,b300,h200,h100,l40s", "--tp", "1,2,4,8", "--method", "none,mtp,dflash",
        "--block", "4,8,12,16"]  # fmt: skip


def hour(path: Path) -> int:
    """An hour of chat at 20 requests a second; returns how many requests there are."""
    rng = np.random.default_rng(0)
    n = int(HOUR_S * RATE)
    at = np.cumsum(rng.exponential(1 / RATE, n))
    isl = rng.integers(100, 2000, n)
    osl = np.minimum(4096, 1 + rng.lognormal(5.5, 0.8, n)).astype(int)
    rows = zip(at.tolist(), isl.tolist(), osl.tolist(), strict=True)
    path.write_text("arrival_s,isl,osl\n" + "".join(f"{a:.4f},{i},{o}\n" for a, i, o in rows))
    return n


def cpu_s() -> float:
    """Processor time of this process and of those it waited for [s]."""
    both = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in both)


@pytest.mark.parametrize("model", ["qwen3.5-35b-a3b", "qwen3.5-397b-a17b"])
@pytest.mark.parametrize("router", ["round-robin", "least-loaded"])
def test_an_hour_on_every_server(model: str, router: str, tmp_path: Path) -> None:
    n = hour(tmp_path / "hour.csv")
    flags = ["plan", "--model", model, "--trace", str(tmp_path / "hour.csv"), *GRID]
    flags += ["--ttft", "2000", "--tpot", "15", "--runs", "1", "--jobs", "2", "--router", router]
    start, before = time.perf_counter(), cpu_s()
    assert run([*flags, "-o", str(tmp_path / "plan.json")]) == 0
    seconds, used = time.perf_counter() - start, cpu_s() - before
    print(
        f"\n{model}, {n:,} requests, 5 GPUs x 4 TP x (plain, 4 MTP, 4 DFlash), {router}: "
        f"{seconds:.0f} s on 2 processes, {used:.0f} s of processor time"
    )
