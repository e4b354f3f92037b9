"""Batch scripts of Slurm: what it would set is taken from what the script asks for."""

import pytest

from dflash_sim.calibrate.launches.slurm_jobs import variables_of_job
from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.profiles.errors import UsageError

SCRIPT = """#!/bin/bash
#SBATCH --job-name=serve
#SBATCH {}
#SBATCH --time=04:00:00
srun python -m sglang.launch_server --model-path Qwen/Qwen3-8B --tp ${} --nnodes $SLURM_NNODES
"""


@pytest.mark.parametrize(
    "asks",
    ["--gres=gpu:4", "--gres gpu:h100:4", "--gpus-per-node=h200:4", "-G 4", "--gpus=4",
     "--ntasks-per-node=2\n#SBATCH --gpus-per-task=2", "-N1\n#SBATCH --gres=gpu:a100:4(S:0-1)"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE"])
def test_gpus_of_a_node(asks: str, name: str) -> None:
    assert scenario_from_launch(SCRIPT.format(asks, name)).fields["tp"] == 4


def test_what_a_job_sets_itself_stands_and_what_it_does_not_ask_for_is_open() -> None:
    script = SCRIPT.format("--gres=gpu:4", "SLURM_GPUS_ON_NODE")
    own = script.replace("srun", "SLURM_GPUS_ON_NODE=2\nsrun")
    assert scenario_from_launch(own).fields["tp"] == 2
    with pytest.raises(UsageError, match="SLURM_GPUS_ON_NODE"):
        scenario_from_launch(script.replace("--gres=gpu:4", "--partition=gpu"))


def test_nodes_share_the_gpus_of_a_job() -> None:
    asked = "#SBATCH --nodes=2\n#SBATCH --gpus=16\n"
    assert variables_of_job(asked)["SLURM_GPUS_ON_NODE"] == "8"
    assert variables_of_job(asked)["SLURM_NNODES"] == "2"
    assert variables_of_job("srun python x.py") == {}
    ranged = variables_of_job("#SBATCH --nodes=1-2\n#SBATCH --gpus=16\n")
    assert ranged == {}  # Slurm takes as many as there are
    kept = variables_of_job("#SBATCH --nodes=1-2\n#SBATCH --gres=gpu:8\n")
    assert set(kept) == {"SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE"}
