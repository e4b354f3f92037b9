"""The launch post has DFlash at 4.31 x plain decoding for one client and 2.77 x for 32
(Qwen3.5-397B-A17B, 8 x B200, HumanEval, block 16). What makes the factor, and what takes it away?

Every rung is a simulated server that has one property more than the one above, and the factors
multiply to the speed-up. Servers between the ends cannot be built, so only the ends are published.

    python studies/gallery/04_why_four_times.py [--write]
"""

from collections.abc import Iterator
from math import prod

from dflash_sim.simulator.predict import Result
from dflash_sim.studies.explain.replay import Replay
from dflash_sim.studies.explain.waterfall import Rung, waterfall
from dflash_sim.studies.published import exhibit as ex
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.plain_table import Table

CLIENTS = (1, 32)
HEAD = ("with", "tok/s", "x plain", "factor", "published", "error", "because")
OVERLAP = ("V2 worker", "overlap")  # what V2 adds to a scheduler that takes turns with the GPU


def table(result: Result, rungs: tuple[Rung, ...]) -> Table:
    """The rungs, with what is published at both ends."""
    assert result.baseline is not None
    ends = {rungs[0].name: result.baseline, rungs[-1].name: result}
    lines = []
    for rung in rungs:
        end = ends.get(rung.name)
        point = end.published if end else None
        seen = number(point.output_tok_s) if point else ex.NOTHING
        missed = ex.signed(ex.error(end) if end else None)
        of_plain = ex.times(rung.speed_tok_s / rungs[0].speed_tok_s)
        speeds = (number(rung.speed_tok_s), of_plain, ex.times(rung.factor))
        lines.append((rung.name, *speeds, seen, missed, rung.why))
    return Table(f"c={result.scenario.conc}, block {result.setup.block}", HEAD, tuple(lines))


def verdict(result: Result, factor: dict[str, float]) -> str:
    """One end in words."""
    plain = result.baseline
    assert plain is not None
    assert result.speedup is not None
    theirs = ex.published_ratio(result, plain)
    v, rows = result.values, result.setup.block
    return (
        f"c={result.scenario.conc}: {result.speedup:.2f} x predicted, 90 % interval "
        f"{ex.span(result.intervals['speedup'])}; {ex.times(theirs)} x published. Accepting "
        f"{v['accept_length_cycle']:.2f} tokens a step would give {factor['acceptance']:.2f} x if "
        f"it cost nothing. Verifying {rows} rows instead of one takes "
        f"{v['verify_ms'] / plain.values['verify_ms']:.2f} times as long and leaves "
        f"{ex.share(factor['verification'])} of that; drafting, {v['draft_ms']:.2f} of "
        f"{v['step_ms']:.2f} ms, leaves {ex.share(factor['drafting'])} of the rest. V2 is worth "
        f"{prod(factor[name] for name in OVERLAP):.2f} x over a scheduler that takes turns with "
        f"the GPU; {v['host_exposed_ms']:.2f} ms of host time still show."
    )


def story() -> Iterator[ex.Part]:
    results, factors = [], []
    for conc in CLIENTS:
        result = ex.predicted(block=16, conc=conc, runs=2, baseline=True)
        rungs = waterfall(result, Replay(result.setup))
        results.append(result)
        factors.append({rung.name: rung.factor for rung in rungs})
        yield table(result, rungs)
    for result, factor in zip(results, factors, strict=True):
        yield verdict(result, factor)
    few, many = factors
    lost = {name: many[name] / few[name] for name in few}
    most, second, *_ = sorted(lost, key=lambda name: lost[name])
    yield (
        f"From {CLIENTS[0]} to {CLIENTS[1]} clients the speed-up is multiplied by "
        f"{prod(lost.values()):.2f}. Most of that is {most} ({lost[most]:.2f}), then {second} "
        f"({lost[second]:.2f})."
    )
    yield ex.rests_on([*results, *(r.baseline for r in results if r.baseline)])


if __name__ == "__main__":
    ex.show(__file__, __doc__, story)
