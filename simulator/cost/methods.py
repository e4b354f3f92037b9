"""The methods of speculation: one row each, and the passes that it runs.

============== =======================================================================
none           decode
mtp            (k-1) MTP steps, verify k+1, GDN commit, draft-extend k+1
eagle3         (k-1) EAGLE-3 steps, verify k+1, GDN commit, draft-extend k+1
dflash         draft block of B rows, draft head of B-1 rows, verify B, GDN commit,
               materialise B (KV injection)
dflash2        the same, with convolutions in the block and a walk through the best drafts
dspark         draft block of B-1 rows, all of which draft, B-1 steps of its Markov head, as above
domino         draft block of B rows, B-1 steps of its recurrent head, as dflash
injection-only B-1 autoregressive drafter steps with injected KV, verify B, materialise B
diffusion-only draft block and head, verify B, fc of the features (input conditioning only)
============== =======================================================================

The last two are the ablations of the DFlash paper (arXiv 2602.06036, table 9). A policy may choose
width 1 for a cycle: nothing is drafted, and the drafter's cache is kept up to date.
"""

import copyreg
from collections.abc import Callable
from dataclasses import replace

from dflash_sim.profiles.errors import MissingProfileError, UsageError, unknown
from dflash_sim.profiles.load import load_eagle3, load_model
from dflash_sim.profiles.networks.drafter_shapes import KIND_TITLES
from dflash_sim.profiles.networks.drafters import dflash_like, eagle3_like
from dflash_sim.profiles.networks.hf_config import (
    Cached,
    DrafterShape,
    Eagle3Shape,
    ModelShape,
)
from dflash_sim.profiles.precision import Precision
from dflash_sim.simulator.cost import block_methods, draft_parts, passes
from dflash_sim.simulator.cost.block_methods import EVERY, OF_DRAFTER, of_blocks
from dflash_sim.simulator.cost.cycle import Cycle, DraftCache, Drafter, Method, Phase
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.ops import AnyCall, Call, Elementwise
from dflash_sim.simulator.cost.sampling import drawn_drafts, handed_on, kept_drafts

_Network = Callable[[Cycle, Rows, bool, int | None], list[AnyCall]]  # a pass; drafting, head rows
_CHAIN = EVERY | {"steps", "topk", "speculative_use_rejection_sampling"}


def spellings() -> dict[str, str]:
    """Every name that people have for a method, in small letters, and the method's own name.

    These are its name, its aliases, and SGLang's ``--speculative-algorithm``. Of methods that share
    that, the first is meant: the drafter says which it becomes (:func:`method_with`).
    """
    return {
        spelling.casefold(): method.name
        for method in reversed(METHODS.values())
        for spelling in (
            *method.algorithm_aliases,
            *([method.algorithm] if method.algorithm else []),
            *method.aliases,
            method.name,
        )
    }


def algorithms() -> dict[str, Method]:
    """Every ``--speculative-algorithm`` that is simulated, in capitals, and its method."""
    return {
        spelling: method
        for method in reversed(METHODS.values())
        if method.algorithm is not None
        for spelling in (method.algorithm, *method.algorithm_aliases)
    }


def for_any_target() -> list[Method]:
    """Methods that SGLang has for a target without a layer of its own that drafts."""
    served = (m for m in METHODS.values() if m.algorithm is not None or not m.speculative)
    return [m for m in served if m.network != "mtp-layer"]


def method_of(name: str) -> Method:
    """Find the method of that name, in any of its spellings.

    Raises
    ------
    UsageError
        No method is called that; names those that there are.
    """
    known = name if name in METHODS else spellings().get(name.strip().casefold(), name)
    if known not in METHODS:
        raise unknown(kind="method", value=name, allowed=METHODS)
    return METHODS[known]


def method_with(method: Method, drafter: Drafter) -> Method:
    """The method of a server with this drafter: ``DFLASH`` is what the checkpoint makes of it."""
    if not isinstance(drafter, DrafterShape) or drafter.kind in method.kinds:
        return method
    other = METHODS[drafter.kind]
    same = method.follows_drafter and method.algorithm == other.algorithm
    return other if same else method


def drafter_for(method: Method, model: str, draft_model: str | None, *, accepts: bool) -> Drafter:
    """The network that drafts: the one that is named, or known for the target.

    Parameters
    ----------
    accepts
        True if the asker says what its drafts are worth. Then one that nobody has published may
        be sized like those of other targets; else there is no answer for it.

    Raises
    ------
    UsageError
        The network is of another kind than the method runs.
    MissingProfileError
        None is known.
    """
    try:
        drafter = method.load_drafter(model, draft_model)
    except MissingProfileError:
        sized = method.sized(load_model(model)) if accepts and draft_model is None else None
        if sized is None:
            raise
        drafter = sized
    check_kind(method, drafter)
    return drafter


