"""``Decode batch`` lines of SGLang's log -> the speed of a steady batch of so many requests."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, median

from dflash_sim.profiles.errors import UsageError

_LINE = re.compile(r"\b(Decode|Prefill) batch[,.:]? ([^\n]*)")
_VALUE = re.compile(
    r"([A-Za-z][\w -]{0,30}?)(?: \(token/s\))?: (\d{1,12}(?:\.\d+)?|True|False)(?=,|\s|$)"
)
_BEFORE_LAUNCH = re.compile(
    r"^(?=[^\n]*(?:\bServerArgs\(|sglang\.launch_server|\bsglang\s+serve\b))", re.MULTILINE
)
_RESOLVED = re.compile(r"\bServerArgs\(")
_RANK = re.compile(r"\bDP(\d+)\b")
_FEWEST = 2  # lines that say the same of a batch


@dataclass(frozen=True)
class SteadyBatch:
    """Decode steps of as many requests with no prefill among them.

    Parameters
    ----------
    requests, lines
        Requests in the batch; lines of the log that are summed up.
    tokens_s
        Median throughput of those lines [token/s].
    context
        Median cached tokens of a request, as the longer they are the less that is: those of the
        same line; None in a log that does not count them [token].
    accept_length
        Mean tokens of a verify step; None without drafts.
    in_graphs
        False if any line says that it ran outside CUDA graphs.
    """

    requests: int
    lines: int
    tokens_s: float
    context: float | None
    accept_length: float | None
    in_graphs: bool


def is_log(text: str) -> bool:
    """Return True if the text has a line of a batch in it."""
    return _LINE.search(text) is not None


def before_batches(text: str) -> str:
    """The lines above the first of a batch, which tell of the launch."""
    found = _LINE.search(text)
    return text if found is None else text[: text.rfind("\n", 0, found.start()) + 1]


def servers(text: str) -> list[str]:
    """The log of each server with a batch in it; one file may have several, or failed starts."""
    parts = [""]
    for part in _BEFORE_LAUNCH.split(text):
        again = _RESOLVED.search(parts[-1]) and _RESOLVED.search(part)
        if is_log(parts[-1]) or again:
            parts.append("")
        parts[-1] += part
    return [part for part in parts if is_log(part)]


def steady_batches(text: str) -> list[SteadyBatch]:
    """Every size of a batch that was steady, the smallest first.

    A line counts what was made since the one before it, so it holds where that had as many
    requests and nothing was prefilled between the two.

    Raises
    ------
    UsageError
        Ranks with requests of their own wrote it, or no batch was ever steady.
    """
    if len(set(_RANK.findall(text))) > 1:
        msg = "a log of ranks that have requests of their own, which is not simulated"
        raise UsageError(msg)
    by_requests: dict[int, list[dict[str, str]]] = defaultdict(list)
    for requests, values in _steady_lines(text):
        by_requests[requests].append(values)
    found = [
        _batch(requests, lines)
        for requests, lines in sorted(by_requests.items())
        if len(lines) >= _FEWEST
    ]
    if not found:
        msg = (
            "a log of the server, in which no batch stayed as it was for three lines of decoding: "
            "give what a benchmark printed or saved, or two scrapes of /metrics"
        )
        raise UsageError(msg)
    return found


def _steady_lines(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    before = 0
    for line in _LINE.finditer(text):
        values = {name.lower(): value for name, value in _VALUE.findall(line[2])}
        running = int(float(values.get("running-req", 0))) if line[1] == "Decode" else 0
        if running and running == before and float(values.get("gen throughput", 0)) > 0:
            yield running, values
        before = running


def _batch(requests: int, lines: list[dict[str, str]]) -> SteadyBatch:
    def of(*names: str) -> list[float]:
        return [float(line[name]) for line in lines for name in names if name in line]

    cached, accepted = of("token", "full token"), of("accept len")
    return SteadyBatch(
        requests=requests,
        lines=len(lines),
        tokens_s=median(of("gen throughput")),
        context=median(cached) / requests if cached else None,
        accept_length=fmean(accepted) if accepted else None,
        in_graphs=all(line.get("cuda graph") != "False" for line in lines),
    )
