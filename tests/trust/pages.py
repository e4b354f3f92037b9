"""What reaches the page of ``ui``: addresses, calls, and files that are dropped on it."""

import base64
import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from trust.languages import LAUNCH, LAWS, NAMED, NUMBERS, SIGNS
from trust.mutations import mutated, soup
from trust.target import LONGEST, Target, WrongError

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.ui.desk import Desk
from dflash_sim.ui.dropped import decoded, read_dropped
from dflash_sim.ui.server import application
from dflash_sim.ui.state import State

TOKEN = "sesame"
START = "?gpu=h200&model=qwen3-8b&method=dflash&conc=2&isl=64&osl=16&num_prompts=4"
COMMAND = b"python -m sglang.launch_server --model-path Qwen/Qwen3-8B --tp 1\n"
WORDS = {name.removeprefix("--").replace("-", "_"): words for name, words in NAMED.items()}
ODD = ("²", "٣", "%00", "%ff", "&", "=", "+", "%", "drop=x", "token=x", ";", "#", "\x1b[31m")
NAMES = ("a.json", "a.csv.gz", "../../x", "a.\0", "x" * 300 + ".json", "\ud800.²", "", ".", "a.ts")


@cache
def page() -> tuple[Any, Any]:
    """The application, and a client that has its cookie."""
    app = application(Desk(0), TOKEN)
    app.server.logger.disabled = True
    client = app.server.test_client()
    client.set_cookie("dflash-sim-localhost", TOKEN, domain="localhost")
    return app, client


@cache
def calls() -> dict[str, dict[str, Any]]:
    """A call of each callback, as the page makes it, by what it is caused by."""
    app, _ = page()
    opened = {"address.search": START}
    first = _told(_call(app, "address.search", opened))
    about = first["page"]["data"]
    values: dict[str, Any] = dict.fromkeys(about["stops"], 0)
    values |= {"model": "qwen3-8b", "gpu": "h200", "method": "dflash", "load": "closed",
        "lengths": "fixed", "thinking": [], "calibration": ""}  # fmt: skip
    wish = {"page": about["id"], "values": values, "why": False, "turn": 1, "beside": []}
    short = {"query": START, "unfinished": True, "beside": []}
    found = {
        **opened,
        "wish.data": wish,
        "page.data": about,
        "short.data": short,
        "why.data": False,
        "look.data": {"query": START, "why": False, "turn": 1, "beside": [START]},
        "take.n_clicks": 1,
        "save.n_clicks": 1,
        "paste.value": COMMAND.decode(),
        "upload.filename": "a.json",
        "upload.contents": "data:;base64," + base64.b64encode(COMMAND).decode(),
    }
    causes = ("address.search", "wish.data", "look.data", "take.n_clicks",
        "upload.contents", "save.n_clicks")  # fmt: skip
    return {cause: _call(app, cause, found) for cause in causes}


def _call(app: Any, cause: str, values: dict[str, Any]) -> dict[str, Any]:
    """The body of a call; the callback is the one that the cause is an input of."""
    for output, one in app.callback_map.items():
        named = [f"{part['id']}.{part['property']}" for part in one["inputs"]]
        if cause in named and "callback" in one:
            parts = [part.rpartition(".") for part in output.strip(".").split("...")]
            outputs = [{"id": name, "property": prop} for name, _, prop in parts]
            return {
                "output": output,
                "outputs": outputs if output.startswith("..") else outputs[0],
                "inputs": [_valued(part, values) for part in one["inputs"]],
                "state": [_valued(part, values) for part in one["state"]],
                "changedPropIds": [cause],
            }
    raise AssertionError(cause)


def _valued(part: dict[str, str], values: dict[str, Any]) -> dict[str, Any]:
    return {**part, "value": values.get(f"{part['id']}.{part['property']}")}


def _told(call: dict[str, Any]) -> Any:
    """What a call is answered."""
    answer = _posted(json.dumps(call).encode())
    if answer.status_code != 200:
        msg = f"status {answer.status_code}: {answer.text[:300]}"
        raise WrongError(msg)
    return answer.get_json()["response"]


def _posted(body: bytes) -> Any:
    _, client = page()
    return client.post("/_dash-update-component", data=body, content_type="application/json")


