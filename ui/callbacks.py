"""What happens on the page: a control moves, an answer arrives, a file is dropped."""

import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from dash import ALL, MATCH, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, no_update
from dash.exceptions import PreventUpdate

from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.ui import state as states
from dflash_sim.ui.answer import Answer, Refusal
from dflash_sim.ui.controls import AUTO, chosen, is_shown
from dflash_sim.ui.copies import report
from dflash_sim.ui.desk import Desk
from dflash_sim.ui.drawing import drawing
from dflash_sim.ui.dropped import Dropped, decoded, read_dropped
from dflash_sim.ui.panel import panel, stops
from dflash_sim.ui.view import Measured, Plan, View, viewed

DROP = "drop"  # of an address: which file was dropped
MOST_DROPS = 100
_SHOWN = {"model", "quantization", "gpu", "tp", "build", "method", "block", "steps", "acceptance",
    "conc", "rate", "dataset", "thinking", "isl", "osl", "cache_hit", "calibration"}  # fmt: skip


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

    def take(self, found: Dropped) -> str:
        """Keep a dropped file; return the address that shows it."""
        name = uuid.uuid4().hex[:8]
        self.drops[name] = found
        while len(self.drops) > MOST_DROPS:
            self.drops.popitem(last=False)
        return f"{found.state.query}&{DROP}={name}"

    def opened(self, search: str) -> tuple[states.State, str, str]:
        """Return the state of an address, the file it is of, and a word about that."""
        pairs = parse_qsl((search or "").removeprefix("?"))
        name = dict(pairs).get(DROP, "")
        rest = "&".join(p for p in (search or "").removeprefix("?").split("&")
                        if not p.startswith(f"{DROP}="))  # fmt: skip
        found = states.from_query(f"?{rest}" if rest else "")
        if name and name not in self.drops:
            return found, "", "The file of this address is gone with the server; drop it again."
        return found, name, self.drops[name].words if name else ""

    def first_look(self, page: str, state: states.State, *, why: bool) -> View | None:
        """Return the view with a short answer; None where a later one was asked for meanwhile."""
        plan = Plan(state)
        if self.desk.known(plan.whole) is None:
            if self.desk.at_once(page, plan.short) is None:
                return None
        self.desk.want(page, self.tasks(state, why=why))
        return viewed(state, self.desk.known, why=why)

    def tasks(self, state: states.State, *, why: bool) -> Sequence[Any]:
        """All that a state needs; nothing where it has no answer."""
        plan = Plan(state)
        found = self.desk.known(plan.whole) or self.desk.known(plan.short)
        if isinstance(found, Refusal):
            return []
        row = found.row if isinstance(found, Answer) else {}
        own = row.get("steps") or (found.block if isinstance(found, Answer) else None)
        return list(plan.tasks(own, why=why))

    def look(
        self, page: str, state: states.State, *, drop: str, why: bool
    ) -> tuple[View, bool, int]:
        """Return the view, whether more is to come, and how many answers there are."""
        tasks = self.tasks(state, why=why)
        unfinished = self.desk.want(page, tasks)
        known = sum(self.desk.known(task) is not None for task in tasks)
        view = viewed(state, self.desk.known, measured=self.measured(drop, state), why=why)
        return view, unfinished, known

    def measured(self, drop: str, state: states.State) -> tuple[Measured, ...]:
        """Return the rows of a dropped benchmark, as long as the server is that of the file."""
        found = self.drops.get(drop)
        if found is None or not found.measured:
            return ()
        same = {n: v for n, v in found.state.fields.items() if n not in ("conc", "rate")}
        mine = {n: v for n, v in state.fields.items() if n not in ("conc", "rate")}
        return found.measured if same == mine else ()


def values_of(ids: Sequence[Mapping[str, str]], said: Sequence[Any],
              scales: Mapping[str, Sequence[str]]) -> dict[str, Any]:  # fmt: skip
    """Return what the controls say, by field: of a slider the text of its stop."""
    found: dict[str, Any] = {}
    for each, value in zip(ids, said, strict=True):
        name = each["name"]
        if name in scales:
            at = int(float(value or 0))
            found[name] = scales[name][min(max(at, 0), len(scales[name]) - 1)]
        elif name == "thinking":
            found[name] = bool(value)
        else:
            found[name] = value.strip() if isinstance(value, str) else value
    return found


def asked_for(values: Mapping[str, Any], kept: Mapping[str, str]) -> states.State:
    """Return the state of the controls; those that are hidden do not count."""
    shown = {n: v for n, v in values.items() if is_shown(n, values) or n in ("load", "lengths")}
    return states.settled(chosen(shown, kept))


def connect(app: Dash, room: Room) -> None:
    """Give the page its callbacks."""
    _opening(app, room)
    _asking(app, room)
    _dropping(app, room)
    _saving(app, room)
    _drawing(app)


