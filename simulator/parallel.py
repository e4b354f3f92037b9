"""How many GPUs a server spans: given, or the fewest that hold the model."""

from dflash_sim.profiles.engine_sheet import EngineSheet
from dflash_sim.profiles.errors import InfeasibleError, UsageError
from dflash_sim.profiles.networks.hf_config import ModelShape, check_tp
from dflash_sim.profiles.sheets import Device, Node
from dflash_sim.simulator.memory import TP_SIZES, default_mem_fraction
from dflash_sim.simulator.scenario import Scenario


def parallel(
    s: Scenario, device: Device, engine: EngineSheet, model: ModelShape, node: Node
) -> tuple[int, int]:
    """TP and GPU count: given, or the fewest GPUs that hold the weights with room to spare."""
    tp = s.tp or s.num_gpus or _default_tp(s, device, engine, model)
    num_gpus = s.num_gpus or tp
    if tp not in TP_SIZES or not _splits(model, tp):
        works = ", ".join(str(n) for n in TP_SIZES if _splits(model, n))
        msg = f"tp {tp} is not possible for {model.name}; allowed: {works}. Give one to --tp."
        raise UsageError(msg)
    if num_gpus != tp:
        msg = (
            f"num_gpus {num_gpus} and tp {tp} differ; one server of tp GPUs is simulated. "
            f"Give --tp {num_gpus}, or drop --num-gpus."
        )
        raise UsageError(msg)
    if tp > node.num_gpus:
        msg = (
            f"tp {tp} spans more than one {node.name} node of {node.num_gpus} GPUs; "
            f"give --tp {node.num_gpus} or less."
        )
        raise InfeasibleError(msg)
    return tp, num_gpus


def _splits(model: ModelShape, tp: int) -> bool:
    try:
        check_tp(model, tp)
    except UsageError:
        return False
    return True


def _default_tp(s: Scenario, device: Device, engine: EngineSheet, model: ModelShape) -> int:
    by_memory = engine.memory_class(device.mem_bytes)
    share = engine.defaults.weight_share_for_default_tp
    for tp in TP_SIZES:
        if not _splits(model, tp):
            continue
        fraction = s.mem_fraction_static or default_mem_fraction(
            device,
            engine.defaults.outside_static,
            chunk=by_memory.chunked_prefill_size,
            graph_max_bs=by_memory.cuda_graph_max_bs,
            tp=tp,
        )
        static = fraction * device.mem_bytes
        if model.weight_bytes(tp, s.precision) < share * static:
            return tp
    return TP_SIZES[-1]