# ---- addresses -----------------------------------------------------------------------------------


def address(draw: random.Random) -> bytes:
    """Fields of a scenario with values that may be none."""
    pairs = START[1:].split("&") if draw.random() < 0.5 else []
    for _ in range(draw.choice((1, 1, 2, 3, 5))):
        name = draw.choice((*Scenario.model_fields, *WORDS))
        words = WORDS.get(name, NUMBERS)
        value = soup((*words, *NUMBERS[:5], draw.choice(SIGNS), draw.choice(ODD)), draw)
        pairs.append(f"{name}={value if draw.random() < 0.3 else quote(value, errors='replace')}")
    draw.shuffle(pairs)
    return ("?" + "&".join(pairs)).encode("utf-8", "replace")


def opened(data: bytes, _: Path) -> object:
    """The page of an address."""
    app, client = page()
    search = data.decode("utf-8", "replace")
    begun = client.get("/" + "".join(c if c.isascii() else quote(c) for c in search))
    if begun.status_code not in (200, 302):
        msg = f"status {begun.status_code}: {begun.text[:300]}"
        raise WrongError(msg)
    return _told(_call(app, "address.search", {"address.search": search}))


def looked(data: bytes, folder: Path) -> object:
    """The page of an address, and what it shows first."""
    app, _ = page()
    about = opened(data, folder)["page"]["data"]  # type: ignore[index]
    query = data.decode("utf-8", "replace")
    look = {"query": query, "why": False, "turn": 1, "beside": []}
    _told(_call(app, "look.data", {"look.data": look, "page.data": about}))
    said = dict(parse_qsl(query.removeprefix("?")))
    values = {"load": "open" if "rate" in said else "closed", "lengths": "fixed"}
    values |= {
        name: said.get(name, "") for name in ("model", "gpu", "method", "quantization", "tp")
    }
    for name, stops in about["stops"].items():
        values[name] = stops.index(said[name]) if said.get(name) in stops else 0
    wish = {"page": about["id"], "values": values, "why": False, "turn": 1, "beside": []}
    shown = _told(_call(app, "wish.data", {"wish.data": wish, "page.data": about}))["short"]["data"]
    if shown["refusal"] and len(shown["refusal"]["why"]) > LONGEST:
        msg = f"a refusal of {len(shown['refusal']['why'])} letters"
        raise WrongError(msg)
    return shown


def called(data: bytes, _: Path) -> object:
    """A call with any body: answered, or refused in a line as the caller's mistake."""
    answer = _posted(data)
    if answer.status_code in (200, 204):
        return answer.get_json(silent=True)
    if answer.status_code not in (400, 413, 415) or len(answer.text) > LONGEST:
        msg = f"status {answer.status_code}: {answer.text[:400]}"
        raise WrongError(msg)
    raise UsageError(answer.text)


# ---- files ---------------------------------------------------------------------------------------


def dropped(texts: Sequence[bytes]) -> Callable[[random.Random], bytes]:
    """A name and a file, or what is pasted."""

    def make(draw: random.Random) -> bytes:
        name = draw.choice(NAMES).encode("utf-8", "surrogatepass")
        if draw.random() < 0.3:
            return name + b"\n" + soup((*LAUNCH, *LAWS[:2]), draw).encode("utf-8", "replace")
        return name + b"\n" + mutated(draw.choice(texts), texts, draw)

    return make


def taken(data: bytes, _: Path) -> object:
    """The state that a dropped file means."""
    name, _, raw = data.partition(b"\n")
    called = name.decode("utf-8", "surrogatepass") if len(name) < 999 else "a"
    sent = decoded("data:;base64," + base64.b64encode(raw).decode(), called)
    found = read_dropped(sent, called, State())
    found.state.scenario()
    json.dumps([found.state.query, found.words])
    return found


def shown(files: Sequence[bytes]) -> Iterator[Target]:
    """What ``ui`` is given."""
    yield Target("addresses", opened, address, 3)
    yield Target("looks", looked, address, 1, heavy=True)
    yield Target("dropped files", taken, dropped([COMMAND, *files]), 2)
    seeds = [json.dumps(call).encode() for call in calls().values()]
    yield Target("calls", called, lambda draw: mutated(draw.choice(seeds), seeds, draw), 1)