def _opening(app: Dash, room: Room) -> None:
    @app.callback(
        Output("panel", "children"),
        Output("page", "data"),
        Output("dropped", "children"),
        Input("address", "search"),
    )  # type: ignore[untyped-decorator]
    def open_address(search: str) -> Any:
        state, drop, words = room.opened(search)
        kept = {n: v for n, v in state.fields.items() if n not in _SHOWN}
        page = {
            "id": uuid.uuid4().hex,
            "kept": kept,
            "stops": stops(state),
            "drop": drop,
            "dropped": list(state.dropped),
        }
        return panel(state), page, words


def _asking(app: Dash, room: Room) -> None:
    @app.callback(
        Output("short", "data"),
        Input({"type": "field", "name": ALL}, "value"),
        Input("why", "data"),
        State({"type": "field", "name": ALL}, "id"),
        State("page", "data"),
    )  # type: ignore[untyped-decorator]
    def ask(said: list[Any], why: bool, ids: list[dict[str, str]], page: dict[str, Any]) -> Any:
        if not page or not said:
            raise PreventUpdate
        values = values_of(ids, said, page["stops"])
        state = asked_for(values, page["kept"])
        state = states.State(state.fields, tuple(page["dropped"]))
        view = room.first_look(page["id"], state, why=why)
        if view is None:
            raise PreventUpdate
        measured = room.measured(page["drop"], state)
        view = states_view(view, measured)
        hidden = [n for n in (*page["stops"], "dataset", "thinking") if not is_shown(n, values)]
        shown = drawing(view, unfinished=view.best is not None)
        return shown | {"hidden": hidden, "kept": page["kept"], "drop": page["drop"]}

    @app.callback(
        Output("whole", "data"),
        Output("poll", "disabled"),
        Input("poll", "n_intervals"),
        Input("short", "data"),
        State("page", "data"),
        State("why", "data"),
        State("whole", "data"),
    )  # type: ignore[untyped-decorator]
    def arrive(
        _ticks: int | None, short: Any, page: Any, why: bool, before: Any
    ) -> Any:
        if not short or not page:
            raise PreventUpdate
        if ctx.triggered_id == "short":
            return no_update, not short["unfinished"]
        state = states.from_query(short["query"])
        view, unfinished, known = room.look(page["id"], state, drop=page["drop"], why=why)
        mark = [short["query"], known, why]
        if before and before["mark"] == mark:
            return no_update, not unfinished
        shown = drawing(view, unfinished=unfinished)
        return shown | {"mark": mark}, not unfinished


def states_view(view: View, measured: Sequence[Measured]) -> View:
    """Return the view beside what somebody measured."""
    from dataclasses import replace

    return replace(view, measured=tuple(measured))


def _dropping(app: Dash, room: Room) -> None:
    @app.callback(
        Output("address", "search"),
        Output("dropped", "children", allow_duplicate=True),
        Input("upload", "contents"),
        Input("take", "n_clicks"),
        State("upload", "filename"),
        State("paste", "value"),
        State("short", "data"),
        prevent_initial_call=True,
    )  # type: ignore[untyped-decorator]
    def drop(contents: str | None, _clicks: int, name: str, pasted: str | None, short: Any) -> Any:
        state = states.from_query(short["query"] if short else "")
        try:
            if ctx.triggered_id == "take":
                found = read_dropped((pasted or "").encode(), "what was pasted", state)
            elif contents is None:
                raise PreventUpdate
            else:
                found = read_dropped(decoded(contents, name), name, state)
            found.state.scenario()
        except DflashSimError as error:
            return no_update, str(error)
        return room.take(found), found.words


def _saving(app: Dash, room: Room) -> None:
    @app.callback(
        Output("download", "data"),
        Input("save", "n_clicks"),
        State("short", "data"),
        State("page", "data"),
        State("why", "data"),
        prevent_initial_call=True,
    )  # type: ignore[untyped-decorator]
    def save(_clicks: int, short: Any, page: Any, why: bool) -> Any:
        state = states.from_query(short["query"])
        view, *_ = room.look(page["id"], state, drop=page["drop"], why=why)
        return dcc.send_string(report(view), "dflash-sim.html")


def _drawing(app: Dash) -> None:
    def here(name: str) -> ClientsideFunction:
        return ClientsideFunction(namespace="page", function_name=name)

    app.clientside_callback(
        here("draw"), Output("drawn", "data"), Input("short", "data"), Input("whole", "data")
    )
    app.clientside_callback(
        here("said"),
        Output({"type": "said", "name": MATCH}, "children"),
        Input({"type": "field", "name": MATCH}, "value"),
        State({"type": "stops", "name": MATCH}, "data"),
    )
    app.clientside_callback(
        here("toggleWhy"),
        Output("why", "data"),
        Input("ask-why", "n_clicks"),
        Input("shut", "n_clicks"),
        prevent_initial_call=True,
    )


__all__ = ["AUTO", "DROP", "Room", "Scenario", "UsageError", "asked_for", "connect", "values_of"]
