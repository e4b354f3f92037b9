"""Sampling at a temperature: the kernels that run where greedy decoding takes a maximum.

SGLang scales the logits and makes probabilities of them in float32, a [rows, vocabulary] matrix
that no cache holds, and walks along the drafts by rejection. None of it is in a CUDA graph. All
kernels together are as many passes over that matrix as were counted in SGLang's source, some 7
without thresholds and 14 with top-p; how they are shared among the kernels is assumed.

Blocks of drafts have a top-k found first and the rest of a row cleared; chains and trees (EAGLE,
MTP) have each threshold searched over whole rows (0.5.20, ``build_dflash_verify_target_probs`` and
``eagle_sample``). A search has one block of threads a row, and the walk one a request.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from dflash_sim.profiles.precision import BF16, bytes_of
from dflash_sim.simulator.cost.draft_parts import LOGITS
from dflash_sim.simulator.cost.layers import Kernels
from dflash_sim.simulator.cost.ops import AnyCall, Call, Elementwise

Proposals = Literal["greedy", "selected", "sampled"]
SCALE = 2  # passes: read and write
SOFTMAX = 3  # its maximum and sum, its values, and their writing
CHOOSE = 5  # torch.topk finds a threshold by radix, a byte of it a pass, and collects what is above
RENORM = 8  # FlashInfer searches a threshold: five passes, then the sum, and read and write
CLEAR = 1  # zeros that probabilities of the chosen are scattered into, or those of no draft
WALKED = 4  # rows of each request: where the walk ends, both distributions are read twice
DRAW = 1  # a draw from probabilities, without thresholds
DRAW_WITHIN = 3  # a draw by rejection until it lies within the thresholds


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
    those of a selector, whose few probabilities are scattered; and those drawn from a whole row.
    """
    if s.greedy or not requests:
        return []
    each = matrix_bytes(requests * rows, vocab)
    walked = WALKED * matrix_bytes(requests, vocab)
    calls = [_small("sampling_repeat", 3), _pass("sampling_scale", SCALE * each)]
    k = s.within(vocab)
    if k is not None and not chain:
        chosen = 2.0 * bytes_of(LOGITS) * requests * rows * k
        calls += [
            _pass("sampling_top_k", CHOOSE * each),
            _small("sampling_mask", 1, chosen),
            _small("sampling_softmax_of_chosen", 1, chosen),
            *([_small("sampling_top_p_of_chosen", 3, chosen)] if s.top_p < 1 else []),
            _pass("sampling_clear", CLEAR * each),
            _small("sampling_scatter", 1, chosen),
        ]
    else:
        calls.append(_pass("sampling_softmax", SOFTMAX * each))
        searched = {"sampling_top_k_renorm": k is not None, "sampling_top_p": s.top_p < 1}
        calls += [
            _pass(name, RENORM * each, requests * rows) for name, asked in searched.items() if asked
        ]
    calls += _of_drafts(proposals, requests=requests, rows=rows, vocab=vocab)
    calls += [
        _small("sampling_uniform", 2),
        _pass("rejection_walk", walked, requests),
        _small("sampling_gather", 2),
    ]
    # Accept lengths and last tokens of the first rank are those of all.
    sent = bytes_of(LOGITS) * float(requests)
    return calls + Kernels(BF16, tp).gather("accept_broadcast", sent, 2)


def sampled_tokens(s: Sampling, *, vocab: int, requests: int) -> list[AnyCall]:
    """One token of each request: plain decoding, and the first token behind a prompt."""
    if s.greedy or not requests:
        return []
    each = matrix_bytes(requests, vocab)
    limited = s.top_p < 1 or s.within(vocab) is not None
    return [
        _pass("sampling_scale", SCALE * each),
        _pass("sampling_softmax", SOFTMAX * each),
        _small("sampling_uniform", 1),
        _pass("sampling_draw", (DRAW_WITHIN if limited else DRAW) * each),
    ]


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


def _of_drafts(proposals: Proposals, *, requests: int, rows: int, vocab: int) -> list[AnyCall]:
    """The distributions that the drafts were drawn from."""
    drafted = matrix_bytes(requests * (rows - 1), vocab)
    if proposals == "selected":  # a kept buffer: what was scattered before is cleared alone
        return [_small("selector_draw", 1), _small("draft_scatter", 2)]
    if proposals == "sampled":
        return [
            _pass("sampled_draft_softmax", SOFTMAX * drafted),
            _pass("draft_draw", DRAW * drafted),
        ]
    return [_pass("draft_clear", CLEAR * matrix_bytes(requests * rows, vocab))]


def _pass(name: str, nbytes: float, blocks: int | None = None) -> AnyCall:
    """A kernel that streams the matrix, all of the GPU or so many blocks of threads."""
    return Call(Elementwise(name, nbytes, "stream", blocks=blocks), 1)


def _small(name: str, count: int, nbytes: float = 0.0) -> AnyCall:
    return Call(Elementwise(name, nbytes), count)
