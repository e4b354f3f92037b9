"""Causes of the gaps between the GH200 traces and their prediction, each with its evidence.

Figures are computed here, or published and then named with their source.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from dflash_sim.profiles.networks.hf_config import GdnShape
from dflash_sim.profiles.phases import load_phases
from dflash_sim.profiles.units import US
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.published.gh200_phases import (
    AGAIN,
    TRACED,
    Outcome,
    alone_outcomes,
    kernel_outcomes,
    phase_outcomes,
    setup_of,
)

BENT = 1.3  # one kernel's time per state does not grow so much once memory is busy
FEW, MANY = 128, 512  # states


@dataclass(frozen=True)
class Facts:
    """The facts of the section: every outcome, and the server that was traced."""

    phases: Sequence[Outcome]
    kernels: Sequence[Outcome]
    alone: Sequence[Outcome]
    again: Sequence[Outcome]

    @classmethod
    def now(cls) -> "Facts":
        """Predicted with the sheets as they are."""
        return cls(phase_outcomes(), kernel_outcomes(), alone_outcomes(), phase_outcomes(AGAIN))

    @cached_property
    def server(self) -> Setup:
        """The server behind the first traced cycle."""
        return setup_of(next(p for p in load_phases() if p.source_id == TRACED))

    def of(self, what: str, block: int, conc: int) -> Outcome:
        """A phase, a kernel family of the verify pass, or a kernel on its own."""
        where = (*self.phases, *self.kernels, *self.alone)
        return next(o for o in where if (o.what, o.block, o.conc) == (what, block, conc))

    def us(self, what: str, block: int, conc: int) -> str:
        """Its published time in words [us]."""
        return f"{self.of(what, block, conc).observed_s / US:,.0f}"

    def error(self, what: str, block: int, conc: int) -> str:
        """Its error in words."""
        return f"{100 * self.of(what, block, conc).error:+.0f} %"

    def without_attention(self, block: int, conc: int) -> float:
        """Error of the verify forward, its attention kernel taken out of both sides [1]."""
        whole, part = self.of("verify_forward", block, conc), self.of("attention", block, conc)
        left = whole.predicted_s - part.predicted_s
        return left / (whole.observed_s - part.observed_s) - 1

    @cached_property
    def bend(self) -> float:
        """Growth of the table's GDN time per state from few states to many [1]."""
        tables, model = self.server.tables, self.server.model
        assert tables is not None
        gdn = next(la.mixer for la in model.layers if isinstance(la.mixer, GdnShape))
        few, many = (
            tables.gdn_decode(batch=n, v_heads=gdn.num_v_heads, k_heads=gdn.num_k_heads)
            for n in (FEW, MANY)
        )
        assert few is not None
        assert many is not None
        return many.seconds / few.seconds * FEW / MANY


@dataclass(frozen=True)
class Gap:
    """Why some times are missed.

    Parameters
    ----------
    about
        The phases and kernel families it explains.
    text
        The reason and its evidence.
    shows
        True if the gap is still there.
    """

    title: str
    about: tuple[str, ...]
    text: Callable[[Facts], str]
    shows: Callable[[Facts], bool]


def _missed(what: str, block: int, conc: int, by: float) -> Callable[[Facts], bool]:
    """Return a test that is True if that time is missed by more than a share ``by`` [1]."""
    return lambda f: abs(f.of(what, block, conc).error) > by


