"""What is dropped on the page: a launch command becomes a state, a benchmark points beside it."""

import base64
import binascii
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.readers.read import read_observations
from dflash_sim.jobs.scratch import scratch_folder
from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.simulator.cost.methods import PLAIN, method_of
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.question import Layer, layered
from dflash_sim.ui.state import State, from_fields, settled
from dflash_sim.ui.view import Measured

MOST_BYTES = 32 << 20
_OF_FLAG = "--from-launch: "  # which nobody typed here
_LAUNCHES = ("sglang", "launch_server", "--model-path", "--speculative-")


@dataclass(frozen=True)
class Dropped:
    """What became of a file.

    Parameters
    ----------
    state
        The state that it describes.
    words
        What was read, in one line.
    measured
        Rows of a benchmark.
    """

    state: State
    words: str
    measured: tuple[Measured, ...] = ()


def decoded(contents: str, name: str) -> bytes:
    """Return the bytes of an upload, which a browser sends as the address of its data.

    Raises
    ------
    UsageError
        There is nothing in it, or too much.
    """
    try:
        raw = base64.b64decode(contents.partition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not raw:
        msg = f"{name}: it is empty; drop a launch command or a benchmark file."
        raise UsageError(msg)
    if len(raw) > MOST_BYTES:
        msg = f"{name}: it holds more than {MOST_BYTES >> 20} MiB; drop a part of it."
        raise UsageError(msg)
    return raw


def read_dropped(raw: bytes, name: str, state: State) -> Dropped:
    """Return what a dropped file or pasted text means, over the state of the page.

    Raises
    ------
    UsageError
        It is neither a launch command nor a benchmark; nothing is changed then.
    """
    text = _text(raw)
    if text is not None and any(word in text for word in _LAUNCHES) and not _is_rows(text):
        try:
            return _launch(text, name, state)
        except DflashSimError as error:
            if "launch_server" in text or "sglang serve" in text:
                why = str(error).removeprefix(_OF_FLAG)
                msg = f"{name}: {why} The page stays as it was."
                raise UsageError(msg) from None
    return _benchmark(raw, name, state)


def _launch(text: str, name: str, state: State) -> Dropped:
    found = scenario_from_launch(text)
    layer: Layer = (name, {"build": found.build, **found.fields})
    method = {"method": "none"} if "method" not in found.fields else {}
    kept = {n: v for n, v in state.fields.items() if n in _ABOUT_THE_LOAD}
    merged = layered([(layer[0], {**layer[1], **method}), ("page", kept)])
    fields = {n: given.value for n, given in merged.items()}
    ignored = f"; not modelled: {'; '.join(found.remarks)}" if found.remarks else ""
    return Dropped(settled(from_fields(fields)), f"{name}: a launch command{ignored}")


# A launch command does not say these: they stay as they are on the page.
_ABOUT_THE_LOAD = {"gpu", "dataset", "content", "thinking", "isl", "osl", "conc", "rate",
    "range_ratio", "burstiness", "num_prompts", "cache_hit"}  # fmt: skip


def _benchmark(raw: bytes, name: str, state: State) -> Dropped:
    suffix = "".join(re.findall(r"\.[a-zA-Z0-9]{1,9}", name)[-2:]) or ".json"
    assumed = {n: state.fields[n] for n in ("gpu", "model") if n in state.fields}
    with scratch_folder() as folder:
        path = folder / f"dropped-on-the-page{suffix}"
        path.write_bytes(raw)
        try:
            report = read_observations([path], assumed)
        except DflashSimError as error:
            said = _renamed(str(error), path, name)
            msg = f"{said} The page stays as it was: drop a launch command or a benchmark file."
            raise UsageError(msg) from None
    rows = [o for o in report.observations if o.metrics.get("output_throughput")]
    if not rows:
        why = report.refused[0][1] if report.refused else "it holds no throughput"
        msg = f"{name}: no row can be used ({why}); the page stays as it was."
        raise UsageError(msg)
    first = max(rows, key=lambda o: (_load(o) == state.load, _drafts(o)))
    fields = {n: v for n, v in first.fields.items() if n in Scenario.model_fields}
    changed = settled(from_fields(fields))
    points = _points(rows, first, name, path)
    taken = ", ".join(f"{n} {assumed[n]}" for n in assumed if n in first.assumed)
    own = f"; it does not say its {taken}, which is the page's" if taken else ""
    words = (
        f"{name}: {report.counts}; the page shows the server of {first.row}, and the {len(points)} "
        f"rows of it{own}; dflash-sim compare {shlex.quote(name)} says why they differ"
    )
    return Dropped(changed, _renamed(words, path, name), points)


def _points(
    rows: Sequence[Observation], first: Observation, name: str, path: Path
) -> tuple[Measured, ...]:
    """The rows of the server that is shown, whatever their load."""
    same = [o for o in rows if _server(o) == _server(first) and _load(o)]
    return tuple(
        Measured(
            _load(o),
            o.metrics["output_throughput"],
            _renamed(o.row, path, name),
            o.metrics.get("mean_tpot_ms"),
        )
        for o in same
    )


def _renamed(text: str, path: Path, name: str) -> str:
    """Text about the copy of a file, in the name of what was dropped."""
    return text.replace(str(path), name).replace(path.name, name)


def _server(row: Observation) -> tuple[tuple[str, str], ...]:
    mine = {n: v for n, v in row.fields.items() if n not in ("conc", "rate", "num_prompts")}
    return tuple(sorted((n, str(v)) for n, v in mine.items()))


def _load(row: Observation) -> float:
    return float(row.fields.get("conc") or 0)


def _drafts(row: Observation) -> bool:
    return method_of(str(row.fields.get("method", PLAIN.name))).speculative


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _is_rows(text: str) -> bool:
    """True for JSON: benchmark files quote the launch command that they are of."""
    return text.lstrip()[:1] in ("{", "[")
