"""What drafters run besides their layers: heads, selectors, steps along a block, and the pick.

Structure and kernels follow SGLang's dflash.py, domino_utils.py, dspark_components and
eagle_worker_v2.py. None of these parts is quantised or split over the ranks, but for what is as
wide as the vocabulary.
"""

from dflash_sim.profiles.networks.hf_config import (
    Convolutions,
    MarkovHead,
    ModelShape,
    RecurrentHead,
    Selector,
)
from dflash_sim.profiles.precision import BF16, Precision, bytes_of
from dflash_sim.simulator.cost.layers import Kernels
from dflash_sim.simulator.cost.ops import AnyCall, Call, Elementwise

LOGITS = "float32"  # in which samplers read them
SOFTMAX = 4  # passes of PyTorch's, one block a row: its maximum, its sum, and read and write


def convolution(
    c: Convolutions, *, hidden: int, tokens: int, count: int, precision: Precision = BF16
) -> list[AnyCall]:
    """DFlash2's convolution around ``count`` sublayers: a product gives the weights of both sides.

    Each side reads the rows and its half of the weights, and writes the rows.
    """
    k = Kernels(precision)
    width = c.kernel_width(hidden)
    side = 2.0 * tokens * hidden + tokens * width / 2
    return [
        k.gemm("conv_weights", tokens, width, hidden, of="other", count=count),
        k.small("conv_in", side, count),
        k.small("conv_out", side, count),
    ]


