"""``calibrate measure`` where there is a GPU: graphs are timed, and ceilings hold."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="measures torch kernels")
pytest.importorskip("triton", reason="the kernels are Triton's")
pytest.importorskip("safetensors", reason="layers are built from checkpoints")

from dflash_sim.calibrate.measure.clock import CudaClock, copy_byte_s  # noqa: E402
from dflash_sim.calibrate.measure.measure import Measurement, to_text  # noqa: E402
from dflash_sim.calibrate.measure.subjects import load_subject  # noqa: E402
from dflash_sim.profiles.times.machine_profile import load_measured  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_copy_takes_its_bytes() -> None:
    """Twice the bytes, twice the time; and no more than the sheet of any GPU."""
    clock = CudaClock(replays=8)
    assert 1e11 < copy_byte_s(clock) < 1e13
    a, b = (torch.empty(n * 2**28, dtype=torch.uint8, device="cuda") for n in (1, 2))
    one, two = torch.empty_like(a), torch.empty_like(b)
    ratio = (
        clock.sample([lambda: two.copy_(b)]).median_s
        / clock.sample([lambda: one.copy_(a)]).median_s
    )
    assert 1.8 < ratio < 2.2


def test_the_8b_shapes_are_measured_and_predict(tmp_path: Path) -> None:
    subject, name = load_subject(
        "qwen3-8b", None, tp=1, device="cuda", quick=True, requests="1,8", ctx="1024"
    )
    path = tmp_path / "here.profile"
    job = Measurement(subject, "cuda", torch.bfloat16, name, quick=True)
    report = job.run(path)
    path.write_text(to_text(report.profile), encoding="utf-8")
    profile = load_measured(path)
    failed = [row for row in profile.skipped if "launch of the engine" not in row["why"]]
    assert failed == []
    ceiling = profile.device["copy_byte_s"]
    for op in profile.ops:
        if op.kind in ("Gemm", "Attention") and op.nbytes > 2**26:
            assert op.nbytes / op.seconds < 1.15 * ceiling, op.shape
    for p in profile.passes:
        if not p.phase.startswith("layer:"):
            assert 0.5 < p.seconds / p.ops_s < 3, (p.phase, p.requests, p.rows)
