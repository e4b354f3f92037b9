"""What a state needs to be drawn: which answers, in which order, and those that are there."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dflash_sim.simulator.cost.methods import PLAIN, method_of
from dflash_sim.ui.answer import SHORT, WHOLE, Answer, Reasons, Refusal
from dflash_sim.ui.desk import WHY, Found, Task
from dflash_sim.ui.state import State

CONCS = (1, 2, 4, 8, 16, 32, 64, 128)
RATES = (0.25, 0.5, 1.0, 1.5, 2.0)  # times the rate that is asked for
_WIDTHS = {True: (1, 3, 5, 7), False: (4, 8, 16)}  # steps of a chain, and blocks
_WITH_INTERVAL = 2  # every second answer of the curve has one
_OTHERS = 2  # widths beside the one asked for


@dataclass(frozen=True)
class Measured:
    """A row of somebody's benchmark: requests in flight, throughput and each user's [token/s].

    Where it has no time per token a user's is his share, which first tokens make less.
    """

    load: float
    tok_s: float
    row: str
    tpot_ms: float | None = None

    @property
    def each_tok_s(self) -> float:
        return 1000 / self.tpot_ms if self.tpot_ms else self.tok_s / self.load


@dataclass(frozen=True)
class Beside:
    """Another state that was kept for comparison, and its answer as far as there is one."""

    state: State
    found: Answer | Refusal | None


@dataclass(frozen=True)
class View:
    """A state with what is known about it.

    Parameters
    ----------
    short, whole
        The answer to what is asked, quickly and in full; or why there is none.
    curve, plain
        By load: the server that is asked for, and plain decoding.
    widths
        By width and load: the same server with other widths, that which is asked for among them.
    why
        The explanation, where it was asked for.
    beside
        Other states that were kept, each with its answer.
    """

    state: State
    short: Found | None = None
    whole: Found | None = None
    curve: dict[float, Answer] = field(default_factory=dict)
    plain: dict[float, Answer] = field(default_factory=dict)
    widths: dict[int, dict[float, Answer]] = field(default_factory=dict)
    measured: tuple[Measured, ...] = ()
    why: Reasons | Refusal | None = None
    beside: tuple[Beside, ...] = ()

    @property
    def best(self) -> Answer | None:
        """The best answer so far to what is asked."""
        found = [a for a in (self.whole, self.short) if isinstance(a, Answer)]
        return found[0] if found else None

    @property
    def refusal(self) -> Refusal | None:
        """The reason why there is none."""
        found = [r for r in (self.whole, self.short) if isinstance(r, Refusal)]
        return found[0] if found else None

    @property
    def speculative(self) -> bool:
        """True if the method that is asked for drafts."""
        return self.state.fields.get("method", "dflash") != PLAIN.name


class Plan:
    """The answers that a state needs."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.short = Task.of(state.fields, SHORT)
        self.whole = Task.of(state.fields, WHOLE, baseline=True)
        self.why = Task.of(state.fields, WHY)
        self._axis = "rate" if state.open_loop else "conc"

    def loads(self) -> list[float]:
        """The loads of the curves, that which is asked for among them."""
        asked = self.state.load
        found = [asked * part for part in RATES] if self.state.open_loop else list(CONCS)
        return sorted({*map(float, found), asked})

    def curve(self, quality: str, **changes: Any) -> dict[float, Task]:
        """Return the tasks along the load, with other fields changed."""
        states = {load: self.state.but(**changes, **{self._axis: load}) for load in self.loads()}
        return {load: Task.of(s.fields, quality) for load, s in states.items()}

    def plain(self, tp: int) -> dict[float, Task]:
        """Return the tasks of plain decoding along the load, on as many GPUs."""
        taken = set(self.state.fields) & _OF_SPECULATION
        return self.curve(SHORT, **dict.fromkeys(taken), method=PLAIN.name, tp=tp)

    def widths(self, own: int) -> dict[int, dict[float, Task]]:
        """Return the tasks of the widths next to ``own``; none for what has no width."""
        name = width_field(self.state)
        if name is None:
            return {}
        near = sorted(_WIDTHS[name == "steps"], key=lambda w: (abs(w - own), w))
        chosen = [w for w in near if w != own][:_OTHERS]
        return {w: self.curve(SHORT, **{name: w}) for w in chosen}

    def tasks(self, best: Answer, *, why: bool) -> Iterator[Task]:
        """All of it, what is looked at first at the beginning."""
        plain = self.plain(best.row["tp"])
        drafts = method_of(self.state.fields.get("method", "dflash")).speculative
        if drafts:
            yield plain[self.state.load]
        yield self.whole
        if why:
            yield self.why
        yield from _outward(self.curve(SHORT), self.state.load)
        if drafts:
            yield from _outward(plain, self.state.load)
            for tasks in self.widths(width_of(best)).values():
                yield from _outward(tasks, self.state.load)
        yield from list(self.curve(WHOLE).values())[::_WITH_INTERVAL]


_OF_SPECULATION = {"block", "steps", "topk", "window", "draft_model", "acceptance", "policy",
    "speculative_draft_model_quantization", "speculative_use_rejection_sampling",
    "engine_mode"}  # fmt: skip


def width_of(answer: Answer) -> int:
    """Return how many steps a chain drafts, or how wide a block is."""
    return int(answer.row["steps"] or answer.block)


def width_field(state: State) -> str | None:
    """Return which field sets how many tokens are drafted; None for plain decoding."""
    takes = method_of(state.fields.get("method", "dflash")).takes
    return "steps" if "steps" in takes else "block" if "block" in takes else None


def _outward(tasks: dict[float, Task], load: float) -> Iterator[Task]:
    """Tasks from the load that is asked for on, the nearest first."""
    yield from (tasks[at] for at in sorted(tasks, key=lambda at: abs(at - load)))


def viewed(
    state: State,
    known: Callable[[Task], Found | None],
    *,
    measured: Sequence[Measured] = (),
    why: bool = False,
    beside: Sequence[State] = (),
) -> View:
    """Return the view of a state with all that is known, the best answer of each."""
    plan = Plan(state)
    view = View(
        state,
        short=known(plan.short),
        whole=known(plan.whole),
        measured=tuple(measured),
        beside=tuple(_kept(other, known) for other in beside),
    )
    best = view.best
    if best is None:
        return view
    curve = _there(plan.curve(SHORT), known) | _there(plan.curve(WHOLE), known)
    curve[state.load] = best
    plain = _there(plan.plain(best.row["tp"]), known) if view.speculative else {}
    found = known(plan.why) if why else None
    own = width_of(best)
    widths = {w: _there(tasks, known) for w, tasks in plan.widths(own).items()}
    if width_field(state) is not None:
        widths[own] = curve
    return replace(
        view,
        curve=dict(sorted(curve.items())),
        plain=plain,
        widths={w: points for w, points in sorted(widths.items()) if points},
        why=found if isinstance(found, Reasons | Refusal) else None,
    )


def _kept(state: State, known: Callable[[Task], Found | None]) -> Beside:
    plan = Plan(state)
    found = known(plan.whole) or known(plan.short)
    return Beside(state, found if isinstance(found, Answer | Refusal) else None)


def _there(tasks: dict[float, Task], known: Callable[[Task], Found | None]) -> dict[float, Answer]:
    found = {load: known(task) for load, task in tasks.items()}
    return {load: each for load, each in found.items() if isinstance(each, Answer)}
