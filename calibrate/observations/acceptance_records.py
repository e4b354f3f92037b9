"""Acceptance of single requests, summed up: AIPerf's record, or anything brought to its shape."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.values import Raw, number, short
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.requests.parse import accept_lengths

_WIDEST = 1024  # verify width of a scenario at most
_MOST = 10**15  # exact as a float, and more than any log holds


@dataclass(frozen=True, kw_only=True)
class Verified:
    """One request's verify steps.

    Parameters
    ----------
    histogram
        Steps by accepted drafts; None if only totals are known.
    steps, accepted, proposed
        Verify steps, accepted and proposed drafts.
    completion
        Generated tokens; None if not known.
    """

    histogram: tuple[int, ...] | None
    steps: int
    accepted: int
    proposed: int | None = None
    completion: int | None = None

    def __post_init__(self) -> None:
        if self.histogram is not None:
            counted = sum(self.histogram)
            if counted != self.steps:
                msg = f"the histogram counts {counted} steps, the record {self.steps}"
                raise UsageError(msg)
            weighed = sum(j * steps for j, steps in enumerate(self.histogram))
            if weighed != self.accepted:
                msg = f"the histogram holds {weighed} accepted drafts, the record {self.accepted}"
                raise UsageError(msg)
        if self.completion == 0 and self.steps:
            msg = f"no token was generated in {self.steps} verify steps"
            raise UsageError(msg)
        if self.proposed is not None and self.accepted > self.proposed:
            msg = f"{self.accepted} accepted drafts exceed the {self.proposed} proposed"
            raise UsageError(msg)

    @property
    def tokens(self) -> int:
        """Generated tokens as SGLang counts them, else one bonus token a step and the drafts."""
        return self.steps + self.accepted if self.completion is None else self.completion


def acceptance_record(raw: Raw) -> Raw | None:
    """AIPerf's record: the object itself, or a member of it."""
    for found in (raw, *raw.values()):
        if isinstance(found, Mapping) and {"acceptance_histogram", "num_spec_steps"} <= {*found}:
            return found
    return None


def is_acceptance(raw: Raw) -> bool:
    """Return True if an AIPerf acceptance record is in it."""
    return acceptance_record(raw) is not None


def verified(raw: Raw) -> Verified:
    """An AIPerf acceptance record, its identities checked."""
    record = acceptance_record(raw) or raw
    width = count(record, "num_spec_tokens")
    found = Verified(
        histogram=sparse_histogram(record.get("acceptance_histogram")),
        steps=count(record, "num_spec_steps") or 0,
        accepted=count(record, "num_accepted_draft_tokens") or 0,
        proposed=count(record, "num_draft_tokens"),
        completion=count(record, "completion_tokens"),
    )
    if width is not None and found.histogram is not None and len(found.histogram) > width + 1:
        msg = f"{len(found.histogram) - 1} drafts accepted in a step of num_spec_tokens {width}"
        raise UsageError(msg)
    return found


def read_acceptance(rows: Sequence[Raw], where: str) -> Observation:
    """All requests of a file together."""
    records = [acceptance_record(raw) or raw for raw in rows]
    engines = {str(r["engine"]) for r in records if isinstance(r.get("engine"), str)}
    widths = {count(record, "num_spec_tokens") or 0 for record in records}
    block = {"block": max(widths) + 1} if len(widths) == 1 and max(widths) > 0 else {}
    return accept_observation(
        [verified(raw) for raw in rows],
        where,
        fields={name: value for name, value in block.items() if value <= _WIDEST},
        about={"tool": "aiperf acceptance records", "engine": ", ".join(sorted(engines))},
    )


def accept_observation(
    requests: Sequence[Verified],
    where: str,
    *,
    fields: Mapping[str, Any],
    about: Mapping[str, Any],
) -> Observation:
    """Accept lengths under the names of a result row, and the summed histogram."""
    metrics, histogram = accept_metrics(requests)
    return Observation(
        row=where,
        source="",
        fields=fields,
        metrics=metrics,
        accept_histogram=histogram,
        about={name: value for name, value in about.items() if value},
    )


def accept_metrics(
    requests: Sequence[Verified],
) -> tuple[dict[str, float], tuple[int, ...] | None]:
    """Accept lengths of requests by four definitions, and their steps by accepted drafts."""
    accepted = sum(r.accepted for r in requests)
    lengths = accept_lengths([r.tokens for r in requests], [r.steps for r in requests], accepted)
    metrics = {
        "accept_length": lengths.al_request_mean,
        "accept_length_cycle": lengths.al_cycle,
        "accept_length_token_weighted": lengths.al_token_weighted,
        "accept_length_harmonic": lengths.al_harmonic,
        "verify_steps": float(sum(r.steps for r in requests)),
        "completed": float(len(requests)),
    }
    drafts: list[int] = [r.proposed for r in requests if r.proposed is not None]
    if len(drafts) == len(requests) and any(drafts):
        metrics["accept_rate"] = accepted / sum(drafts)
    whole = [r.histogram for r in requests if r.histogram is not None]
    return metrics, added(whole) if len(whole) == len(requests) else None


def added(histograms: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The sum of histograms of any lengths."""
    total: Counter[int] = Counter()
    for histogram in histograms:
        total.update(dict(enumerate(histogram)))
    return tuple(total[j] for j in range(max(total, default=-1) + 1))


def count(raw: Raw, key: str) -> int | None:
    """A whole number from 0 up, or None if it is absent."""
    value = number(raw, key)
    if value is None:
        return None
    if not 0 <= value <= _MOST or value != int(value):
        msg = f"{key} is {short(raw[key])}; expected a whole number"
        raise UsageError(msg)
    return int(value)


def dense_histogram(value: object) -> tuple[int, ...]:
    """``[steps that accepted 0, 1, ... drafts]``."""
    if not isinstance(value, list) or not value or len(value) > _WIDEST:
        msg = f"histogram is {short(value)}; expected a list of counts"
        raise UsageError(msg)
    return tuple(count({"histogram": steps}, "histogram") or 0 for steps in value)


def sparse_histogram(value: object) -> tuple[int, ...]:
    """``{"accepted drafts": steps}``, keys being text in JSON."""
    if not isinstance(value, Mapping):
        msg = f"acceptance_histogram is {short(value)}; expected an object of counts"
        raise UsageError(msg)
    found: dict[int, int] = {}
    for key, steps in value.items():
        accepted = count({"acceptance_histogram": str(key)}, "acceptance_histogram")
        if accepted is None or accepted >= _WIDEST:
            msg = f"acceptance_histogram has the key {short(key)}; expected accepted drafts"
            raise UsageError(msg)
        found[accepted] = count({"steps": steps}, "steps") or 0
    return tuple(found.get(j, 0) for j in range(max(found, default=0) + 1))
