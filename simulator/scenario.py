"""The question: one :class:`Scenario`, validated, with every default visible.

Field names follow SGLang's flags where a flag exists. With nothing but ``gpu``, ``block`` and
``conc`` it means the launch setup of 15 June 2026: Qwen3.5-397B-A17B in bf16, eight GPUs, TP 8,
DFlash with the overlap scheduler, HumanEval with thinking and 4,096 new tokens at most.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from dflash_sim.profiles.errors import UsageError, field_error, unknown
from dflash_sim.profiles.formats import PLAIN as PLAIN_FORMAT
from dflash_sim.profiles.formats import format_of, kv_format, quantization_name
from dflash_sim.profiles.precision import STATE_DTYPES
from dflash_sim.profiles.quantization.untimed import INSTEAD, NOT_PRICED, not_priced
from dflash_sim.profiles.releases.engine_sheet import HOME
from dflash_sim.profiles.releases.memory_rules import STRATEGIES
from dflash_sim.simulator.cost.cycle import Method
from dflash_sim.simulator.cost.methods import METHODS, PLAIN, method_of
from dflash_sim.simulator.cost.sampling import Sampling
from dflash_sim.simulator.draft_shape import draft_shape_problems
from dflash_sim.simulator.release import method_asked, release_of

# What at least one method takes that others have no use for; plain decoding takes none of it.
ONLY_SPECULATION = frozenset[str]().union(*(method.takes for method in METHODS.values()))
# What a server's plain decoding does not depend on: it has the usual engine mode.
OF_SPECULATION = ONLY_SPECULATION | {"method", "engine_mode"}
LINEAR_DECODE = ("triton", "flashinfer", "cutedsl", "helion")  # kernels of recurrent states
_SIXTEEN_BITS = (PLAIN_FORMAT, "bf16", "auto", "float16", "fp16", "half")
_UNKNOWN, _TRUTH = "unknown_name", "no_truth"


def _known(kind: str, value: str, allowed: Iterable[str]) -> str:
    if value not in allowed:
        raise PydanticCustomError(_UNKNOWN, str(unknown(kind, value, allowed)))
    return value


def _known_method(name: str) -> str:
    try:
        return method_of(name).name
    except UsageError as error:
        raise PydanticCustomError(_UNKNOWN, str(error)) from None


def _named(find: Callable[[str], str], name: str) -> str:
    try:
        return find(name)
    except UsageError as error:
        raise PydanticCustomError(_UNKNOWN, str(error).replace("{", "{{")) from None


def _known_precision(name: str) -> str:
    """Return bfloat16 for any format of 16 bits: all have its rates and bytes.

    Weights and caches have flags of their own.
    """
    if name.strip().casefold() in _SIXTEEN_BITS:
        return PLAIN_FORMAT
    try:
        flag = f"--quantization {quantization_name(name)}"
    except UsageError:
        flag = "--quantization"
    msg = (
        f"dtype '{name}': products and activations are priced in bfloat16, what --dtype is about; "
        f"weights in another format are {flag}, and a KV cache --kv-cache-dtype fp8_e4m3."
    )
    raise PydanticCustomError(_UNKNOWN, msg)


def _known_quantization(name: str) -> str:
    method = name.strip().casefold()
    if method in NOT_PRICED:
        msg = f"--quantization {name} is {not_priced(method)}; {INSTEAD}, or give fp8."
        raise PydanticCustomError(_UNKNOWN, msg)
    return _named(quantization_name, name)


def _known_kv(name: str | None) -> str | None:
    """Return SGLang's first name of the format; None where the checkpoint decides."""
    if name is None or name.strip().casefold() == "auto":
        return None
    form = format_of(_named(kv_format, name))
    return form.kv.spelled[0] if form.kv else None


def _known_state(name: str) -> str:
    return _known("mamba ssm dtype", name, STATE_DTYPES)


def _known_strategy(name: str) -> str:
    return _known("mamba radix cache strategy", name, STRATEGIES)


def _known_decode(name: str) -> str:
    return _known("linear attn decode backend", name, LINEAR_DECODE)


