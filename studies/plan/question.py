"""The question of ``plan``: candidates, demand and objective, from flags."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from dflash_sim.calibrate.readers.request_traces import named, read_trace
from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.load import load_device, load_model
from dflash_sim.profiles.units import MS
from dflash_sim.simulator.cost.methods import PLAIN
from dflash_sim.simulator.fleet.routers import ROUTERS
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.prices import checked_prices, own_prices
from dflash_sim.studies.ask.question import Given, as_yaml, left_out, scenarios
from dflash_sim.studies.ask.ranges import whole_numbers
from dflash_sim.studies.plan.choice import OWN_CAP, chosen
from dflash_sim.studies.plan.demand import (
    DURATION_S,
    Demand,
    led_in,
    of_rate,
    of_trace,
    shares_of,
)
from dflash_sim.studies.plan.hours import shares_by_hour
from dflash_sim.studies.plan.judge import Question
from dflash_sim.studies.plan.most import refuse
from dflash_sim.studies.plan.objective import Slo
from dflash_sim.studies.plan.over_long import CHOICES, within

RUNS = 3
DEFAULTS: Mapping[str, Any] = {
    "gpu": ["b200", "h200"],
    "tp": [1, 2, 4, 8],
    "method": ["none", "dflash"],
    "runs": RUNS,
}
_LATENCIES = ("ttft", "tpot", "e2e")
_TIME = re.compile(r"(\d*\.?\d+) ?(ms|s)")
_IN_MS = {"ms": 1.0, "s": 1 / MS}
_DEMANDED = (
    "rate",
    "dataset",
    "isl",
    "osl",
    "max_new_tokens",
    "cache_hit",
    "radix_cache",
    "burstiness",
    "seed",
    "runs",
)
CANDIDATES = ("gpu", "tp", "method", "block", "steps", "max_running_requests")


@dataclass(frozen=True)
class Numbers:
    """Numbers of ``plan``'s own flags, as far as they are given."""

    values: Mapping[str, float]

    def whole(self, name: str) -> int | None:
        """A whole number above 0, if given."""
        value = self.values.get(name)
        if value is not None and value != int(value):
            msg = f"--{name.replace('_', '-')} {value:g}: it is a whole number above 0."
            raise UsageError(msg)
        return None if value is None else int(value)

    def of_question(self) -> dict[str, Any]:
        """Arguments of :func:`question`."""
        given = self.values
        limits = {f"{n}_s": given[n] * MS for n in _LATENCIES if n in given}
        slo = Slo(**limits, percentile=given.get("percentile", Slo.percentile))
        out: dict[str, Any] = {"slo": slo, "busiest_s": given.get("busiest")}
        out["duration_s"] = given.get("duration", DURATION_S)
        out["confidence"] = given.get("confidence", Question.confidence)
        out["max_gpus"] = self.whole("max_gpus") or Question.max_gpus
        return out


def numbers_of(**texts: str | float | None) -> Numbers:
    """Read flags that are numbers above 0."""
    values = {}
    for name, text in texts.items():
        if text is None:
            continue
        unit = _TIME.fullmatch(str(text)) if name in _LATENCIES else None
        try:
            value = float(text) if unit is None else float(unit[1]) * _IN_MS[unit[2]]
        except (TypeError, ValueError):
            value = float("nan")
        if not 0 < value < float("inf"):
            flag = f"--{name.replace('_', '-')}"
            msg = f"{flag} {text}: it is a number above 0."
            if str(text).endswith("%"):
                such = "0.9 for 90 %" if name == "confidence" else "95 for 95 %"
                msg = f"{flag} {text}: it is a number above 0, without a sign, such as {such}."
            raise UsageError(msg)
        values[name] = value
    return Numbers(values)


def tunable(asked: Mapping[str, Given]) -> tuple[Scenario, list[int] | None]:
    """The one scenario whose block is tuned, and the blocks to try, if any are given."""
    fields = dict(asked)
    given = fields.pop("block", None)
    blocks = None
    if given is not None:
        blocks = given.value if isinstance(given.value, list) else [given.value]
    points = scenarios(fields)
    if len(points) > 1:
        msg = f"--tune block is for one server, and {len(points)} were given; give one value each."
        raise UsageError(msg)
    return points[0], blocks