def check_kind(method: Method, drafter: Drafter) -> None:
    """Refuse a drafter of another kind than the method's.

    Raises
    ------
    UsageError
        It names the method that runs such a drafter.
    """
    if isinstance(drafter, DrafterShape) and drafter.kind not in method.kinds:
        msg = (
            f"drafter {drafter.name} is a {KIND_TITLES[drafter.kind]} drafter, and method "
            f"{method.name} runs another kind; give --method {drafter.kind}, or another "
            "--draft-model."
        )
        raise UsageError(msg)


def _by_name(method: Method) -> tuple[Callable[[str], Method], tuple[str]]:
    return method_of, (method.name,)


copyreg.pickle(Method, _by_name)  # its functions do not travel between processes; its name does


# ---- plain decoding -----------------------------------------------------------------------


def _nothing(cycle: Cycle, one: Rows, wide: Rows) -> tuple[Phase, Phase]:
    return Phase("draft", [], 0), Phase("materialise", [], 0)


# ---- chains: MTP and EAGLE-3 --------------------------------------------------------------


def _chain(cycle: Cycle, one: Rows, wide: Rows, network: _Network) -> tuple[Phase, Phase]:
    """A sequential draft: the extend after verification makes its first token.

    A tree takes as many small kernels once more, to choose its tokens and to lay out their mask.
    """
    one, wide = _steps_of(cycle, one, wide)
    more = cycle.depth - 1
    laid_out: list[AnyCall] = []
    if cycle.topk > 1:
        laid_out = [Call(Elementwise("build_tree", 0.0), cycle.chain_kernels)]
    step = network(cycle, one, True, None) + _next(cycle, one.tokens, drawn=cycle.draws)
    if cycle.drawn:
        sizes = {"requests": one.requests, "vocab": cycle.model.vocab}
        laid_out += handed_on(**sizes)
        laid_out += kept_drafts(**sizes, drafts=cycle.depth) if cycle.draws else []
    draft = Phase("draft", step * more + laid_out, graphs=int(more > 0), steps=more)
    return draft, Phase("materialise", _extend(cycle, wide, network), graphs=1, steps=1)


def _extend(cycle: Cycle, size: Rows, network: _Network) -> list[AnyCall]:
    """The draft network on what was verified, and the first draft behind it."""
    last = cycle.extended == "last" or size.prefill
    calls = network(cycle, size, False, size.requests if last else None)
    if cycle.extended == "picked" and not last:
        calls += _picked(cycle, size.tokens)
    if not last:
        calls += draft_parts.last_rows(rows=size.requests, vocab=_draft_vocab(cycle))
    how = "softmax" if size.prefill else cycle.picked  # no release leaves it out there
    return calls + _next(cycle, size.requests, how, drawn=bool(cycle.drawn))


def _next(cycle: Cycle, rows: int, how: str = "", *, drawn: bool) -> list[AnyCall]:
    """The tokens that a step goes on from, picked or drawn, and what lays them out."""
    if not drawn:
        return _picked(cycle, rows, how) + _selected(cycle)
    small = Call(Elementwise("select_top_k_tokens", 0.0), cycle.chain_kernels)
    return [*drawn_drafts(cycle.drawn, rows=rows, vocab=cycle.model.vocab), small]


def _picked(cycle: Cycle, rows: int, how: str = "") -> list[AnyCall]:
    how, vocab = how or cycle.picked, _draft_vocab(cycle)
    return draft_parts.picked(how, rows=rows, vocab=vocab, topk=cycle.topk)


def _selected(cycle: Cycle) -> list[AnyCall]:
    """Small kernels behind a pick: one where kernels are fused, unless ids have to be mapped."""
    mapped = _draft_vocab(cycle) != cycle.model.vocab
    fused = cycle.picked == "fused" and cycle.topk == 1 and not mapped
    count = min(1, cycle.chain_kernels) if fused else cycle.chain_kernels
    return [Call(Elementwise("select_top_k_tokens", 0.0), count)]


def _draft_vocab(cycle: Cycle) -> int:
    head = cycle.drafter
    return head.draft_vocab if isinstance(head, Eagle3Shape) else cycle.model.vocab


def _steps_of(cycle: Cycle, one: Rows, wide: Rows) -> tuple[Rows, Rows]:
    """The sizes of a draft step and of the extend: a row a branch, and a row a token of a path."""
    if cycle.topk == 1:
        return one, wide
    return replace(one, rows=cycle.topk), replace(wide, rows=cycle.depth + 1)


def _mtp_step(cycle: Cycle, size: Rows, drafting: bool, head_rows: int | None) -> list[AnyCall]:
    return passes.mtp_step(
        cycle.model,
        tp=cycle.tp,
        size=size,
        precision=cycle.precision,
        drafting=drafting,
        head_rows=head_rows,
    )


def _mtp(cycle: Cycle, one: Rows, wide: Rows) -> tuple[Phase, Phase]:
    return _chain(cycle, one, wide, _mtp_step)


def _mtp_fill(cycle: Cycle, size: Rows) -> list[AnyCall]:
    return _extend(cycle, size, _mtp_step)


