"""What Slurm will set in a batch script: the nodes and GPUs that its ``#SBATCH`` lines ask for."""

import re
from math import prod

_ASKED = re.compile(r"^#SBATCH\s+(-[NG]|--[a-z-]+)(?:[ \t]*=[ \t]*|[ \t]*)(\S+)", re.MULTILINE)
_COUNT = re.compile(r"(?:gpu:)?(?:[\w.-]+:)?(\d+)(?:\([^)]*\))?")
_ALIASES = {"-N": "--nodes", "-G": "--gpus"}
# The first of these that a job names says how many GPUs a node of it has, as a product.
_OF_A_NODE = (("--gpus-per-node",), ("--gres",), ("--ntasks-per-node", "--gpus-per-task"))
_NODES = ("SLURM_NNODES", "SLURM_JOB_NUM_NODES")
_GPUS = ("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE")


def variables_of_job(text: str) -> dict[str, str]:
    """Variables that Slurm sets from the directives of a script; empty if it has none.

    Examples
    --------
    >>> variables_of_job("#SBATCH --gres=gpu:h100:4")["SLURM_GPUS_ON_NODE"]
    '4'
    """
    asked: dict[str, int] = {}
    for name, value in _ASKED.findall(text):
        count = _COUNT.fullmatch(value)  # of a range, such as ``1-2`` nodes, Slurm takes its pick
        asked[_ALIASES.get(name, name)] = int(count[1]) if count else 0
    if not any(asked.values()):
        return {}
    nodes = asked.get("--nodes", 1)
    found = dict.fromkeys(_NODES if nodes else (), str(nodes))
    counted = {name for name, count in asked.items() if count}
    named = next((names for names in _OF_A_NODE if counted >= {*names}), None)
    if named is not None:
        found |= dict.fromkeys(_GPUS, str(prod(asked[name] for name in named)))
    elif nodes and asked.get("--gpus", 0) >= nodes:
        found |= dict.fromkeys(_GPUS, str(asked["--gpus"] // nodes))
    return found
