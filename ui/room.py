"""What the server keeps for its pages: answers, dropped files, and what the controls say."""

import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from dflash_sim.ui.answer import Answer
from dflash_sim.ui.controls import chosen, is_shown
from dflash_sim.ui.desk import Desk, Task
from dflash_sim.ui.dropped import Dropped
from dflash_sim.ui.state import PRICE, State, from_query, settled
from dflash_sim.ui.view import Measured, Plan, View, viewed

DROP = "drop"  # of an address: which file was dropped
BESIDE = "beside"  # and which states stand beside it, each as its own address
MOST_BESIDE = 8
MOST_DROPS = 100
LOOK_S = 0.3  # that a look waits for the whole answer
_SHOWN = ("model", "quantization", "gpu", "tp", "build", "method", "block", "steps", "acceptance",
    "temperature", "conc", "rate", "dataset", "thinking", "isl", "osl", "cache_hit", "calibration",
    PRICE)  # fmt: skip
_NOT_OF_SERVER = ("conc", "rate", PRICE)


@dataclass
class Room:
    """What the server keeps between the calls of a page.

    Parameters
    ----------
    desk
        Whoever makes answers.
    drops
        Files that were dropped, by the name that their addresses have.
    """

    desk: Desk
    drops: "OrderedDict[str, Dropped]" = field(default_factory=OrderedDict)
    _gpus: int = 1  # of the last answer; most likely the next one has as many

    def take(self, found: Dropped, beside: Sequence[str] = ()) -> str:
        """Keep a dropped file; return the address that shows it, beside what stood there."""
        name = uuid.uuid4().hex[:8]
        self.drops[name] = found
        while len(self.drops) > MOST_DROPS:
            self.drops.popitem(last=False)
        others = "".join("&" + urlencode({BESIDE: query}) for query in beside)
        return f"{found.state.query}&{DROP}={name}{others}"

    def opened(self, search: str) -> tuple[State, str, str]:
        """Return the state of an address, the file it is of, and a word about that."""
        pairs = parse_qsl((search or "").removeprefix("?"))
        name = dict(pairs).get(DROP, "")
        rest = "&".join(p for p in (search or "").removeprefix("?").split("&")
                        if not p.startswith((f"{DROP}=", f"{BESIDE}=")))  # fmt: skip
        found = from_query(f"?{rest}" if rest else "")
        if name and name not in self.drops:
            return found, "", "The file of this address is gone with the server; drop it again."
        return found, name, self.drops[name].words if name else ""

    def first_look(
        self, page: str, state: State, *, drop: str, why: bool, beside: Sequence[State] = ()
    ) -> View:
        """Return the view with a short answer, and have the rest worked on."""
        plan = Plan(state)
        if self.desk.known(plan.whole) is None:
            # Beside the short answer a worker begins with plain decoding, on as many GPUs as last.
            self.desk.want(page, [plan.plain(self._gpus)[state.load]])
            found = self.desk.at_once(plan.short)
            self._gpus = found.row["tp"] if isinstance(found, Answer) else self._gpus
        return self.look(page, state, drop=drop, why=why, beside=beside)[0]

    def tasks(self, state: State, *, why: bool, beside: Sequence[State] = ()) -> list[Task]:
        """All that a state and those beside it need; nothing of one that has no answer."""
        plan = Plan(state)
        found = self.desk.known(plan.whole) or self.desk.known(plan.short)
        others = [Plan(other).whole for other in beside]
        if not isinstance(found, Answer):
            return others
        first, *rest = plan.tasks(found, why=why)
        return [first, *others, *rest]

    def look(
        self, page: str, state: State, *, drop: str, why: bool, beside: Sequence[State] = ()
    ) -> tuple[View, bool, int]:
        """Return the view, whether more is to come, and how many answers there are."""
        tasks = self.tasks(state, why=why, beside=beside)
        unfinished = self.desk.want(page, tasks)
        known = sum(self.desk.known(task) is not None for task in tasks)
        rows = self.measured(drop, state)
        view = viewed(state, self.desk.known, measured=rows, why=why, beside=beside)
        return view, unfinished, known

    def wait(self, state: State, *, why: bool) -> None:
        """Wait a moment for what is looked at first, as far as it is open."""
        plan = Plan(state)
        self.desk.wait([plan.whole, *([plan.why] if why else [])], LOOK_S)

    def measured(self, drop: str, state: State) -> tuple[Measured, ...]:
        """Return the rows of a dropped benchmark, as long as the server is that of the file."""
        found = self.drops.get(drop)
        if found is None or not found.measured:
            return ()
        theirs, mine = (dict(s.fields) for s in (found.state, state))
        for name in _NOT_OF_SERVER:
            theirs.pop(name, None), mine.pop(name, None)
        return found.measured if theirs == mine else ()


def beside_of(search: str) -> list[str]:
    """Return the addresses of the states that stand beside that of an address."""
    pairs = parse_qsl((search or "").removeprefix("?"))
    return [value for name, value in pairs if name == BESIDE][:MOST_BESIDE]


def values_of(said: Mapping[str, Any], scales: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return what the controls say, by field: of a slider the text of its stop."""
    found: dict[str, Any] = {}
    for name, value in said.items():
        if name in scales:
            at = int(float(value or 0))
            found[name] = scales[name][min(max(at, 0), len(scales[name]) - 1)]
        elif name == "thinking":
            found[name] = bool(value)
        else:
            found[name] = value.strip() if isinstance(value, str) else value
    return found


def asked_for(values: Mapping[str, Any], kept: Mapping[str, str]) -> State:
    """Return the state of the controls; those that are hidden do not count."""
    shown = {n: v for n, v in values.items() if is_shown(n, values) or n in ("load", "lengths")}
    return settled(chosen(shown, kept))


def hidden(values: Mapping[str, Any]) -> list[str]:
    """Return the controls that do not apply beside what the others say."""
    return [name for name in _SHOWN if not is_shown(name, values)]


def unseen(state: State) -> dict[str, str]:
    """Return the fields of a state that no control shows."""
    return {name: text for name, text in state.fields.items() if name not in _SHOWN}
