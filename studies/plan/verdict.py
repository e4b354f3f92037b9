"""The verdict of a plan: what to rent, how sure that is, what is in doubt, what speculation saves.

Whatever could overturn the first sentence is part of it; what is left for the end of a page does
not touch the size of a fleet.
"""

from collections.abc import Iterable, Iterator, Sequence

from dflash_sim.simulator.caveats import unconfirmed
from dflash_sim.simulator.defaults import CONTEXT
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.ask.prices import HOURS_A_MONTH
from dflash_sim.studies.plan.choice import label, out_of_slots
from dflash_sim.studies.plan.close_look import SLOTS, Fleet
from dflash_sim.studies.plan.difference import Difference
from dflash_sim.studies.plan.search import ENDS, Plan
from dflash_sim.studies.show.figures import number

_ALL = 100  # percent
_SETTLED = 10  # mean answers that a rate should last


def verdict(found: Plan) -> list[str]:
    """Say what to rent and how sure that is; a sentence each."""
    return [*_headline(found), *savings(found), *_of_day(found)]


def roles(found: Plan) -> list[tuple[str, Fleet]]:
    """The best fleets, each once, with what they are best at."""
    words = {"gpus": "Fewest GPUs"} | {end: f"Cheapest at {end} prices" for end in ENDS}
    by_fleet: dict[int, list[str]] = {}
    for objective, index in found.best.items():
        by_fleet.setdefault(index, []).append(objective)
    out = []
    for index, objectives in by_fleet.items():
        ends = [o for o in objectives if o in ENDS]
        role = words["gpus"] if "gpus" in objectives else ""
        if len(ends) == len([e for e in ENDS if e in found.best]) and ends:
            role = f"{role} and cheapest" if role else "Cheapest"
        elif ends:
            at = f"cheapest at {' and '.join(ends)} prices"
            role = f"{role}, {at}" if role else at.capitalize()
        out.append((role, found.fleets[index]))
    return out


def gpus(count: int) -> str:
    """A number of GPUs in words."""
    return f"{count:,} GPU{'' if count == 1 else 's'}"


def percent_of(share: float) -> str:
    """A probability in percent, without decimals that say nothing."""
    return f"{100 * share:.4g} %"


def _headline(found: Plan) -> Iterator[str]:
    sure = percent_of(found.question.confidence)
    for role, fleet in roles(found):
        usd = fleet.usd_per_hour
        money = "no price of it is known"
        if "typical" in usd:
            a_month = usd["typical"] * HOURS_A_MONTH
            money = f"{number(usd['typical'])} USD an hour, {number(a_month)} a month"
        met = met_with(sure, doubts_of(fleet, found))
        line = f"{role}: {gpus(fleet.gpus)}, {fleet.title}; {money}; met {met}"
        if fleet is found.fewest and found.as_predicted and found.as_predicted < fleet.gpus:
            line += f". Were all times as predicted, {gpus(found.as_predicted)} would do"
        yield f"{line}."
        told = _of_equals(found, fleet)
        if told:
            yield told
    unpriced = _unpriced(found)
    if unpriced:
        yield f"{unpriced[0].upper()}{unpriced[1:]}: give --price {unpriced.split()[-1]}=USD."


def _of_equals(found: Plan, fleet: Fleet) -> str:
    """Say that of fleets of one size and price the one with the most headroom is named."""
    if fleet.index not in found.headroom:
        return ""
    price = fleet.usd_per_hour.get("typical")
    others = [
        s.index
        for s in found.solved
        if s.index in found.headroom
        and s.index != fleet.index
        and s.replicas is not None
        and (
            s.replicas * found.surveys[s.index].tp,
            found.surveys[s.index].usd("typical", s.replicas),
        )
        == (fleet.gpus, price)
    ]
    if not others:
        return ""
    others.sort(key=lambda i: -found.headroom[i].good)
    told = [f"{found.headroom[i].room} with {label(found.question.candidates[i])}" for i in others]
    if fleet.unbroken and found.headroom[others[0]].bad is None:
        names = ", ".join(label(found.question.candidates[i]) for i in others)
        return (
            f"As many GPUs of that price do with {names}; none breaks with "
            f"{fleet.headroom:.0f} x the requests, and more is not tried."
        )
    room = f"{fleet.room} more requests".replace("more more", "more")
    beside = f"{room}, against {', '.join(told)}"
    if fleet.headroom >= found.headroom[others[0]].good:
        return f"Of fleets of that size and price it has the most headroom: {beside}."
    return f"No fleet of that size and price has clearly more headroom: {beside}."


