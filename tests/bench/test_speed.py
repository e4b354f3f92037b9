"""Speed, printed and never asserted: ``pytest -m bench -s tests/bench``.

Every ratio compares two measurements of one run of this file.
"""

import itertools
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest

from dflash_sim.simulator.cost import step_table
from dflash_sim.simulator.engine.records import DECODE, Run
from dflash_sim.simulator.predict import build_workload, predict, run_engine
from dflash_sim.simulator.requests.draws import draw_commits
from dflash_sim.simulator.requests.expected import expected_acceptance
from dflash_sim.simulator.requests.laws import NoSpeculation
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.simulator.slopes import requests_of
from dflash_sim.simulator.trial import run_again, with_engine

pytestmark = pytest.mark.bench

W1: dict[str, Any] = {"method": "none", "isl": 512, "osl": 512, "conc": 32, "num_prompts": 1000}


def prepared(**fields: Any) -> Callable[[str], tuple[Run, float]]:
    """A run with everything drawn and priced: ``(engine) -> (record, seconds in the loop)``."""
    s = Scenario.parse(**fields)
    setup = resolve(s)
    law: Any = NoSpeculation()
    if setup.speculative:
        law = expected_acceptance(
            model=setup.model.name,
            method=s.method,
            law=setup.method.law,
            block=setup.block,
            dataset=s.dataset,
            thinking=s.thinking,
        ).acceptance
    work = build_workload(setup, np.random.default_rng(0), np.random.default_rng(1))
    draws = draw_commits(law, work, np.random.default_rng(2))
    run_engine(setup, work, draws, simulator="leap")  # prices every batch size once

    def loop(simulator: str) -> tuple[Run, float]:
        start = time.perf_counter()
        run = run_engine(setup, work, draws, simulator=simulator)
        seconds = time.perf_counter() - start
        tokens = int(work.osl[np.isfinite(run.finish_s)].sum())
        batch = run.batch[run.kind == DECODE].mean()
        print(
            f"  {simulator:5} {seconds:7.3f} s  {tokens / seconds / 1e6:8.2f} M tokens/s  "
            f"{len(run.kind) / seconds:10,.0f} iterations/s  "
            f"({tokens:,} tokens, {len(run.kind):,} iterations, batch {batch:.1f})"
        )
        return run, seconds

    return loop


@pytest.mark.parametrize(
    "fields",
    [
        {"conc": 32, "block": 16},
        {"conc": 1, "block": 16},
        {"conc": 32, "method": "none"},
        {"conc": 1, "method": "none"},
        W1,
    ],
    ids=str,
)
def test_leap_beside_the_event_engine(fields: dict[str, Any]) -> None:
    print(f"\n397B on 8 x B200, {fields}")
    loop = prepared(**fields)
    leap = min((loop("leap") for _ in range(3)), key=lambda x: x[1])
    event = loop("event")
    np.testing.assert_allclose(leap[0].finish_s, event[0].finish_s, rtol=1e-9)
    print(f"  ratio {event[1] / leap[1]:.0f}")


@pytest.mark.parametrize(
    "fields", [{"conc": 32, "block": 16}, {"conc": 4, "block": 8}, W1], ids=str
)
def test_a_run_walked_again_beside_the_engine(fields: dict[str, Any]) -> None:
    """What a slope costs: the same decisions at other prices, or all of them made anew."""
    setup = resolve(Scenario.parse(**fields))
    requests = requests_of(setup, 0)
    draws = requests.draws(setup.expectation)
    run = run_engine(setup, requests.workload, draws)
    dearer = with_engine(setup, setup.engine.with_constants(client_turnaround=3.1e-3))
    asked = (dearer, requests.workload, draws)
    run_engine(*asked)
    engine_s, again_s = (
        min(timed(make) for _ in range(5))
        for make in (lambda: run_engine(*asked), lambda: run_again(dearer, run, *asked[1:]))
    )
    print(f"\n{fields}: engine {engine_s:.3f} s, again {again_s:.3f} s, {engine_s / again_s:.1f} x")


