"""Records of an engine sheet besides constants: defaults, attention backends, what a fit moves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from dflash_sim.profiles.releases.memory_rules import (
    MemoryRules,
    OutsideStatic,
    StatePoolRules,
    VisionRule,
)

T = TypeVar("T")


@dataclass(frozen=True)
class MemoryClass:
    """Defaults for GPUs of less than ``below_gib`` of memory [GiB].

    Parameters
    ----------
    cuda_graph_max_bs, cuda_graph_max_bs_tp4
        Largest captured batch, and that of four ranks or more [request].
    """

    below_gib: float
    chunked_prefill_size: int
    cuda_graph_max_bs: int
    cuda_graph_max_bs_tp4: int

    def graph_max_bs(self, tp: int) -> int:
        """Return the largest captured batch of ``tp`` ranks [request]."""
        return self.cuda_graph_max_bs if tp < 4 else self.cuda_graph_max_bs_tp4


@dataclass(frozen=True)
class Logits:
    """How logits of a verification, which lie on all ranks, become tokens.

    Parameters
    ----------
    gathered
        True if all of them are gathered first.
    source
        Where that is written.
    """

    gathered: bool
    source: str


@dataclass(frozen=True)
class Chains:
    """How a release picks the drafts of MTP and EAGLE-3, one step after the other.

    Parameters
    ----------
    picked
        Of a chain: ``softmax``, the largest of probabilities; ``argmax``, the largest logit;
        ``fused``, that by kernels which also write the token and move positions on.
    extended
        The rows of a draft-extend whose logits are there: ``last``, that of each request which
        drafts; ``all``; ``picked``, all of them, and its graph picks from each.
    drawn
        How drafts are drawn that shall be (``--speculative-use-rejection-sampling``): ``never``;
        ``multinomial``, by PyTorch's, which checks what it is given; ``race``, as the largest of
        probabilities over noise; ``race-at-temperature``, so, but for greedy requests, which have
        their likeliest. Before that they are drawn for those too, as at temperature 1.
    source
        Where that is written.
    """

    picked: str
    extended: str
    drawn: str
    source: str


@dataclass(frozen=True)
class HybridLayers:
    """How a release divides the layers of models with gated delta nets into kernels.

    Parameters
    ----------
    joined
        True if such a net has two products in, the small one on a second stream, reads their
        results in place, and norms run inside all-reduces; False if it has four products one after
        the other, copies queries, keys and values, and norms run alone.
    source
        Where that is written.
    """

    joined: bool
    source: str


@dataclass(frozen=True)
class Defaults:
    """Defaults of the engine where nobody says otherwise, by the names of its flags.

    Parameters
    ----------
    lpm_sorts_up_to
        Waiting requests that ``--schedule-policy lpm`` sorts by their cached prefix; more are
        served in turn.
    keeps_up_share
        Served share of the offered rate below which the queue is said to grow [1].
    """

    page_size: int
    max_prefill_tokens: int
    max_running_requests_spec: int
    max_running_requests_plain: int
    new_token_ratio_init: float
    new_token_ratio_min_factor: float
    new_token_ratio_decay_steps: int
    retract_decode_steps: int
    clip_max_new_tokens: int
    lpm_sorts_up_to: int
    min_free_slots_delay: int
    mamba_full_memory_ratio: float
    mamba_track_interval: int
    keeps_up_share: float
    weight_share_for_default_tp: float
    min_requests: int
    min_requests_open_loop: int
    max_iterations: int
    max_requests: int
    requests_per_client: int
    source: str
    logits: Logits
    chains: Chains
    hybrid: HybridLayers
    outside_static: OutsideStatic
    vision: VisionRule
    memory: MemoryRules
    state_pool: StatePoolRules
    page_size_by_backend: Mapping[str, int]
    by_memory: tuple[MemoryClass, ...]


class _ByDrafting(Generic[T]):
    """Something that each kind of drafting has: ``none``, ``block`` and ``chain``."""

    def __getitem__(self, drafts: str) -> T:
        found: T = getattr(self, drafts)
        return found


@dataclass(frozen=True)
class Modes(_ByDrafting[str]):
    """How a release runs each kind of drafting when nobody says otherwise; "" if it cannot.

    Parameters
    ----------
    none, block, chain
        The default engine mode by how a method drafts: ``v1``, ``v2-sync`` or ``v2``.
    tree
        That of chains which branch.
    source
        Where that is written.
    """

    none: str
    block: str
    chain: str
    tree: str
    source: str


@dataclass(frozen=True)
class HostLengthSync(_ByDrafting[tuple[str, ...]]):
    """Attention backends whose plan copies lengths to the host, by how the method drafts."""

    none: tuple[str, ...]
    block: tuple[str, ...]
    chain: tuple[str, ...]


@dataclass(frozen=True)
class LatentBackends:
    """The backends of models with latent attention, and the engine's choice among them.

    Parameters
    ----------
    by_arch, other
        By architecture of the GPU, and elsewhere.
    widens, widens_captured
        Backends that cast the whole pool of latents to bf16 in each layer of each step, where it
        is in another format, and those that do so in a captured prefill.
    sparse, compressed
        Of models whose attention is sparse, and of those that compress tokens, on every GPU.
    sparse_kv, compressed_kv
        The format of keys and values of those models where none is named; by architecture.
    """

    backends: tuple[str, ...]
    other: str
    sparse: str
    widens: tuple[str, ...]
    widens_captured: tuple[str, ...]
    compressed: str
    compressed_kv: str
    by_arch: Mapping[str, str]
    sparse_kv: Mapping[str, str]

    def kv_of(self, kind: str, arch: str) -> str | None:
        """The format of keys and values of a kind of latent attention; None if it has no own."""
        kinds = {"sparse": self.sparse_kv.get(arch), "compressed": self.compressed_kv}
        return kinds.get(kind)

    source: str


@dataclass(frozen=True)
class AttentionBackends:
    """The backends that the engine has, and its choice for each GPU.

    Parameters
    ----------
    plans_on_host
        Backends whose plan takes ``attention_plan`` on the host, once it has the lengths.
    without_buffer
        By architecture of the GPU, its choice for a hybrid model whose prefix cache has the
        strategy ``no_buffer``, where that is another: such a cache takes pages of one token.
    casts
        Small kernels of a layer beside the one that writes its keys and values, where these are in
        another format than activations, by backend; none where a backend is not named.
    trees
        Backends that verify trees of drafts, whose rows do not all see each other; the first is
        its choice for them.
    runs_on
        Architectures that a backend has kernels for; one without an entry runs everywhere.
    """

    backends: tuple[str, ...]
    other: str
    plans_on_host: tuple[str, ...]
    trees: tuple[str, ...]
    casts: Mapping[str, int]
    host_length_sync: HostLengthSync
    by_gpu: Mapping[str, str]
    without_buffer: Mapping[str, str]
    runs_on: Mapping[str, tuple[str, ...]]
    source: str
    latent: LatentBackends

    def default(self, gpu: str) -> str:
        """The backend of a GPU when none is named."""
        return self.by_gpu.get(gpu, self.other)

    def default_for(self, gpu: str, arch: str, *, kind: str) -> str:
        """The backend of a GPU when none is named, by the kind of latent attention of a model."""
        if not kind:
            return self.default(gpu)
        own = self.latent
        named = {"sparse": own.sparse, "compressed": own.compressed}
        return named.get(kind) or own.by_arch.get(arch, own.other)

    def known(self, *, latent: bool, arch: str = "") -> tuple[str, ...]:
        """The backends that a model may be run with, on GPUs of an architecture."""
        found = self.latent.backends if latent else self.backends
        return tuple(x for x in found if not arch or arch in self.runs_on.get(x, (arch,)))


PREFILL_BACKENDS = ("disabled", "tc_piecewise", "breakable")


@dataclass(frozen=True)
class PrefillSheet:
    """How the engine launches prefills: kernel by kernel, or as graphs between eager mixers.

    Parameters
    ----------
    backend
        The engine's ``--cuda-graph-backend-prefill`` when none is given.
    hybrid, hidden_states
        Whether it captures hybrid (and multimodal) models without being asked by that flag, and
        whether a prefill that hands all hidden states to a drafter replays the graphs.
    mixers
        Ops that split a graph: one piece is replayed before each, and one behind the last.
    latent_tokens, latent_eager
        Most tokens of a captured prefill of latent attention, and the backends of which none is
        captured unless it is asked for.
    eager
        Ops that are launched one by one all the same, the mixers among them.
    launches
        By op of our list, the kernels that the engine launches for it where it is more than one.
    around
        Kernels and copies besides: lengths, first-token sampling, results.
    piece
        Host time of replaying a piece over that of launching a kernel [1].
    """

    backend: str
    hybrid: bool
    hidden_states: bool
    latent_tokens: int
    latent_eager: tuple[str, ...]
    mixers: tuple[str, ...]
    eager: tuple[str, ...]
    launches: Mapping[str, int]
    around: int
    piece: float
    source: str

    def replays(self, asked: str | None, *, hybrid: bool, speculative: bool) -> bool:
        """Return True if prefills of such a model run as graphs, as ``asked`` or by themselves."""
        if (asked or self.backend) == "disabled" or (speculative and not self.hidden_states):
            return False
        return bool(asked) or self.hybrid or not hybrid

    def most_tokens(
        self, asked: str | None, *, hybrid: bool, speculative: bool, latent: str | None, chunk: int
    ) -> int:
        """Return the most tokens of a captured prefill; ``latent`` is a latent model's backend."""
        eager = latent is not None and latent in self.latent_eager and not asked
        if eager or not self.replays(asked, hybrid=hybrid, speculative=speculative):
            return 0
        return chunk if latent is None else min(chunk, self.latent_tokens)