GAPS = (
    Gap(
        "Triton attention (block 16).",
        ("attention", "draft_forward", "verify_forward", "draft"),
        lambda f: (
            f"Eight attention layers of the verify pass take {f.us('attention', 16, 1)} us at c=1; "
            f"with FlashInfer, at the same context, {f.us('attention', 8, 1)}. The drafter takes "
            f"{f.us('draft_forward', 16, 1)} us, with FA4 {f.us('draft_forward', 8, 1)}. We price "
            "FA3 for either. Without the attention kernel the verify forward at c=1 is off by "
            f"{100 * f.without_attention(16, 1):+.0f} %, not "
            f"{f.error('verify_forward', 16, 1)}. With FlashInfer for the target block 16 comes "
            "near (last table); its drafter does not, and its backend is not stated."
        ),
        _missed("attention", 16, 1, 0.5),
    ),
    Gap(
        "The H200 table of the GDN kernel, at many states.",
        ("GDN recurrence", "verify_forward"),
        lambda f: (
            f"Per state it is {f.bend:.1f} times slower at {MANY} states than at {FEW}. Its source "
            "is at odds with itself there (410, 515 and 655 us for 256 states in "
            "aiconfigurator-core 0.12), and the same package times the same kernel on the same GPU "
            "under vLLM: 267 us for 256 states and 528 for 512, where SGLang's file has 1,262. So "
            f"the recurrence is {f.error('GDN recurrence', 16, 64)} at block 16, c=64 (544 states) "
            f"but {f.error('GDN recurrence', 8, 16)} at block 8, c=16 (72): a fault of the table, "
            "not of the GH200 or of the way verification is priced."
        ),
        lambda f: f.bend > BENT,
    ),
    Gap(
        "GDN verification writes one FP32 state per position.",
        ("GDN recurrence", "verify_forward"),
        lambda f: (
            f"It takes {f.us('GDN recurrence', 8, 1)} us at block 8, c=1 and "
            f"{f.us('GDN recurrence', 16, 64)} at block 16, c=64: a third of that cycle. Most of "
            "it is the writing: 4 rows of 128 requests take 432 us with the states saved and 228 "
            "without (`VP_GH200_MICRO`), and a build that does not save them verifies 16 x 16 rows "
            "in 9.1 instead of 11.3 ms (`VP_GH200_PHASE`). We price a read per request and a write "
            f"per row at the rate of the decode kernel: {f.error('GDN recurrence', 8, 1)} and "
            f"{f.error('GDN recurrence', 8, 16)} at block 8, c=1 and 16. At block 16, c=1 "
            f"({f.error('GDN recurrence', 16, 1)}) one request's rows follow each other, which "
            "bytes do not see."
        ),
        lambda f: True,
    ),
    Gap(
        "Two GDN kernels that differ from decoding.",
        ("GDN conv", "GDN gated norm", "verify_forward"),
        lambda f: (
            "Verification keeps convolution windows per position, and the gated norm slows with "
            f"the rows. The convolution takes 55 us at c=1 in plain decoding, "
            f"{f.us('GDN conv', 8, 1)} at block 8 and {f.us('GDN conv', 16, 1)} at block 16; the "
            f"norm 36, {f.us('GDN gated norm', 8, 1)} and {f.us('GDN gated norm', 16, 1)} "
            "(`VP_GH200_KERNELS`). The tables hold the decode kernels: "
            f"{f.error('GDN conv', 16, 1)} and {f.error('GDN gated norm', 16, 1)} at block 16."
        ),
        _missed("GDN conv", 16, 1, 0.3),
    ),
    Gap(
        "Elementwise kernels that read the L2 cache.",
        ("MLP activation", "norms", "head cast and argmax", "attention elementwise"),
        lambda f: (
            "Their bandwidth is a constant taken from logits of 190 MB. Activations of a few "
            "hundred rows fit the 50 MB of L2 and go faster: activation "
            f"{f.error('MLP activation', 8, 16)} at block 8, c=16, norms "
            f"{f.error('norms', 16, 64)} at block 16, c=64. In the sum this hides part of the two "
            "kernels above."
        ),
        _missed("MLP activation", 8, 16, 0.3),
    ),
    Gap(
        "A product that runs beside another.",
        ("GDN projections",),
        lambda f: (
            f"The GDN projections are {f.error('GDN projections', 8, 1)} at block 8, c=1. The "
            "trace has 20.6 us a layer for qkvz, b and a together; qkvz alone takes 20.3 "
            "(`VP_GH200_MICRO`). The narrow product runs on a second stream; here it stands in "
            "the chain."
        ),
        _missed("GDN projections", 8, 1, 0.1),
    ),
    Gap(
        "FlashInfer and FA3.",
        ("attention",),
        lambda f: (
            "The FA3 tables times `verify_attention_factor` are "
            f"{f.error('attention', 8, 1)} to {f.error('attention', 8, 64)} against FlashInfer at "
            "block 8: 1 % of the verify forward."
        ),
        _missed("attention", 8, 1, 0.1),
    ),
    Gap(
        "Clock and peaks.",
        ("MLP products", "attention projections", "head product"),
        lambda f: (
            "Both sheets have one arithmetic peak, yet the MLP products are "
            f"{f.error('MLP products', 8, 64)} and {f.error('MLP products', 16, 64)} at 512 and "
            "1,024 rows, where arithmetic binds: this GH200 is slower by that than the H200 of the "
            "tables, as a lower clock would make it (its 1,000 W feed the CPU too). The source "
            "gives no clocks. Where memory binds the ratio of the sheets holds: at c=1 the head "
            f"product is {f.error('head product', 16, 1)}, the attention projections "
            f"{f.error('attention projections', 16, 1)}; 3.83 of the sheet's 4.0 TB/s were read "
            "(`VP_GH200_MICRO`)."
        ),
        lambda f: True,
    ),
    Gap(
        "The head at 256 to 512 rows.",
        ("draft_head", "head product"),
        lambda f: (
            f"The draft head is {f.error('draft_head', 8, 64)} at block 8, c=64 (448 rows), and "
            f"its product on its own {f.error('lm_head_gemm', 1, 256)} at 256 rows. The table has "
            "the fastest of three frameworks in every cell; what ran here was not the fastest."
        ),
        _missed("draft_head", 8, 64, 0.1),
    ),
    Gap(
        "The host (block 8).",
        ("host_gap", "cycle_traced", "cycle_untraced"),
        lambda f: (
            "The FlashInfer server plans on the host with lengths it waits for, once per cycle: "
            f"the GPU idles {f.us('host_gap', 8, 1)} us at c=1. The Triton server plans nothing, "
            f"its host runs 6 ms ahead, and the GPU idles {f.us('host_gap', 16, 1)} "
            "(`VP_GH200_HOSTGAP`). Tracing inflates the first; untraced it was 1.4 ms on a "
            "like server. Our sheet is the build of June, whose DFlash worker plans from lagging "
            "lengths and does not wait. That the host is an Arm Grace and no x86 is another "
            "possible cause, which one machine cannot separate."
        ),
        _missed("host_gap", 8, 1, 0.5),
    ),
    Gap(
        "KV injection and gaps at large batches.",
        ("kv_injection", "gaps_in_graphs"),
        lambda f: (
            f"KV injection is {f.error('kv_injection', 16, 64)} at block 16, c=64, and gaps in "
            f"graphs grow to {f.us('gaps_in_graphs', 16, 64)} us where a constant per kernel stays "
            "put. Neither is more than 1 % of the cycle, and no cause is known."
        ),
        _missed("gaps_in_graphs", 16, 64, 0.5),
    ),
)
