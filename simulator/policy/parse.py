"""Policies as users name them: each decides a width per batch, or one per request.

========================= ====================================================================
fixed                     the scenario's block, always
ema[:1,3,7]               SGLang's ladder, climbed by a moving mean of accepted drafts
table:[[1,8,15],[9,64,7]] vLLM's table: drafts by batch size
batch:8                   the block up to so many requests, above them no drafts
context:8192              the block of requests with at most so many cached tokens
accept[:2.5]              the block while cycles give so many tokens, or enough for their price
confidence[:2]            DSpark and vLLM's adaptive verification: the drafts that a confidence
                          head trusts most, as many as pay for themselves in this step
oracle                    knows what would be accepted, and verifies that as far as it pays
========================= ====================================================================

profiles/policies.toml has names for those that engines ship, such as ``sglang-adaptive``.
Draft counts are written as engines write them: a verify width is one more. A policy is plain
data; :meth:`Policy.start` gives what decides during one run.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.policies import LadderSlot, PolicySheet, load_policies
from dflash_sim.profiles.ways_in import UnreadableError, parse_json
from dflash_sim.simulator.engine.scheduler import Req
from dflash_sim.simulator.policy.draft_budget import Confidence, Oracle
from dflash_sim.simulator.policy.ema_ladder import EmaLadder
from dflash_sim.simulator.policy.interface import Plan, Policy, Prices
from dflash_sim.simulator.policy.switches import ContextLimit, MeasuredLength
from dflash_sim.simulator.requests.draws import Draws

FORMS = {
    "fixed": "fixed",
    "ema": "ema, or ema:1,3,7 (a ladder of draft counts)",
    "table": "table:[[1,8,15],[9,64,7]] (from batch, to batch, drafts)",
    "batch": "batch:8 (drafts up to so many requests)",
    "context": "context:8192 (drafts of requests with at most so many tokens)",
    "accept": "accept, or accept:2.5 (drafts while cycles give so many tokens)",
    "confidence": "confidence, or confidence:2 (variance of what the head sees)",
    "oracle": "oracle",
}


@dataclass(frozen=True)
class BatchTable:
    """Drafts by batch size; larger batches than any row take the last one.

    Parameters
    ----------
    rows : (from batch, to batch, drafts), one after the other from batch 1
    """

    rows: tuple[tuple[int, int, int], ...]
    spread: float | None = None

    def start(self, prices: Prices, draws: Draws) -> "BatchTable":
        return self

    def plan(self, reqs: Sequence[Req], kv_tokens: int) -> Plan:
        return Plan.uniform(len(reqs), self.drafts(len(reqs)) + 1)

    def drafts(self, batch: int) -> int:
        """Drafts of a batch of this size."""
        return next((k for _, last, k in self.rows if batch <= last), self.rows[-1][2])

    def processed(self, batch: int, accepted: Sequence[int]) -> None:
        """Nothing to learn."""


def parse_policy(text: str, *, block: int, sheet: PolicySheet | None = None) -> Policy | None:
    """The policy a flag describes; None is the fixed width.

    Parameters
    ----------
    text : one of the forms in ``FORMS``
    block : the widest verify [token]

    Examples
    --------
    >>> parse_policy("table:[[1,8,15],[9,64,7]]", block=16).drafts(9)
    7
    """
    if text == "fixed":
        return None
    sheet = sheet or load_policies()
    if (shipped := sheet.named.get(text.strip())) is not None:
        return _shipped(text.strip(), shipped.policy, block=block, sheet=sheet)
    kind, _, body = text.strip().partition(":")
    if kind not in FORMS:
        known = (*FORMS, *sheet.named)
        raise unknown(kind="policy", value=kind, allowed=known, hint=f"Such as {FORMS['table']}.")
    try:
        return _build(kind, body, block=block, sheet=sheet)
    except UsageError as error:
        msg = f"policy '{text}': {str(error).rstrip('.')}. Write it as {FORMS[kind]}."
        raise UsageError(msg) from error


def _shipped(name: str, text: str, *, block: int, sheet: PolicySheet) -> Policy | None:
    """The policy of a name; drafts that the block has no room for are cut to it."""
    kind, _, body = text.partition(":")
    if kind == "table":
        rows = [[lo, hi, min(k, block - 1)] for lo, hi, k in json.loads(body)]
        body = json.dumps(rows)
    try:
        return _build(kind, body, block=block, sheet=sheet)
    except UsageError as error:
        msg = f"policy '{name}', which is {text}: {error}"
        raise UsageError(msg) from error


def _build(kind: str, body: str, *, block: int, sheet: PolicySheet) -> Policy | None:
    match kind:
        case "fixed" if not body:
            return None
        case "oracle" if not body:
            return Oracle()
        case "ema":
            slots = (_own_ladder(body, block, sheet),) if body else _clipped(sheet.slots, block)
            return EmaLadder(slots, sheet.alpha, sheet.update_interval, sheet.warmup_batches)
        case "table":
            return BatchTable(_table(body, block))
        case "batch":
            most = _count(body, "requests")
            return BatchTable(((1, most, block - 1), (most + 1, most + 1, 0)))
        case "context":
            return ContextLimit(_count(body, "tokens"))
        case "accept":
            return MeasuredLength(_least(body, block) if body else None, sheet.measured)
        case "confidence":
            spread = _spread(body) if body else sheet.spread
            return Confidence(spread, sheet.lag, sheet.smoothing)
        case _:
            msg = f"it takes no value, got '{body}'"
            raise UsageError(msg)


def _clipped(slots: Sequence[LadderSlot], block: int) -> tuple[LadderSlot, ...]:
    """SGLang's ladders without the rungs above the block."""
    kept = []
    for slot in slots:
        drafts = tuple(k for k in slot.drafts if k < block)
        kept.append(LadderSlot(slot.least_batch, drafts, slot.up_hysteresis, slot.down_hysteresis))
    return tuple(kept)