def _native(model: str, draft_model: str | None) -> Drafter:
    """MTP needs no network besides a target that has the layer."""
    target = load_model(model)
    if target.mtp_layer is None:
        names = ", ".join(method.name for method in for_any_target())
        msg = (
            f"{target.name} has no native MTP layer; methods for it: {names}. Try --method dflash."
        )
        raise UsageError(msg)
    return None


def _mtp_cache(model: ModelShape, drafter: Drafter, tp: int, precision: Precision) -> DraftCache:
    assert model.mtp_layer is not None
    mixer = model.mtp_layer.mixer
    assert isinstance(mixer, Cached)
    return DraftCache(model.mtp_weight_bytes(tp, precision.of("mtp")), (mixer,), "mtp")


def _eagle3_head(model: str, draft_model: str | None) -> Drafter:
    """The head that is named, that of the target, or one sized from the target."""
    if draft_model is not None:
        return load_eagle3(draft_model)
    try:
        return load_eagle3(model)
    except MissingProfileError:
        if (head := eagle3_like(load_model(model))) is None:
            raise
        return head


def _eagle3_step(cycle: Cycle, size: Rows, drafting: bool, head_rows: int | None) -> list[AnyCall]:
    assert isinstance(cycle.drafter, Eagle3Shape)
    return passes.eagle3_step(
        cycle.drafter,
        tp=cycle.tp,
        size=size,
        fuse_features=not drafting,
        precision=cycle.precision,
        head_rows=head_rows,
    )


def _eagle3(cycle: Cycle, one: Rows, wide: Rows) -> tuple[Phase, Phase]:
    return _chain(cycle, one, wide, _eagle3_step)


def _eagle3_fill(cycle: Cycle, size: Rows) -> list[AnyCall]:
    return _extend(cycle, size, _eagle3_step)


def _eagle3_cache(model: ModelShape, drafter: Drafter, tp: int, precision: Precision) -> DraftCache:
    assert isinstance(drafter, Eagle3Shape)
    layers = (drafter.attention,) * drafter.num_layers
    return DraftCache(drafter.weight_bytes(tp, precision.of("drafter")), layers)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="none",
            title="plain decoding",
            aliases=("baseline", "off", "plain", "vanilla", "autoregressive", "no spec"),
            drafts="none",
            takes=frozenset(),
            draft=_nothing,
            keep_up=lambda cycle, size: Phase("materialise", [], 0),
            own_engine=True,
        ),
        Method(
            name="mtp",
            title="native MTP, {steps} steps",
            aliases=("nextn",),
            algorithm="NEXTN",
            algorithm_aliases=("EAGLE",),
            drafts="chain",
            network="mtp-layer",
            takes=_CHAIN - OF_DRAFTER,
            law="mtp",
            load_drafter=_native,
            caches=_mtp_cache,
            draft=_mtp,
            keep_up=lambda cycle, size: Phase("materialise", _mtp_fill(cycle, size), 1),
            prefill=_mtp_fill,
            own_engine=True,
        ),
        Method(
            name="eagle3",
            title="EAGLE-3, {steps} steps",
            aliases=("eagle-3",),
            algorithm="EAGLE3",
            drafts="chain",
            network="eagle3-head",
            takes=_CHAIN,
            law="eagle3",
            load_drafter=_eagle3_head,
            caches=_eagle3_cache,
            draft=_eagle3,
            keep_up=lambda cycle, size: Phase("materialise", _eagle3_fill(cycle, size), 1),
            prefill=_eagle3_fill,
            own_engine=True,
        ),
        of_blocks(
            "dflash",
            "DFlash, block {block}",
            block_methods.dflash,
            algorithm="DFLASH",
            follows_drafter=True,
            sized=dflash_like,
            own_engine=True,
        ),
        of_blocks(
            "dflash2",
            "DFlash2, block {block}",
            block_methods.dflash2,
            kinds=("dflash2",),
            algorithm="DFLASH",
            aliases=("dflash-2", "dflash 2"),
            law="dflash2",
            proposals="selected",
            own_engine=True,
        ),
        of_blocks(
            "dspark",
            "DSpark, verify width {block}",
            block_methods.dspark,
            kinds=("dspark",),
            algorithm="DSPARK",
            law="dspark",
            proposals="sampled",
            counts_drafts=True,
            own_engine=True,
        ),
        of_blocks(
            "domino",
            "Domino, block {block}",
            block_methods.domino,
            kinds=("domino",),
            algorithm="DFLASH",
            law="domino",
            own_engine=True,
        ),
        of_blocks(
            "injection-only",
            "KV injection without diffusion, block {block}",
            block_methods.injection_only,
            sized=dflash_like,
            samples=False,
        ),
        of_blocks(
            "diffusion-only",
            "diffusion without KV injection, block {block}",
            block_methods.diffusion_only,
            sized=dflash_like,
            samples=False,
            keep_up=lambda cycle, size: Phase(
                "materialise", block_methods.condition(cycle, size), 0
            ),
        ),
    )
}
PLAIN = METHODS["none"]  # what speculation is compared with; a server without an algorithm
