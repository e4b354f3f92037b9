"""The sheet of number formats: every name stands for something, and kernels are found by it."""

from pathlib import Path
from typing import Any

import pytest

from dflash_sim.profiles import formats as sheet
from dflash_sim.profiles.errors import InfeasibleError, UsageError
from dflash_sim.profiles.formats import (
    bytes_of,
    check_kv,
    format_named,
    format_of,
    formats,
    kernels_on,
    kv_format,
    quantises_online,
    quantization_name,
)
from dflash_sim.profiles.load import load_device, names

# Values that share one scale, bits of it and of a zero, and bits of a value.
GROUPS = {
    "fp8_block": (128 * 128, 32, 8),
    "mxfp8": (32, 8, 8),
    "nvfp4": (16, 8, 4),
    "mxfp4": (32, 8, 4),
    "int4": (128, 16 + 4, 4),
    "int4_g64": (64, 16 + 4, 4),
    "int4_g32": (32, 16, 4),
    "w8a16": (128, 16, 8),
}


@pytest.mark.parametrize("name", GROUPS)
def test_bits_are_those_of_a_group(name: str) -> None:
    values, beside, bits = GROUPS[name]
    assert 8 * bytes_of(name) == bits + beside / values


def test_names_in_the_sheet_stand_for_something() -> None:
    found = formats()
    archs = {load_device(gpu).arch for gpu in names("gpus")}
    for name, form in found.items():
        for other in (*form.like, form.otherwise, form.quantises, form.table):
            assert not other or other in found, (name, other)
        assert set(form.runs_on) <= archs, name
        assert set(form.online) <= set(form.spelled)
        assert form.source
    spelled = [n for form in found.values() for n in (*form.spelled, *form.also)]
    assert len(spelled) == len(set(spelled))


def test_products_of_every_format_have_a_rate_where_it_runs() -> None:
    """A GPU without such tensor cores would be a traceback in the middle of a price."""
    for gpu in map(load_device, names("gpus")):
        for name, form in formats().items():
            if gpu.arch in form.runs_on:
                assert gpu.peak(form.products) > 0, (gpu.name, name)


@pytest.mark.parametrize(
    ("name", "arch", "runs"),
    [
        ("fp8_block", "hopper", "fp8_block"),
        ("fp8", "ampere", "fp8_w8a16"),
        ("nvfp4", "blackwell", "nvfp4"),
        ("nvfp4", "hopper", "w4a16_nvfp4"),
        ("mxfp4", "hopper", "mxfp4"),
        ("mxfp4", "ampere", "mxfp4"),
        ("mxfp4", "blackwell", "mxfp4_w4a8"),
        ("int4_g32", "cdna3", "int4_g32"),
        ("fp8", "", "fp8_w8a16"),  # an architecture that nobody knows takes weights apart
    ],
)
def test_kernels_by_architecture(name: str, arch: str, runs: str) -> None:
    assert kernels_on(name, arch=arch, gpu="x") == runs


def test_what_a_gpu_cannot_run_is_refused_with_what_it_can() -> None:
    with pytest.raises(
        InfeasibleError, match=r"no kernels for int8 weights on b200 \(blackwell\)"
    ) as e:
        kernels_on("int8", arch="blackwell", gpu="b200")
    assert "fp8, mxfp8, modelopt_fp4" in str(e.value)
    assert "w8a8_int8" not in str(e.value)
    with pytest.raises(InfeasibleError, match=r"on arc_b60 \(xe2\); it runs there: bf16\. Give"):
        kernels_on("int4", arch="xe2", gpu="arc_b60")  # no source says that Marlin is ported
    with pytest.raises(InfeasibleError, match="there: bf16, fp8, mxfp4, awq") as e:
        kernels_on("nvfp4", arch="cdna3", gpu="mi300x")


@pytest.mark.parametrize(
    ("text", "flag", "form"),
    [
        ("nvfp4", "modelopt_fp4", "nvfp4"),
        ("FP8", "fp8", "fp8"),
        ("int4", "awq", "int4"),
        ("gptq-marlin", "gptq_marlin", "int4"),
        ("none", "bf16", "bfloat16"),
    ],
)
def test_spellings(text: str, flag: str, form: str) -> None:
    assert quantization_name(text) == flag
    assert format_named(flag) == form


def test_unknown_names_are_one_line() -> None:
    with pytest.raises(UsageError, match="unknown quantization 'fp9'"):
        quantization_name("fp9")
    with pytest.raises(UsageError, match=r"unknown kv cache dtype 'int4'\. Have: auto, bf16"):
        kv_format("int4")
    with pytest.raises(UsageError, match="unknown number format 'int3'"):
        format_of("int3")


def test_what_quantises_while_it_loads() -> None:
    assert quantises_online("fp8")
    assert not any(quantises_online(name) for name in ("awq", "modelopt_fp4", "bf16", None))


def test_a_cache_that_a_backend_cannot_read() -> None:
    assert kv_format("fp8_e4m3") == kv_format("FP8") == "fp8"
    known = ("fa3", "fa4", "trtllm_mha")
    here: dict[str, Any] = {"backends": known, "arch": "hopper", "gpu": "h200"}
    check_kv("fp8", backend="fa3", **here)
    check_kv("bfloat16", backend="fa4", **here)
    with pytest.raises(UsageError, match=r"fa4 reads no KV cache in fp8 .* these do: fa3, trtllm_"):
        check_kv("fp8", backend="fa4", **here)
    with pytest.raises(
        InfeasibleError, match=r"in nvfp4 .* on h200 \(hopper\); give --kv-cache-dt"
    ):
        check_kv("nvfp4", backend="trtllm_mha", **here)
    check_kv("nvfp4", backend="trtllm_mha", **here | {"arch": "blackwell"})
    default = {**here, "whose": "the KV type of x", "backend_given": False}
    said = (
        r"on h200 attention backend fa4, its default, reads no KV cache in fp8 \(the KV type of x\)"
    )
    with pytest.raises(InfeasibleError, match=said):
        check_kv("fp8", backend="fa4", **default)


def test_before_ada_two_backends_read_no_fp8_cache() -> None:
    """FlashAttention takes 16 bits there, and Triton's fp8e4nv came with SM89."""
    known = ("fa3", "flashinfer", "triton")
    here: dict[str, Any] = {"backends": known, "arch": "ampere", "gpu": "a100"}
    for backend in ("fa3", "triton"):
        with pytest.raises(UsageError, match=r"there these do: flashinfer\. .* --kv-cache-dtype "):
            check_kv("fp8", backend=backend, **here)
    check_kv("fp8", backend="flashinfer", **here)
    check_kv("fp8_e5m2", backend="triton", **here)
    check_kv("fp8", backend="triton", **here | {"arch": "ada"})


def test_a_new_precision_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = '\n[fp6]\nbits = 6.25\nspelled = ["mxfp6"]\nrunz_on = []\nsource = "OCP"\n'
    path = tmp_path / "formats.toml"
    path.write_text(sheet.SHEET.read_text() + more.replace("runz", "runs"))
    monkeypatch.setattr(sheet, "SHEET", path)
    formats.cache_clear()
    assert bytes_of(format_named(quantization_name("mxfp6"))) == 6.25 / 8
    path.write_text(sheet.SHEET.read_text().replace("runs_on = []", "runz_on = []"))
    formats.cache_clear()
    with pytest.raises(UsageError, match=r"unknown key of .*fp6 'runz_on'; did you mean runs_on"):
        formats()
    monkeypatch.undo()
    formats.cache_clear()
