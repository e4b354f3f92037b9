"""Numbers of the policies that choose verify widths, from profiles/policies.toml."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SHEET = Path(__file__).parent / "policies.toml"


@dataclass(frozen=True)
class LadderSlot:
    """Draft counts that one range of batch sizes moves between.

    Parameters
    ----------
    least_batch : smallest batch that takes this slot
    drafts : the rungs, ascending; 0 is no speculation [token]
    up_hysteresis, down_hysteresis : what adds to the thresholds [token]
    """

    least_batch: int
    drafts: tuple[int, ...]
    up_hysteresis: float
    down_hysteresis: float


@dataclass(frozen=True)
class Measured:
    """Numbers of the policy that drafts while cycles give enough.

    Parameters
    ----------
    alpha : weight of the newest step in the mean of tokens a cycle [1]
    probe_every : steps without drafts before they are tried again
    probe_steps : steps that such a trial takes
    """

    alpha: float
    probe_every: int
    probe_steps: int


@dataclass(frozen=True)
class NamedPolicy:
    """A policy that an engine ships.

    Parameters
    ----------
    policy : how it is written here
    whose : the engine, and its own words
    """

    policy: str
    whose: str


@dataclass(frozen=True)
class PolicySheet:
    """The parameters that policies take where a user says nothing.

    Parameters
    ----------
    alpha : weight of the newest step in the mean of accepted drafts [1]
    update_interval : steps between two decisions
    warmup_batches : steps before the first
    slots : SGLang's ladder, by batch size
    own_up_hysteresis, own_down_hysteresis : of a ladder that a user writes down [token]
    spread : variance of what a confidence head sees of a cycle [1]
    lag : steps that the confidences behind a budget are old
    smoothing : weight of past confidences against the newest, in sizing a budget [1]
    measured : of the policy that goes by what cycles gave
    named : policies that engines ship, by name
    vllm_methods : methods whose drafts vLLM lets the batch size choose
    adaptive_algorithms : SGLang's algorithms whose drafts it lets the batch size choose
    adaptive_since : first release of SGLang that may choose no drafts at all
    """

    alpha: float
    update_interval: int
    warmup_batches: int
    slots: tuple[LadderSlot, ...]
    own_up_hysteresis: float
    own_down_hysteresis: float
    spread: float
    lag: int
    smoothing: float
    measured: Measured
    named: Mapping[str, NamedPolicy]
    vllm_methods: tuple[str, ...]
    adaptive_algorithms: tuple[str, ...]
    adaptive_since: str


@cache
def load_policies() -> PolicySheet:
    """Read the sheet shipped with the package."""
    sheet = tomllib.loads(_SHEET.read_text(encoding="utf-8"))
    ema, confidence = sheet["ema"], sheet["confidence"]
    return PolicySheet(
        alpha=ema["alpha"],
        update_interval=ema["update_interval"],
        warmup_batches=ema["warmup_batches"],
        slots=tuple(
            LadderSlot(**(slot | {"drafts": tuple(slot["drafts"])})) for slot in ema["slots"]
        ),
        own_up_hysteresis=ema["own_ladder"]["up_hysteresis"],
        own_down_hysteresis=ema["own_ladder"]["down_hysteresis"],
        spread=confidence["spread"],
        lag=confidence["lag"]["steps"],
        smoothing=confidence["smoothing"]["value"],
        measured=Measured(
            **{name: sheet["measured"][name] for name in ("alpha", "probe_every", "probe_steps")}
        ),
        named={
            name: NamedPolicy(row["policy"], row["whose"]) for name, row in sheet["named"].items()
        },
        vllm_methods=tuple(sheet["engines"]["vllm"]["methods"]),
        adaptive_algorithms=tuple(sheet["engines"]["sglang"]["adaptive_algorithms"]),
        adaptive_since=sheet["engines"]["sglang"]["since"],
    )
