"""A Hugging Face config read field by field, with a complaint in words for each."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from dflash_sim.profiles.errors import UsageError

DTYPES = ("bfloat16", "float16")  # of values that no quantisation replaces
MAX_INT = 2**40
MAX_LAYERS = 2**10
MAX_BLOCK = 2**10  # tokens that a drafter drafts at once
# Scalings whose factor max_position_embeddings has in it already.
_INCLUDED = {"llama3", "default", "proportional", "mrope"}


class Fields:
    """A config whose fields are read by name and type, complaining in words."""

    def __init__(self, config: object, name: str) -> None:
        if not isinstance(config, Mapping):
            msg = f"config of {name}: got {type(config).__name__}; expected a JSON object"
            raise UsageError(msg)
        self.config: Mapping[str, Any] = config
        self.name = name

    def reject(self, key: str, expected: str) -> NoReturn:
        got = repr(self.config[key])[:80] if key in self.config else "missing"
        msg = f"config of {self.name}: field '{key}' is {got}; expected {expected}"
        raise UsageError(msg)

    def first(self, *keys: str) -> str:
        """The first of several spellings that is present, else the preferred one."""
        return next((k for k in keys if self.config.get(k) is not None), keys[0])

    def integer(
        self, *keys: str, default: int | None = None, low: int = 1, high: int = MAX_INT
    ) -> int:
        key = self.first(*keys)
        value = self.config.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not low <= value <= high:
            self.reject(key, f"an integer from {low} to {high}")
        return value

    def real(self, key: str, *, most: float) -> float | None:
        value = self.config.get(key)
        if value is None:
            return None
        if type(value) not in (int, float) or not 0 < value <= most:
            self.reject(key, f"a number above 0, up to {most:g}")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.reject(key, "true or false")
        return value

    def text(self, key: str, *, default: str) -> str:
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.reject(key, "a string")
        return value

    def integers(self, key: str, *, high: int, low: int = 0) -> tuple[int, ...]:
        value = self.config.get(key)
        if value is None:
            return ()
        good = isinstance(value, list) and all(type(i) is int and low <= i < high for i in value)
        if not good:
            self.reject(key, f"a list of layer numbers from {low} to {high - 1}")
        return tuple(value)

    def per_layer(self, key: str, *, count: int, low: int = 0) -> tuple[int, ...]:
        """One number per layer, or nothing when the field is absent."""
        value = self.config.get(key)
        if value is None:
            return ()
        good = isinstance(value, list) and len(value) >= count
        if not good or not all(type(i) is int and low <= i <= MAX_INT for i in value):
            self.reject(key, f"a list of {count} integers from {low}")
        return tuple(value[:count])

    def kinds(self, key: str, *, count: int, allowed: Sequence[str]) -> tuple[str, ...]:
        """One word per layer, or nothing when the field is absent."""
        value = self.config.get(key)
        if value is None:
            return ()
        if (
            not isinstance(value, list)
            or len(value) != count
            or not set(map(str, value)) <= {*allowed}
        ):
            self.reject(key, f"a list of {count} words from {', '.join(allowed)}")
        return tuple(value)

    def with_defaults(self, defaults: Mapping[str, Any]) -> "Fields":
        """The same config with values for fields that it does not state."""
        said = {key: value for key, value in self.config.items() if value is not None}
        return Fields({**self.config, **defaults, **said}, self.name)

    def with_fields(self, **fields: object) -> "Fields":
        """The same config with some fields replaced."""
        return Fields({**self.config, **fields}, self.name)

    def nested(self, key: str) -> "Fields":
        """A nested object; empty when absent."""
        value = self.config.get(key)
        if value is not None and not isinstance(value, Mapping):
            self.reject(key, "an object")
        return Fields(value or {}, self.name)


def check_dtype(f: Fields) -> None:
    """Refuse values whose format is not priced."""
    key = f.first("dtype", "torch_dtype")
    if f.text(key, default=DTYPES[0]) not in DTYPES:
        f.reject(key, f"one of {', '.join(DTYPES)}")


def refuse_quantised(f: Fields) -> None:
    """Refuse a drafter whose config says that it is quantised: its formats are not read."""
    key = f.first("quantization_config", "compression_config")
    if f.config.get(key):
        f.reject(key, f"a drafter in one of {', '.join(DTYPES)}")


def context_of(config: Mapping[str, Any]) -> int | None:
    """Context length that a config states [token], as a server takes it; None if it has none.

    A scaled rotary embedding makes it longer, unless the config names the original length: then
    ``max_position_embeddings`` is the scaled one.
    """
    length = config.get("max_position_embeddings", config.get("model_max_length"))
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        return None
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(scaling, Mapping) or "original_max_position_embeddings" in scaling:
        return length
    kind = scaling.get("rope_type", scaling.get("type"))
    factor = scaling.get("factor", 1.0)
    if not isinstance(kind, str) or kind in _INCLUDED:
        return length
    if not isinstance(factor, int | float) or not 1 <= factor <= 1e4:
        return length
    return int(length * factor)
