"""Triton kernels compile for Hopper and Blackwell without a GPU: no spills, tensor cores in use."""

import os
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("triton", reason="needs triton")

from dflash_sim.kernels.triton.attention import block_attention  # noqa: E402
from dflash_sim.kernels.triton.compile_cases import CASES, meta  # noqa: E402
from dflash_sim.kernels.triton.compile_check import (  # noqa: E402
    HEADER,
    SHARED_LIMIT_BYTES,
    Compiled,
    main,
    specialise,
)
from dflash_sim.kernels.triton.launch import recording  # noqa: E402

INSTRUCTION = {"sm_90a": "HGMMA", "sm_100a": "UTCHMMA"}
# One case of every kernel.
QUICK = (
    "block drafter c1",
    "KV injection",
    "GDN 397B tp8 c1",
    "GDN 397B tp8 prefill",
    "MoE 35B 64",
    "accept",
)


KERNELS = {
    "attend",
    "join",
    "norm_rope_write",
    "delta_rule",
    "commit",
    "chunk_factors",
    "chunk_walk",
    "route",
    "expert_product",
    "weighted_sum",
    "accept",
    "part_argmax",
    "join_argmax",
}
# Cases whose products are too small, or too wide, for these instructions.
SMALL = ("decode 8B c32", "verify in float32", "MoE in float32")


def in_a_process_that_compiles(
    tmp_path: Path, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """Run Python on ``arguments`` where Triton is not interpreted and its cache is cold."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def check_table(
    done: "subprocess.CompletedProcess[str]", kernels: set[str], architectures: Collection[str]
) -> None:
    """These kernels are there for all architectures, without faults, on the tensor cores."""
    assert done.returncode == 0, done.stdout + done.stderr
    header, *lines = done.stdout.splitlines()
    assert header == HEADER
    rows = [line[len("case".ljust(28)) :].split() for line in lines]
    assert {(row[0], row[1]) for row in rows} == {(k, a) for k in kernels for a in architectures}
    for line, (kernel, arch, _, _, stack, _, mma, _) in zip(lines, rows, strict=True):
        assert stack == "0"
        products = kernel in ("attend", "expert_product") and not line.startswith(SMALL)
        assert not products or INSTRUCTION[arch] in mma, line


@pytest.mark.parametrize(
    ("only", "kernels", "architectures"),
    [
        (["--only", "norm-rope-write 8B"], {"norm_rope_write"}, INSTRUCTION),
        (["--arch", "90"], KERNELS, ["sm_90a"]),
        (["--arch", "100"], KERNELS, ["sm_100a"]),
    ],
    ids=["one case", "every case, Hopper", "every case, Blackwell"],
)
@pytest.mark.slow
def test_compiles(
    tmp_path: Path, only: list[str], kernels: set[str], architectures: Collection[str]
) -> None:
    module = ("-m", "dflash_sim.kernels.triton.compile_check")
    check_table(in_a_process_that_compiles(tmp_path, *module, *only), kernels, architectures)


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--only", "nonesuch"])
    assert stopped.value.code == 2
    assert "nonesuch" in capsys.readouterr().err


@pytest.mark.parametrize("arch", [90, 100])
def test_quick_cases_hold_every_kernel(arch: int) -> None:
    with recording(arch) as launches:
        for case in CASES:
            if any(only in case.name for only in QUICK):
                case.run()
    found = {launch.kernel.__name__.strip("_") for launch in launches}
    assert found == KERNELS


GOOD = Compiled(
    case="c",
    kernel="k",
    arch=90,
    warps=4,
    registers=255,
    stack_bytes=0,
    shared_bytes=SHARED_LIMIT_BYTES,
    mma=("HGMMA",),
    copies=(),
    wants_mma=True,
)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, []),
        ({"stack_bytes": 16}, ["c k sm_90a spills 16 bytes per thread"]),
        ({"shared_bytes": 232449}, ["c k sm_90a needs 232449 bytes of shared memory"]),
        ({"mma": ("HMMA",)}, ["c k sm_90a has no HGMMA"]),
        ({"arch": 100}, ["c k sm_100a has no UTCHMMA"]),
        ({"mma": (), "wants_mma": False}, []),
    ],
)
def test_faults(change: dict[str, object], fault: list[str]) -> None:
    assert replace(GOOD, **change).faults() == fault


@pytest.mark.slow
def test_a_spill_is_seen(tmp_path: Path) -> None:
    """The control: a kernel that is given 24 registers per thread must spill."""
    script = """
from dataclasses import replace
from dflash_sim.kernels.triton import compile_check as check
case = next(c for c in check.CASES if c.name == "norm-rope-write 8B")
with check.recording(90) as launches:
    case.run()
tight = replace(launches[0], options={**launches[0].options, "maxnreg": 24})
print(check.compile_launch(case, tight, 90).faults())
"""
    done = in_a_process_that_compiles(tmp_path, "-c", script)
    assert "norm_rope_write sm_90a spills" in done.stdout, done.stderr


def test_specialisation_is_that_of_the_jit() -> None:
    """Ones and absent arguments are constants; multiples of 16 and pointers are hinted."""
    pool = meta(64, 16, 1, 128)
    table, lens = meta(3, 20, dtype=torch.int32), meta(3, dtype=torch.int32)
    with recording(90) as launches:
        block_attention(meta(3, 8, 4, 128), pool, pool, table, lens, causal=True, scale=0.1)
    attend = launches[0]
    signature, constants, hints = specialise(attend)
    names = attend.kernel.arg_names
    hinted = {names[index] for (index,) in hints}
    assert signature["q"] == "*bf16"
    assert signature["seq_lens"] == "*i32"
    assert signature["scale"] == "fp32"
    assert signature["block_rows"] == "i32"
    assert constants["kv_heads"] == 1
    assert constants["gate"] is None
    assert {"q", "k_pool", "out", "q_row", "q_head", "gate_row"} <= hinted
    assert not {"block_rows", "table_row", "scale", "kv_heads"} & hinted
