"""The left side of the page: a control for each field, built for a state."""

from typing import Any

from dash import dcc, html

from dflash_sim.ui.controls import (
    AUTO,
    Choice,
    Control,
    Slide,
    default_of,
    is_shown,
    load,
    server,
    speculation,
)
from dflash_sim.ui.state import State

Part = Any  # a component of Dash, which has no types for them


def panel(state: State) -> list[Part]:
    """Return the sections of the panel."""
    mode = "open" if state.open_loop else "closed"
    lengths = "fixed" if "isl" in state.fields or "osl" in state.fields else "dataset"
    said = {"method": state.fields.get("method", default_of("method")), "load": mode}
    said["lengths"] = lengths

    def line(control: Control) -> Part:
        return _row(control, state, hidden=not is_shown(control.name, said))

    rows = {control.name: line(control) for control in load(state)}
    thinking = state.fields.get("thinking", "true") == "true"
    return [
        _section("Server", *map(line, server(state))),
        _section(
            "Speculation",
            *map(line, speculation(state)),
            html.Div(id="sparks", title="drafts accepted in a step, as shares of the steps"),
        ),
        _section(
            "Load",
            _toggle("load", mode, {"closed": "in flight", "open": "arriving"}),
            rows.pop("conc"),
            rows.pop("rate"),
            _toggle("lengths", lengths, {"dataset": "data set", "fixed": "fixed lengths"}),
            *rows.values(),
            html.Div(
                dcc.Checklist(
                    id=field("thinking"),
                    options=[{"label": "thinking", "value": "on"}],
                    value=["on"] if thinking else [],
                ),
                id=row("thinking"),
                className="row",
                hidden=not is_shown("thinking", said),
            ),
        ),
        _section("Money", _typed("price", "You pay for a GPU", "USD/h; else list prices", state)),
        _section(
            "Constants", _typed("calibration", "Calibration", "shipped, none, or a file", state)
        ),
    ]


def stops(state: State) -> dict[str, list[str]]:
    """Return the stops of every slider, by field."""
    every = [*server(state), *speculation(state), *load(state)]
    return {c.name: list(c.stops) for c in every if isinstance(c, Slide)}


def field(name: str) -> dict[str, str]:
    """Return the id of the control of a field."""
    return {"type": "field", "name": name}


def row(name: str) -> dict[str, str]:
    """Return the id of the line around it."""
    return {"type": "row", "name": name}


def _row(control: Control, state: State, *, hidden: bool) -> Part:
    own = state.fields.get(control.name, default_of(control.name))
    if isinstance(control, Choice):
        default = control.options[0][0]
        known = [value for value, _ in control.options]
        inner = [
            html.Label(control.label),
            dcc.Dropdown(
                id=field(control.name),
                options=[{"value": v, "label": text} for v, text in control.options],
                value=own if own in known else default,
                clearable=False,
            ),
        ]
    else:
        at = control.stops.index(own) if own in control.stops else 0
        inner = [
            html.Label(
                [control.label, html.Output(id={"type": "said", "name": control.name})]
            ),
            dcc.Input(
                id=field(control.name), type="range", min=0, max=len(control.stops) - 1, step=1,
                value=at, className="slide",
            ),
            dcc.Store(id={"type": "stops", "name": control.name}, data=_words(control)),
        ]  # fmt: skip
    return html.Div(inner, id=row(control.name), className="row", hidden=hidden)


def _typed(name: str, label: str, hint: str, state: State) -> Part:
    """A line for a text."""
    return html.Div(
        [
            html.Label(label, htmlFor=name),
            dcc.Input(
                id=field(name),
                type="text",
                value=state.fields.get(name, AUTO),
                placeholder=hint,
                debounce=True,
            ),
        ],
        className="row",
    )


def _words(control: Slide) -> list[str]:
    unit = control.unit if control.unit.startswith("/") else f" {control.unit}".rstrip()
    return [control.auto if s == AUTO else _spoken(s) + unit for s in control.stops]


def _spoken(stop: str) -> str:
    text = stop.removeprefix("al:")
    return f"{int(text):,}" if text.isdecimal() else text


def _section(title: str, *rows: Part) -> Part:
    return html.Details([html.Summary(title), *rows], open=True)


def _toggle(name: str, value: str, options: dict[str, str]) -> Part:
    return html.Div(
        dcc.RadioItems(
            id=field(name),
            options=[{"value": v, "label": text} for v, text in options.items()],
            value=value,
            className="toggle",
            inputClassName="toggle-input",
            labelClassName="toggle-label",
        ),
        className="row",
    )
