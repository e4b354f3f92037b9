"""Remarks beside a number may settle the cache, forced lengths, and how many requests were sent."""

import re
from typing import Any

_RADIX = re.compile(r"\bradix(?:[ _-]cache)?(?: is| was)? (on|off)\b", re.IGNORECASE)
_FORCED = re.compile(
    r"\bexactly (\d+) (?:output |new )?tokens|\b(\d+) forced (?:output |new )?tokens",
    re.IGNORECASE,
)
_FEWER = re.compile(r"\bmin\((\d+) ?\*? ?c, ?(\d+)\)")
_MORE = re.compile(r"\bmax\((\d+), ?(\d+) ?\*? ?c\)")
_PROMPTS = re.compile(r"\b(\d+) (?:random )?(?:prompts|requests)\b(?! (?:at|for|per) )")
_CAP = re.compile(r"\bcap(\d+)\b")
_COPIES = "whole-workload copies"


def hinted(text: str, *, conc: int) -> dict[str, Any]:
    """Scenario fields that ``text`` settles; ``osl`` is a forced answer length [token].

    Examples
    --------
    >>> hinted("MTP s3, radix off; max(32,4c) requests; exactly 512 output tokens", conc=16)
    {'radix_cache': False, 'osl': 512, 'num_prompts': 64}
    """
    found: dict[str, Any] = {}
    if radix := _RADIX.search(text):
        found["radix_cache"] = radix[1].lower() == "on"
    if forced := _FORCED.search(text):
        found["osl"] = int(forced[1] or forced[2])
    if (prompts := _num_prompts(text, conc)) is not None:
        found["num_prompts"] = prompts
    elif _COPIES in text:
        found["num_prompts"] = None  # the scenario's own harness
    if cap := _CAP.search(text):
        found["max_running_requests"] = int(cap[1])
    return found


def _num_prompts(text: str, conc: int) -> int | None:
    if fewer := _FEWER.search(text):
        return min(int(fewer[1]) * conc, int(fewer[2]))
    if more := _MORE.search(text):
        return max(int(more[1]), int(more[2]) * conc)
    fixed = _PROMPTS.search(text)
    return int(fixed[1]) if fixed else None
