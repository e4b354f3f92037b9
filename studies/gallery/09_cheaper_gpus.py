"""What is DFlash worth on cheaper and older GPUs? Gains "will not translate linearly", says the
launch post, and leaves it to the reader to measure. What is to be expected, and at what price?

HumanEval, the fewest GPUs that hold the model, the faster of blocks 8 and 16. USD per million
output tokens follow from the range of rents on each device sheet. Only B200 was ever compared with
measurements of this engine; intervals elsewhere allow for it.

    python studies/gallery/09_cheaper_gpus.py [--write]
"""

from collections.abc import Iterator
from typing import Any

from dflash_sim.profiles.errors import InfeasibleError
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.row import to_row
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.compare.validate_question import published
from dflash_sim.studies.published import exhibit as ex
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.plain_table import Table

GPUS = ("b200", "h200", "h100", "rtx_pro_6000", "a100", "l40s")
MODELS = ("qwen3-8b", "qwen3.6-35b-a3b", "qwen3.5-397b-a17b")
CLIENTS = (1, 32)
MUCH = 0.25  # of the time, resting on a roofline [1]
HEAD = ("GPUs", "c", "plain", "DFlash", "block", "x plain", "90 % interval", "FLOP/byte",
        "on links", "USD/M plain", "USD/M DFlash", "meas/fit/roof/assumed")  # fmt: skip


def answer(model: str, gpu: str, conc: int) -> Result:
    """The faster block."""
    asked: dict[str, Any] = {
        "model": model,
        "gpu": gpu,
        "conc": conc,
        "thinking": model != "qwen3-8b",
    }
    few: dict[str, Any] = {"interval": False, "num_prompts": 8 * max(4, conc)}
    fastest = max((ex.predicted(block=block, **few, **asked) for block in (8, 16)), key=ex.tok_s)
    return ex.predicted(block=fastest.setup.block, baseline=True, **asked)


def usd(result: Result) -> dict[str, float]:
    """Per million output tokens, by end of the range of rents."""
    found = to_row(result)["usd_per_mtok_out"]
    assert isinstance(found, dict)
    return found


def price(result: Result) -> str:
    """The range as text, the typical price first."""
    low, typical, high = (f"{usd(result)[end]:.2f}" for end in ("low", "typical", "high"))
    return f"{typical} ({low} to {high})"


def line(r: Result) -> tuple[str, ...]:
    """One GPU."""
    plain, device, v = r.baseline, r.setup.device, r.values
    assert plain is not None
    found = (str(r.scenario.conc), number(ex.tok_s(plain)), number(ex.tok_s(r)), str(r.setup.block))
    gain = (ex.times(r.speedup), ex.span(r.intervals["speedup"]))
    room = (
        f"{device.bf16_flop_s / device.mem_bw_byte_s:.0f}",
        ex.share(v["comm_ms"] / v["step_ms"]),
    )
    kinds = "/".join(f"{100 * part:.0f}" for part in r.evidence.values())
    return (f"{r.setup.tp} x {device.name}", *found, *gain, *room, price(plain), price(r), kinds)


def verdict(conc: int, found: dict[str, Result]) -> str:
    """One concurrency in words."""
    gain = {gpu: r.speedup or 0.0 for gpu, r in found.items()}
    most, least = (pick(gain, key=lambda gpu: gain[gpu]) for pick in (max, min))
    cheapest = min(found, key=lambda gpu: usd(found[gpu])["typical"])
    ends = usd(found[cheapest])
    apart = [gpu for gpu, r in found.items() if usd(r)["low"] > ends["high"]]
    rest = "every other's range overlaps with its own"
    if apart:
        rest = f"it is cheaper than {ex.listed(apart)} at any rent, the other ranges overlap"
    return (
        f"c={conc}: DFlash gives {gain[least]:.2f} x on {least} to {gain[most]:.2f} x on {most}. "
        f"At typical rents {cheapest} is the cheapest per token; {rest}."
    )


def elsewhere() -> str:
    """What was measured on these GPUs other than B200: plain decoding, on an older build."""
    said, inside = [], 0
    rows = [
        o
        for o in published().observations
        if o.value("gpu") in GPUS[1:] and o.value("method") == "none"
    ]
    for row in rows:
        s, seen = Scenario.parse(**row.fields, runs=1), row.metrics["output_throughput"]
        r = predict(s, with_baseline=False)
        low, high = r.intervals["output_throughput"]
        inside += low < seen < high
        off = ex.signed(ex.tok_s(r) / seen - 1)
        said.append(f"{off} for {s.model} on {s.tp} x {s.gpu} at c={s.conc}")
    narrow = "" if inside == len(rows) else "; intervals on other GPUs are too narrow for them"
    return (
        "What is published of servers on these GPUs, B200 aside, is plain decoding of another "
        f"build ({ex.listed(sorted({row.source for row in rows}))}). We are {ex.listed(said)}. "
        f"{inside} of {len(rows)} rows lie inside their 90 % interval{narrow}."
    )


def story() -> Iterator[ex.Part]:
    shown = []
    for model in MODELS:
        found: dict[int, dict[str, Result]] = {conc: {} for conc in CLIENTS}
        without = []
        for gpu in GPUS:
            try:
                for conc in CLIENTS:
                    found[conc][gpu] = answer(model, gpu, conc)
            except InfeasibleError:
                without.append(gpu)
        results = [r for each in found.values() for r in each.values()]
        yield Table(f"{model}, tok/s", HEAD, tuple(map(line, results)))
        none = f" It does not fit on eight of {ex.listed(without)}." if without else ""
        yield f"{model}, " + " ".join(verdict(*each) for each in found.items()) + none
        shown += results
    bare = {r.setup.device.name: None for r in shown if r.evidence["roofline"] > MUCH}
    yield (
        "FLOP/byte: arithmetic over memory bandwidth, the room for rows while weights are read. "
        "on links: share of the step that GPUs spend on one another. The last column is what the "
        "time rests on, in percent; operator tables of a GPU are timed, not servers on it. "
        f"Over {ex.share(MUCH)} of the time is a roofline estimate on: {ex.listed(list(bare))}; "
        "intervals do not allow for that where a GPU has tables of other kernels."
    )
    yield elsewhere()
    yield ex.rests_on(shown)


if __name__ == "__main__":
    ex.show(__file__, __doc__, story)