def timed(make: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    start = time.process_time()
    make()
    return time.process_time() - start


@pytest.mark.parametrize("constant", ["host_factor", "table_factor", "graph_node_gap"])
def test_prices_at_another_constant_beside_all(constant: str) -> None:
    """Of 32 batch sizes: only what rests on the constant is priced again."""
    step_table._PRICED.clear()
    setup = resolve(Scenario.parse(conc=32))
    dearer = setup.engine.with_constants(**{constant: 1.1 * setup.engine[constant]})
    all_s, again_s = (
        timed(lambda step=made.step: [step.table(batch) for batch in range(1, 33)])  # type: ignore[misc]
        for made in (setup, with_engine(setup, dearer))
    )
    print(f"\n{constant}: all {all_s:.3f} s, again {again_s:.3f} s, {all_s / again_s:.1f} x")


def test_warm_answers() -> None:
    """One process that is asked again, as a notebook or a page asks."""
    print()
    for name, fields, how in (
        ("first, with intervals", {"conc": 32}, {}),
        ("the same again", {"conc": 32}, {}),
        ("another concurrency", {"conc": 24}, {}),
        ("another block", {"conc": 32, "block": 8}, {}),
        ("without intervals", {"conc": 32}, {"with_interval": False}),
        ("nor a baseline", {"conc": 32}, {"with_interval": False, "with_baseline": False}),
    ):
        seconds = timed(lambda f=fields, h=how: predict(Scenario.parse(**f), **h))  # type: ignore[misc]
        print(f"  {name:24} {seconds:.3f} s")


def wall_s(*args: str, repeat: int = 5) -> list[float]:
    """Wall seconds of whole processes."""
    out = []
    for _ in range(repeat):
        start = time.perf_counter()
        subprocess.run(args, check=True, capture_output=True)
        out.append(time.perf_counter() - start)
    return out


def shown(name: str, seconds: list[float]) -> None:
    print(f"  {name:44} best {min(seconds):.3f} s, median {np.median(seconds):.3f} s")


def test_processes_from_cold() -> None:
    exe = shutil.which("dflash-sim", path=f"{sys.prefix}/bin") or shutil.which("dflash-sim")
    if exe is None:
        pytest.skip("no dflash-sim on the path")
    print("\nWhole processes")
    shown("python -c pass", wall_s(sys.executable, "-c", "pass"))
    shown("python -c 'import numpy'", wall_s(sys.executable, "-c", "import numpy"))
    shown("dflash-sim --help", wall_s(exe, "--help"))
    shown("dflash-sim predict", wall_s(exe, "predict"))
    shown("dflash-sim predict --conc 32", wall_s(exe, "predict", "--conc", "32"))
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in W1.items()]
    shown("W1: predict " + " ".join(flags[:3]), wall_s(exe, "predict", *flags, "--runs=1"))


# Not getrusage: its peak survives exec, and would be that of pytest.
MEASURE_MEMORY = """
import sys
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
predict(Scenario.parse(conc=int(sys.argv[1])))
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("conc", [1, 32])
def test_peak_memory_of_a_prediction(conc: int) -> None:
    command = [sys.executable, "-c", MEASURE_MEMORY, str(conc)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(f"\nPeak resident memory, conc {conc}, five runs and baseline: {float(out):.0f} MiB")


DATASETS = ("gsm8k", "math500", "humaneval", "mbpp", "mt-bench")
CONCS = (1, 2, 4, 8, 16, 32)
CONFIGS: tuple[dict[str, Any], ...] = (
    {"method": "none"},
    *({"method": "mtp", "steps": k} for k in (3, 7, 15)),
    *({"method": "dflash", "block": b} for b in (4, 8, 16)),
)


def answer(fields: dict[str, Any]) -> int:
    """Tokens simulated for one cell of the card."""
    result = predict(Scenario.parse(**fields), with_baseline=False)
    return round(sum(run["total_output_tokens"] for run in result.per_run))


def test_the_whole_card() -> None:
    """Five workloads, six concurrencies, seven configurations, five runs, on two processes."""
    cells = [
        {"dataset": d, "conc": c, **config}
        for d, c, config in itertools.product(DATASETS, CONCS, CONFIGS)
    ]
    start = time.perf_counter()
    with ProcessPoolExecutor(2) as pool:
        tokens = sum(pool.map(answer, cells, chunksize=7))
    seconds = time.perf_counter() - start
    print(
        f"\nThe card: {len(cells)} cells x 5 runs in {seconds:.1f} s on 2 processes, "
        f"{tokens / seconds / 1e6:.1f} M tokens/s"
    )
