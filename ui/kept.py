"""Answers beside each other: what is asked for, and what was kept, a line each."""

from typing import Any

from dflash_sim.simulator.caveats import held_at_once
from dflash_sim.studies.show.figures import number
from dflash_sim.ui.answer import Answer, Refusal
from dflash_sim.ui.curves import letter
from dflash_sim.ui.state import State
from dflash_sim.ui.view import View

HEADS = ("server and load", "tok/s", "90 %", "tok/s per GPU", "x plain", "TPOT ms", "TTFT ms",
    "at once", "$ per M")  # fmt: skip
_IN_TITLE = {"model", "gpu", "tp", "method", "block", "steps", "dataset", "thinking", "isl", "osl",
    "conc", "rate"}  # fmt: skip


def at_once(best: Answer) -> int:
    """Return how many requests of this length run at once, by slots and by memory."""
    holds = held_at_once(best.row, best.memory["kv_tokens"])
    return min(int(best.row["max_running_requests"]), max(holds, 1))


def at_once_words(best: Answer) -> str:
    """Say how many requests run at once, and what limits that."""
    many, cap = at_once(best), best.row["max_running_requests"]
    if many < cap:
        tokens = best.memory["kv_tokens"]
        return f"{many:,} requests of this length at once: {tokens:,} tokens of keys and values"
    return f"{cap:,} requests at once, limited by: {best.row['max_running_requests_cause']}"


def kept_lines(view: View) -> list[dict[str, Any]]:
    """Return what is asked for and what was kept, a line each; nothing where nothing was kept."""
    if not view.beside:
        return []
    every = [("", view.state, view.best or view.refusal)]
    every += [(letter(i), b.state, b.found) for i, b in enumerate(view.beside)]
    fields = [state.fields for _, state, _ in every]
    told = {n for f in fields for n in f if any(f[n] != g.get(n) for g in fields)} - _IN_TITLE
    return [
        {"name": name, "query": state.query, "cells": _cells(found, _also(state, told))}
        for name, state, found in every
    ]


def _also(state: State, told: set[str]) -> str:
    """What a title leaves out, where it is what tells lines apart."""
    return "".join(f" · {n} {state.fields[n]}" for n in sorted(told) if n in state.fields)


def _cells(found: Answer | Refusal | None, also: str) -> list[str]:
    """A line under ``HEADS``, or as much of it as is known."""
    if not isinstance(found, Answer):
        return ["being worked out" if found is None else found.why]
    row, usd = found.row, found.row["usd_per_mtok_out"]
    gain = row.get("speedup")
    ends = row.get("output_throughput_ci90")
    return [
        found.title + also,
        number(row["output_throughput"]),
        f"{number(ends[0])} to {number(ends[1])}" if ends else "",
        number(row["output_tput_per_gpu"]),
        f"{gain:.2f}" if gain else "",
        f"{row['mean_tpot_ms']:.2f}",
        number(row["mean_ttft_ms"]),
        f"{at_once(found):,}",
        f"{usd['typical']:.2f}" if usd else "",
    ]
