"""How answers were sampled, as a benchmark's file or its client's command line says it.

A client that sends no temperature gets the server's; files say nothing of that one, so such rows
stay greedy, and readers list ``temperature`` among what was assumed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from dflash_sim.calibrate.launches.shell_text import commands
from dflash_sim.calibrate.launches.shell_values import Shell
from dflash_sim.calibrate.observations.values import (
    Raw,
    anywhere,
    known,
    naming,
    number,
    short,
)
from dflash_sim.profiles.errors import UsageError

SAMPLING = ("temperature", "top_p", "top_k")
_CLIENTS = (
    ("sglang.bench_serving",),
    ("bench_serving.py",),
    ("benchmark_serving.py",),
    ("vllm", "bench", "serve"),
    ("guidellm", "benchmark"),
    ("aiperf", "profile"),
    ("genai-perf", "profile"),
)
# Flags that hold request parameters as an object, or as words such as ``temperature:0.6``.
_BODIES = (
    "extra", "extras", "extra_inputs", "extra_body", "extra_request_body", "backend_kwargs",
    "backend_args", "request_formatter_kwargs", "sampling_params",
)  # fmt: skip


def sampling_of(raw: Raw, *, nested: bool = False) -> dict[str, Any]:
    """Return the sampling fields that an object states, itself or in the body that it sends.

    Parameters
    ----------
    nested
        True if the body may be anywhere inside.

    Raises
    ------
    UsageError
        One of them is no number, or a body is no object.
    """
    found = _numbers({name: raw.get(name) for name in SAMPLING})
    for name in _BODIES:
        body = anywhere(raw, name) if nested else raw.get(name)
        if body is not None:
            with naming(name):
                found |= _numbers(_body(body))
    return found


def client_sampling(text: str) -> dict[str, Any]:
    """Return the sampling fields of the benchmark commands in a text; the last command wins.

    Raises
    ------
    UsageError
        A value is no number.
    """
    try:
        found = [c.words for c in commands(text, Shell()) if is_client(c.words)]
    except UsageError:
        return {}
    return sampling_of(_arguments(found[-1])) if found else {}


def is_client(words: Sequence[str]) -> bool:
    """Return True if the words of a command run a benchmark."""
    last = [word.rsplit("/", 1)[-1] for word in words]
    return any(
        tuple(last[i : i + len(name)]) == name for name in _CLIENTS for i in range(len(last))
    )


def _arguments(words: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in _flags(words):
        if name in SAMPLING and values:
            found[name] = values[0]
        elif name in _BODIES and values:
            found[name] = {**_body(found.get(name, {})), **_body(values)}
    return found


def _flags(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag with the words behind it, up to the next flag."""
    at = 0
    while at < len(words):
        typed, equals, value = words[at].partition("=")
        at += 1
        if not typed.startswith("--"):
            continue
        values = [value] if equals else []
        while not equals and at < len(words) and not words[at].startswith("--"):
            values.append(words[at])
            at += 1
        yield typed[2:].replace("-", "_"), values


def _body(given: Any) -> dict[str, Any]:
    """Request parameters as an object, as JSON, as ``name:value`` words or as pairs."""
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, str):
        with suppress(ValueError, RecursionError):
            parsed = json.loads(given)
            return _body(parsed) if isinstance(parsed, Mapping) else {}
        name, colon, value = given.partition(":")
        if not colon:
            msg = f"{short(given)} is no JSON object and no NAME:VALUE"
            raise UsageError(msg)
        return {name.strip(): value}
    if isinstance(given, Sequence):
        found: dict[str, Any] = {}
        for one in given:
            pair = isinstance(one, Sequence) and not isinstance(one, str) and len(one) == 2
            found |= {str(one[0]): one[1]} if pair else _body(one)
        return found
    msg = f"{short(given)} is no object of request parameters"
    raise UsageError(msg)


def _numbers(raw: Raw) -> dict[str, Any]:
    """The three fields at the nearest place of an object that has them."""
    told = {name: anywhere(raw, name) for name in SAMPLING}
    temperature, top_p, top_k = (number(told, name) for name in SAMPLING)
    if top_k is not None and top_k <= 0:
        top_k = None  # 0 or -1 draws from all tokens
    if top_k is not None and top_k != int(top_k):
        msg = f"top_k is {short(told['top_k'])}; expected a whole number"
        raise UsageError(msg)
    return known(temperature=temperature, top_p=top_p, top_k=None if top_k is None else int(top_k))


__all__ = ["SAMPLING", "client_sampling", "is_client", "sampling_of"]
