"""Lists and ranges of a flag: ``1,2,4``, ``1-32:x2`` (times two), ``8-16:4`` (steps), ``1-8``."""

import re
from decimal import Decimal

from dflash_sim.profiles.errors import UsageError

MOST = 1000  # values of one flag; more is a typing error
_NUMBER = r"\d{0,15}\.?\d{1,15}(?:[eE][+-]?\d{1,2})?"
_RANGE = re.compile(rf"({_NUMBER})-({_NUMBER})(?::(x?)({_NUMBER}))?")
_PERCENT = re.compile(rf"({_NUMBER}) ?%")
_KILO = re.compile(rf"({_NUMBER})[kK]")
_WHOLE = "a whole number above 0"
_REAL = "a number above 0"


def whole_numbers(flag: str, text: str, *, zero: bool = False) -> list[int]:
    """The values of an integer flag, which may be 0 if ``zero`` says so.

    Examples
    --------
    >>> whole_numbers("--conc", "1-32:x2")
    [1, 2, 4, 8, 16, 32]
    >>> whole_numbers("--block", "8-16:4,2")
    [8, 12, 16, 2]
    """
    values = _values(flag, text, _WHOLE, zero=zero)
    for value in values:
        if value != value.to_integral_value():
            raise _refuse(flag, text, f"{value} is not {_WHOLE}")
    return [int(value) for value in values]


def real_numbers(flag: str, text: str, *, zero: bool = False) -> list[float]:
    """The values of a flag that takes numbers such as ``0.5,1.5`` or ``1-8:x2``."""
    return [float(value) for value in _values(flag, text, _REAL, zero=zero)]


def shares(flag: str, text: str) -> list[float]:
    """The values of a flag that takes shares from 0 to 1, or percent.

    Examples
    --------
    >>> shares("--cache-hit", "0,0.5,90%")
    [0.0, 0.5, 0.9]
    """
    found = _PERCENT.sub(lambda part: str(Decimal(part[1]) / 100), text)
    return real_numbers(flag, found, zero=True)


def words(flag: str, text: str) -> list[str]:
    """The values of a flag that takes names."""
    values = [part.strip() for part in text.split(",")]
    if not all(values):
        raise _refuse(flag, text, "a name is missing", form="names separated by commas")
    return list(dict.fromkeys(values))


def data_sets(flag: str, text: str) -> list[str]:
    """The data sets of a flag; names with shares, ``a:0.3,b:0.7``, are one mixture of them."""
    return [text.strip()] if ":" in text else words(flag, text)


def _values(flag: str, text: str, what: str, *, zero: bool) -> list[Decimal]:
    values: list[Decimal] = []
    for part in text.replace(" ", "").split(","):
        found = _RANGE.fullmatch(part)
        if found:
            values += _spread(flag, text, *found.groups())
        elif re.fullmatch(_NUMBER, part):
            values.append(Decimal(part))
        elif kilo := _KILO.fullmatch(part):
            either = " or ".join(f"{(Decimal(kilo[1]) * k).normalize():f}" for k in (1000, 1024))
            raise _refuse(flag, text, f"'{part}' may be either", form=either)
        else:
            raise _refuse(flag, text, f"'{part}' is not {what}")
        if len(values) > MOST:
            raise _refuse(flag, text, f"it has more than {MOST} values")
    for value in values:
        if not value and not zero:
            raise _refuse(flag, text, f"{value} is not {what}")
    return list(dict.fromkeys(values))


def _spread(
    flag: str, text: str, first: str, last: str, times: str | None, step: str | None
) -> list[Decimal]:
    """The values of one range; decimal, so that 0.1-0.3:0.1 has three."""
    value, end, by = Decimal(first), Decimal(last), Decimal(step or 1)
    if value > end:
        raise _refuse(flag, text, f"the range {first}-{last} runs backwards")
    if times and (by <= 1 or not value):
        raise _refuse(flag, text, f"times {step} from {first} never arrives")
    if not by:
        raise _refuse(flag, text, "a step of 0 never arrives")
    values: list[Decimal] = []
    while value <= end and len(values) <= MOST:
        values.append(value)
        value = value * by if times else value + by
    return values


def _refuse(flag: str, text: str, why: str, form: str = "") -> UsageError:
    form = form or "a number, a list 1,2,4 or a range 1-32:x2 (times 2), 8-16:4 (steps of 4), 1-8"
    return UsageError(f"{flag} {text or repr(text)}: {why}; give {form}.")