@dataclass(frozen=True)
class FitPriors:
    """One-sigma priors of what differs between workloads and servers [1].

    Parameters
    ----------
    roofline_gpu
        Of the log of a throughput on a GPU without operator times.
    levels
        Of the log of a factor, by factor and by level of :mod:`.server_levels`.
    """

    correlation: float
    decay: float
    decay_borrowed: float
    roofline_gpu: float
    levels: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class FitSheet:
    """The constants that a fit to throughput may move, and those that it takes for granted.

    Parameters
    ----------
    build
        The build that the constants are of.
    home
        The release, architecture, GPU and attention backend that they are of.
    free, shares, uncertain
        Constants that are fitted; those of them between 0 and 1; those that are uncertain and
        not fitted.
    discrepancy
        Without a calibration: what a fit leaves, by setting and by row [1].
    discrepancy_elsewhere
        What a fit to one server usually leaves [1].
    observation_rel_err, tpot_rel_err, ttft_rel_err
        Of a measured throughput or time per token, of a time per token beside a throughput of the
        same run, and of a time to first token with all that is not modelled about it [1].
    """

    build: str
    home: Mapping[str, str]
    free: tuple[str, ...]
    shares: tuple[str, ...]
    uncertain: tuple[str, ...]
    discrepancy: tuple[float, float]
    discrepancy_elsewhere: tuple[float, float]
    observation_rel_err: float
    tpot_rel_err: float
    ttft_rel_err: float
    priors: FitPriors


@dataclass(frozen=True)
class GraphSizes:
    """Captured batch sizes and prefill tokens, as ``[start, stop, step]``."""

    source: str
    spec: tuple[tuple[int, int, int], ...]
    plain: tuple[tuple[int, int, int], ...]
    prefill: tuple[tuple[int, int, int], ...]
