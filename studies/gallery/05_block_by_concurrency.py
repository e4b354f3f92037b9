"""Block 8 or block 16? The launch post recommends 8 for many clients and 16 for one. Where do they
cross?

A wider block pays while its step is less longer than its accepted tokens are more. Two models,
HumanEval, at most 64 requests at once; then every data set of the cards.

    python studies/gallery/05_block_by_concurrency.py [--write]
"""

from collections.abc import Iterator
from typing import Any

from dflash_sim.simulator.predict import Result
from dflash_sim.studies.published import exhibit as ex
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.plain_table import Table

LARGE, SMALL = "qwen3.5-397b-a17b", "qwen3.6-35b-a3b"
CLIENTS = (1, 4, 8, 16, 32, 64)
HEAD = ("c", "block 8", "block 12", "block 16", "16 over 8", "90 % interval", "published", "step x",
        "at once")  # fmt: skip
DATASETS = ("gsm8k", "math500", "humaneval", "mbpp", "mt-bench")
CARDS = ((LARGE, 1), (SMALL, 1), (SMALL, 32))


def line(narrow: Result, between: Result, wide: Result) -> tuple[str, ...]:
    """One concurrency."""
    conc = narrow.scenario.conc or 1
    speeds = [number(ex.tok_s(r)) for r in (narrow, between, wide)]
    gain = (ex.times(ex.ratio(wide, narrow)), ex.span(ex.ratio_span(wide, narrow)))
    step = ex.times(wide.values["step_ms"] / narrow.values["step_ms"])
    running = [min(r.setup.limits.max_running_requests, conc) for r in (narrow, wide)]
    seen = ex.times(ex.published_ratio(wide, narrow))
    return (str(conc), *speeds, *gain, seen, step, "{} / {}".format(*running))


def verdict(model: str, found: list[tuple[Result, Result, Result]]) -> str:
    """One model in words."""
    gain = {c: ex.ratio(wide, narrow) for c, (narrow, _, wide) in zip(CLIENTS, found, strict=True)}
    spans = [ex.ratio_span(wide, narrow) for narrow, _, wide in found]
    sure = [c for c, (low, high) in zip(CLIENTS, spans, strict=True) if low > 1 or high < 1]
    middle = [c for c, r in zip(CLIENTS, found, strict=True) if max(r, key=ex.tok_s) is r[1]]
    crossed = ex.crossings(gain)
    where = f"they cross at c = {ex.listed(crossed)}" if crossed else "they never cross"
    narrow, wide = (found[0][i].values["accept_length_cycle"] for i in (0, 2))
    return (
        f"{model}: block 16 accepts {wide / narrow:.2f} times the tokens of block 8 ({wide:.2f} "
        f"against {narrow:.2f}); its step is {ex.times(max(_steps(found)))} times as long at most. "
        f"It is ahead at c = {ex.listed([c for c in CLIENTS if gain[c] > 1])}; {where}. The "
        f"interval decides at c = {ex.listed(sure)}; elsewhere either may be faster. Block 12, on "
        f"interpolated accept lengths, is ahead of both at c = {ex.listed(middle)}."
    )


def _steps(found: list[tuple[Result, Result, Result]]) -> list[float]:
    return [wide.values["step_ms"] / narrow.values["step_ms"] for narrow, _, wide in found]


def by_dataset() -> Iterator[ex.Part]:
    """Block 16 over block 8 on every data set, beside the cards."""
    lines: list[tuple[str, ...]] = [(dataset,) for dataset in DATASETS]
    heads, said = ["data set"], []
    for model, conc in CARDS:
        pairs = []
        for i, dataset in enumerate(DATASETS):
            asked: dict[str, Any] = {
                "model": model,
                "conc": conc,
                "dataset": dataset,
                "interval": False,
            }
            narrow, wide = (ex.predicted(block=block, **asked) for block in (8, 16))
            ours, theirs = ex.ratio(wide, narrow), ex.published_ratio(wide, narrow)
            lines[i] += (ex.times(ours), ex.times(theirs))
            if theirs is not None:
                pairs.append((ours, theirs))
        heads += [f"{model}, c={conc}", "published"]
        right = sum((ours > 1) == (theirs > 1) for ours, theirs in pairs)
        off = sum(ours / theirs - 1 for ours, theirs in pairs) / max(1, len(pairs))
        said.append(
            f"{model}, c={conc}: the faster block is predicted for {right} of {len(pairs)} data "
            f"sets; block 16 comes out {ex.signed(off)} against block 8 on average."
        )
    yield Table("block 16 over block 8", tuple(heads), tuple(lines))
    yield " ".join(said)


def story() -> Iterator[ex.Part]:
    shown: list[Result] = []
    for model in (LARGE, SMALL):
        found = []
        for conc in CLIENTS:
            asked: dict[str, Any] = {
                "model": model,
                "conc": conc,
                "max_running_requests": CLIENTS[-1],
            }
            narrow, wide = (ex.predicted(block=block, **asked) for block in (8, 16))
            found.append((narrow, ex.predicted(block=12, interval=False, **asked), wide))
            shown += found[-1]
        yield Table(f"{model}, tok/s", HEAD, tuple(line(*each) for each in found))
        yield verdict(model, found)
    yield (
        "step x: how much longer the step of block 16 is. at once: requests that run, block 8 / "
        "block 16. States of linear attention are kept for every row of a block; where they do "
        "not fit, requests wait."
    )
    yield from by_dataset()
    yield ex.rests_on(shown)


if __name__ == "__main__":
    ex.show(__file__, __doc__, story)
