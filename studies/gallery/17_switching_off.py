"""Does a server that stops drafting get plain decoding back, and which policy stops in time?

Qwen3.5-4B on one GH200, block 8, forced answers of 512 tokens: DFlash beats plain decoding up to
some fifty requests. Every policy serves the same requests with the same latent acceptance; the
switch by batch is at the crossing that is predicted, the one by acceptance learns it from the price
of a cycle and the tokens that it gave.

    python studies/gallery/17_switching_off.py [--write]
"""

import json
from collections.abc import Iterator
from typing import Any

from dflash_sim.profiles.policies import load_policies
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.crossover.axis import axis_of
from dflash_sim.studies.crossover.page import interval
from dflash_sim.studies.crossover.question import Question
from dflash_sim.studies.crossover.search import Curve, crossover
from dflash_sim.studies.published import exhibit as ex
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.plain_table import Table

SERVER: dict[str, Any] = {
    "gpu": "gh200", "model": "qwen3.5-4b", "dataset": "vp-mixed-v2", "max_new_tokens": 512,
    "radix_cache": False, "max_running_requests": 128, "mem_fraction_static": 0.85, "runs": 1,
}  # fmt: skip
WIDE = 8
CLIENTS = (8, 32, 48, 64, 128)
WAVES = 4
LADDER, EXAMPLE, LEARNS = "sglang-adaptive", "vllm-example", "accept"


def crossing() -> Curve:
    """Where the block stops paying."""
    setup = resolve(Scenario.parse(**SERVER, block=WIDE))
    plain = resolve(setup.scenario.without_speculation(tp=setup.tp))
    places = tuple(float(2**n) for n in range(8))
    return crossover(Question(axis_of("conc"), plain, (setup,), places)).curves[0]


def answer(conc: int, policy: str) -> Result:
    """One policy at one concurrency, or plain decoding."""
    how: dict[str, Any] = {"block": WIDE, "policy": policy}
    if policy == "none":
        how = {"method": "none"}
    asked = Scenario.parse(**SERVER, **how, conc=conc, num_prompts=WAVES * conc)
    return predict(asked, with_baseline=False, with_interval=False)


def story() -> Iterator[ex.Part]:
    """The parts in order."""
    curve = crossing()
    last = int(curve.until.value)
    policies = {
        "plain": "none",
        "always": "fixed",
        f"up to {last}": f"batch:{last}",
        "learns": LEARNS,
        "SGLang's ladder": LADDER,
        "vLLM's example": EXAMPLE,
    }
    found = {(c, p): answer(c, p) for c in CLIENTS for p in policies.values()}
    drafting = {title: p for title, p in policies.items() if p != "none"}
    rows, widths = [], []
    for c in CLIENTS:
        plain = found[c, "none"]
        each = [found[c, p] for p in drafting.values()]
        gains = (ex.times(ex.ratio(one, plain)) for one in each)
        rows.append((str(c), number(ex.tok_s(plain)), *gains))
        widths.append((str(c), *(f"{one.values['verify_width']:.1f}" for one in each)))
    head = ("c", "plain, tok/s", *drafting)
    yield Table("throughput over plain decoding", head, tuple(rows))
    yield Table("tokens verified of a request and step", ("c", *drafting), tuple(widths))
    worst = {
        title: min(ex.ratio(found[c, p], found[c, "none"]) for c in CLIENTS)
        for title, p in drafting.items()
    }
    least = [f"{ex.times(gain)} ({title})" for title, gain in worst.items()]
    yield (
        f"Block {WIDE} is predicted to pay up to {last} requests at once (90 %: "
        f"{interval(curve)}). Over these loads the least of each policy "
        f"against plain decoding is {ex.listed(least)}."
    )
    off = next(c for c in CLIENTS if c > last)
    idle, plain = found[off, f"batch:{last}"].values, found[off, "none"].values
    kept = idle["commit_ms"] + idle["materialise_ms"]
    waits = idle["host_exposed_ms"] - plain["host_exposed_ms"]
    yield (
        f"A step without drafts is none of plain decoding: with {off} in flight it takes "
        f"{number(idle['step_ms'])} ms instead of {number(plain['step_ms'])} ms, of which "
        f"{number(kept)} ms commit recurrent states and keep the drafter's cache up to date, and "
        f"{number(waits)} ms wait for a host that plans each verify when it knows its lengths. Who "
        "learns compares drafts with that step, and goes on drafting while they beat it."
    )
    named = load_policies().named
    tables = json.dumps({name: named[name].policy for name in (LADDER, EXAMPLE)})
    yield (
        f"The two that engines ship ({tables}) know nothing of this server: SGLang has its ladder "
        "for EAGLE drafters alone, and vLLM's table is the example of its documentation."
    )
    yield ex.rests_on([found[c, "fixed"] for c in CLIENTS])


if __name__ == "__main__":
    ex.show(__file__, __doc__, story)