def question(
    asked: Mapping[str, Given],
    *,
    caps: str | None,
    trace: str | None,
    time_unit: str | None,
    over_long: str = CHOICES[0],
    router: str,
    slo: Slo,
    busiest_s: float | None,
    duration_s: float,
    confidence: float,
    max_gpus: int,
    hours: str | None = None,
    prices: Iterable[str] | Mapping[str, float] = (),
    compare: Sequence[str] = (),
) -> Question:
    """The question that flags ask.

    Parameters
    ----------
    asked
        Scenario fields; lists are candidates.
    caps
        Request caps to try, as text.
    trace
        ``FILE[:format]``.
    over_long
        What becomes of prompts that the model cannot take: refuse, drop or truncate.
    hours
        Shares of the rate by hour of the day, as :func:`shares_by_hour` reads them.
    prices
        Rents that the asker pays, as :func:`own_prices` reads them.
    compare
        Two candidates to set side by side.
    """
    if router not in ROUTERS:
        raise unknown(kind="--router", value=router, allowed=ROUTERS)
    own_prices(prices)  # a price that is none is told before a trace is read
    fields, demand = _planned(asked, trace, time_unit, busiest_s, over_long)
    fields, by_hour = _busiest_hour(fields, hours, trace)
    points = _with_caps(fields, caps)
    for gpu in {s.gpu: None for s in points}:
        load_device(gpu)  # a name that is mistyped is no candidate that does not fit
    own = checked_prices(prices, (s.gpu for s in points))
    if demand is None:
        demand = of_rate(points[0], duration_s=duration_s)
    notes = tuple(left_out({name: given.value for name, given in fields.items()}))
    return Question(
        tuple(points),
        demand,
        slo,
        router,
        confidence,
        max_gpus,
        notes,
        own,
        chosen(compare, points),
        by_hour,
    )


def _busiest_hour(
    fields: dict[str, Given], hours: str | None, trace: str | None
) -> tuple[dict[str, Given], tuple[float, ...]]:
    """Fields with the rate of the busiest hour, and every hour's share of that."""
    if hours is None:
        return fields, ()
    if trace is not None:
        msg = "--hours is for --rate: a trace has times of its own; drop one of them."
        raise UsageError(msg)
    shares = shares_by_hour(hours)
    most = max(shares)
    rate = fields["rate"]
    peak = Given(most * float(rate.value), f"{rate.origin}, in the busiest hour")
    return fields | {"rate": peak}, tuple(share / most for share in shares)


def owned(asked: Mapping[str, Given], what: str, **about: Any) -> Question:
    """The question what owned GPUs carry: as :func:`question`, with a rate that is to be found."""
    given = [n for n in ("rate", "conc", "num_prompts") if n in asked and asked[n].origin == "flag"]
    given += [n for n in ("trace", "busiest_s", "hours", "compare") if about.get(n)]
    refuse(given, what)
    fields = dict(asked) | {"rate": Given(1.0, "to be found")}
    fields.pop("num_prompts", None)
    return question(fields, **{**about, "duration_s": DURATION_S})


def config(asked: Mapping[str, Given], *, given: Collection[str], **about: Any) -> str:
    """Return what :func:`question` is asked, with its candidates, and where every value is from.

    Parameters
    ----------
    given
        Names of those that are from flags.
    about
        The other arguments of :func:`question`.
    """
    trace, unit, busiest_s = about["trace"], about["time_unit"], about["busiest_s"]
    fields, _ = _planned(asked, trace, unit, busiest_s, about.get("over_long", CHOICES[0]))
    if about["caps"] is not None:
        several = _caps(about["caps"])
        fields["max_running_requests"] = Given(several if several[1:] else several[0], "flag")
    slo: Slo = about["slo"]
    own: dict[str, Any] = {n: None if trace is None else about[n] for n in ("trace", "time_unit")}
    own["over_long"] = None if trace is None else about.get("over_long")
    own["busiest"] = busiest_s
    own["duration"] = about["duration_s"] if trace is None else None
    limits = (slo.ttft_s, slo.tpot_s, slo.e2e_s)
    own |= {n: x and x / MS for n, x in zip(("ttft", "tpot", "e2e"), limits, strict=True)}
    own |= {"percentile": slo.percentile, "confidence": about["confidence"]}
    own |= {"router": about["router"], "max_gpus": about["max_gpus"], "hours": about.get("hours")}
    own |= {"price": dict(own_prices(about.get("prices", ()))) or None}
    own |= {"compare": list(about.get("compare", ())) or None}
    rows = [(n, f"  {n}: {json.dumps(x)}") for n, x in own.items() if x is not None]
    width = max(len(text) for _, text in rows)
    told = [f"{text:<{width}}  # {'flag' if n in given else 'default'}\n" for n, text in rows]
    return as_yaml(fields) + "plan:\n" + "".join(told)


