"""``calibrate measure`` on a CPU: every op has a kernel, results resume, passes are beside ops."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="measures torch kernels")
pytest.importorskip("safetensors", reason="layers are built from checkpoints")

from instant_clock import InstantClock  # noqa: E402
from tiny_networks import TARGETS, drafter_spec, target_spec  # noqa: E402

from dflash_sim.calibrate.measure import measure as measuring  # noqa: E402
from dflash_sim.calibrate.measure.clock import CpuClock, copies  # noqa: E402
from dflash_sim.calibrate.measure.machine import choose_device, choose_dtype, sheet_of  # noqa: E402
from dflash_sim.calibrate.measure.measure import Measurement, to_text  # noqa: E402
from dflash_sim.calibrate.measure.op_cases import FUSED, Maker, tensors_bytes  # noqa: E402
from dflash_sim.calibrate.measure.partial_file import Journal  # noqa: E402
from dflash_sim.calibrate.measure.passes import Network, fitting_layers  # noqa: E402
from dflash_sim.calibrate.measure.subject import Sizes, Subject, costs_nothing  # noqa: E402
from dflash_sim.calibrate.measure.subjects import load_subject  # noqa: E402
from dflash_sim.kernels.reference.backend import REFERENCE  # noqa: E402
from dflash_sim.profiles.errors import InfeasibleError, UsageError  # noqa: E402
from dflash_sim.profiles.times.machine_profile import load_measured  # noqa: E402
from dflash_sim.simulator.cost.ops import Collective  # noqa: E402

SIZES = Sizes(requests=(1, 3), blocks=(4,), steps=(2,), ctx=(9,), prefills=((2, 8),))


def subject(family: str = "qwen3_5_moe_text", tp: int = 1) -> Subject:
    return Subject(target_spec(family), drafter_spec(), tp, SIZES)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "clock_for", lambda *_, **__: InstantClock())


def job(**changes: Any) -> Measurement:
    return Measurement(
        changes.pop("of", subject()),
        "cpu",
        torch.float32,
        {"model": "m", "drafter": "d"},
        **{"sweeps": 1} | changes,
    )


# ---- every op of the graph is a call -----------------------------------------------------


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("family", TARGETS)
def test_every_op_of_the_graph_runs(family: str, tp: int) -> None:
    found = subject(family, tp)
    maker = Maker(REFERENCE, found.target.numerics, torch.float32, torch.device("cpu"), 1e4, 1e4)
    missing = set()
    for op, at in found.ops().values():
        calls = maker.calls(op, at)
        if calls is None:
            missing.add(op.name)
        elif calls != FUSED:
            assert not isinstance(calls, str)
            calls[0]()
    assert all(name == "select_top_k_tokens" for name in missing)


def test_what_costs_nothing_is_not_measured() -> None:
    named = {op.name for op, _ in subject().ops().values() if costs_nothing(op)}
    assert named == {"select_top_k_tokens"}


def test_collectives_are_apart() -> None:
    assert subject(tp=1).collectives() == {}
    both = subject(tp=2)
    assert {op.kind for op in both.collectives().values()} == {"all_reduce", "all_gather"}
    assert not any(isinstance(op, Collective) for op, _ in both.ops().values())


def test_copies_leave_the_cache_unless_the_network_is_in_it() -> None:
    assert copies(10.0, cache_bytes=100.0) * 10.0 > 2 * 100.0
    assert copies(10.0, cache_bytes=100.0, network_bytes=40.0) == 5
    assert copies(1e9, cache_bytes=100.0) == 1


# ---- a whole profile ---------------------------------------------------------------------


def test_a_profile_is_whole_and_read_back(tmp_path: Path, fast: None) -> None:
    path = tmp_path / "m.profile"
    report = job().run(path)
    path.write_text(to_text(report.profile), encoding="utf-8")
    profile = load_measured(path)
    assert {op.kind for op in profile.ops} >= {"Gemm", "Moe", "Attention", "GdnRecurrent"}
    phases = {p.phase for p in profile.passes}
    assert phases >= {"verify", "draft", "commit", "materialise", "mtp-draft", "prefill", "layer:0"}
    for p in profile.passes:
        assert p.seconds > 0
        assert p.unmeasured == 0
        assert p.ops_s > 0
    machine = profile.machine
    assert machine["torch"] == torch.__version__
    assert set(machine) >= {"cpu", "python", "os"}
    assert profile.skipped[0]["why"]
    for op, _ in subject().ops().values():
        assert profile.timing(op) is not None or costs_nothing(op)


@pytest.mark.slow
def test_an_interrupted_measurement_goes_on(tmp_path: Path, fast: None) -> None:
    path, seen = tmp_path / "m.profile", []

    def stop(done: int, _total: int) -> None:
        seen.append(done)
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job(sweeps=2, on_progress=stop).run(path)
    assert not path.exists()
    kept = path.with_name("m.profile.partial").read_text(encoding="utf-8").splitlines()
    assert len(kept) == 21  # a line that says of what, and the results
    with path.with_name("m.profile.partial").open("a", encoding="utf-8") as partial:
        partial.write('{"key": "cut sho')  # the power went
    report = job(sweeps=2).run(path)
    assert report.resumed == 20
    keys = [
        json.loads(line)["key"]
        for line in path.with_name("m.profile.partial").read_text(encoding="utf-8").splitlines()[1:]
    ]
    assert len(keys) == len(set(keys))
    assert {f"{key} again 1" for key in subject().ops()} < set(keys)


@pytest.mark.slow
def test_a_journal_of_something_else_is_refused(tmp_path: Path, fast: None) -> None:
    path = tmp_path / "m.profile"
    job().run(path)
    with pytest.raises(UsageError, match="was begun with sizes"):
        job(of=replace(subject(), sizes=replace(SIZES, ctx=(10,)))).run(path)
    path.with_name("m.profile.partial").write_text("nonsense\n", encoding="utf-8")
    with pytest.raises(UsageError, match="is damaged"):
        job().run(path)


@pytest.mark.slow
def test_one_op_out_of_memory_leaves_the_rest(
    tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moe(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Maker, "_moe", moe)
    profile = job().run(tmp_path / "m.profile").profile
    told = [row for row in profile["skipped"] if row["why"] == "out of memory"]
    assert told
    assert all(row["op"].startswith("Moe(experts=6") for row in told)
    assert any(row["kind"] == "Gemm" for row in profile["ops"])
    assert any(row["unmeasured"] for row in profile["passes"])


@pytest.mark.slow
def test_a_drifting_machine_is_told(tmp_path: Path, fast: None, monkeypatch: Any) -> None:
    times = iter([1.0, 1.2, 1.1])
    monkeypatch.setattr(measuring.Canary, "seconds", lambda _self: next(times))
    report = job().run(tmp_path / "m.profile")
    assert report.drifted
    assert report.drift == pytest.approx(0.2)


def test_a_time_is_the_quickest_of_the_sweeps() -> None:
    op = {"key": "gemm", "timed": {"seconds": 2.0}}
    again = {"key": "gemm again 1", "timed": {"seconds": 1.0}}
    late = {"key": "gemm again 2", "timed": {"seconds": 3.0}}
    times = {"draft": 1.0, "verify": 5.0}, {"draft": 2.0, "verify": 4.0}
    both = [{"layers": 4, "seconds": each} for each in times]
    found = measuring._quickest(
        {
            "gemm": op,
            "gemm again 1": again,
            "gemm again 2": late,
            "moe": {"why": "out of memory"},
            "moe again 1": {"timed": {"seconds": 1.0}},
            "pass": both[0],
            "pass again 1": both[1],
            "canary 0": {"seconds": 1.0},
        }
    )
    assert found["gemm"] is again
    assert found["moe"]["timed"]["seconds"] == 1.0
    assert found["pass"]["seconds"] == {"draft": 1.0, "verify": 4.0}
    fewer = measuring._quickest({"p": both[0], "p again 1": {**both[1], "layers": 2}})
    assert fewer["p"] is both[0]  # less memory was free: of other layers
    assert found["canary 0"] == {"seconds": 1.0}


def test_a_full_disk_keeps_what_was_written(tmp_path: Path, monkeypatch: Any) -> None:
    journal = Journal(tmp_path / "m.profile", {"a": 1})
    journal.add("x", {"seconds": 1.0})

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match=r"No space left.*1 results are kept"):
        journal.add("y", {"seconds": 2.0})
    journal.close()


@pytest.mark.slow
def test_collectives_of_two_ranks_are_timed(tmp_path: Path, fast: None) -> None:
    profile = job(of=subject("qwen3", tp=2)).run(tmp_path / "m.profile").profile
    timed = [row for row in profile["ops"] if row["kind"] == "Collective"]
    assert {row["shape"]["kind"] for row in timed} == {"all_reduce", "all_gather"}
    assert all(row["shape"]["gpus"] == 2 and row["seconds"] > 1e-6 for row in timed)


def test_prefills_keep_no_state_of_every_token() -> None:
    """What a verify stores for its rows would be 48 GB for 2,048 tokens of the 397B."""
    network = Network(subject(), REFERENCE, torch.float32, torch.device("cpu"), 4)
    pools = network.caches(2, 64, 0)
    assert pools.target.gdn is not None
    assert pools.target.gdn.ssm_scratch.shape[2] == 1
    network.prefill(2, 8)["prefill"]()


def test_tensors_are_as_large_as_their_ops_say() -> None:
    """Of what is moved by bytes alone; norms and rotations read weights besides."""
    found = subject()
    maker = Maker(REFERENCE, found.target.numerics, torch.float32, torch.device("cpu"), 1.0, 1.0)
    for op, at in found.ops().values():
        if op.name not in ("argmax", "activation"):
            continue
        calls = maker.calls(op, at)
        assert calls is not None
        assert not isinstance(calls, str)
        (read,) = [x for x in calls[0].args if isinstance(x, torch.Tensor)]  # type: ignore[attr-defined]
        share = 1.0 if op.name == "argmax" else 2 / 3  # gate and up are read, their product written
        assert read.nbytes == pytest.approx(share * tensors_bytes(op, 4), rel=0.05)


def test_measuring_needs_no_pydantic_and_no_simpy() -> None:
    """The GPU host has neither; what the command imports at its end counts too."""
    code = """
