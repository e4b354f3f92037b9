"""Formats in which other tools write the requests of a trace."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONTENT = "content"  # a column that any of them may have: what each request is about


@dataclass(frozen=True)
class TraceFormat:
    """The format in which one tool writes a request.

    Parameters
    ----------
    needs
        Fields that tell it from the others.
    time, isl, osl
        Names of the three that are read; ``time`` is empty where there is none.
    unit
        Of the timestamps.
    may
        Other fields it is known to have.
    table
        Written as CSV; otherwise one JSON object a line.
    failed
        An answer of no tokens is a failed request, left out.
    strict
        Fields that are not known are refused.
    dates
        Times are dates, such as ``2023-11-16 18:17:03.97``.
    delay
        Name of a field that stands in for the time of a session's later requests: from the answer
        to the one before to this one.
    session
        Name of the field that later requests share with the first, or that ``parent`` is about.
    parent
        Name of the field with the session of the turn before; each has one of its own then.
    scope
        Name of a field within which alone names of blocks mean the same.
    block
        Tokens of a block that ``hash_ids`` name [token]; 0 where only the file can say.
    """

    name: str
    needs: frozenset[str]
    time: str
    isl: str
    osl: str
    unit: str = "s"
    may: frozenset[str] = frozenset()
    table: bool = False
    failed: bool = False
    strict: bool = False
    dates: bool = False
    delay: str = ""
    session: str = ""
    parent: str = ""
    scope: str = ""
    block: int = 0


def _fields(text: str) -> frozenset[str]:
    return frozenset(text.split())


_JSON_LENGTHS = ("input_length", "output_length")
FORMATS = {
    f.name: f
    for f in (
        TraceFormat(
            "qwen",
            _fields("chat_id timestamp input_length output_length"),
            "timestamp",
            *_JSON_LENGTHS,
            may=_fields("parent_chat_id type turn hash_ids block_size"),
            session="chat_id",
            parent="parent_chat_id",
            block=16,
        ),
        TraceFormat(
            "mooncake",
            _fields("timestamp input_length output_length"),
            "timestamp",
            *_JSON_LENGTHS,
            unit="ms",
            may=_fields("hash_ids session_id priority delay block_size"),
            delay="delay",
            session="session_id",
            block=512,
        ),
        TraceFormat(
            "agentx",
            _fields("id block_size in out"),
            "",
            "in",
            "out",
            may=_fields("hash_ids think_time scope"),
            delay="think_time",
            session="id",
            scope="scope",
        ),
        TraceFormat(
            "azure",
            _fields("TIMESTAMP ContextTokens GeneratedTokens"),
            "TIMESTAMP",
            "ContextTokens",
            "GeneratedTokens",
            table=True,
            failed=True,
            dates=True,
        ),
        TraceFormat(
            "burstgpt",
            frozenset({"Timestamp", "Request tokens", "Response tokens"}),
            "Timestamp",
            "Request tokens",
            "Response tokens",
            may=frozenset({"Session ID", "Elapsed time", "Model", "Total tokens", "Log Type"}),
            table=True,
            failed=True,
        ),
        TraceFormat(
            "csv",
            _fields("arrival_s isl osl"),
            "arrival_s",
            "isl",
            "osl",
            may=_fields(CONTENT),
            table=True,
            strict=True,
        ),
        TraceFormat(
            "vidur",
            _fields("arrived_at num_prefill_tokens num_decode_tokens"),
            "arrived_at",
            "num_prefill_tokens",
            "num_decode_tokens",
            may=_fields("num_total_tokens pd_ratio"),
            table=True,
        ),
        TraceFormat(
            "sglang",
            _fields("prompt_len output_len"),
            "",
            "prompt_len",
            "output_len",
            may=_fields("timestamp conversations conversation delay"),
            delay="delay",
            session="conversation",
        ),
    )
}
# What people call the three in files of their own, without case and signs.
_TIMES = _fields(
    "arrivals arrivaltime arrival arrivedat arrivaltimes timestamp timestamps timestampms time ts "
    "created createdat starttime start requesttime arrivalms arrivaltimems "
    "arrivaltimestamp createdtime timems requesttimestamp sendtime"
)
_PROMPTS = _fields(
    "isl inputtokens prompttokens inputlength promptlen promptlength inputlen inputlens "
    "contexttokens requesttokens numprefilltokens tokensin inputtokencount prompttokencount "
    "promptsize inputsize"
)
_ANSWERS = _fields(
    "osl outputtokens completiontokens outputlength outputlen answertokens generatedtokens "
    "responsetokens numdecodetokens tokensout outputtokencount completiontokencount "
    "tokensize completionlength responselength outputsize"
)
_EPOCHS = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"))  # since 1970, counted in these


def usual_names(row: Mapping[str, Any], *, table: bool) -> TraceFormat | None:
    """The format of a file of one's own, by what its columns are usually called; None if not."""
    called = {re.sub(r"[^a-z]", "", str(name).lower()): str(name) for name in row}
    time, isl, osl = (
        next((called[name] for name in called if name in known), None)
        for known in (_TIMES, _PROMPTS, _ANSWERS)
    )
    if time is None or isl is None or osl is None:
        return None
    value = str(row[time] or "").strip()
    unit = "ms" if re.search(r"(?i)ms$|millis", time) else "s"
    if re.fullmatch(r"\d{11,20}(?:\.\d*)?", value):
        unit = next((name for least, name in _EPOCHS if float(value) >= least), unit)
    dates = re.match(r"\d{4}-\d\d-\d\d", value) is not None
    needs = frozenset({time, isl, osl})
    return TraceFormat("columns", needs, time, isl, osl, unit=unit, table=table, dates=dates)