def _no_truth(kind: str) -> Callable[[Any], Any]:
    """Return what refuses True and False, which Python counts as 1 and 0."""

    def refuse(value: Any) -> Any:
        if isinstance(value, bool):
            said = f"Input should be {kind}, not true or false"
            raise PydanticCustomError(_TRUTH, said)
        return value

    return refuse


MethodName = Annotated[str, AfterValidator(_known_method)]
PrecisionName = Annotated[str, AfterValidator(_known_precision)]
Quantization = Annotated[str, AfterValidator(_known_quantization)]
EngineMode = Literal["v1", "v2-sync", "v2"]
PrefillBackend = Literal["tc_piecewise", "breakable", "disabled"]
SchedulePolicy = Literal["fcfs", "lpm"]

Whole = Annotated[int, BeforeValidator(_no_truth("a whole number"))]
Real = Annotated[float, BeforeValidator(_no_truth("a number"))]
Count = Annotated[Whole, Field(ge=1, le=10**7)]
Positive = Annotated[Real, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[Real, Field(gt=0, lt=1, allow_inf_nan=False)]
Share = Annotated[Real, Field(ge=0, le=1, allow_inf_nan=False)]


class Scenario(BaseModel):
    """One question to the simulator."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    gpu: str = Field("b200", description="GPU kind")
    num_gpus: Count | None = Field(None, description="GPUs of the server; default: tp")
    tp: Count | None = Field(
        None,
        description="tensor-parallel size; default: num_gpus, else the fewest that hold the model",
    )
    ep_size: Count = Field(
        1, description="ranks that whole experts are dealt to; with 1 each has a part of every one"
    )
    model: str = Field("qwen3.5-397b-a17b", description="target model: name, HF id, or config.json")
    draft_model: str | None = Field(
        None, description="drafter; default: the one made for the model"
    )
    dtype: PrecisionName = Field("bfloat16", description="products and activations")
    quantization: Quantization | None = Field(
        None,
        description="format of the weights: fp8, modelopt_fp4, awq, bf16, ...; "
        "default: the checkpoint's",
    )
    kv_cache_dtype: Annotated[str | None, AfterValidator(_known_kv)] = Field(
        None,
        description="format of keys and values: bfloat16 or fp8_e4m3; default: the checkpoint's",
    )
    speculative_draft_model_quantization: Quantization | None = Field(
        None,
        description="format of the drafter's weights; default: bf16, or as --quantization "
        "makes of what it loads",
    )
    method: MethodName = Field("dflash", description="speculative method")
    block: Whole | None = Field(
        None,
        ge=2,
        le=1024,
        description="verify window B: 1 anchor + B-1 drafts; default: the drafter's trained block",
    )
    steps: Whole | None = Field(
        None, ge=1, le=1023, description="draft steps k of mtp and eagle3 (verify k+1)"
    )
    topk: Count = Field(
        1,
        description="paths that each step of mtp and eagle3 goes on from; above 1 they make a "
        "tree, of which block tokens are verified",
    )
    window: Count | None = Field(
        None, description="draft attention window [token]; default: the drafter's"
    )
    acceptance: str | None = Field(
        None, description="acceptance model; default: published for model, method and dataset"
    )
    temperature: Real = Field(
        0.0, ge=0, le=10, allow_inf_nan=False, description="of sampling; 0 is greedy"
    )
    top_p: Real = Field(
        1.0,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="at a temperature, the share of probability that tokens are drawn from",
    )
    top_k: Count | None = Field(
        None, description="at a temperature, how many tokens are drawn from; default: all"
    )
    speculative_use_rejection_sampling: bool = Field(
        False, description="drafts of mtp and eagle3 are drawn, and verified by both distributions"
    )
    policy: str = Field(
        "fixed",
        description="verify width: fixed (the block), ema, table:[[1,8,15],[9,64,7]], batch:8, "
        "context:8192, accept, confidence, oracle, or a name such as sglang-adaptive",
    )
    engine: str = Field(HOME, description="engine sheet, or a version or date of SGLang")
    calibration: str = Field(
        "shipped", description="fitted constants: shipped, none, or a file of calibrate fit"
    )
    build: str | None = Field(
        None, description="build of the engine; default: the one of the engine sheet"
    )
    # Plain decoding has two loops: with overlap in v2, and without it in either of the others.
    engine_mode: EngineMode = Field("v2", description="v1, v2-sync or v2 (overlap)")
    attention_backend: str | None = Field(
        None, description="target attention backend; default by GPU"
    )
    max_running_requests: Count | None = Field(
        None, description="request cap; default: from memory (48 with speculation)"
    )
    mem_fraction_static: Fraction | None = Field(
        None, description="share of GPU memory for weights and caches; default: the engine's"
    )
    chunked_prefill_size: Whole | None = Field(
        None, ge=-1, le=10**7, description="prefill tokens per step, -1: all; default by GPU memory"
    )
    max_prefill_tokens: Count | None = Field(
        None, description="prompt tokens of a prefill batch; default: the engine's"
    )
    cuda_graph_backend_prefill: PrefillBackend | None = Field(
        None,
        description="graphs of prefills: tc_piecewise, breakable or disabled; default: the "
        "engine's for such a model",
    )
    cuda_graph_max_bs: Whole | None = Field(
        None,
        ge=0,
        le=10**7,
        description="largest captured batch, 0 for none; default by GPU memory",
    )
    context_length: Count | None = Field(
        None, description="longest request, answer included; default: the model's own [token]"
    )
    page_size: Count | None = Field(
        None, description="KV page [token]; default by attention backend"
    )
    min_free_slots_delay: Whole | None = Field(
        None,
        ge=0,
        description="hold prefills until this many slots are free; default: the engine's",
    )
    schedule_policy: SchedulePolicy = Field(
        "fcfs", description="who is prefilled first: fcfs, or lpm (longest cached prefix)"
    )
    schedule_conservativeness: Annotated[Real, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="scales the tokens kept free for running requests"
    )
    scheduler_recv_interval: Count = Field(
        1, description="scheduler loops between two looks for new requests"
    )
    stream_interval: Count = Field(
        1, description="tokens of an answer that are sent at a time, after the first"
    )
    radix_cache: bool = Field(True, description="prefix cache")
    mamba_radix_cache_strategy: Annotated[str, AfterValidator(_known_strategy)] = Field(
        "auto",
        description="prefix cache of hybrid models: auto (the engine's choice), extra_buffer, "
        "extra_buffer_lazy or no_buffer",
    )
    mamba_ssm_dtype: Annotated[str, AfterValidator(_known_state)] | None = Field(
        None, description="format of recurrent states; default: the checkpoint's, mostly float32"
    )
    mamba_full_memory_ratio: Positive | None = Field(
        None, description="recurrent states over KV cache, in bytes; default: the engine's"
    )
    max_mamba_cache_size: Count | None = Field(
        None, description="slots for recurrent states; default: from memory"
    )
    linear_attn_decode_backend: Annotated[str, AfterValidator(_known_decode)] | None = Field(
        None, description="kernels of recurrent states; default: the engine's"
    )
    linear_replayssm_spec: bool = Field(
        False, description="recurrent states replayed from their inputs, none saved by row"
    )
    dataset: str | None = Field(
        "humaneval", description="workload, or a mix as humaneval:0.3,mt-bench:0.7; None with isl"
    )
    content: str | None = Field(None, description="text that acceptance is for; default: dataset")
    thinking: bool = Field(True, description="thinking mode of the dataset's answers")
    isl: Count | None = Field(None, description="fixed input length [token]")
    osl: Count | None = Field(None, description="fixed output length [token]")
    range_ratio: Share = Field(
        1.0, description="fixed lengths are uniform between this share and all of isl and osl"
    )
    cache_hit: Real | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="prompt tokens found in the cache [1]"
    )
    max_new_tokens: Count = Field(4096, description="cap on generated tokens")
    conc: Count | None = Field(None, description="requests in flight; 1 without a rate")
    rate: Positive | None = Field(None, description="arrivals per second (open loop)")
    burstiness: Positive = Field(1.0, description="gamma shape of arrivals; 1 is Poisson")
    num_prompts: Count | None = Field(
        None, description="requests to run; default: the card harness"
    )
    seed: Whole = Field(0, ge=0, le=2**63 - 1, description="random seed")
    runs: Annotated[Whole, Field(ge=1, le=1000)] = Field(5, description="independent runs")

    @model_validator(mode="before")
    @classmethod
    def _workload_defaults(cls, data: Any) -> Any:
        """Fixed lengths replace the data set; a closed loop has one request in flight."""
        if not isinstance(data, dict):
            return data
        filled = dict(data)
        if data.get("isl") or data.get("osl"):
            if data.get("dataset"):
                msg = "dataset and isl/osl exclude each other; give one"
                raise ValueError(msg)
            filled["dataset"] = None
        if data.get("conc") is None and data.get("rate") is None:
            filled["conc"] = 1
        default_model = str(cls.model_fields["model"].default)
        method = method_asked(filled, default_model)
        if method is not None:
            filled["method"] = method.name
        return filled | release_of(filled, method)

    @model_validator(mode="after")
    def _consistent(self) -> "Scenario":
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> list[str]:
        found = []
        if (self.isl is None) != (self.osl is None):
            found.append("isl and osl go together; give both")
        if self.dataset is None and self.isl is None:
            found.append("no workload; give a dataset, or isl and osl")
        if self.range_ratio != 1 and self.isl is None:
            found.append("range_ratio is about isl and osl; give them, or drop it")
        if self.conc is not None and self.rate is not None:
            found.append("conc (closed loop) and rate (open loop) exclude each other; give one")
        if self.cache_hit and not self.radix_cache:
            asked = f"cache_hit {self.cache_hit:g}"
            found.append(
                f"{asked} needs the prefix cache, and radix_cache is off; drop one of them"
            )
        method = self.speculation
        for name in sorted(ONLY_SPECULATION - method.takes):
            if getattr(self, name) != type(self).model_fields[name].default:
                instead = "give block" if name == "steps" and "block" in method.takes else "drop it"
                found.append(f"method {method.name} takes no {name}; {instead}")
        if not Sampling.of(self).greedy and not method.samples:
            found.append(
                f"method {method.name} verifies greedily alone; drop temperature, or give dflash"
            )
        if "topk" in method.takes:
            found += draft_shape_problems(method.name, self)
        return found

    @property
    def speculation(self) -> Method:
        """The method's row in the table of methods."""
        return method_of(self.method)

    @property
    def whole_prompts(self) -> bool:
        """True if prompts are prefilled whole, as SGLang does with ``-1`` (or 0) for a chunk."""
        return self.chunked_prefill_size is not None and self.chunked_prefill_size <= 0

    def without_speculation(self, **fields: Any) -> "Scenario":
        """The same question to a server that decodes plainly, in the engine's usual mode.

        Parameters
        ----------
        fields
            Others that change with it.
        """
        return Scenario.parse(
            **self.model_dump(exclude=set(OF_SPECULATION)) | {"method": PLAIN.name} | fields
        )

    @property
    def hash(self) -> str:
        """Twelve hex digits that name the scenario, whatever the order of its fields."""
        text = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @classmethod
    def parse(cls, **fields: Any) -> "Scenario":
        """Build a scenario; a bad field becomes a one-line :class:`UsageError`."""
        if several := [n for n, value in fields.items() if isinstance(value, list | dict)]:
            msg = f"{several[0]}: a scenario has one value of it, not a list or a table."
            raise UsageError(msg)
        try:
            return cls(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(field_error(first, cls.model_fields, told=_UNKNOWN)) from None

    @classmethod
    def refuse(cls, **fields: Any) -> None:
        """Refuse a value that its field has nowhere, where nothing takes the field."""
        try:
            cls(**fields)
        except (ValidationError, UsageError) as error:  # the latter of fields beside one another
            found = error.errors() if isinstance(error, ValidationError) else []
            for one in (one for one in found if one["loc"]):
                raise UsageError(field_error(one, cls.model_fields, told=_UNKNOWN)) from None
