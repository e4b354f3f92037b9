"""The question of a call: scenario fields as Python values, where it starts from, whose sheets."""

import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypedDict, TypeVar

from dflash_sim.api.spoken import speaking
from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.find import searching
from dflash_sim.profiles.presets import load_preset, refuse_other_keys
from dflash_sim.profiles.ways_in import named_path
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.names import OPPOSITES, our_name
from dflash_sim.studies.ask.question import Given, Layer, ask

Whole: TypeAlias = int | str | Iterable[int | None]
Real: TypeAlias = float | str | Iterable[float | None]
Word: TypeAlias = str | Iterable[str | None]
Truth: TypeAlias = bool | Iterable[bool]
File: TypeAlias = str | os.PathLike[str]
Config: TypeAlias = Mapping[str, Any] | File | Scenario
P = ParamSpec("P")
R = TypeVar("R")


class Question(TypedDict, total=False):
    """Fields of a scenario, one value or several each; what is left out takes its default."""

    gpu: Word | File
    num_gpus: Whole
    tp: Whole
    ep_size: Whole
    model: Word | File
    draft_model: Word | File
    dtype: Word
    quantization: Word
    kv_cache_dtype: Word
    speculative_draft_model_quantization: Word
    method: Word
    block: Whole
    steps: Whole
    topk: Whole
    window: Whole
    acceptance: Word
    temperature: Real
    top_p: Real
    top_k: Whole
    speculative_use_rejection_sampling: Truth
    policy: Word
    engine: Word
    calibration: Word | File
    build: Word
    engine_mode: Word
    attention_backend: Word
    max_running_requests: Whole
    mem_fraction_static: Real
    chunked_prefill_size: Whole
    max_prefill_tokens: Whole
    cuda_graph_backend_prefill: Word
    cuda_graph_max_bs: Whole
    context_length: Whole
    page_size: Whole
    min_free_slots_delay: Whole
    schedule_policy: Word
    schedule_conservativeness: Real
    scheduler_recv_interval: Whole
    stream_interval: Whole
    radix_cache: Truth
    mamba_radix_cache_strategy: Word
    mamba_ssm_dtype: Word
    mamba_full_memory_ratio: Real
    max_mamba_cache_size: Whole
    linear_attn_decode_backend: Word
    linear_replayssm_spec: Truth
    dataset: Word
    content: Word
    thinking: Truth
    isl: Whole
    osl: Whole
    range_ratio: Real
    cache_hit: Real
    max_new_tokens: Whole
    conc: Whole
    rate: Real
    burstiness: Real
    num_prompts: Whole
    seed: Whole
    runs: Whole
    preset: File
    from_launch: str
    profiles: File | Sequence[File]


START = ("preset", "from_launch", "profiles")  # entries of a question that are no fields


def takes_question(function: Callable[P, R]) -> Callable[P, R]:
    """Give a function the signature of its question, its sheets while it answers, and our words."""
    own = inspect.signature(function)
    named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    switches = [p.name for p in named if isinstance(p.default, bool)]
    fields = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in Question.__annotations__
    ]

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        truths(**{name: kwargs[name] for name in switches if name in kwargs})
        with speaking(shown.parameters), searching(folders(kwargs.get("profiles"))):
            return function(*args, **kwargs)

    shown = own.replace(parameters=[*named, *fields])
    call.__signature__ = shown  # type: ignore[attr-defined]
    return call


def truths(**given: object) -> None:
    """Refuse what is neither True nor False; any word would count as True.

    Raises
    ------
    UsageError
        It names the keyword and its value.
    """
    for name, value in given.items():
        if not isinstance(plain(value), bool):
            msg = f"{name} {value!r}: it is neither True nor False; give one of them."
            raise UsageError(msg)


def whole(name: str, value: object, *, least: int = 1) -> int:
    """Return a whole number from ``least`` on, which True and False are not.

    Raises
    ------
    UsageError
        It names the keyword and its value.
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        msg = f"{name} {value!r}: it is a whole number from {least} on."
        raise UsageError(msg)
    return number


def folders(given: Any) -> list[Path]:
    """Return the folders of sheets that a call names."""
    if given is None:
        return []
    several = given if isinstance(given, list | tuple) else [given]
    return [named_path(folder) for folder in several]


def asked(
    config: Config | None,
    question: Mapping[str, Any],
    *,
    files: Sequence[Layer] = (),
    planned: bool = False,
) -> dict[str, Given]:
    """Merge the fields of a call over its config, ``files``, launch command and preset.

    Flags of a launch command that nothing models are told as a warning; ``planned`` is True for a
    plan, which takes the policy of a router.

    Raises
    ------
    UsageError
        A keyword is no field, or a value cannot be read.
    """
    preset, launch = question.get("preset"), question.get("from_launch")
    start = [] if config is None else [("config", _fields(_configured(config)))]
    merged, ignored = ask(
        _fields({name: value for name, value in question.items() if name not in START}),
        preset=None if preset is None else os.fspath(preset),
        from_launch=launch,
        files=[*start, *files],
        planned=planned,
    )
    if ignored:
        text = f"from_launch: not modelled, ignored: {', '.join(ignored)}"
        warnings.warn(text, stacklevel=4)
    return merged


def several(question: Mapping[str, Any]) -> bool:
    """Return whether a keyword holds a list, be it of one value: then a table is the answer."""
    return any(isinstance(plain(v), list) for n, v in question.items() if n not in START)


def _configured(config: Config) -> Mapping[str, Any]:
    """Return the fields of a configuration, whatever holds them."""
    if isinstance(config, Scenario):
        return config.model_dump(exclude_unset=True)
    if isinstance(config, Mapping):
        inner = config.get("scenario", config)
        if not isinstance(inner, Mapping):
            msg = f"config: 'scenario' is {inner!r}; give fields below it, such as gpu='b200'."
            raise UsageError(msg)
        if "scenario" in config:
            refuse_other_keys("config", config)
        return inner
    path = os.fspath(config) if isinstance(config, str | os.PathLike) else repr(config)
    if not path.endswith((".yaml", ".yml")):
        msg = f"config {path}: give a dict of fields, a scenario, or a .yaml file."
        raise UsageError(msg)
    return load_preset(path).scenario


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values by our names of the fields."""
    found: dict[str, Any] = {}
    for name, said in given.items():
        field, value = our_name(name), said
        if name in OPPOSITES and isinstance(said, bool):
            field, value = OPPOSITES[name], not said
        if field not in Scenario.model_fields:
            raise unknown(kind="keyword", value=name, allowed=[*Scenario.model_fields, *START])
        if field in found:
            msg = f"{name} means {field}, which is given too; give one of them."
            raise UsageError(msg)
        found[field] = plain(value)
        if found[field] == []:
            msg = f"{name}: an empty list; give a value, or leave it out."
            raise UsageError(msg)
    return found


def plain(value: Any) -> Any:
    """Return a Python value, or a list of them, for a path, a range, an array or a column."""
    if value is None or isinstance(value, str | bool | int | float | Mapping):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and pandas, single values among them
        return value.tolist()
    if isinstance(value, Iterable):
        return list(dict.fromkeys(plain(each) for each in value))
    return value
