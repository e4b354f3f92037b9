"""How many MTP steps, and how far is DFlash ahead of them? The launch post has DFlash at 1.57 x
the best of the model's own MTP layer (Qwen3.5-397B-A17B, HumanEval, one client).

An MTP step waits for the token before it; DFlash drafts a block in one pass. Both verify one row
more than they draft. The card of Qwen3.6-35B-A3B, which is complete, stands beside.

    python studies/gallery/07_mtp_steps.py [--write]
"""

from collections.abc import Iterator, Sequence
from typing import Any

from dflash_sim.simulator.predict import Result
from dflash_sim.studies.published import exhibit as ex
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.plain_table import Table

MODELS = ("qwen3.5-397b-a17b", "qwen3.6-35b-a3b")
CLIENTS = (1, 32)
DRAFTS = (1, 2, 3, 5, 7, 11, 15)
HEAD = ("drafts", "MTP", "published", "error", "drafting [ms]", "DFlash", "published", "error",
        "drafting [ms]")  # fmt: skip


def drafting_ms(result: Result) -> float:
    """Making drafts, and taking in what was accepted [ms]."""
    return result.values["draft_ms"] + result.values["materialise_ms"]


def cells(result: Result) -> tuple[str, ...]:
    """A point beside its published row."""
    point = result.published
    seen = number(point.output_tok_s) if point else ex.NOTHING
    return (number(ex.tok_s(result)), seen, ex.signed(ex.error(result)),
            f"{drafting_ms(result):.2f}")  # fmt: skip


def best(results: Sequence[Result]) -> Result:
    """The fastest, with what its interval needs."""
    return ex.predicted(**max(results, key=ex.tok_s).scenario.model_dump())


def published_best(results: Sequence[Result]) -> float | None:
    """The fastest published row [token/s]."""
    return max((p.output_tok_s for r in results if (p := r.published)), default=None)


def verdict(mtp: Sequence[Result], dflash: Sequence[Result]) -> str:
    """The best of both in words."""
    own, ours, s = best(mtp), best(dflash), mtp[0].scenario
    theirs = published_best(mtp), published_best(dflash)
    seen = f"{theirs[1] / theirs[0]:.2f} x published" if theirs[0] and theirs[1] else "unpublished"
    each = (drafting_ms(mtp[-1]) - drafting_ms(mtp[0])) / (DRAFTS[-1] - DRAFTS[0])
    return (
        f"{s.model}, c={s.conc}: MTP is fastest with {own.setup.block - 1} steps, DFlash with "
        f"block {ours.setup.block}: {ex.ratio(ours, own):.2f} x as fast, 90 % interval "
        f"{ex.span(ex.ratio_span(ours, own))}; {seen}, best over best. A further MTP step takes "
        f"{each:.2f} ms. Drafting {DRAFTS[-1]} tokens instead of {DRAFTS[0]} takes DFlash "
        f"{drafting_ms(dflash[-1]):.2f} instead of {drafting_ms(dflash[0]):.2f} ms."
    )


def story() -> Iterator[ex.Part]:
    shown: list[Result] = []
    for model in MODELS:
        for conc in CLIENTS:
            asked: dict[str, Any] = {"model": model, "conc": conc, "interval": False}
            mtp = [ex.predicted(method="mtp", steps=k, **asked) for k in DRAFTS]
            dflash = [ex.predicted(block=k + 1, **asked) for k in DRAFTS]
            rows = zip(DRAFTS, mtp, dflash, strict=True)
            lines = tuple((str(k), *cells(m), *cells(d)) for k, m, d in rows)
            yield Table(f"{model}, c={conc}, tok/s", HEAD, lines)
            yield verdict(mtp, dflash)
            shown += mtp + dflash
    yield ex.rests_on(shown)


if __name__ == "__main__":
    ex.show(__file__, __doc__, story)
