"""From a setup to the networks of a rank, their pools, and the method over them."""

from functools import partial
from typing import Any

from dflash_sim.kernels.cache import Cache
from dflash_sim.kernels.layers.spec import DrafterSpec, Eagle3Spec
from dflash_sim.kernels.models.blocks import Dice, PathBlock
from dflash_sim.kernels.models.chains import Eagle3, Mtp
from dflash_sim.kernels.models.cycle import Dflash, Judge, Plain, greedy
from dflash_sim.kernels.models.drafter import Drafter
from dflash_sim.kernels.models.heads import Eagle3Head, MtpHead
from dflash_sim.kernels.models.target import TargetModel
from dflash_sim.kernels.rank import Rank
from dflash_sim.profiles.networks.hf_config import AttentionShape
from dflash_sim.realrun.job.setup import Fitted
from dflash_sim.realrun.worker.judges import Sampled, Synthetic, drafting_numbers


def build_method(fitted: Fitted, rank: Rank) -> Plain:
    """The method that the setup asks for; weights are read here."""
    setup, shape = fitted.setup, fitted.target.shape
    tokens = fitted.table_pages * setup.page_size
    pool: dict[str, Any] = {
        "pages": fitted.pages + 1,
        "page_size": setup.page_size,
        "rank": rank,
    }
    slots, requests = setup.max_running_requests + 1, fitted.widest_batch
    target = TargetModel(fitted.target, setup.target.weights(rank.device), rank, tokens=tokens)
    cache = Cache.for_target(shape, slots=slots, requests=requests, rows=fitted.rows, **pool)
    judge, steps = build_judge(fitted, rank), fitted.rows - 1
    method = Plain(target, cache, judge=judge)
    if fitted.drafts_itself:
        assert shape.mtp_layer is not None
        assert isinstance(shape.mtp_layer.mixer, AttentionShape)
        head = MtpHead(fitted.target, setup.target.weights(rank.device), rank, tokens=tokens)
        own = Cache.for_attention([shape.mtp_layer.mixer], **pool)
        method = Mtp(target, head, cache, own, steps=steps, judge=judge)
    elif fitted.drafter is not None and setup.drafter is not None:
        weights, spec = setup.drafter.weights(rank.device), fitted.drafter
        if isinstance(spec, DrafterSpec):
            drafter = Drafter(spec, weights, rank, tokens=tokens)
            own = Cache.for_attention(spec.shape.layers, **pool)
            nets: tuple[Any, ...] = (target, drafter, cache, own)
            if drafter.head is not None:
                dice = build_dice(fitted)
                method = PathBlock(*nets, rows=fitted.rows, judge=judge, dice=dice)
            else:
                method = Dflash(*nets, rows=fitted.rows, judge=judge)
        elif isinstance(spec, Eagle3Spec):
            eagle = Eagle3Head(spec, weights, rank, tokens=tokens)
            own = Cache.for_attention([spec.shape.attention], **pool)
            method = Eagle3(target, eagle, cache, own, steps=steps, taps=fitted.taps, judge=judge)
    return method if setup.wrap is None else setup.wrap(method)


def build_dice(fitted: Fitted) -> Dice | None:
    """Return how proposals are drawn by a drafter that can; None if the best are taken."""
    setup = fitted.setup
    if setup.temperature == 0 or setup.speculation.proposals == "greedy":
        return None
    return Dice(setup.temperature, partial(drafting_numbers, setup.seed))


def build_judge(fitted: Fitted, rank: Rank) -> Judge:
    """Return the judge of this run: it accepts greedily, by sampling, or as it is told."""
    setup = fitted.setup
    judge: Judge = greedy
    if setup.temperature > 0:
        judge = Sampled(setup.temperature, setup.seed, top_k=setup.top_k, top_p=setup.top_p)
    if setup.accept_length is not None:
        judge = Synthetic(setup.accept_length, setup.seed, rank.device, judge)
    return judge
