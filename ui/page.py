"""The page: what stands where, empty until a state is drawn on it."""

from typing import Any

from dash import dcc, html

from dflash_sim.ui.kept import HEADS

LATE_MS = 5000  # between looks for a wish whose answer never came
CHARTS = {  # by id, the heading above each
    "frontier": "Throughput against interactivity",
    "gains": "Speed-up against load, by width",
    "cycle": "One step",
    "memory": "Memory",
    "cost": "Cost",
    "accepted": "Accepted drafts",
}
TILES = {
    "throughput": "throughput",
    "speedup": "speed-up",
    "cost": "per million tokens",
    "tpot": "time per token",
    "ttft": "first token",
    "accept": "accept length",
}
COPIES = {"command": "dflash-sim", "call": "Python", "launch": "SGLang"}
_GRAPH = {"displayModeBar": False, "responsive": True}


def layout() -> Any:
    """Return the page."""
    return html.Div(
        [
            dcc.Location(id="address", refresh=False),
            dcc.Store(id="page"),  # who asks, the fields without a control, the stops of sliders
            dcc.Store(id="wish"),  # what is asked for next, once the last answer is there
            dcc.Store(id="beside", data=[]),  # addresses of answers that were kept
            dcc.Store(id="short"),
            dcc.Store(id="look"),  # for news of the answer that is drawn, one look at a time
            dcc.Store(id="whole"),
            dcc.Store(id="why", data=False),
            dcc.Store(id="drawn"),
            dcc.Interval(id="late", interval=LATE_MS),
            dcc.Download(id="download"),
            html.Aside([_brand(), _drop(), html.Div(id="panel"), html.Div(id="kept")]),
            html.Main(
                [_head(), html.Div(id="refusal"), _tiles(), _kept(), _charts(), html.Ul(id="notes")]
            ),
            _why(),
        ],
        id="ui",
    )


def _brand() -> Any:
    return html.Header([html.Strong("dflash-sim"), html.Span(id="status")], id="brand")


def _drop() -> Any:
    return html.Div(
        [
            dcc.Upload(
                id="upload",
                children="Drop a launch command or a benchmark file",
                multiple=False,
                max_size=-1,
            ),
            html.Details(
                [
                    html.Summary("or paste a launch command"),
                    dcc.Textarea(id="paste", placeholder="python -m sglang.launch_server ..."),
                    html.Button("Take it", id="take"),
                ],
                id="pasting",
            ),
            html.P(id="dropped", role="status"),
        ],
        id="drop",
    )


def _head() -> Any:
    return html.Header(
        [
            html.H1(id="title"),
            html.Button("Keep", id="keep", title="keep this answer beside the next ones"),
            html.Button("Why", id="ask-why", title="from plain decoding to this answer"),
            html.Details([html.Summary("Copy as"), html.Div(_copies())], id="copy"),
        ],
        id="head",
    )


def _copies() -> list[Any]:
    found = [
        html.Div(
            [
                html.Strong(title),
                html.Pre(id=f"copy-{name}"),
                dcc.Clipboard(target_id=f"copy-{name}", title=f"copy for {title}"),
            ],
            className="copy",
        )
        for name, title in COPIES.items()
    ]
    page = html.Button("Download what is seen as one HTML file", id="save")
    return [*found, page]


def _tiles() -> Any:
    return html.Div(
        [
            html.Div(
                [html.B(id=f"tile-{name}"), html.Span(title), html.Small(id=f"span-{name}")],
                className="tile",
            )
            for name, title in TILES.items()
        ],
        id="tiles",
    )


def _kept() -> Any:
    """Answers beside each other, the one that is asked for first; hidden while there is one."""
    heads = html.Tr([html.Th(head) for head in ("", *HEADS, "")])
    table = html.Table([html.Thead(heads), html.Tbody(id="kept-rows")])
    return html.Div(table, id="kept-box", hidden=True)


def _charts() -> Any:
    return html.Div(
        [
            html.Section(
                [
                    html.H2([title, html.Small(id=f"about-{name}")]),
                    html.Div(id=f"key-{name}", className="key"),
                    dcc.Graph(id=name, config=_GRAPH, responsive=True),
                ],
                id=f"box-{name}",
            )
            for name, title in CHARTS.items()
        ],
        id="charts",
    )


def _why() -> Any:
    return html.Div(
        html.Div(
            [
                html.Header(
                    [html.H2("From plain decoding to this answer"), html.Button("x", id="shut")]
                ),
                html.P(id="why-words"),
                dcc.Graph(id="waterfall", config=_GRAPH, responsive=True),
                html.Ol(id="why-hangs"),
            ],
            role="dialog",
        ),
        id="overlay",
        hidden=True,
    )