import sys
import dflash_sim.calibrate.measure.measure, dflash_sim.calibrate.measure.subjects
import dflash_sim.studies.compare.profile_page
import dflash_sim.studies.show.files, dflash_sim.studies.show.terminal
print(sorted({m.split(".")[0] for m in sys.modules} & {"pydantic", "simpy"}))
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == "[]"


# ---- the clock ---------------------------------------------------------------------------


def test_twice_the_work_takes_twice_the_time() -> None:
    x = torch.randn(160, 160)

    def once() -> None:
        x @ x

    def twice() -> None:
        x @ x
        x @ x

    clock = CpuClock(batches=7, least_s=2e-3)
    ratio = min(clock.sample([twice]).median_s / clock.sample([once]).median_s for _ in range(3))
    assert 1.5 < ratio < 2.6


def test_only_whole_periods_of_layers_are_cut() -> None:
    model = target_spec("qwen3_5_text", num_hidden_layers=8).shape
    per_layer = model.weight_bytes(1) / 8
    assert fitting_layers(model, tp=1, itemsize=2, free_bytes=1e12) == 8
    assert fitting_layers(model, tp=1, itemsize=2, free_bytes=6 * per_layer / 0.6) == 4
    assert fitting_layers(model, tp=1, itemsize=2, free_bytes=0.0) == 4


