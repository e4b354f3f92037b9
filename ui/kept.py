"""Answers beside each other: what is asked for, and what was kept, a line each."""

from typing import Any

from dflash_sim.studies.predict.memory import held_at_once
from dflash_sim.studies.show.figures import number
from dflash_sim.ui.answer import Answer, Refusal
from dflash_sim.ui.curves import letter
from dflash_sim.ui.view import View

HEADS = ("server and load", "tok/s", "90 %", "tok/s per GPU", "x plain", "TPOT ms", "TTFT ms",
    "at once", "$ per M")  # fmt: skip


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
    own = view.best or view.refusal
    every = [("", view.state.query, own)]
    every += [(letter(i), b.state.query, b.found) for i, b in enumerate(view.beside)]
    return [{"name": n, "query": query, "cells": _cells(found)} for n, query, found in every]


def _cells(found: Answer | Refusal | None) -> list[str]:
    """A line under ``HEADS``, or as much of it as is known."""
    if not isinstance(found, Answer):
        return ["being worked out" if found is None else found.why]
    row, usd = found.row, found.row["usd_per_mtok_out"]
    gain = row.get("speedup")
    ends = row.get("output_throughput_ci90")
    return [
        found.title,
        number(row["output_throughput"]),
        f"{number(ends[0])} to {number(ends[1])}" if ends else "",
        number(row["output_tput_per_gpu"]),
        f"{gain:.2f}" if gain else "",
        f"{row['mean_tpot_ms']:.2f}",
        number(row["mean_ttft_ms"]),
        f"{at_once(found):,}",
        f"{usd['typical']:.2f}" if usd else "",
    ]
