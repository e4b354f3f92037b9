"""Sampling at a temperature: the kernels that run where greedy decoding takes a maximum.

SGLang scales the logits and makes probabilities of them in float32, a [rows, vocabulary] matrix
that no cache holds, and walks along the drafts by rejection. None of it is in a CUDA graph.

Kernels, their passes over the matrix and their blocks of threads are those of SGLang 0.5.17 to
0.5.20 with FlashInfer 0.6.15 to 0.6.18 and PyTorch. Blocks of drafts have a top-k found first and
the rest of a row cleared (``build_dflash_verify_target_probs``); chains and trees, EAGLE and MTP,
have whole rows renormalised (``eagle_sample``). PyTorch's softmax of so wide a row has one block
of threads for it, and the walk one for a request: few of them reach their SMs' share of the memory.

Chains whose drafts are drawn (``--speculative-use-rejection-sampling``) walk by a kernel in Triton,
over as many rows. Each draft takes a softmax and a draw more (``spec_utils.fast_sample``), all but
the first in a graph, and each distribution is kept: those of SGLang 0.5.14 to 0.5.23.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from dflash_sim.profiles.precision import BF16, bytes_of
from dflash_sim.simulator.cost.draft_parts import LOGITS, SOFTMAX
from dflash_sim.simulator.cost.layers import Kernels
from dflash_sim.simulator.cost.ops import AnyCall, Call, Elementwise

Proposals = Literal["greedy", "selected", "sampled", "drawn"]
SCALE = 2  # passes: read and write
ONLINE = 1  # FlashInfer: maximum and sum at once, by all SMs
ONLINE_END = 2  # read and write, one block a row
SPLIT_ROWS = 128  # more of them than that are left to one block each from the start
CLEAR = 1  # zeros that probabilities of the chosen are scattered into, or those of no draft
COPY = 2  # probabilities back into the logits
WIDEN = 1.5  # bf16 to float32, of whose bytes the matrix is
WALKED = 4  # rows of each request: where the walk ends, both distributions are read twice
CHECKS = 3  # torch.multinomial: the largest, the smallest and the sum of each row
NOISE = 1  # exponential
QUOTIENT = 3  # probabilities over noise
LARGEST = 1
DRAW = CHECKS + NOISE + QUOTIENT + LARGEST
DRAW_WITHIN = 3  # FlashInfer, one block a row: a draw by rejection until it lies within thresholds


class Drawn(Protocol):
    """What says how tokens are drawn; a scenario does."""

    temperature: float
    top_p: float
    top_k: int | None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn: ``temperature`` 0 is greedy, and so is ``top_k`` 1.

    Parameters
    ----------
    top_p
        The least probability that the most likely tokens make up together [1].
    top_k
        Tokens that are drawn from; None for all.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None

    @classmethod
    def of(cls, s: Drawn) -> "Sampling":
        """Return how a scenario draws its tokens."""
        return cls(s.temperature, s.top_p, s.top_k)

    @property
    def greedy(self) -> bool:
        """True if nothing is drawn: SGLang serves a temperature of 0 as ``top_k`` 1."""
        return self.temperature == 0 or self.top_k == 1

    @property
    def degrees(self) -> float:
        """The temperature that acceptance depends on: 0 where nothing is drawn."""
        return 0.0 if self.greedy else self.temperature

    def within(self, vocab: int) -> int | None:
        """Tokens that are drawn from, where they are fewer than the vocabulary."""
        return self.top_k if self.top_k is not None and self.top_k < vocab else None


GREEDY = Sampling()
AT_TEMPERATURE = "race-at-temperature"  # of a release that gives greedy requests their likeliest


def sampled_rows(
    s: Sampling,
    *,
    vocab: int,
    requests: int,
    rows: int,
    proposals: Proposals,
    chain: bool = False,
    tp: int = 1,
) -> list[AnyCall]:
    """Verify ``rows`` rows of each request by rejection.

    Thresholds are searched over whole rows where drafts are a ``chain`` or a tree.
    ``proposals`` tells drafts that were taken as the most likely, whose distribution is empty;
    those of a selector, whose few probabilities are scattered; those sampled from a whole row of
    logits, that are made probabilities here; and those drawn from probabilities, which are there.
    """
    if s.greedy or not requests:
        return []
    matrix = matrix_bytes(requests * rows, vocab)
    walked = WALKED * matrix_bytes(requests, vocab)
    calls = _of_target(s, vocab=vocab, rows=requests * rows, proposals=proposals, chain=chain)
    calls += _of_drafts(proposals, requests=requests, rows=rows, vocab=vocab)
    calls += [
        _small("sampling_uniform", 2),
        *([_pass("draft_clear", CLEAR * matrix)] if proposals == "greedy" else []),
        _pass("rejection_walk", walked, requests),
        _small("sampling_gather", 1 if proposals == "sampled" else 2 if chain else 12),
    ]
    # Accept lengths and last tokens of the first rank are those of all.
    sent = bytes_of(LOGITS) * float(requests)
    return calls + Kernels(BF16, tp).gather("accept_broadcast", sent, 2)


def draws(how: str, s: Sampling) -> bool:
    """Return True if every draft of a chain is drawn, where a release draws so; empty for never."""
    return bool(how) and not (s.greedy and how == AT_TEMPERATURE)


def sampled_tokens(s: Sampling, *, vocab: int, requests: int) -> list[AnyCall]:
    """One token of each request: plain decoding, and the first token behind a prompt."""
    if s.greedy or not requests:
        return []
    matrix = matrix_bytes(requests, vocab)
    limited = s.top_p < 1 or s.within(vocab) is not None
    draw = (
        _pass("sampling_draw", DRAW_WITHIN * matrix, requests)
        if limited
        else _pass("sampling_draw", DRAW * matrix)
    )
    return [
        _pass("sampling_scale", SCALE * matrix),
        _pass("sampling_softmax", SOFTMAX * matrix, requests),
        _pass("sampling_copy", COPY * matrix),
        _small("sampling_uniform", 1),
        draw,
    ]


def drawn_drafts(how: str, *, rows: int, vocab: int) -> list[AnyCall]:
    """Draw a draft from each of ``rows`` rows of logits, at the temperature of its request.

    Parameters
    ----------
    how
        As a release does it: ``drawn`` of its :class:`Chains`. One that knows greedy requests looks
        for the likeliest of each row beside, and takes that for theirs.
    """
    matrix = matrix_bytes(rows, vocab)
    checks = [_pass("draft_checks", CHECKS * matrix), _small("draft_checks_small", 8)]
    floor = [_pass("draft_noise_floor", SCALE * matrix)]
    largest: list[AnyCall] = [Call(Elementwise("argmax", LARGEST * matrix, "vocab"), 1)]
    greedy = [*largest, _small("draft_greedy", 3)]
    return [
        _pass("draft_scale", SCALE * matrix),
        _pass("draft_softmax", SOFTMAX * matrix, rows),
        *(checks if how == "multinomial" else floor),
        _pass("draft_noise", NOISE * matrix),
        _pass("draft_quotient", QUOTIENT * matrix),
        *largest,
        _small("draft_probability", 1),
        *(greedy if how == AT_TEMPERATURE else []),
    ]


def kept_drafts(*, requests: int, drafts: int, vocab: int) -> list[AnyCall]:
    """Put the distributions that drafts were drawn from beside each other, for verification."""
    return [_pass("draft_stack", COPY * matrix_bytes(requests * drafts, vocab))]


def handed_on(*, requests: int, vocab: int) -> list[AnyCall]:
    """Copy the distribution of the first drafts to where the graph of the later ones reads it."""
    return [_pass("draft_copy", COPY * matrix_bytes(requests, vocab))]


def matrix_bytes(rows: int, vocab: int) -> float:
    """Bytes of the logits of so many rows as samplers have them."""
    return float(bytes_of(LOGITS)) * rows * vocab


def extra_bytes(s: Sampling, *, vocab: int, requests: int, rows: int, chain: bool = False) -> float:
    """Bytes that verification holds at its peak, outside what memory is divided for.

    Scaled logits, probabilities, and those of the drafts; a renormalisation has one matrix more.
    """
    if s.greedy:
        return 0.0
    limited = s.top_p < 1 or s.within(vocab) is not None
    renormalised = limited and (chain or s.within(vocab) is None)
    return (4 if renormalised else 3) * matrix_bytes(requests * rows, vocab)


def _of_target(
    s: Sampling, *, vocab: int, rows: int, proposals: Proposals, chain: bool
) -> list[AnyCall]:
    """The distributions that the target would draw from."""
    matrix = matrix_bytes(rows, vocab)
    k = s.within(vocab)
    scaled = _pass("sampling_scale", SCALE * matrix)
    if k is not None and not chain:
        chosen = 2.0 * bytes_of(LOGITS) * rows * k
        nucleus = [_small("sampling_top_p_of_chosen", 1, chosen)] if s.top_p < 1 else []
        return [
            _small("sampling_repeat", 4 + len(nucleus)),
            scaled,
            _search("top_k", "sampling_top_k", matrix, rows),
            _small("sampling_softmax_of_chosen", 1, chosen),
            *nucleus,
            _pass("sampling_clear", CLEAR * matrix),
            _small("sampling_scatter", 1, chosen),
        ]
    if k is None and s.top_p == 1 and proposals in ("selected", "sampled"):  # it scales as it reads
        return [_small("sampling_repeat", 1), *_online("sampling_softmax", rows, vocab)]
    searched = {"top_k_renorm": k is not None, "top_p_renorm": s.top_p < 1}
    return [
        _small("sampling_repeat", 1 + sum(searched.values())),
        scaled,
        _pass("sampling_softmax", SOFTMAX * matrix, rows),
        *(_search(kind, f"sampling_{kind}", matrix, rows) for kind in searched if searched[kind]),
    ]


def _of_drafts(proposals: Proposals, *, requests: int, rows: int, vocab: int) -> list[AnyCall]:
    """The distributions that the drafts were drawn from, which the graph of the drafter did.

    Drafts that were taken as the most likely have zeros for one. Those of a selector are scattered
    into a kept buffer, of which what was scattered before is cleared alone.
    """
    if proposals in ("greedy", "drawn"):
        return []
    staged = _small("draft_parameters", 4)
    if proposals == "selected":
        return [staged, _small("draft_scatter", 2)]
    drafts = requests * (rows - 1)
    widen = _pass("draft_logits_cast", WIDEN * matrix_bytes(drafts, vocab))
    return [staged, widen, *_online("sampled_draft_softmax", drafts, vocab)]


def _online(name: str, rows: int, vocab: int) -> list[AnyCall]:
    """FlashInfer's softmax: rows are shared among the SMs where they are few."""
    matrix = matrix_bytes(rows, vocab)
    if rows > SPLIT_ROWS:
        return [_pass(name, (ONLINE + ONLINE_END) * matrix, rows)]
    return [_pass(f"{name}_sum", ONLINE * matrix), _pass(name, ONLINE_END * matrix, rows)]


def _search(kind: str, name: str, nbytes: float, rows: int) -> AnyCall:
    """A search of each row, whose passes over the matrix are in the constants of its kind."""
    return Call(Elementwise(name, nbytes, kind, blocks=rows), 1)


def _pass(name: str, nbytes: float, blocks: int | None = None) -> AnyCall:
    """A kernel that streams the matrix, all of the GPU or so many blocks of threads."""
    return Call(Elementwise(name, nbytes, "stream", blocks=blocks), 1)


def _small(name: str, count: int, nbytes: float = 0.0) -> AnyCall:
    return Call(Elementwise(name, nbytes), count)
