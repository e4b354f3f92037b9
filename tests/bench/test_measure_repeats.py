"""Does ``calibrate measure`` say the same twice? ``pytest -m bench -s tests/bench``.

Printed and never asserted: ratios of two profiles of the small model, taken one after the other.
"""

import statistics
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="measures torch kernels")
pytest.importorskip("safetensors", reason="layers are built from checkpoints")

from dflash_sim.calibrate.measure.machine import Neighbours  # noqa: E402
from dflash_sim.calibrate.measure.measure import Measurement  # noqa: E402
from dflash_sim.calibrate.measure.subjects import load_subject  # noqa: E402

pytestmark = pytest.mark.bench


def test_two_profiles_of_one_machine(tmp_path: Path) -> None:
    times: list[dict[str, float]] = []
    with Neighbours() as neighbours:
        for turn in ("first", "second"):
            subject, name = load_subject("tiny", None, tp=1, device="cpu", quick=True)
            job = Measurement(subject, "cpu", torch.float32, name, quick=True)
            profile = job.run(tmp_path / f"{turn}.profile").profile
            times.append({f"{r['kind']}{r['shape']}": r["seconds"] for r in profile["ops"]})
            print(f"\n{turn}: {profile['made']['seconds']} s, drift {profile['made']['drift']:.1%}")
    first, second = times
    ratios = sorted(second[key] / first[key] for key in first if first[key] > 1e-8)
    moved = [abs(r - 1) for r in ratios]
    most = sorted(moved)[int(0.95 * len(moved))]
    print(
        f"{len(ratios)} ops: median ratio {statistics.median(ratios):.3f}, median change "
        f"{statistics.median(moved):.1%}, 95th percentile {most:.1%}; "
        f"others used {neighbours.share or 0:.0%} of the machine"
    )