def doubts_of(fleet: Fleet, found: Plan) -> list[str]:
    """What may overturn the size of a fleet, beyond what its confidence is over."""
    short = filter(None, (_too_few(found), _too_short(fleet, found)))
    return [*doubts_of_server(fleet.setup), *short]


def doubts_of_server(setup: Setup) -> list[str]:
    """What may overturn any prediction of a server."""
    out = []
    new = unconfirmed(setup.server, setup.calibration)
    if new:
        named = ", ".join(name for _, name in new)
        out.append(f"no measurement on {named} has confirmed such an answer")
    if setup.tables is None:
        out.append(f"with no operator times for {setup.device.name} it is a roofline estimate")
    return out


def met_with(sure: str, doubts: Sequence[str]) -> str:
    """How sure an answer is in words, and what is in doubt of it."""
    if not doubts:
        return f"with {sure} confidence"
    return f"at {sure}, but {'; and '.join(doubts)}"


def _too_few(found: Plan) -> str:
    """Say that a percentile of so few requests is that of one or none of them."""
    slo, count = found.question.slo, found.question.demand.judged
    if not slo.limits_s or slo.percentile >= _ALL or count >= slo.least:
        return ""
    requests = f"{count:,} request{'' if count == 1 else 's'}"
    return (
        f"{requests} {'is' if count == 1 else 'are'} judged, of which no {slo.percentile:g} % can "
        f"be told: give {slo.least:,} or more"
    )


def _too_short(fleet: Fleet, found: Plan) -> str:
    """Say that a rate ends before a queue could be seen to grow."""
    span_s, answer_s = found.question.demand.span_s, fleet.sure.mean_e2e_s
    if not found.question.demand.steady or span_s >= _SETTLED * answer_s:
        return ""
    return (
        f"{number(span_s)} s are judged and an answer takes {number(answer_s)} s on "
        "average: too short to see a queue grow; give a longer --duration"
    )


def _unpriced(found: Plan) -> str:
    priced = {s.index for s in found.surveys if s.price and s.price.typical is not None}
    unpriced = [s.index for s in found.surveys if s.error is None and s.index not in priced]
    kinds = dict.fromkeys(found.question.candidates[i].gpu for i in unpriced)
    return f"among the cheapest is not, as no price is known, {', '.join(kinds)}" if kinds else ""


def warnings(found: Plan) -> list[str]:
    """Say what to distrust, each once: what the verdict names, and the rest."""
    out = [f"{f.title}: {d}" for _, f in roles(found) for d in doubts_of(f, found)]
    unpriced = _unpriced(found)
    return list(dict.fromkeys([*out, *([unpriced] if unpriced else []), *remarks(found)]))


def remarks(found: Plan) -> list[str]:
    """Say what else to keep in mind; nothing of it changes a fleet."""
    q = found.question
    out = list(q.notes)
    for _, fleet in roles(found):
        out += remarks_of_server(fleet.setup)
    out += _slots(found, range(len(q.candidates)))
    return list(dict.fromkeys(out))


def _slots(found: Plan, among: Iterable[int]) -> list[str]:
    """What is said of candidates that their slots limit, though more can be had."""
    q = found.question
    full = {i for i, fleet in found.fleets.items() if SLOTS in fleet.binds}
    full |= {s.index for s in found.surveys if s.capped and (s.need or 0.0) > 1}
    return out_of_slots([q.candidates[i] for i in sorted(full.intersection(among))], q.candidates)


def remarks_of_server(setup: Setup) -> list[str]:
    """Warnings of a server but those that :func:`doubts_of_server` has."""
    elsewhere = ("unconfirmed", CONTEXT)  # of a trace, each request has its own lengths
    return [w for w in setup.warnings if not w.startswith(elsewhere)]


def savings(found: Plan) -> list[str]:
    """Say what one fleet saves over another, with intervals; or why there is nothing to compare."""
    if found.differences:
        compared = dict.fromkeys(i for d in found.differences for i in (d.one, d.other))
        capped = [f"There, {told}." for told in _slots(found, compared)]
        return [*(saved(each, found) for each in found.differences), *capped]
    candidates = found.question.candidates
    families: dict[bool, list[str]] = {}
    for i, near in found.alone.items():
        speculative = candidates[i].speculation.speculative
        families.setdefault(speculative, []).append(
            f"{near.latency} of one request alone is {number(near.quantile_s * 1e3)} ms"
        )
    met = {candidates[i].speculation.speculative for i in found.fleets}
    out = []
    for speculative, why in families.items():
        if speculative in met or found.question.compared:
            continue
        what = "speculation" if speculative else "plain decoding"
        out.append(f"No number of GPUs keeps the limits with {what}: {why[0]}.")
    return out


