"""GPUs as tools and people call them are known, or plainly unknown."""

import re
from importlib.resources import files

import pytest

from dflash_sim.calibrate.observations.names import Names
from dflash_sim.profiles.errors import UsageError, close_to
from dflash_sim.profiles.load import default_node, load_device, names
from dflash_sim.profiles.times.op_tables import OpTables


@pytest.mark.parametrize(
    ("text", "sheet"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A800-SXM4-80GB", "a800"),
        ("NVIDIA H800", "h800"),
        ("nvidia h20", "h20"),
        ("NVIDIA H100 NVL", "h100_nvl"),
        ("NVIDIA GeForce RTX 5090", "rtx_5090"),
        ("RTX4090 24G", "rtx_4090"),
        ("3090", "rtx_3090"),
        ("NVIDIA RTX A6000", "rtx_a6000"),
        ("NVIDIA GB10", "gb10"),
        ("DGX Spark", "gb10"),
        ("AMD Instinct MI325X", "mi325x"),
        ("AMD Instinct MI300X OAM", "mi300x"),
        ("NVIDIA GH200 480GB", "gh200"),  # of which the CPU has 480
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx_pro_6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx_pro_6000"),
        ("L40S", "l40s"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA A100 80GB PCIe", "a100_pcie"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA A30", "a30"),
        ("NVIDIA A40", "a40"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx_6000_ada"),
        ("NVIDIA Thor", "jetson_thor"),
        ("Jetson AGX Thor", "jetson_thor"),
        ("Intel(R) Arc(TM) Pro B60 Graphics", "arc_b60"),
        ("DGX Spark (GB10)", "gb10"),
        ("A100-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100_40gb"),
        ("A100 40GB", "a100_40gb"),
        ("NVIDIA H20-3e", "h20_3e"),
        ("H20 141GB", "h20_3e"),
        ("NVIDIA H200 NVL", "h200_nvl"),
        ("AMD Instinct MI350X", "mi350x"),
    ],
)
def test_known_by_the_names_that_tools_print(text: str, sheet: str) -> None:
    assert load_device(text).name == sheet
    assert Names().gpu(f"8x {text}") == (sheet, 8)


@pytest.mark.parametrize("text", ["8xH100", "8 x NVIDIA H100 80GB HBM3", "H100x8", "h100:8"])
def test_a_number_of_gpus_is_told_how_to_ask(text: str) -> None:
    with pytest.raises(UsageError, match=r"is 8 GPUs; give --gpu h100 --tp 8[.]"):
        load_device(text)


def test_the_nearest_sheet_is_named() -> None:
    with pytest.raises(UsageError, match=r"'NVIDIA H20X'[.] Nearest of \d+: h20, "):
        load_device("NVIDIA H20X")


@pytest.mark.parametrize(
    "text",
    [
        "NVIDIA H200 PCIe",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "NVIDIA H20 PCIe",
        "RTX 5090 D",
        "RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "B100",
        "RTX 6000",
        "A16",
        "",
    ],
)
def test_another_machine_is_plainly_unknown(text: str) -> None:
    with pytest.raises(UsageError, match="unknown GPU") as caught:
        load_device(text)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Tesla V100-SXM2-32GB", "compute capability 7.5, and it has no bf16"),
        ("v100", "no bf16"),
        ("Tesla T4", "it multiplies no bf16"),
        ("NVIDIA GeForce RTX 2080 Ti", "it multiplies no bf16"),
        ("Apple M3 Ultra 512 GB", "other engines"),
        ("TPU v6e", "TPUs are not simulated"),
        ("910B", "Ascend is not simulated"),
        ("p5.48xlarge", "it is a machine of eight H100, so give h100 and --tp"),
        ("NVIDIA DGX B200", "give b200 and --tp"),
        ("a3-highgpu-8g", "give h100 and --tp"),
        ("a3-megagpu-8g", "give h100 and --tp"),
        ("a2-ultragpu-1g", "A100 of 80 GB, so give a100 and --tp"),
        ("g6e.12xlarge", "give l40s and --tp"),
        ("g6.xlarge", "give l4 and --tp"),
        ("Standard_ND96isr_H200_v5", "give h200 and --tp"),
        ("Standard_ND96asr_v4", "give a100_40gb and --tp"),
        ("BM.GPU.H100.8", "give h100 and --tp"),
        ("AMD Instinct MI300A", "less memory than an MI300X"),
    ],
)
def test_what_no_sheet_could_answer_for_is_refused_with_the_reason(text: str, why: str) -> None:
    for ask in (load_device, Names().gpu):
        with pytest.raises(UsageError, match="cannot be asked for") as caught:
            ask(text)
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["A100 48GB", "NVIDIA A100-PCIE-40GB", "GH200 144GB", "H100 64G"])
def test_another_size_is_another_gpu(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not the \w+ sheet, which has \d+ GB"):
        load_device(text)


def test_another_size_names_the_sheet_that_has_it() -> None:
    with pytest.raises(UsageError, match="The nearest is a100_40gb; or write"):
        load_device("NVIDIA A100-PCIE-40GB")


def test_machines_of_clouds_name_sheets_that_are_there() -> None:
    rows = files("dflash_sim.profiles").joinpath("devices/unserved.csv").read_text("utf-8")
    given = re.findall(r"so give (\w+) and --tp", rows)
    assert len(given) > 30
    assert set(given) <= set(names("gpus"))


def test_every_gpu_has_a_node_and_says_where_its_numbers_are_from() -> None:
    for name in names("gpus"):
        device = load_device(name)
        assert default_node(name).device == name
        assert all(q.source for q in device.quantities.values())
        assert 0.1e12 < device.mem_bw_byte_s < 2e13


@pytest.mark.parametrize(
    ("name", "lender"),
    [
        ("gh200", "h200"),
        ("h800", "h100"),
        ("h100_pcie", "h100"),
        ("h100_nvl", "h100"),
        ("h20", "h200"),
        ("a800", "a100"),
        ("a100_pcie", "a100"),
        ("a100_40gb", "a100"),
        ("h20_3e", "h200"),
        ("h200_nvl", "h200"),
    ],
)
def test_a_gpu_without_tables_borrows_those_of_its_chip(name: str, lender: str) -> None:
    """It must have none of its own, and be of the same architecture."""
    device = load_device(name)
    assert OpTables.load(name) is None
    assert device.tables_from == lender
    assert OpTables.load(lender) is not None
    assert load_device(lender).arch == device.arch


@pytest.mark.parametrize(
    ("value", "known", "meant"),
    [
        ("h20", ["h200", "h100"], []),
        ("llama-4", ["llama", "llama-3.1-8b"], []),
        ("a10", ["a100"], []),
        ("qwen3-8b-fp8", ["qwen3-8b"], []),
        ("humanevel", ["humaneval", "gsm8k"], ["humaneval"]),
        ("qwen3-cod", ["qwen3-coder-30b-a3b", "qwen3-8b"], ["qwen3-coder-30b-a3b"]),
        ("blcok", ["block", "gpu"], ["block"]),
        ("x", ["gpu"], []),
    ],
)
def test_a_guess_is_made_where_it_is_safe(value: str, known: list[str], meant: list[str]) -> None:
    assert close_to(value, known) == meant
