"""The GH200 page: phases, kernels, and what explains the gaps."""

from collections.abc import Iterable, Sequence

from dflash_sim.profiles.units import US
from dflash_sim.studies.published.gh200_causes import GAPS, Facts
from dflash_sim.studies.published.gh200_phases import (
    COUNTED,
    MACHINE,
    Outcome,
    apart,
    bias,
    counted,
    mape,
    taken_from,
)
from dflash_sim.studies.show.figures import percent, signed
from dflash_sim.studies.show.plain_table import Table

BLOCKS = (8, 16)


def quoted(facts: Facts) -> dict[str, str]:
    """Return the sentences and figures that the pages quote, by name."""
    engine = facts.server.engine
    names = ", ".join(f"`{name}`" for name in taken_from(MACHINE, engine, engine.constants))
    gaps = [f"* **{gap.title}** {gap.text(facts)}" for gap in GAPS if gap.shows(facts)]
    found = {"GH200 constants": names or "none", "GH200 gaps": "\n\n" + "\n".join(gaps) + "\n\n"}
    unseen = apart((*facts.phases, *facts.again))
    found |= {"GH200 unseen verify": str(len(unseen)), "GH200 unseen MAPE": percent(mape(unseen))}
    for block in BLOCKS:
        group = [o for o in counted(facts.phases) if o.block == block]
        found |= {
            f"GH200 block {block} phases": str(len(group)),
            f"GH200 block {block} MAPE": percent(mape(group)),
            f"GH200 block {block} bias": signed(bias(group)),
        }
    return found


# ---- tables ------------------------------------------------------------------------------


def tables(facts: Facts) -> list[Table]:
    """Return the tables of the page, in order."""
    return [
        _phase_table(facts.phases),
        _error_table(facts.phases),
        _kernel_table(facts.kernels),
        _alone_table(facts.alone),
        _again_table(facts.again),
    ]


def _phase_table(traced: Sequence[Outcome]) -> Table:
    rows = []
    for block in BLOCKS:
        for what, group in _by_what(o for o in traced if o.block == block):
            prior = ", ".join(group[0].prior)
            share = max(o.from_constants for o in group)
            note = f"used for the prior: {prior}" if prior else f"up to {share:.0%} constants"
            rows.append((str(block), in_words(what), *map(_cell, group), note))
    head = ("block", "phase", *_columns(traced), "rests on")
    return Table("GH200 phases", head, tuple(rows))


def _error_table(traced: Sequence[Outcome]) -> Table:
    rows = []
    for what in (*COUNTED, "all"):
        row = [in_words(what)]
        for block in BLOCKS:
            group = [o for o in counted(traced) if o.block == block and what in (o.what, "all")]
            row += [str(len(group)), percent(mape(group)), signed(bias(group))]
        rows.append(tuple(row))
    stats = [f"block {block} {stat}" for block in BLOCKS for stat in ("rows", "MAPE", "bias")]
    return Table("GH200 errors by phase", ("phase", *stats), tuple(rows))


def _kernel_table(kernels: Sequence[Outcome]) -> Table:
    cycles = list(dict.fromkeys((o.block, o.conc) for o in kernels))
    head = ("kernels", *(f"block {b}, c={c}" for b, c in cycles))
    rows = [(what, *map(_cell, group)) for what, group in _by_what(kernels)]
    return Table("GH200 kernels of the verify pass", head, tuple(rows))


def _alone_table(alone: Sequence[Outcome]) -> Table:
    rows = [
        (
            what.replace("_", " "),
            str(group[0].block),
            f"{group[0].conc} to {group[-1].conc}",
            percent(mape(group)),
            signed(bias(group)),
        )
        for what, group in _by_what(alone)
    ]
    head = ("kernel", "rows per request", "requests", "MAPE", "bias")
    return Table("GH200 kernels on their own", head, tuple(rows))


def _again_table(again: Sequence[Outcome]) -> Table:
    rows = [(in_words(what), *map(_cell, group)) for what, group in _by_what(again)]
    return Table("GH200 block 16 with FlashInfer", ("phase", *_columns(again)), tuple(rows))


def in_words(phase: str) -> str:
    """``KV injection`` for ``kv_injection``."""
    return " ".join({"kv": "KV", "gdn": "GDN"}.get(w, w) for w in phase.split("_"))


def _columns(outcomes: Iterable[Outcome]) -> list[str]:
    return [f"c={c}" for c in sorted({o.conc for o in outcomes})]


def _cell(o: Outcome) -> str:
    return f"{o.observed_s / US:.0f} / {o.predicted_s / US:.0f}, {100 * o.error:+.0f} %"


def _by_what(outcomes: Iterable[Outcome]) -> list[tuple[str, list[Outcome]]]:
    groups: dict[str, list[Outcome]] = {}
    for o in outcomes:
        groups.setdefault(o.what, []).append(o)
    return list(groups.items())
