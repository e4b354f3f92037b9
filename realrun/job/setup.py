"""The setup of a run: its parts, checked to fit together."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from dflash_sim.kernels.layers.spec import (
    DrafterSpec,
    Eagle3Spec,
    TargetSpec,
    read_drafter,
    read_eagle3,
    read_target,
)
from dflash_sim.kernels.models.cycle import Plain
from dflash_sim.profiles.errors import InfeasibleError, UsageError, unknown
from dflash_sim.profiles.units import BF16_BYTES, FP32_BYTES, GIGA
from dflash_sim.realrun.job.graphs import graph_sizes
from dflash_sim.realrun.job.networks import Network
from dflash_sim.simulator.cost.cycle import Method
from dflash_sim.simulator.cost.methods import METHODS as _METHODS
from dflash_sim.simulator.cost.methods import PLAIN, check_kind, for_any_target

METHODS = {name: method for name, method in _METHODS.items() if method.own_engine}
MODES = ("v1", "v2-sync", "v2")
DTYPES = ("float32", "float64", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")
MOST_TEMPERATURE, MOST_SEED = 100.0, 2**63 - 1
LEAST_TIMEOUT_S, MOST_WAIT_S = 0.01, 86400.0
EAGLE_STEPS = 3  # SGLang's default for most models


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One engine, as it is to be run.

    Parameters
    ----------
    target, drafter
        The networks; ``drafter`` is a DFlash drafter or an EAGLE-3 head, as ``method`` asks.
    block, steps
        Verify width of DFlash [tokens]; drafts of a chain.
    mode
        ``v1``, ``v2-sync`` or ``v2``.
    chunked_prefill_size, max_prefill_tokens
        Most new tokens of a prefill batch, and of its admission [tokens].
    kv_tokens
        Size of the KV pool; what the requests can need at most if not given [tokens].
    temperature
        0 verifies greedily; above it by rejection sampling, which keeps the distribution.
    top_k, top_p
        Cuts of the distribution that is sampled: its largest tokens, and its largest share [1].
    accept_length
        Synthetic acceptance: mean commit length, whatever was drafted [tokens].
    host_work_s, host_work_per_request_s
        Work done at every processed result besides our own, such as detokenisation [s].
    timeout_s
        How long a worker may not answer [s].
    cuda_graphs
        Replay a captured graph per padded batch size.
    null
        Workers that compute nothing and answer at once, to time the scheduler alone.
    wrap
        Changes the method on every rank before it runs.
    """

    target: Network
    drafter: Network | None = None
    method: str = PLAIN.name
    block: int | None = None
    steps: int | None = None
    tp: int = 1
    mode: str = "v2"
    max_running_requests: int = 32
    chunked_prefill_size: int = 8192
    max_prefill_tokens: int = 16384
    page_size: int = 16
    kv_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    accept_length: float | None = None
    host_work_s: float = 0.0
    host_work_per_request_s: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"
    timeout_s: float = 60.0
    cuda_graphs: bool = False
    null: bool = False
    wrap: Callable[[Plain], Plain] | None = None

    @property
    def speculation(self) -> Method:
        """The method's row in the table of methods, once it is known to be one of ours."""
        return METHODS[self.method]


