"""What the numbers of a machine's profile may be, by their unit and meaning."""

import math
from collections.abc import Mapping
from typing import Any

MOST_SIZE = 1e15  # of an axis: tokens, requests, bytes
_MOST_RATIO = 1e4
Ends = tuple[float, float]
_SECONDS, _COUNT, _SHARE = (1e-12, 1e5), (0.0, 1e9), (0.0, 1e3)
_WORK, _RATE = (0.0, 1e21), (1e6, 1e19)  # bytes or FLOPs, and those in a second
_OP: dict[str, Ends] = {
    "seconds": _SECONDS, "mean_s": _SECONDS, "spread": _SHARE, "nbytes": _WORK, "flops": _WORK,
}  # fmt: skip
_PASS: dict[str, Ends] = {
    "requests": (1.0, 1e7), "rows": (1.0, 1e7), "ctx": _COUNT, "seconds": _SECONDS,
    "ops_s": (0.0, 1e5), "unmeasured": _COUNT,
}  # fmt: skip
_DEVICE: dict[str, Ends] = {
    "matmul_flop_s": _RATE, "copy_byte_s": _RATE, "mem_bytes": (1.0, 1e15),
    "sm_count": (1.0, 1e5), "l2_bytes": (0.0, 1e12),
}  # fmt: skip
_MAY_LACK = {"sm_count", "l2_bytes"}


def check_profile(data: Mapping[str, Any]) -> None:
    """Refuse a profile with a value that no measurement has.

    Raises
    ------
    ValueError
        Names the place, the value and what is allowed.
    """
    for name in ("machine", "device", "scope", "made"):
        _kind(name, data[name], Mapping, "a table")
    for name in ("ops", "passes", "skipped"):
        _kind(name, data[name], list, "a list")
        for i, row in enumerate(data[name]):
            _kind(f"{name}[{i}]", row, Mapping, "a table")
    for i, op in enumerate(data["ops"]):
        _kind(f"ops[{i}], kind", op["kind"], str, "a text")
        _kind(f"ops[{i}], shape", op["shape"], Mapping, "a table")
        for name, value in op["shape"].items():
            where = f"ops[{i}], shape, {name}"
            _kind(where, value, str | int | float | None, "a number or text")
            if isinstance(value, int | float) and not abs(value) <= MOST_SIZE:
                msg = f"{where} is {value!r}; it must be at most {MOST_SIZE:g}"
                raise ValueError(msg)
        _numbers(f"ops[{i}]", op, _OP)
    for i, row in enumerate(data["passes"]):
        _kind(f"passes[{i}], phase", row["phase"], str, "a text")
        _numbers(f"passes[{i}]", row, _PASS)
        ratio = row["seconds"] / row["ops_s"] if row["ops_s"] else 1.0
        if not 1 / _MOST_RATIO <= ratio <= _MOST_RATIO:
            msg = (
                f"passes[{i}] took {row['seconds']:g} s, and its ops {row['ops_s']:g} s; no pass "
                f"differs from its ops by a factor of {_MOST_RATIO:g}"
            )
            raise ValueError(msg)
    device = data["device"]
    _kind("device, title", device["title"], str, "a text")
    _kind("device, sheet", device.get("sheet"), str | None, "a GPU")
    if not device.get("sheet"):
        lacks = {name for name in _MAY_LACK if device.get(name) is None}
        there = {name: ends for name, ends in _DEVICE.items() if name not in lacks}
        _numbers("device", device, there)
    _kind("scope, model", data["scope"]["model"], str, "a text")
    _kind("scope, tp", data["scope"]["tp"], int, "a whole number")
    _numbers("scope", data["scope"], {"tp": (1.0, 1024.0)})


def _numbers(where: str, table: Mapping[str, Any], allowed: Mapping[str, Ends]) -> None:
    for name, (least, most) in allowed.items():
        value = table[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (least <= value <= most and math.isfinite(value)):
            msg = f"{where}, {name} is {value!r}; it must be from {least:g} to {most:g}"
            raise ValueError(msg)


def _kind(where: str, value: object, kind: Any, words: str) -> None:
    if not isinstance(value, kind):
        msg = f"{where} is {value!r}; it must be {words}"
        raise ValueError(msg)
