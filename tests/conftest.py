"""One hypothesis profile for everybody, and helpers that every test may import."""

import gc
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from dflash_sim.realrun.worker import cores

# pytest's importlib mode leaves tests/ off the path: `from strategies import systems`.
sys.path.insert(0, str(Path(__file__).parent))

# A shell starts its background jobs deaf to Ctrl-C, and so would be all that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Networks of these sizes are quickest on one thread, and more would spin beside other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Whoever waits for a worker, or for its scheduler, sleeps: other tests have use for the core.
cores.SPIN_S = 0.0

# Thousands of tests and what they import live to the end. To look through them for garbage as often
# as Python does by itself takes a tenth of the time and more.
gc.set_threshold(20_000, 20, 50)

PATIENT = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=PATIENT)
settings.register_profile(
    "campaign", max_examples=5000, deadline=None, suppress_health_check=PATIENT, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with slow tests in every process: the others are shared out evenly to the end.

    Each process is given as many tests as the others, in their order.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]

    def part(of: list[pytest.Item], i: int) -> list[pytest.Item]:
        return of[len(of) * i // processes : len(of) * (i + 1) // processes]

    items[:] = [item for i in range(processes) for item in part(slow, i) + part(quick, i)]


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Show a failure when it happens: a run that is stopped from outside tells no summary."""
    if report.failed and os.environ.get("CI") and "PYTEST_XDIST_WORKER" not in os.environ:
        said = f"\n{report.nodeid} ({report.when}): {report.longreprtext[-4000:]}"
        print(said, file=sys.__stderr__, flush=True)
