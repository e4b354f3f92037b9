"""The choice as settings that can be pasted: SGLang's flags, vLLM's table, SGLang's ladder.

Neither engine changes its method while it serves; both may change how many tokens are drafted, by
the size of the batch.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dflash_sim.profiles.policies import load_policies
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.crossover.advice import Choice, choices
from dflash_sim.studies.crossover.search import Crossover, Curve
from dflash_sim.studies.show.launch import draft_path, sglang_flags


@dataclass(frozen=True)
class Setting:
    """What one engine is told.

    Parameters
    ----------
    engine
        Its name and what of it is meant.
    text
        To be pasted.
    note
        What holds for it; may be empty.
    """

    engine: str
    text: str
    note: str = ""


def settings(found: Crossover) -> list[Setting]:
    """Return settings for every stretch, and what changes the width by batch size."""
    if not found.axis.chooses:
        return []
    parts = choices(found)
    out = []
    for part in parts:
        where = f"SGLang, {found.axis.said(part.first)} to {found.axis.said(part.last)}"
        if part.curve is None:
            out.append(Setting(where, "(no --speculative-algorithm)"))
        else:
            out.append(Setting(where, sglang_flags(part.curve.setup)))
    method = next((p.curve.setup.method for p in parts if p.curve is not None), None)
    out += _clients(found, parts)
    if found.axis.name != "conc" or method is None:
        return out
    own = [c for c in found.curves if c.setup.method is method]
    stretches = choices(found, own)
    sheet = load_policies()
    if method.name in sheet.vllm_methods:
        out.append(
            Setting(
                "vLLM, by batch size",
                vllm_config(own, stretches),
                f"of {method.name} alone, up to the largest batch that ran; prices are SGLang's",
            )
        )
    if len(stretches) > 1 and method.algorithm in sheet.adaptive_algorithms:
        out += _adaptive(own, stretches, since=sheet.adaptive_since)
    return out


def _clients(found: Crossover, parts: Sequence[Choice]) -> list[Setting]:
    """Return what clients ask for; along an axis of temperatures, for each stretch its warmest."""
    plain = found.question.plain
    if found.axis.name != "temperature":
        return requests_of(plain)
    said, out = found.axis.said, []
    for part in parts:
        warmest = plain.scenario.model_copy(update={"temperature": part.last})
        for told in requests_of(replace(plain, scenario=warmest)):
            where = f"Clients, {said(part.first)} to {said(part.last)}"
            note = f"or any temperature of the stretch, {told.note}"
            out.append(replace(told, engine=where, note=note))
    return out


def requests_of(setup: Setup) -> list[Setting]:
    """Return what clients have to ask for, where answers are sampled: no launch says it."""
    s = setup.scenario
    if not s.temperature:
        return []
    body: dict[str, float] = {"temperature": round(s.temperature, 3)}
    if s.top_p < 1:
        body["top_p"] = s.top_p
    if s.top_k is not None:
        body["top_k"] = s.top_k
    note = "in every request; servers take it for none but those that say nothing"
    return [Setting("Clients", f"# {json.dumps(body)}", note)]


def vllm_table(stretches: Sequence[Choice], plain: Setup) -> list[list[int]]:
    """``num_speculative_tokens_per_batch_size``: ``[[from batch, to batch, drafts], ...]``.

    A server runs no larger batches than its cap, however many requests are in flight: rows end
    there, and so does the table.
    """
    rows: list[list[int]] = []
    for s in stretches:
        setup = s.curve.setup if s.curve else plain
        first = rows[-1][1] + 1 if rows else 1
        last = min(int(s.last), setup.limits.max_running_requests)
        if last >= first:
            rows.append([first, last, _drafts(s)])
    return rows


def vllm_config(own: Sequence[Curve], stretches: Sequence[Choice]) -> str:
    """Return vLLM's ``--speculative-config`` with its table."""
    setup = own[0].setup
    rows = vllm_table(stretches, own[0].plain.base)
    config: dict[str, object] = {"method": setup.method.name}
    path = draft_path(setup)
    if path is not None:
        config["model"] = path
    config["num_speculative_tokens"] = max(drafts for *_, drafts in rows)
    config["num_speculative_tokens_per_batch_size"] = rows
    return f"--speculative-config '{json.dumps(config)}'"


def sglang_ladder(stretches: Sequence[Choice], plain: Setup) -> str:
    """Return the file of ``--speculative-adaptive-config``: draft counts by least batch."""
    rows = vllm_table(stretches, plain)
    return json.dumps({str(first): {"candidate_steps": [drafts]} for first, _, drafts in rows})


def _adaptive(own: Sequence[Curve], stretches: Sequence[Choice], *, since: str) -> list[Setting]:
    widest = max((s.curve for s in stretches if s.curve), key=lambda c: c.setup.block)
    flags = f"{sglang_flags(widest.setup)} --speculative-adaptive"
    return [
        Setting(
            "SGLang, by batch size",
            f"{flags} --speculative-adaptive-config ladder.json",
            f"SGLang {since} or later; ladder.json is the next line",
        ),
        Setting("ladder.json", sglang_ladder(stretches, own[0].plain.base)),
    ]


def _drafts(choice: Choice) -> int:
    return choice.curve.setup.block - 1 if choice.curve else 0
