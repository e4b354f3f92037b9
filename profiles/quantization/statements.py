"""What the two config files of a checkpoint state about its quantisation, in one form."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.quantization.untimed import INSTEAD, NOT_PRICED, not_priced

_BLOCKS = {None: "fp8", (128, 128): "fp8_block", (1, 32): "mxfp8"}
# ModelOpt's algorithms, each with our format and what SGLang's --quantization calls it.
_ALGORITHMS = {
    "FP8": ("fp8", "modelopt_fp8"),
    "FP8_PER_CHANNEL_PER_TOKEN": ("fp8", "modelopt_fp8"),
    "FP8_PB_WO": ("fp8_block", "modelopt_fp8"),
    "FP8_PB_REAL": ("fp8_block", "modelopt_fp8"),
    "MXFP8": ("mxfp8", "mxfp8"),
    "NVFP4": ("nvfp4", "modelopt_fp4"),
    "NVFP4_AWQ": ("nvfp4", "modelopt_fp4"),
    "W4A16_NVFP4": ("w4a16_nvfp4", "modelopt_fp4"),
    "MXFP4": ("mxfp4", "mxfp4"),
    "W4A16_AWQ": ("int4", "awq"),
    "INT4_AWQ": ("int4", "awq"),
    "W8A16": ("w8a16", "modelopt"),
    "INT8_SQ": ("int8", "modelopt"),
}
_MIXED = "MIXED_PRECISION"
_KV = {"FP8": "fp8", "NVFP4": "nvfp4"}
_KV_BITS = ((8, "FP8"), (4, "NVFP4"))
_NOT_QUANTISED = "NONE"
_NO_KV = {"", _NOT_QUANTISED, "AUTO"}  # ways to say no format of keys and values
_UNFINISHED = ("initialized", "calibration")  # of compressed-tensors: weights are 16 bits still
_GROUP = 16  # of NVFP4
_WHOLE = 16  # bits of a module that is not quantised
_GROUPS = {32: "int4_g32", 64: "int4_g64", 128: "int4"}
_IN_BLOCK = "modules_in_block_to_quantize"
_LISTS = ("exclude_modules", "ignore", "modules_to_not_convert", "ignored_layers")


@dataclass(frozen=True)
class Statement:
    """What one file says.

    Parameters
    ----------
    file, field
        Its name and that of its list of modules, for messages.
    name
        What SGLang's ``--quantization`` calls the method.
    linear
        Format of every linear layer that no list names; None if only listed ones are quantised.
    kept_or_none
        Names of modules that stay as they were; None where the file has no such list.
    own
        Formats that some modules have of their own, with the names of those.
    kv_cache, kv_kept
        Format of keys and values; None if the file names none, and True if it says so in words.
    lm_head, experts_only
        Linear layers include the output head; they are the routed experts alone.
    """

    file: str
    name: str
    linear: str | None = None
    kept_or_none: tuple[str, ...] | None = None
    own: tuple[tuple[str, tuple[str, ...]], ...] = ()
    kv_cache: str | None = None
    kv_kept: bool = False
    lm_head: bool = False
    experts_only: bool = False
    field: str = "ignore"

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of modules that stay as they were."""
        return self.kept_or_none or ()

    @property
    def lists(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Every list of names, each after the field that it is in."""
        return ((self.field, self.kept), *(("its list of modules", names) for _, names in self.own))

    def default(self, module: str) -> str | None:
        """The format of a module that no list names; None if it stays as it was."""
        if module == "lm_head" and not self.lm_head:
            return None
        return None if self.experts_only and module != "experts" else self.linear


class _Said:
    """The fields of a quantisation, complaining in words."""

    def __init__(self, fields: Mapping[str, Any], *, name: str, file: str) -> None:
        self.fields = fields
        self.name = name
        self.file = file

    def refuse(self, what: str, allowed: str) -> UsageError:
        return UsageError(f"{self.file} of {self.name}: {what}; {allowed}")

    def get(self, *keys: str) -> Any:
        return next((self.fields[k] for k in keys if self.fields.get(k) is not None), None)

    def expect(self, key: str, value: object, want: str) -> UsageError:
        return self.refuse(f"field '{key}' is {repr(value)[:60]}", want)

    def only(self, allowed: Mapping[Any, str], default: Any, *keys: str) -> str:
        """The format that the value of the first of ``keys`` stands for."""
        value = self.get(*keys)
        value = default if value is None else value
        key = tuple(value) if isinstance(value, list) else value
        for known, form in allowed.items():  # compared, as lists and objects have no hash
            if key == known:
                return form
        can = ", ".join(str(k) for k in allowed if k is not None)
        raise self.expect(keys[0], value, f"what is priced has {can}")

    def names(self, *keys: str) -> tuple[str, ...] | None:
        key = next((k for k in keys if self.fields.get(k) is not None), None)
        if key is None:
            return None
        return self.listed(key, self.fields[key])

    def listed(self, key: str, value: object) -> tuple[str, ...]:
        """The names in a list of modules, the value of ``key``."""
        if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
            raise self.expect(key, value, "expected a list of module names")
        return tuple(value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.fields.get(key) or {}
        if not isinstance(value, Mapping):
            raise self.expect(key, value, "expected an object")
        return value

    def kv_cache(self) -> str | None:
        algo = self.get("kv_cache_quant_algo", "kv_cache_scheme")
        if isinstance(algo, Mapping):
            bits = algo.get("num_bits") if algo.get("type") == "float" else None
            algo = next((form for n, form in _KV_BITS if bits == n), str(dict(algo)))
        if algo is None or str(algo).upper() in _NO_KV:
            return None
        if str(algo).upper() not in _KV:
            what = f"the KV cache is quantised to {str(algo)[:60]}"
            raise self.refuse(what, f"what is priced is {', '.join(_KV)}")
        return _KV[str(algo).upper()]

    def states(self, name: str, linear: str | None) -> Statement:
        """A statement of ``linear`` layers, with the lists and the KV cache that every file has."""
        field = next((k for k in _LISTS if self.fields.get(k) is not None), _LISTS[0])
        kept = self.names(*_LISTS)
        algo = self.get("kv_cache_quant_algo", "kv_cache_scheme")
        none = isinstance(algo, str) and algo.upper() == _NOT_QUANTISED
        return Statement(self.file, name, linear, kept, (), self.kv_cache(), none, field=field)


def stated(fields: Mapping[str, Any], *, name: str, file: str) -> Statement | None:
    """What the object of a file that tells of its quantisation says; None if it says nothing."""
    said = _Said(fields, name=name, file=file)
    algo, method = said.get("quant_algo"), said.get("quant_method")
    if not fields or (algo is None and said.kv_cache() is None and file != "config.json"):
        return None
    if isinstance(algo, str):
        return _modelopt(said, algo, str(method or "modelopt"))
    key = str(method or "modelopt").lower()
    if key.startswith("modelopt") and said.kv_cache() is not None:
        return said.states(key, None)
    if key.startswith("modelopt"):
        silent = "quant_algo" if method else "quant_method nor quant_algo"
        what = f"it is quantised by halves: the object names no {silent}"
        raise said.refuse(what, f"expected one of {', '.join(_READERS)}")
    if key in NOT_PRICED:
        what = f"it is quantised with {not_priced(key)}"
        raise said.refuse(what, INSTEAD)
    if key not in _READERS:
        kind = f"quant_method of {name}"
        raise unknown(kind, key, _READERS)
    return _READERS[key](said)


def _modelopt(said: _Said, algo: str, method: str) -> Statement:
    """NVIDIA's Model Optimizer: one algorithm, or one for each of the layers that it lists."""
    if algo.upper() != _MIXED:
        form, name = _algorithm(said, algo, said.fields)
        return said.states(name, form)
    listed: dict[str, list[str]] = {}
    for module, own in said.mapping("quantized_layers").items():
        own = own if isinstance(own, Mapping) else {}
        listed.setdefault(_algorithm(said, str(own.get("quant_algo")), own)[0], []).append(module)
    if not listed:
        what = f"quant_algo is {_MIXED} without quantized_layers"
        raise said.refuse(what, "expected the algorithm of each layer")
    mixed = replace(said.states("modelopt_mixed", None), own=_frozen(listed))
    if method != "fp8":
        return mixed
    # Experts of a checkpoint that was FP8 before: its list names what NVFP4 left as it was.
    return replace(mixed, name="fp8", linear=_block_format(said), kept_or_none=None)


def _algorithm(said: _Said, algo: str, fields: Mapping[str, Any]) -> tuple[str, str]:
    if algo.upper() not in _ALGORITHMS:
        what = f"quant_algo is {algo[:60]!r}"
        raise said.refuse(what, f"what is priced is {', '.join(_ALGORITHMS)}")
    form, name = _ALGORITHMS[algo.upper()]
    size = fields.get("group_size")
    if "nvfp4" in form and size is not None and size != _GROUP:
        what = f"{algo} has groups of {repr(size)[:20]}"
        raise said.refuse(what, f"the kernels take groups of {_GROUP}")
    return (_grouped(said, fields) if form == "int4" else form), name


def _frozen(listed: Mapping[str, list[str]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((form, tuple(modules)) for form, modules in listed.items())


def _block_format(said: _Said) -> str:
    return said.only(_BLOCKS, None, "weight_block_size")


def _fp8(said: _Said) -> Statement:
    """FP8 as DeepSeek and Qwen write it: blocks of 128 x 128, or one scale for a tensor."""
    base = said.states("fp8", _block_format(said))
    if said.get("expert_dtype") != "fp4":
        return base
    return replace(base, own=(("mxfp4", ("experts",)),))


def _grouped(said: _Said, fields: Mapping[str, Any]) -> str:
    """The format of four-bit integers in groups that share a scale."""
    size = next((fields[k] for k in ("group_size", "q_group_size") if k in fields), 128)
    if size is None or size == -1:  # a column, of thousands
        return "int4"
    for known, form in _GROUPS.items():
        if size == known:
            return form
    what = f"int4 has groups of {repr(size)[:20]}"
    raise said.refuse(what, f"the kernels take {', '.join(map(str, _GROUPS))}")


def _integers(name: str) -> Callable[[_Said], Statement]:
    """AWQ, GPTQ and AutoRound: integers of four bits, or of eight, under 16-bit activations.

    Rules of GPTQ and AutoRound may give some modules other bits than the rest, or all 16.
    """

    def read(said: _Said) -> Statement:
        form = _integer(said)
        base = replace(said.states(name, form), lm_head=said.get("lm_head") is True)
        rules, extra = said.mapping("dynamic"), said.mapping("extra_config")
        dropped = [f"re:{rule[2:]}" for rule in rules if rule.startswith("-:")]
        own = {f"re:{r.removeprefix('+:')}": x for r, x in rules.items() if not r.startswith("-:")}
        listed: dict[str, list[str]] = {}
        for module, fields in {**own, **extra}.items():
            if not isinstance(fields, Mapping):
                raise said.expect(module, fields, "expected an object")
            if fields.get("bits") == _WHOLE:
                dropped.append(module)
                continue
            of = _Said({**said.fields, **fields}, name=f"{said.name} ({module})", file=said.file)
            if (differs := _integer(of)) != form:
                listed.setdefault(differs, []).append(module)
        kept = (*base.kept, *dropped) if dropped else base.kept_or_none
        if only := _in_block(said):
            listed.setdefault(form, []).extend(only)
            base = replace(base, linear=None)
        return replace(base, kept_or_none=kept, own=_frozen(listed))

    return read


def _in_block(said: _Said) -> tuple[str, ...]:
    """GPTQ's lists of the modules of a layer that are quantised, where it leaves out others."""
    lists = said.fields.get(_IN_BLOCK) or []
    if not isinstance(lists, list):
        raise said.expect(_IN_BLOCK, lists, "expected a list of module names")
    each = [x if isinstance(x, list) else [x] for x in lists]
    return said.listed(_IN_BLOCK, [name for names in each for name in names])


def _integer(said: _Said) -> str:
    said.only({"int": ""}, "int", "data_type")
    if said.get("bits", "w_bit") is None:
        what = f"it is quantised by halves: {said.get('quant_method')} names no bits"
        raise said.refuse(what, "expected 4 or 8")
    bits = said.only({4: "int4", 8: "w8a16"}, 4, "bits", "w_bit")
    return _grouped(said, said.fields) if bits == "int4" else bits


def _compressed_tensors(said: _Said) -> Statement:
    """Groups of layers, each with the type of its weights and of what they are multiplied with."""
    groups = said.mapping("config_groups")
    if not groups:
        what = "compressed-tensors without config_groups"
        raise said.refuse(what, "expected one at least")
    if (status := said.get("quantization_status")) in _UNFINISHED:
        what = f"it is quantised by halves: quantization_status is {status}"
        raise said.refuse(what, "take the checkpoint that is compressed")
    linear: str | None = None
    listed: dict[str, list[str]] = {}
    for group in groups.values():
        group = group if isinstance(group, Mapping) else {}
        form = _compressed(said, group)
        targets = said.listed("targets", group.get("targets") or ["Linear"])
        if {"Linear", "LinearBase", "FusedMoE"} & {*targets}:
            linear = form
        names = [t for t in targets if t not in {"Linear", "LinearBase", "FusedMoE"}]
        if names:
            listed.setdefault(form, []).extend(names)
    return replace(said.states("compressed-tensors", linear), own=_frozen(listed))


def _compressed(said: _Said, group: Mapping[str, Any]) -> str:
    weights, inputs = group.get("weights"), group.get("input_activations")
    weights = weights if isinstance(weights, Mapping) else {}
    bits, kind, size = weights.get("num_bits"), weights.get("type"), weights.get("group_size")
    beside = inputs.get("num_bits") if isinstance(inputs, Mapping) else None
    if (bits, kind) == (8, "float"):
        blocks = weights.get("block_structure")
        eight = "mxfp8" if size == 32 else "fp8"
        if weights.get("strategy") == "block":
            eight = said.only(_BLOCKS, blocks, "weight_block_size")
        return eight if beside else "fp8_w8a16"
    if (bits, kind, size) == (4, "float", 32):
        return "mxfp4"
    if (bits, kind, size) == (4, "float", _GROUP):
        return "nvfp4" if beside == 4 else "w4a16_nvfp4"
    if (bits, kind, beside) == (4, "int", None):
        return _grouped(said, weights)
    if (bits, kind) == (8, "int"):
        return "int8" if beside else "w8a16"
    what = f"weights of {bits} bits ({kind}, groups of {size}) with inputs of {beside or 16} bits"
    raise said.refuse(what, "what is priced is FP8, NVFP4, MXFP4, INT8, W8A16 and W4A16")


def _whole(name: str, form: str) -> Callable[[_Said], Statement]:
    return lambda said: said.states(name, form)


_READERS: dict[str, Callable[[_Said], Statement]] = {
    "fp8": _fp8,
    "mxfp4": lambda said: replace(said.states("mxfp4", "mxfp4"), experts_only=True),
    "mxfp8": _whole("mxfp8", "mxfp8"),
    "compressed-tensors": _compressed_tensors,
    "awq": _integers("awq"),
    "gptq": _integers("gptq"),
    "auto-round": _integers("auto-round"),
    "fbgemm_fp8": _whole("fbgemm_fp8", "fp8"),
    "w8a8_fp8": _whole("w8a8_fp8", "fp8"),
    "w8a8_int8": _whole("w8a8_int8", "int8"),
}


def agreed(config: Statement | None, beside: Statement | None, *, name: str) -> Statement | None:
    """The one statement of two files.

    Raises
    ------
    UsageError
        They say different things, in words that name the first of them.
    """
    if config is None or beside is None:
        return config or beside
    said = [
        ("the format of linear layers", config.linear, beside.linear),
        ("the format of keys and values", _kv(config), _kv(beside)),
        ("the modules left as they were", config.kept_or_none, beside.kept_or_none),
        ("the formats of listed modules", config.own, beside.own),
    ]
    for what, one, other in said:
        if one is None or other is None or _same(one, other):
            continue
        msg = (
            f"{config.file} and {beside.file} of {name} disagree about {what}: "
            f"{_short(one, other)} and {_short(other, one)}. Take both from one checkpoint."
        )
        raise UsageError(msg)
    kept = config.kept_or_none if config.kept_or_none is not None else beside.kept_or_none
    if config.name == "fp8" and config.own:
        kept = None
    return replace(
        config,
        kept_or_none=kept,
        own=config.own or beside.own,
        kv_cache=config.kv_cache or beside.kv_cache,
    )


def _kv(statement: Statement) -> str | None:
    return "no format" if statement.kv_kept else statement.kv_cache


def _same(one: object, other: object) -> bool:
    return _set(one) == _set(other)


def _set(said: object) -> object:
    if not isinstance(said, tuple):
        return said
    return {(x[0], frozenset(x[1])) if isinstance(x, tuple) else x for x in said}


def _short(said: object, other: object) -> str:
    """What one file has and the other has not."""
    if not isinstance(said, tuple):
        return str(said)
    more = sorted(map(str, _set(said) - _set(other)))  # type: ignore[operator]
    return (more[0][:60] + (f" and {len(more) - 1} more" if more[1:] else "")) if more else "none"
