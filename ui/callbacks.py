"""What happens on the page: a control moves, an answer arrives, a file is dropped."""

import uuid
from collections.abc import Sequence
from typing import Any

from dash import ALL, MATCH, ClientsideFunction, Dash, Input, Output, State, ctx, no_update
from dash.exceptions import PreventUpdate

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.ui import state as states
from dflash_sim.ui.calls import (
    OF_A_LOOK,
    OF_A_WISH,
    OF_AN_ANSWER,
    OF_THE_PAGE,
    checked,
    is_text,
    reading,
)
from dflash_sim.ui.copies import report
from dflash_sim.ui.drawing import drawing
from dflash_sim.ui.dropped import decoded, read_dropped
from dflash_sim.ui.panel import panel, stops
from dflash_sim.ui.room import (
    MOST_BESIDE,
    Room,
    asked_for,
    beside_of,
    hidden,
    unseen,
    values_of,
)


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
        Output("beside", "data"),
        Output("dropped", "children"),
        Input("address", "search"),
    )
    def open_address(search: str) -> Any:
        state, drop, words = room.opened(is_text(search))
        page = {
            "id": uuid.uuid4().hex,
            "kept": unseen(state),
            "stops": stops(state),
            "drop": drop,
            "dropped": list(state.dropped),
        }
        return panel(state), page, beside_of(search or ""), words


def _asking(app: Dash, room: Room) -> None:
    @app.callback(Output("short", "data"), Input("wish", "data"), State("page", "data"))
    def ask(wish: Any, page: Any) -> Any:
        wish, page = checked(wish, OF_A_WISH), checked(page, OF_THE_PAGE)
        if not wish or not page or wish["page"] != page["id"]:
            raise PreventUpdate
        with reading():
            values = values_of(wish["values"], page["stops"])
            asked = asked_for(values, page["kept"])
            apart, turn = hidden(values), wish["turn"]
            state = states.State(asked.fields, tuple(map(is_text, page["dropped"])))
        others, drop = _states(wish["beside"]), page["drop"]
        view = room.first_look(page["id"], state, drop=drop, why=wish["why"], beside=others)
        shown = drawing(view, unfinished=view.best is not None or bool(others))
        about = {"hidden": apart, "kept": page["kept"], "drop": drop, "beside": wish["beside"]}
        return shown | about | {"turn": turn}

    @app.callback(Output("whole", "data"), Input("look", "data"), State("page", "data"))
    def arrive(look: Any, page: Any) -> Any:
        look, page = checked(look, OF_A_LOOK), checked(page, OF_THE_PAGE)
        if not look or not page:
            raise PreventUpdate
        query, why = look["query"], look["why"]
        state = states.from_query(query)
        others, drop = _states(look["beside"]), page["drop"]
        room.wait(state, why=why)
        view, unfinished, known = room.look(page["id"], state, drop=drop, why=why, beside=others)
        mark = [query, known, why, unfinished, look["beside"]]
        told = {"turn": look["turn"], "mark": mark, "unfinished": unfinished}
        if look.get("mark") == mark:  # what the page has drawn already
            return told
        return drawing(view, unfinished=unfinished) | told


def _states(queries: Sequence[Any]) -> list[states.State]:
    """The states that stand beside the one that is asked for."""
    return [states.from_query(is_text(query)) for query in queries[:MOST_BESIDE]]


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
    )
    def drop(contents: str | None, _clicks: int, name: str, pasted: str | None, short: Any) -> Any:
        short = checked(short, OF_AN_ANSWER)
        state = states.from_query(short["query"] if short else "")
        try:
            if ctx.triggered_id == "take":
                raw = is_text(pasted).encode("utf-8", "surrogatepass")
                found = read_dropped(raw, "what was pasted", state)
            elif contents is None:
                raise PreventUpdate
            else:
                raw = decoded(is_text(contents), is_text(name))
                found = read_dropped(raw, name, state)
            found.state.scenario()
        except DflashSimError as error:
            return no_update, str(error)
        return room.take(found, short["beside"] if short else ()), found.words


def _saving(app: Dash, room: Room) -> None:
    @app.callback(
        Output("download", "data"),
        Input("save", "n_clicks"),
        State("short", "data"),
        State("page", "data"),
        State("why", "data"),
        prevent_initial_call=True,
    )
    def save(_clicks: int, short: Any, page: Any, why: bool) -> Any:
        short, page = checked(short, OF_AN_ANSWER), checked(page, OF_THE_PAGE)
        if not short or not page:
            raise PreventUpdate
        state = states.from_query(short["query"])
        others, drop = _states(short["beside"]), page["drop"]
        view, *_ = room.look(page["id"], state, drop=drop, why=why, beside=others)
        return {"content": report(view), "filename": "dflash-sim.html", "type": "text/html"}


def _drawing(app: Dash) -> None:
    """What the browser does by itself: one wish at a time, and all that is drawn."""

    def here(name: str) -> ClientsideFunction:
        return ClientsideFunction(namespace="page", function_name=name)

    app.clientside_callback(
        here("wish"),
        Output("wish", "data"),
        Input({"type": "field", "name": ALL}, "value"),
        Input("why", "data"),
        Input("short", "data"),
        Input("late", "n_intervals"),
        Input("beside", "data"),
        State("page", "data"),
    )
    app.clientside_callback(here("draw"), Output("drawn", "data"), Input("short", "data"))
    app.clientside_callback(
        here("arrive"),
        Output("drawn", "data", allow_duplicate=True),
        Input("whole", "data"),
        State("short", "data"),
        prevent_initial_call=True,
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
