"""Which policy should choose the block of a DFlash server, and how much is left to gain?

Qwen3.5-397B-A17B on eight B200, HumanEval, in the published setup. The block by batch size is
tuned on steady steps and pasted back as vLLM's table; the oracle knows what will be accepted. One
run each, of two prompts per client and eight at least.

    python studies/gallery/11_policies.py [--write]
"""

import json
from collections.abc import Iterator

from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies import exhibit as ex
from dflash_sim.studies.present import number, shares
from dflash_sim.studies.texttable import Table
from dflash_sim.studies.tune import tune_block

CLIENTS = (1, 8, 32, 48)
WIDTHS = (1, 4, 8, 12, 16)
LADDER, SGLANG, CONFIDENCE, ORACLE = "ema:1,3,7,15", "ema", "confidence", "oracle"


def answer(conc: int, policy: str) -> Result:
    """One policy at one concurrency."""
    prompts = max(8, 2 * conc)
    asked = Scenario.parse(conc=conc, num_prompts=prompts, runs=1, policy=policy)
    return predict(asked, with_baseline=False, with_interval=False)


def speed(result: Result) -> float:
    return result.values["output_throughput"]


def speeds(found: dict[tuple[int, str], Result], policies: dict[str, str]) -> Table:
    """Throughput of each policy over the fixed block."""
    rows = []
    for c in CLIENTS:
        fixed = speed(found[c, "fixed"])
        gains = [f"{100 * (speed(found[c, p]) / fixed - 1):+.1f} %" for p in policies.values()]
        rows.append((str(c), number(fixed), *gains))
    return Table("tok/s over block 16", ("c", "block 16", *policies), tuple(rows))


def widths(found: dict[tuple[int, str], Result], policies: dict[str, str]) -> Table:
    """Tokens verified per request and step, and accepted of the drafts among them."""
    rows = []
    for c in CLIENTS:
        each = [found[c, p].values for p in policies.values()]
        cells = [f"{v['verify_width']:.1f} ({100 * v['accept_rate']:.0f} %)" for v in each]
        rows.append((str(c), *cells))
    return Table("verified per request, and drafts of it accepted", ("c", *policies), tuple(rows))


def story() -> Iterator[ex.Part]:
    """The parts in order."""
    tuned = tune_block(Scenario.parse(), blocks=WIDTHS)
    yield tuned.table()
    rows = tuned.as_vllm()
    yield f"As vLLM takes it, in drafts: {json.dumps(rows)}."
    policies = {
        "block 8": "table:[[1,64,7]]",
        "tuned table": f"table:{json.dumps(rows, separators=(',', ':'))}",
        "SGLang's ladder": SGLANG,
        "ladder to 15": LADDER,
        "confidence": CONFIDENCE,
        "oracle": ORACLE,
    }
    found = {(c, p): answer(c, p) for c in CLIENTS for p in ("fixed", *policies.values())}
    yield speeds(found, policies)
    yield widths(found, {"block 16": "fixed"} | policies)
    won = [c for c in CLIENTS if speed(found[c, CONFIDENCE]) > speed(found[c, "fixed"])]
    left = max(speed(found[c, ORACLE]) / speed(found[c, CONFIDENCE]) for c in CLIENTS)
    lost = min(speed(found[c, SGLANG]) / speed(found[c, "fixed"]) for c in CLIENTS)
    yield (
        f"Confidence is ahead of block 16 at c = {ex.listed(won)}; knowing everything would serve "
        f"{ex.times(left)} times its tokens at most. SGLang's own ladder, made for EAGLE, ends at "
        "seven drafts and falls to one from 32 requests on: it serves "
        f"{ex.times(lost)} times block 16 at worst. A head is assumed, as good as DSpark's "
        "(profiles/policies.toml); DFlash ships none."
    )
    yield f"sources: {shares(found[CLIENTS[-1], 'fixed'].evidence)}"


if __name__ == "__main__":
    ex.show(__file__, __doc__, story)