# ---- what is refused ---------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said() -> None:
    with pytest.raises(InfeasibleError, match="--device cpu"):
        choose_device("cuda")
    assert choose_device(None) == "cpu"


def test_half_types_say_nothing_on_a_cpu() -> None:
    with pytest.raises(UsageError, match="measure in float32"):
        choose_dtype("bfloat16", "cpu")
    with pytest.raises(UsageError, match="Have: bfloat16, float16"):
        choose_dtype("float1", "cuda")


def ask(model: str = "qwen3-4b", drafter: str | None = None, **more: Any) -> None:
    load_subject(model, drafter, tp=1, **({"device": "cuda", "quick": True} | more))


def test_a_model_too_large_for_a_cpu_is_refused() -> None:
    with pytest.raises(InfeasibleError, match="float32 weights"):
        ask(device="cpu")


def test_a_drafter_of_another_model_is_refused() -> None:
    with pytest.raises(UsageError, match="features up to layer"):
        ask(drafter="qwen3-coder-30b-a3b-dflash")
    with pytest.raises(UsageError, match="above the 16"):
        ask(blocks="8,32")
    with pytest.raises(UsageError, match="expected numbers"):
        ask(requests="1,x")


def test_gpus_are_known_by_what_the_driver_calls_them() -> None:
    known = {
        "NVIDIA H200": "h200",
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA A100-SXM4-80GB": "a100",
        "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtx_pro_6000",
        "NVIDIA GH200 480GB": "gh200",
        "NVIDIA GeForce GTX 1080": None,
    }
    assert {name: sheet_of(name) for name in known} == known
