"""``--json-model-override-args`` of a launch: what it changes in a model's config."""

from collections.abc import Iterator, Mapping
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.ways_in import UnreadableError, parse_json

OVERRIDE = "--json-model-override-args"
_LONGEST = "max_position_embeddings"
# The rotation reads a table of angles, however they were scaled: the same kernel, the same time.
_ROTATION = {"rope_scaling", "rope_parameters", "rope_theta", "partial_rotary_factor"}
_TEXT = "text_config"


def overridden(text: str) -> dict[str, Any]:
    """Return the scenario fields that an override sets: the longest request, if it says one.

    Raises
    ------
    UsageError
        It is no object, or changes what a config alone can say: the sizes of the network.
    """
    try:
        given = parse_json(text or "{}")
    except UnreadableError:
        given = None
    if not isinstance(given, dict):
        msg = f"--from-launch: {OVERRIDE} {text[:60]} is no JSON object; change it or drop it."
        raise UsageError(msg)
    found: dict[str, Any] = {}
    for key, value in _keys(given):
        if key == _LONGEST and type(value) is int and value > 0:
            found["context_length"] = value
        elif key not in _ROTATION:
            msg = (
                f"--from-launch: {OVERRIDE} sets {key}, which is not read from a launch; give "
                "--model the path of a config.json that says so, and leave it out here."
            )
            raise UsageError(msg)
    return found


def _keys(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        if key == _TEXT and isinstance(value, Mapping):
            yield from value.items()
        else:
            yield key, value
