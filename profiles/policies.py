"""Numbers of the policies that choose verify widths, from profiles/policies.toml."""

import tomllib
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
    )
