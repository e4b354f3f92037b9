"""What do KV injection and block diffusion each give? The ablation of the DFlash paper
(arXiv 2602.06036v2, table 9): Qwen3-4B, block 8, one request on one H200.

The paper ran in Transformers. Its accept lengths are taken as given; what is predicted is the speed
of the same drafters in SGLang. The five-layer EAGLE-3 of the table is left out: the one that has a
sheet has one layer.

    python studies/gallery/12_kv_injection.py [--write]
"""

from collections.abc import Iterator
from typing import Any

from dflash_sim.profiles.load import load_acceptance
from dflash_sim.simulator.predict import Result
from dflash_sim.studies.published import exhibit as ex
from dflash_sim.studies.show.plain_table import Table

DATASETS = ("gsm8k", "humaneval", "mt-bench")
# The drafter's name in the table of accept lengths; its published speed-ups on DATASETS.
VARIANTS = {
    "dflash": ("ablation: DFlash KV", (3.3, 3.2, 2.2)),
    "diffusion-only": ("ablation: DFlash input fusion", (2.9, 2.9, 2.0)),
    "injection-only": ("ablation: DFlash-AR KV", (2.4, 2.3, 1.5)),
}
HEAD = ("data set", "drafter", "accept", "drafting [ms]", "step [ms]", "x plain", "90 % interval",
        "paper", "of dflash", "paper's")  # fmt: skip
ASKED: dict[str, Any] = {
    "model": "qwen3-4b",
    "gpu": "h200",
    "thinking": False,
    "max_new_tokens": 2048,
}


def answer(method: str, dataset: str) -> Result:
    """A variant with the accept length that the paper gives."""
    name, _ = VARIANTS[method]
    rows = [p for p in load_acceptance() if (p.drafter, p.dataset) == (name, dataset)]
    given: dict[str, Any] = {"acceptance": f"al:{rows[0].accept_len}", "block": rows[0].block}
    return ex.predicted(baseline=True, method=method, dataset=dataset, **given, **ASKED)


def line(dataset: str, method: str, found: dict[str, Result]) -> tuple[str, ...]:
    """One variant beside the paper's."""
    r, i = found[method], DATASETS.index(dataset)
    v, paper = r.values, VARIANTS[method][1][i]
    times = (v["accept_length"], v["draft_ms"], v["step_ms"], r.speedup)
    of = (ex.ratio(r, found["dflash"]), paper / VARIANTS["dflash"][1][i])
    ends = ex.span(r.intervals["speedup"])
    return (dataset, method, *map(ex.times, times), ends, f"{paper:.1f}", *map(ex.times, of))


def drafting() -> str:
    """The launch claim about depth: five layers in one pass against one layer four times."""
    asked = ASKED | {"dataset": "gsm8k", "interval": False}
    wide = ex.predicted(method="dflash", block=16, **asked)
    chain = ex.predicted(method="eagle3", steps=4, acceptance="al:3", **asked)
    each = {"draft_ms", "materialise_ms"}
    ours, theirs = (sum(r.values[name] for name in each) for r in (wide, chain))
    assert wide.setup.drafter is not None
    layers = len(wide.setup.drafter.layers)
    return (
        f"A {layers}-layer DFlash drafter takes {ours:.2f} ms for a block of 16; the "
        f"one-layer EAGLE-3 takes {theirs:.2f} ms for 4 tokens. The launch post says that the "
        f"first is faster: here it {'is' if ours < theirs else 'is not'}."
    )


def story() -> Iterator[ex.Part]:
    found = {d: {method: answer(method, d) for method in VARIANTS} for d in DATASETS}
    lines = tuple(line(d, method, found[d]) for d in DATASETS for method in VARIANTS)
    yield Table("Qwen3-4B, one H200, c=1, block 8", HEAD, lines)
    same = 0
    for i, dataset in enumerate(DATASETS):
        order = sorted(VARIANTS, key=lambda m: ex.tok_s(found[dataset][m]))
        same += order == sorted(VARIANTS, key=lambda m: VARIANTS[m][1][i])
    one = found[DATASETS[0]]
    ours = {m: [ex.ratio(found[d][m], found[d]["dflash"]) for d in DATASETS] for m in VARIANTS}
    base = VARIANTS["dflash"][1]
    paper = {m: [x / y for x, y in zip(VARIANTS[m][1], base, strict=True)] for m in VARIANTS}
    said = {m: f"{_range(ours[m])} of the speed is left (paper: {_range(paper[m])})" for m in ours}
    yield (
        f"The order of the three is the paper's on {same} of {len(DATASETS)} data sets. Without "
        f"injection {said['diffusion-only']}; without diffusion {said['injection-only']}, since "
        f"drafting token by token takes {one['injection-only'].values['draft_ms']:.2f} ms a step "
        f"instead of {one['dflash'].values['draft_ms']:.2f}. How much that weighs depends on the "
        "target's own step, which is that of another engine in the paper."
    )
    yield drafting()
    yield ex.rests_on([r for each in found.values() for r in each.values()])


def _range(parts: list[float]) -> str:
    return f"{ex.share(min(parts))} to {ex.share(max(parts))}"


if __name__ == "__main__":
    ex.show(__file__, __doc__, story)