@dataclass(frozen=True)
class Fitted:
    """A setup whose parts belong together, with what it left open filled in.

    Parameters
    ----------
    rows
        Verify width [tokens].
    taps
        Target layers that the drafter reads.
    longest
        The longest text a request can become, with what is drafted past its end [tokens].
    pages
        KV pages of each network.
    """

    setup: Setup
    target: TargetSpec
    drafter: DrafterSpec | Eagle3Spec | None
    rows: int
    taps: tuple[int, ...]
    longest: int
    pages: int

    @property
    def drafts_itself(self) -> bool:
        """True if the target drafts, with its own MTP layer."""
        return self.setup.speculation.network == "mtp-layer"

    @property
    def table_pages(self) -> int:
        """Columns of the page table."""
        return -(-self.longest // self.setup.page_size)

    @property
    def widest_batch(self) -> int:
        """Requests of the largest decode step, padding of a captured one included."""
        most = self.setup.max_running_requests
        return graph_sizes(most)[-1] if self.setup.cuda_graphs else most


def fit(setup: Setup, *, longest_text: int) -> Fitted:
    """Check that the parts belong together, before any weight is read.

    Parameters
    ----------
    longest_text
        Of all requests: a prompt and the most its answer may be [tokens].
    """
    _check_choices(setup)
    target = read_target(setup.target.config, setup.target.name)
    drafter: DrafterSpec | Eagle3Spec | None = None
    taps: tuple[int, ...] = ()
    network = setup.speculation.network
    if network == "dflash-drafter":
        drafter = _dflash(setup, target)
        taps = drafter.shape.target_layer_ids
    elif network == "eagle3-head":
        drafter, taps = _eagle3(setup, target)
    elif network == "mtp-layer" and target.shape.mtp_layer is None:
        names = ", ".join(method.name for method in for_any_target() if method.own_engine)
        msg = f"{target.shape.name} has no MTP layer; methods that work: {names}"
        raise UsageError(msg)
    rows = _rows(setup, drafter)
    if setup.accept_length is not None and not 1 <= setup.accept_length <= rows:
        msg = f"accept length {setup.accept_length:g} is not in 1..{rows}, the verify width"
        raise UsageError(msg)
    longest = longest_text + 2 * rows
    page = setup.page_size
    each = -(-longest // page)
    pages = setup.max_running_requests * each
    if setup.kv_tokens is not None:
        pages = setup.kv_tokens // page
    if pages < each:
        msg = f"the longest request needs {each * page} KV tokens, there are {pages * page}"
        raise InfeasibleError(msg)
    if setup.device == "cpu":
        _check_memory(setup, target, pages * page)
    return Fitted(setup, target, drafter, rows, taps, longest, pages)


def _check_choices(setup: Setup) -> None:
    if setup.method in _METHODS.keys() - METHODS.keys():
        names = ", ".join(METHODS)
        msg = f"method {setup.method} is predicted, not run for real; give one of: {names}"
        raise UsageError(msg)
    named = (
        ("method", setup.method, METHODS),
        ("engine mode", setup.mode, MODES),
        ("dtype", setup.dtype, DTYPES),
        ("device", setup.device, DEVICES),
    )
    for kind, value, allowed in named:
        if value not in allowed:
            raise unknown(kind, value, allowed)
    for name in ("tp", "max_running_requests", "chunked_prefill_size", "page_size"):
        if getattr(setup, name) < 1:
            msg = f"{name} is {getattr(setup, name)}; it must be at least 1"
            raise UsageError(msg)
    if setup.chunked_prefill_size < setup.page_size:
        msg = f"chunked_prefill_size {setup.chunked_prefill_size} holds no page of tokens"
        raise UsageError(msg)
    ranges: tuple[tuple[str, float, float, float, str], ...] = (
        ("temperature", setup.temperature, 0.0, MOST_TEMPERATURE, ""),
        ("host work", setup.host_work_s, 0.0, MOST_WAIT_S, " s"),
        ("timeout", setup.timeout_s, LEAST_TIMEOUT_S, MOST_WAIT_S, " s"),
        ("seed", setup.seed, 0, MOST_SEED, ""),
    )
    for what, number, least, most, unit in ranges:
        if not least <= number <= most:
            msg = f"{what} is {number:g}{unit}; it must be from {least:g} to {most:g}{unit}"
            raise UsageError(msg)
    _check_cuts(setup)
    if setup.cuda_graphs:
        _check_graphs(setup)


def _check_cuts(setup: Setup) -> None:
    """Refuse cuts that leave nothing, and cuts of what is not sampled."""
    if setup.top_k is not None and setup.top_k < 1:
        msg = f"top_k is {setup.top_k}; it must be at least 1"
        raise UsageError(msg)
    if not 0 < setup.top_p <= 1:
        msg = f"top_p is {setup.top_p:g}; it must be above 0 and at most 1"
        raise UsageError(msg)
    if setup.temperature == 0 and (setup.top_k is not None or setup.top_p < 1):
        msg = "--top-k and --top-p cut what is sampled; give a --temperature above 0"
        raise UsageError(msg)


def _check_memory(setup: Setup, target: TargetSpec, tokens: int) -> None:
    """Refuse a KV cache that this machine has no memory for."""
    size = tokens * target.shape.kv_bytes() * (FP32_BYTES / BF16_BYTES)
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > have:
        each = tokens // setup.max_running_requests
        msg = (
            f"a KV cache of {setup.max_running_requests} requests of up to {each:,} tokens takes "
            f"{size / GIGA:,.1f} GB, and this machine has {have / GIGA:,.1f} GB; give shorter "
            "texts (--isl, --max-new-tokens) or a smaller --conc"
        )
        raise InfeasibleError(msg)


def _check_graphs(setup: Setup) -> None:
    """Refuse captured steps where there is none to replay."""
    reasons = {
        "a CPU has no graphs to capture; give --device cuda": setup.device == "cpu",
        "the host takes part in every cycle of v1; give --engine-mode v2": setup.mode == "v1",
        f"a step of {setup.method} waits for the host": setup.speculation.network == "eagle3-head",
        "a step that samples waits for the host; give --temperature 0": setup.temperature > 0,
    }
    for reason, holds in reasons.items():
        if holds:
            msg = f"--cuda-graphs cannot be had: {reason}"
            raise UsageError(msg)


def _rows(setup: Setup, drafter: DrafterSpec | Eagle3Spec | None) -> int:
    """The verify width."""
    if not setup.speculation.speculative:
        return 1
    if isinstance(drafter, DrafterSpec):
        trained = drafter.shape.width
        rows = trained if setup.block is None else setup.block
        if not 2 <= rows <= trained:
            msg = f"block {rows} is not in 2..{trained}, what {drafter.shape.name} was trained for"
            raise UsageError(msg)
        return rows
    steps = EAGLE_STEPS if setup.steps is None else setup.steps
    if steps < 1:
        msg = f"steps is {steps}; a chain drafts at least one token"
        raise UsageError(msg)
    return steps + 1


def _dflash(setup: Setup, target: TargetSpec) -> DrafterSpec:
    given = _drafter(setup, "a DFlash drafter")
    spec = read_drafter(given.config, given.name)
    check_kind(setup.speculation, spec.shape)
    _same(spec.shape.name, target, hidden=spec.shape.hidden, vocab=spec.shape.vocab)
    _check_layers(spec.shape.name, target, spec.shape.target_layer_ids)
    if spec.mask_id is None:
        msg = f"{spec.shape.name}: its config names no mask_token_id"
        raise UsageError(msg)
    if not 0 <= spec.mask_id < target.shape.vocab:
        msg = (
            f"{spec.shape.name}: mask_token_id {spec.mask_id} is not a token of "
            f"{target.shape.name}, which has {target.shape.vocab}"
        )
        raise UsageError(msg)
    return spec


def _eagle3(setup: Setup, target: TargetSpec) -> tuple[Eagle3Spec, tuple[int, ...]]:
    given = _drafter(setup, "an EAGLE-3 head")
    spec = read_eagle3(given.config, given.name)
    vocab = given.config.get("vocab_size", target.shape.vocab)
    _same(spec.shape.name, target, hidden=spec.shape.hidden, vocab=vocab)
    count = len(target.shape.layers)
    nested = given.config.get("eagle_config") or {}
    ids = nested.get("eagle_aux_hidden_state_layer_ids")
    # Without a list, SGLang captures the inputs of layers 2, n/2 and n-3.
    taps = tuple(ids) if ids else (1, max(0, count // 2 - 1), max(0, count - 4))
    _check_layers(spec.shape.name, target, taps)
    return spec, taps


def _drafter(setup: Setup, kind: str) -> Network:
    if setup.drafter is None:
        msg = f"method {setup.method} needs {kind}; give --drafter"
        raise UsageError(msg)
    return setup.drafter


def _same(name: str, target: TargetSpec, *, hidden: int, vocab: int) -> None:
    for kind, ours, theirs in (
        ("hidden size", hidden, target.shape.hidden),
        ("vocabulary", vocab, target.shape.vocab),
    ):
        if ours != theirs:
            msg = f"{name} was not made for {target.shape.name}: {kind} {ours}, target's {theirs}"
            raise UsageError(msg)


def _check_layers(name: str, target: TargetSpec, taps: tuple[int, ...]) -> None:
    count = len(target.shape.layers)
    outside = [i for i in taps if not 0 <= i < count]
    if outside:
        msg = f"{name} reads target layers {outside}; {target.shape.name} has 0..{count - 1}"
        raise UsageError(msg)