def base_logits(
    model: ModelShape, *, tp: int, rows: int, precision: Precision = BF16
) -> list[AnyCall]:
    """Final norm and vocabulary-parallel head of the draft rows."""
    k = Kernels(precision, tp)
    return [
        k.norm("draft_final_norm", rows, model.hidden),
        k.gemm("draft_lm_head", rows, model.vocab // tp, model.hidden, of="lm_head"),
    ]


def argmax(
    name: str, *, tp: int, rows: int, vocab: int, reads: int, precision: Precision = BF16
) -> list[AnyCall]:
    """The largest of the logits that ``reads`` tensors add up to; pairs cross the ranks."""
    k = Kernels(precision, tp)
    local = float(rows * (vocab // tp))
    found: list[AnyCall] = [Call(Elementwise(name, reads * k.value * local, "vocab"), 1)]
    return found + k.gather(f"{name}_all_gather", bytes_of(LOGITS) * rows * tp, 2)


def select_path(
    s: Selector, model: ModelShape, *, tp: int, rows: int, precision: Precision = BF16
) -> list[AnyCall]:
    """DFlash2's selector on ``rows`` draft rows, once a cycle: top k of each, scores, one walk.

    Every candidate of a position has a vector as a predecessor and one as a successor, and each
    pair of neighbours a score.
    """
    k = Kernels(precision, tp)
    local = float(rows * (model.vocab // tp))
    vectors, pairs = rows * s.top_k * s.rank, rows * s.top_k**2
    calls = [
        *base_logits(model, tp=tp, rows=rows, precision=precision),
        Call(Elementwise("selector_top_k", k.value * local, "radix_top_k"), 1),
        k.gemm("selector_projection", rows, s.rank, model.hidden, of="other"),
        k.small("selector_codebooks", 2.0 * vectors, 2),
        k.small("selector_scaling", 2.0 * vectors + rows * s.rank),
        k.small("selector_scores", 2.0 * vectors + pairs),
        k.small("selector_add", 2.0 * pairs),
        k.small("selector_walk", float(pairs)),
        k.small("selector_copies", float(rows * s.top_k), 6),  # noise, and what is handed out
    ]
    # Values and ids of each rank's candidates.
    gathered = bytes_of(LOGITS) * rows * s.top_k * tp
    return calls + k.gather("selector_all_gather", gathered, 2)


def markov_steps(
    m: MarkovHead,
    model: ModelShape,
    *,
    tp: int,
    requests: int,
    drafts: int,
    precision: Precision = BF16,
) -> list[AnyCall]:
    """DSpark's drafts one after the other: a look-up, a product over the vocabulary, the largest.

    The logits of the block are there; each step reads its row of them and adds its own. Releases
    since 0.5.17 have captured steps that could draw: they add noise, 0 where nothing is drawn, and
    the corrected logits are kept for the verification.
    """
    k = Kernels(precision, tp)
    local = float(requests * (model.vocab // tp))
    noise = bytes_of(LOGITS) * local
    step = [
        k.small("markov_lookup", 2.0 * requests * m.rank),
        k.gemm("markov_bias", requests, model.vocab // tp, m.rank, of="other"),
        k.small("markov_add", 3 * local),
        Call(Elementwise("markov_noise", noise), 1),
        Call(Elementwise("markov_argmax", k.value * local + noise, "vocab"), 1),
        *k.gather("markov_argmax_all_gather", bytes_of(LOGITS) * requests * tp, 2),
    ]
    calls = step * drafts
    calls.append(k.small("markov_collect", 2 * local * drafts, 2))
    if m.confidence:
        reads = model.hidden + (m.rank if m.confidence_reads_token else 0)
        calls.append(k.gemm("confidence", requests * drafts, 1, reads, of="other"))
    return calls


def recurrent_steps(
    r: RecurrentHead,
    model: ModelShape,
    *,
    tp: int,
    requests: int,
    drafts: int,
    precision: Precision = BF16,
) -> list[AnyCall]:
    """Domino's drafts: the first as DFlash has it, later ones corrected by a GRU of those before.

    Every step embeds a token, moves the GRU on, and adds logits of a narrow network to those of
    the block. Ranks share the vocabulary; the GRU is on each of them.
    """
    k = Kernels(precision, tp)
    wide, state = model.hidden, r.hidden
    largest = argmax(
        "domino_argmax", tp=tp, rows=requests, vocab=model.vocab, reads=2, precision=precision
    )
    fed = [
        k.small("domino_embedding", 2.0 * requests * wide),
        *k.all_reduce("domino_embedding_all_reduce", requests, wide, 1),
        k.gemm("domino_gru_in", requests, len(_GATES) * state, wide, of="other"),
        k.gemm("domino_gru_state", requests, len(_GATES) * state, state, of="other"),
        k.small("domino_gru_cell", 2.0 * len(_GATES) * requests * state),
    ]
    corrected = [
        k.gemm("domino_down", requests, r.bottleneck, wide + state, of="other"),
        k.small("domino_silu", 2.0 * requests * r.bottleneck),
        k.gemm("domino_up", requests, model.vocab // tp, r.bottleneck, of="other"),
        *largest,
    ]
    first = argmax(
        "domino_first_argmax",
        tp=tp,
        rows=requests * min(r.prefix, drafts),
        vocab=model.vocab,
        reads=1,
        precision=precision,
    )
    later = max(0, drafts - r.prefix)
    # The anchor and the first drafts go through the GRU before any draft is corrected.
    before = fed * (1 + r.prefix) if later else []
    return [*first, *before, *(corrected * later), *(fed * max(0, later - 1))]


def picked(how: str, *, rows: int, vocab: int, topk: int = 1) -> list[AnyCall]:
    """The tokens that MTP and EAGLE-3 go on from, of ``rows`` rows of gathered logits.

    A tree's are the most likely ones, and of a chain that is the largest logit: releases up to
    0.5.12 take it of probabilities too.
    """
    matrix = float(bytes_of(LOGITS)) * rows * vocab
    softmax = Call(Elementwise("draft_softmax", SOFTMAX * matrix, "stream", blocks=rows), 1)
    if topk > 1:
        return [softmax, Call(Elementwise("draft_top_k", matrix, "top_k", blocks=rows), 1)]
    largest = Call(Elementwise("argmax", matrix, "vocab"), 1)
    return [softmax, largest] if how == "softmax" else [largest]


def last_rows(*, rows: int, vocab: int) -> list[AnyCall]:
    """Copy the logits of the last token of each request out of those of its whole width."""
    return [Call(Elementwise("draft_rows", 2.0 * bytes_of(LOGITS) * rows * vocab, "stream"), 1)]


_GATES = ("reset", "update", "new")  # of a GRU