def _own_ladder(body: str, block: int, sheet: PolicySheet) -> LadderSlot:
    words = body.split(",")
    if not all(re.fullmatch(r"\s*\d{1,9}\s*", word) for word in words):
        msg = f"'{body}' is no list of draft counts"
        raise UsageError(msg)
    drafts = tuple(int(word) for word in words)
    if list(drafts) != sorted(set(drafts)):
        msg = f"the rungs must rise, got {body}"
        raise UsageError(msg)
    _check_drafts(drafts[-1], block)
    return LadderSlot(1, drafts, sheet.own_up_hysteresis, sheet.own_down_hysteresis)


def _count(body: str, of: str) -> int:
    if not re.fullmatch(r"\s*\d{1,9}\s*", body) or not int(body):
        msg = f"'{body}' is no number of {of} above 0"
        raise UsageError(msg)
    return int(body)


def _least(body: str, block: int) -> float:
    try:
        value = float(body)
    except ValueError:
        value = math.nan
    if not 1 <= value <= block:
        msg = f"'{body}' is no number of tokens a cycle from 1 to the block's {block}"
        raise UsageError(msg)
    return value


def _spread(body: str) -> float:
    try:
        value = float(body)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        msg = f"'{body}' is no variance"
        raise UsageError(msg)
    return value


def _table(body: str, block: int) -> tuple[tuple[int, int, int], ...]:
    """Rows one after the other from batch 1, none wider than the block."""
    try:
        raw = parse_json(body)
    except UnreadableError:
        raw = None
    if not isinstance(raw, list) or not raw or not all(map(_is_row, raw)):
        msg = f"'{body}' is no list of [from, to, drafts]"
        raise UsageError(msg)
    rows = tuple((lo, hi, k) for lo, hi, k in raw)
    expected = 1
    for lo, hi, k in rows:
        if lo != expected:
            what = "overlaps the one before" if lo < expected else "leaves a gap"
            msg = f"[{lo},{hi},{k}] {what}: it should begin at batch {expected}"
            raise UsageError(msg)
        if hi < lo:
            msg = f"[{lo},{hi},{k}] ends before it begins"
            raise UsageError(msg)
        _check_drafts(k, block)
        expected = hi + 1
    return rows


def _is_row(row: object) -> bool:
    whole = isinstance(row, list) and all(type(x) is int and x >= 0 for x in row)
    return whole and isinstance(row, list) and len(row) == len(("from", "to", "drafts"))


def _check_drafts(drafts: int, block: int) -> None:
    if drafts >= block:
        msg = (
            f"{drafts} drafts need a verify window of {drafts + 1}, and the block is {block}: at "
            f"most {block - 1} drafts"
        )
        raise UsageError(msg)
