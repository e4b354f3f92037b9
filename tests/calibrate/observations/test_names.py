"""Machines that were measured and folders of networks are named by their paths."""

import json
from pathlib import Path
from typing import Any

import pytest

from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.readers.read import read_observations
from dflash_sim.profiles.errors import UsageError

TINY = Path(__file__).parents[3] / "profiles/pairs/tiny"
OP = {"seconds": 1e-5, "mean_s": 1e-5, "spread": 0.02, "nbytes": 1e6, "flops": 1e6}
PROFILE: dict[str, Any] = {
    "format": "dflash-sim profile",
    "version": 1,
    "machine": {"device": "cpu"},
    "device": {"title": "mine", "mem_bytes": 6e10, "copy_byte_s": 2e10, "matmul_flop_s": 1e11},
    "scope": {"model": "qwen3-8b", "tp": 1},
    "made": {"on": "2026-11-22"},
    "ops": [{"kind": "Gemm", "shape": {"n": 64, "k": 32, "m": 1}, **OP}],
    "passes": [],
    "skipped": [],
}
ROW = {
    "backend": "sglang-oai", "dataset_name": "random-ids", "random_input_len": 256,
    "random_output_len": 128, "random_range_ratio": 1.0, "max_concurrency": 2, "num_prompts": 8,
    "completed": 8, "duration": 4.0, "total_input_tokens": 2048, "total_output_tokens": 1024,
    "output_throughput": 256.0, "mean_tpot_ms": 7.0, "mean_ttft_ms": 90.0,
}  # fmt: skip


def test_a_row_of_a_measured_machine_and_of_folders_is_read(tmp_path: Path) -> None:
    machine = tmp_path / "mine.profile"
    machine.write_text(json.dumps(PROFILE))
    info = {
        "model_path": str(TINY / "target"),
        "speculative_algorithm": "DFLASH",
        "speculative_draft_model_path": str(TINY / "dflash"),
        "speculative_num_draft_tokens": 16,
    }
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({**ROW, "server_info": info}) + "\n")
    said = {"gpu": str(machine), "acceptance": "al:2"}
    (row,) = read_observations([rows], said).observations
    assert row.fields["gpu"] == str(machine)
    assert row.fields["model"] == str(TINY / "target")
    assert row.fields["draft_model"] == str(TINY / "dflash")
    assert {"gpu", "acceptance"} <= set(row.assumed)
    assert not {"model", "draft_model", "conc"} & set(row.assumed)


def test_a_machine_whose_profile_is_missing_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the profile"):
        Names().gpu(str(tmp_path / "none.profile"))
    (tmp_path / "no.profile").write_text("{}")
    with pytest.raises(UsageError, match="no profile"):
        Names().gpu(str(tmp_path / "no.profile"))


def test_a_drafter_without_a_folder_or_a_sheet_is_none() -> None:
    assert Names().drafter("/nowhere/dflash") is None
    assert Names().drafter(str(TINY / "dflash")) == str(TINY / "dflash")
