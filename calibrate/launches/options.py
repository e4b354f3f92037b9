"""Options of a server as a mapping, such as the YAML file behind ``--config`` -> its flags."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dflash_sim.calibrate.launches.server_flags import spellings
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.ways_in import UnreadableError, is_there, parse_yaml, read_text

_MODELS = ("model-path", "model_path", "model")


def is_options(node: Mapping[str, Any]) -> bool:
    """Return True if a mapping names a model and flags of the server."""
    if not any(isinstance(node.get(name), str) for name in _MODELS):
        return False
    known = sum(flag_name(name) in spellings() for name in node)
    return known >= max(2, len(node) // 2)


def words_of(options: Mapping[str, Any]) -> Iterator[str]:
    """Flags with their values; an option that is true is a flag alone, one that is not is none."""
    for name, value in options.items():
        if value is None or value is False:
            continue
        yield flag_name(name)
        if isinstance(value, Mapping):
            yield json.dumps(value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield from (str(item) for item in value)
        elif value is not True:
            yield str(value)


def with_file(arguments: Sequence[str]) -> list[str]:
    """Words of a launch with those of its ``--config`` file before them, which they outdo.

    Raises
    ------
    UsageError
        The file is not here, or has no options in it.
    """
    rest = list(arguments)
    at = next((i for i, w in enumerate(rest) if w.partition("=")[0] == "--config"), None)
    if at is None:
        return rest
    _, equals, name = rest.pop(at).partition("=")
    if not equals:
        name = rest.pop(at) if at < len(rest) else ""
    if not name or not is_there(name):
        msg = (
            f"--from-launch: --config {name}: no such file here; put it there, paste its lines in "
            "place of the command, or write its options as flags."
        )
        raise UsageError(msg)
    try:
        options = parse_yaml(read_text(Path(name)))
    except UnreadableError as error:
        msg = f"--from-launch: --config {name}: {error}; give a YAML file of options."
        raise UsageError(msg) from error
    if not isinstance(options, Mapping):
        msg = f"--from-launch: --config {name} has no options in it, such as model-path: NAME."
        raise UsageError(msg)
    return [*words_of(options), *rest]


def flag_name(name: str) -> str:
    """The flag of an option: ``--tp-size`` of ``tp_size``."""
    return "--" + str(name).lstrip("-").replace("_", "-")