def _planned(
    asked: Mapping[str, Given],
    trace: str | None,
    time_unit: str | None,
    busiest_s: float | None,
    over_long: str,
) -> tuple[dict[str, Given], Demand | None]:
    """Fields with what a plan takes where nothing is given, and the requests of a trace."""
    fields = {n: g for n, g in asked.items() if n != "conc" or g.origin == "flag"}
    if "conc" in fields:
        msg = "a plan is for arrivals: --conc is not for it. Give --rate, or --trace."
        raise UsageError(msg)
    for name in fields:
        if name not in CANDIDATES and isinstance(fields[name].value, list):
            msg = f"--{name.replace('_', '-')}: a plan takes one value, as candidates share it."
            raise UsageError(msg)
    policy = fields.get("policy")
    if policy is not None and policy.value != "fixed":
        msg = "fleets are planned with a fixed verify width; drop --policy."
        raise UsageError(msg)
    for name, value in DEFAULTS.items():
        if name not in fields and not (name == "tp" and "num_gpus" in fields):
            fields[name] = Given(value, "default of plan")
    if trace is None and "rate" not in fields:
        msg = "what is the demand? Give --rate 50 (requests a second), or --trace FILE."
        raise UsageError(msg)
    about_trace = busiest_s is not None or time_unit is not None or over_long != CHOICES[0]
    if trace is None and about_trace:
        msg = (
            "--busiest, --time-unit and --over-long are about a trace; give --trace FILE, or "
            "drop them."
        )
        raise UsageError(msg)
    demand = None
    if trace is not None:
        fields, demand = _traced(fields, trace, time_unit, busiest_s, over_long)
    return fields, demand


def _traced(
    fields: dict[str, Given],
    spec: str,
    time_unit: str | None,
    busiest_s: float | None,
    over_long: str,
) -> tuple[dict[str, Given], Demand]:
    """Fields that go with a trace, and its requests."""
    path, form = named(spec)
    trace = read_trace(path, form=form, time_unit=time_unit)
    named_model = fields["model"].value if "model" in fields else None
    model = load_model(str(named_model or Scenario.model_fields["model"].default))
    trace = within(trace, model.context, model.name, over_long)
    lead = 0
    if busiest_s is not None:
        trace, lead = led_in(trace, busiest_s)
    if trace.arrival_s is not None and "rate" in fields:
        msg = f"trace {trace.name} has times of its own: --rate is not for it; drop one of them."
        raise UsageError(msg)
    for name in ("isl", "osl", "num_prompts"):
        if name in fields:
            msg = f"trace {trace.name} has lengths of its own; drop --{name.replace('_', '-')}."
            raise UsageError(msg)
    capped = "max_new_tokens" in fields
    about: dict[str, Any] = {}
    if not capped:
        about["max_new_tokens"] = int(trace.osl.max())
    text = shares_of(trace) if "content" not in fields else None
    if text is not None:
        about["content"] = text
    elif trace.content:
        trace = replace(trace, content=())  # of --content there is one law for all of them
    if "dataset" not in fields:  # which would name the law of acceptance
        about |= {"dataset": None, "isl": int(trace.isl.max()), "osl": int(trace.osl.max())}
    if trace.arrival_s is not None:
        span_s = float(trace.arrival_s[-1])
        about["rate"] = len(trace) / span_s if span_s else float(len(trace))
    fields = fields | {name: Given(value, "trace") for name, value in about.items()}
    own = {name: g for name, g in fields.items() if name in _DEMANDED}
    scenario = scenarios({**own, "method": Given(PLAIN.name, "")})[0]
    return fields, of_trace(trace, scenario, capped=capped, lead=lead)


def _caps(text: str) -> list[int | str]:
    """The caps of a list, in which ``default`` is the engine's own for each method."""
    parts = [part.strip() for part in text.split(",")]
    numbers = ",".join(part for part in parts if part != OWN_CAP)
    own: list[int | str] = [OWN_CAP] if OWN_CAP in parts else []
    return [*own, *(whole_numbers("--max-running-requests", numbers) if numbers else ())]


def _with_caps(fields: Mapping[str, Given], caps: str | None) -> list[Scenario]:
    """Each candidate with each cap on running requests, those of a preset if no others."""
    fields = dict(fields)
    own = fields.get("max_running_requests")
    if own is None and caps is None:
        return scenarios(fields)
    tried = caps if own is None or caps is not None else own.value
    if isinstance(tried, str):
        tried = _caps(tried)
    tried = tried if isinstance(tried, list) else [tried]
    fields.pop("max_running_requests", None)
    return [
        Scenario.parse(**(s.model_dump() | {"max_running_requests": cap}))
        for s, cap in product(scenarios(fields), (None if c == OWN_CAP else c for c in tried))
    ]
