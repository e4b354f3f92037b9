"""The server of the page: on this machine alone, and for whoever knows its token."""

import hmac
import json
import secrets
import socket
from collections.abc import Callable, Mapping
from importlib.resources import files
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlencode

from dash import Dash
from flask import Flask, Response, redirect, request
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from dflash_sim.profiles.errors import UsageError, brief
from dflash_sim.studies.show.chart_style import TEMPLATE
from dflash_sim.studies.show.visible import visible
from dflash_sim.ui.callbacks import connect
from dflash_sim.ui.calls import PATH, check_call
from dflash_sim.ui.desk import Desk
from dflash_sim.ui.page import layout
from dflash_sim.ui.room import Room
from dflash_sim.ui.state import from_query
from dflash_sim.ui.view import Plan

HOST = "127.0.0.1"
PORT = 8050
MOST_BYTES = 64 << 20  # of a call; a dropped file grows by a third on its way
_TOKEN = "token"
_LAST_PORT = 65535
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
{%metas%}
<title>dflash-sim</title>
<link rel="icon" href="data:,">
<style>HOUSE_COLOURS</style>
{%css%}
</head>
<body>
<script type="application/json" id="house-style">HOUSE_STYLE</script>
{%app_entry%}
<footer>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>
"""
_BUG = "If this page called, and nobody else, it is a bug: please report it."
_STRANGER = (
    "This page is for whoever started it: open the address that dflash-sim ui printed, "
    "with its token."
)


def application(desk: Desk, token: str) -> Dash:
    """Return the page as an application, whose answers are from ``desk``."""
    server = Flask("dflash_sim.ui")
    server.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    app = Dash(
        "dflash_sim.ui",
        server=server,
        serve_locally=True,
        update_title=None,
        assets_folder=str(files("dflash_sim.ui") / "assets"),
        suppress_callback_exceptions=True,
        index_string=_index(),
    )
    app.layout = layout()
    connect(app, Room(desk))
    _guard(server, token, app.callback_map)
    return app


def _index() -> str:
    css = (files("dflash_sim.studies.show") / "report.css").read_text(encoding="utf-8")
    style = json.dumps(TEMPLATE).replace("<", "\\u003c")
    return _PAGE.replace("HOUSE_COLOURS", colours(css)).replace("HOUSE_STYLE", style)


def colours(css: str) -> str:
    """Return the part of the house's stylesheet that names colours."""
    return css[css.index(":root") : css.index("* { box-sizing")]


def _guard(server: Flask, token: str, callbacks: Mapping[str, Mapping[str, Any]]) -> None:
    """Let nobody in without the token, no page of another name, and no call of another form."""

    @server.before_request
    def check() -> Any:
        host = request.host.rpartition(":")[0] or request.host
        if host not in (HOST, "localhost"):
            return Response(_STRANGER, 403, mimetype="text/plain")
        name = _cookie(request.host)
        given = request.args.get(_TOKEN, "")
        if given and _same(given, token) and request.method == "GET":
            pairs = parse_qsl(request.query_string.decode("utf-8", "replace"))
            rest = urlencode([(n, v) for n, v in pairs if n != _TOKEN], safe=":,/@")
            inside = redirect(request.path + (f"?{rest}" if rest else ""))
            inside.set_cookie(name, token, httponly=True, samesite="Strict")
            return inside
        if not _same(request.cookies.get(name, ""), token):
            return Response(_STRANGER, 403, mimetype="text/plain")
        if request.path == PATH and request.method == "POST":
            check_call(request.get_data(), callbacks)
        return None

    @server.after_request
    def say(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        return response

    @server.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return Response(f"{error.name}.", error.code, mimetype="text/plain")
        last = visible(" ".join(str(error).split()))[:300]
        why = brief(f"no answer: {type(error).__name__} ({last}). {_BUG}")
        server.logger.error(why)
        return Response(why, 500, mimetype="text/plain")


def _cookie(host: str) -> str:
    return f"dflash-sim-{host.rpartition(':')[2]}"  # two servers of one machine share cookies


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def new_token() -> str:
    """Return a token that nobody can guess."""
    return secrets.token_urlsafe(18)


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_args: Any) -> None:
        """Say nothing of a call that was answered."""

    def connection_dropped(self, *_args: Any) -> None:
        """A browser that goes away is no error: its state is in its address."""


def bound(app: Dash, port: int | None) -> BaseWSGIServer:
    """Return a server that listens; without a port on the usual one, or if it is taken on any.

    Raises
    ------
    UsageError
        The port that was asked for is in use, or none may be had.
    """
    chosen = PORT if port is None else port
    if not 0 <= chosen <= _LAST_PORT:
        msg = f"--port {port}: a port is a number up to {_LAST_PORT}; leave it out for a free one."
        raise UsageError(msg)
    if port is None and _in_use(chosen):
        chosen = 0
    elif port is not None and chosen and _in_use(chosen):
        msg = f"--port {port} is in use by another program; give another, or leave it out."
        raise UsageError(msg)
    try:
        return make_server(HOST, chosen, app.server, threaded=True, request_handler=_Quiet)
    except (OSError, SystemExit) as error:
        msg = f"--port {chosen} cannot be opened ({error}); give another, or leave it out."
        raise UsageError(msg) from None


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def address(server: BaseWSGIServer, token: str, query: str = "") -> str:
    """Return the address to open, with the token in it."""
    rest = f"&{query.removeprefix('?')}" if query else ""
    return f"http://{HOST}:{server.server_port}/?{_TOKEN}={token}{rest}"


def serve(query: str, *, port: int | None, workers: int, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    Parameters
    ----------
    query
        The address of the state that it begins with.
    ready
        Called with the address once it can be opened.
    """
    token = new_token()
    with Desk(workers) as desk:
        server = bound(application(desk, token), port)
        first = Plan(from_query(query)).short
        Thread(target=desk.at_once, args=(first,), daemon=True).start()
        try:
            ready(address(server, token, query))
            server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            server.server_close()