def saved(d: Difference, found: Plan) -> str:
    """A difference in a sentence: GPUs and dollars a month, each with its 90 % interval."""
    candidates = found.question.candidates
    one, other = (_kind(found, i, d) for i in (d.one, d.other))
    if candidates[d.one].speculation.speculative and not found.question.compared:
        one = f"Speculation ({one})"
    elif not found.question.compared:
        one = f"Plain decoding ({one})"
    least = "at least " if d.at_least else ""
    fewer = "fewer" if d.saved_gpus >= 0 else "more"
    what = "needs as many GPUs as"
    if d.saved_gpus:
        what = f"needs {gpus(abs(d.saved_gpus))} {fewer} than"
    sure = percent_of(found.question.confidence)
    line = (
        f"{one} {what} {other}, {d.gpus[0]:,} against {least}{d.gpus[1]:,}, each sized for {sure} "
        f"confidence (90 % interval {_span_of(d.saved_gpus_ci90, fewer)})"
    )
    money, ends = d.saved_usd_month, d.saved_usd_month_ci90
    if money is not None and ends is not None and any((money, *ends)):
        verb, word = ("saves", "less") if money >= 0 else ("costs", "more")
        rents = " against ".join(number(usd) for usd in d.usd_month if usd is not None)
        line += (
            f"; that {verb} {least}{number(abs(money))} USD a month{'' if money >= 0 else ' more'} "
            f"({_bills(ends, word)}), {rents}"
        )
    return f"{line}."


def _span_of(ends: tuple[int, int], word: str) -> str:
    """An interval of GPUs that are fewer or more, as people say it."""
    low, high = ends if word == "fewer" else (-ends[1], -ends[0])
    other = "fewer" if word == "more" else "more"
    if low == high:
        return f"{high:,} {word}"
    if low >= 0:
        return f"{low:,} to {high:,} {word}"
    return f"{-low:,} {other} to {f'{high:,} {word}' if high else 'as many'}"


def _bills(ends: tuple[float, float], word: str) -> str:
    """An interval of bills that are less or more, as people say it."""
    low, high = ends if word == "less" else (0.0 - ends[1], 0.0 - ends[0])
    other = "more" if word == "less" else "less"
    if low >= 0:
        each = list(dict.fromkeys(number(x) for x in (low, high)))
        return f"{' to '.join(each)} {word}"
    return f"{number(-low)} {other} to {f'{number(high)} {word}' if high else 'as much'}"


def _kind(found: Plan, i: int, d: Difference) -> str:
    """A candidate in as many words as tell the two apart."""
    c = [found.question.candidates[k] for k in (d.one, d.other)]
    mine = found.question.candidates[i]
    if found.question.compared:
        return label(mine)
    tp = {s.index: s.tp for s in found.surveys}
    alike = (c[0].gpu, tp[d.one]) == (c[1].gpu, tp[d.other])
    where = "" if alike else f" on {tp[i]} x {mine.gpu}"
    how = mine.method + (f" block {mine.block}" if mine.block else "")
    return f"{'plain decoding' if not mine.speculation.speculative else how}{where}"


def _of_day(found: Plan) -> Iterator[str]:
    """Say what the hours of the day make of the fleet."""
    if not found.hours:
        return
    fleet = found.fewest
    whole = sum(len(h.hours) for h in found.hours)
    each = fleet.setup.tp
    follows = sum(len(h.hours) * h.replicas for h in found.hours) / whole
    busy = sum(len(h.hours) * h.busy for h in found.hours) / whole
    line = (
        f"Through the day its GPUs are at work {100 * busy:.0f} % of the time; with servers that "
        f"follow the load {number(follows * each)} GPUs do on average, of {fleet.gpus:,}"
    )
    usd = fleet.usd_per_hour.get("typical")
    if usd is not None:
        a_month = usd * HOURS_A_MONTH
        scaled = a_month * follows / fleet.replicas
        line += f": {number(scaled)} USD a month in place of {number(a_month)}"
    yield f"{line}."
