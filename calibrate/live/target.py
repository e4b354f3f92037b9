"""What a URL leads to: which model, told how, counting what, and whether it is idle."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dflash_sim.calibrate.live.client import Client, ServerError
from dflash_sim.calibrate.observations.values import MOST, short
from dflash_sim.calibrate.readers.sglang_metrics import Snapshot, is_prometheus, snapshots
from dflash_sim.calibrate.readers.sglang_server_info import stated

_INFO = ("/get_server_info", "/server_info")  # older and newer releases
_PREFIX = "sglang:"
_LONGEST_NAME = 500  # letters of a model's
_WIDEST = 1024  # tokens that a step may commit


@dataclass(frozen=True)
class Target:
    """A server.

    Parameters
    ----------
    model
        As ``/v1/models`` calls it.
    info
        Its arguments that matter to speed; empty where it does not tell them.
    most_tokens
        Prompt and answer of a request at most; None if it does not say.
    counts
        True if it has SGLang's metrics.
    vocab
        Tokens of its vocabulary, if it says so.
    """

    url: str
    model: str
    info: Mapping[str, Any] = field(default_factory=dict)
    most_tokens: int | None = None
    counts: bool = False
    vocab: int | None = None

    @property
    def notes(self) -> list[str]:
        """What it lacks, a line each."""
        found = []
        if not self.info:
            found.append(
                f"{self.url} has no server_info: --assume says what it runs, such as "
                "--assume method=dflash --assume block=16"
            )
        if not self.counts:
            found.append(
                f"{self.url} has no SGLang metrics (--enable-metrics): other traffic is not seen, "
                "and an accept length is known from server_info alone"
            )
        return found


async def look(client: Client) -> Target:
    """Ask a server what it is.

    Raises
    ------
    ServerError
        It cannot be reached, is no OpenAI server, or a simulated one in time of its own.
    """
    listed = await client.get_json("/v1/models")
    data = listed.get("data") if isinstance(listed, dict) else None
    first = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
    name = first.get("id")
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        msg = f"{client.url} is no OpenAI server: it lists no model at /v1/models."
        raise ServerError(msg)
    info: dict[str, Any] = {}
    vocab: object = None
    for path in _INFO:
        found = await client.get_json(path)
        if isinstance(found, dict):
            info, vocab = stated(found), found.get("vocab_size")
            _refuse_fast(client, found.get("simulated_speed", 1))
            break
    longest = first.get("max_model_len")
    return Target(
        url=client.url,
        model=name,
        info=info,
        most_tokens=longest if type(longest) is int and longest > 0 else None,
        counts=await scrape(client) is not None,
        vocab=vocab if isinstance(vocab, int) and vocab > 1 else None,
    )


def _refuse_fast(client: Client, speed: object) -> None:
    if speed != 1:
        fast = f"{short(speed)} times as fast as it is"
        msg = f"{client.url} is simulated {fast}: serve it with --speed 1."
        raise ServerError(msg)


async def scrape(client: Client) -> Snapshot | None:
    """The server's metrics as they are now; None if it has none of SGLang's."""
    text = await client.get("/metrics")
    if text is None or not is_prometheus(text):
        return None
    return snapshots(text, "metrics")[0][0]


def gauge(snapshot: Snapshot, name: str) -> float | None:
    """The sum of a metric over its labels; None where there is none that means something."""
    found = [v for (each, _), v in snapshot.values.items() if each == _PREFIX + name]
    return sum(found) if found and all(0 <= v <= MOST for v in found) else None


def busy(snapshot: Snapshot) -> int:
    """Requests that run or wait."""
    return int(sum(gauge(snapshot, f"num_{kind}_reqs") or 0.0 for kind in ("running", "queue")))


async def accept_length(client: Client) -> float | None:
    """Tokens a verify step, over all steps since the server's start, from ``server_info``."""
    for path in _INFO:
        info = await client.get_json(path)
        states = info.get("internal_states") if isinstance(info, dict) else None
        for state in states if isinstance(states, list) else ():
            value = state.get("avg_spec_accept_length") if isinstance(state, dict) else None
            if isinstance(value, int | float) and 1 < value <= _WIDEST:
                return float(value)
    return None
