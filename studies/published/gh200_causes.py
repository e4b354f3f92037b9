"""Causes of the gaps between the GH200 traces and their prediction, each with its evidence.

Figures are computed here, or published and then named with their source.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

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
        "GDN verification writes one FP32 state per position.",
        ("GDN recurrence", "verify_forward"),
        lambda f: (
            f"It takes {f.us('GDN recurrence', 8, 1)} us at block 8, c=1 and "
            f"{f.us('GDN recurrence', 16, 64)} at block 16, c=64: a third of that cycle. Most of "
            "it is the writing: 4 rows of 128 requests take 432 us with the states saved and 228 "
            "without (`VP_GH200_MICRO`), and a build that does not save them verifies 16 x 16 rows "
            "in 9.1 instead of 11.3 ms (`VP_GH200_PHASE`). We price a read per request and a write "
            "per row at a share of memory bandwidth, and the rows of a request one after the "
            f"other: {f.error('GDN recurrence', 8, 1)} and {f.error('GDN recurrence', 8, 16)} at "
            f"block 8, c=1 and 16, {f.error('GDN recurrence', 16, 64)} at block 16, c=64."
        ),
        lambda f: True,
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
            "server whose drafter had FlashInfer too, which `attention_plan` was taken from. Here "
            "the drafter had FA4, and plans less."
        ),
        _missed("host_gap", 8, 64, 0.3),
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
