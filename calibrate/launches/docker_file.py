"""Docker files -> the words or the script that a container runs, and what runs around it."""

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress

from dflash_sim.calibrate.launches.manifest import Manifest
from dflash_sim.calibrate.launches.shell_values import Shell
from dflash_sim.profiles.ways_in import UnreadableError, parse_json

_COMMENT = re.compile(r"^[ \t]*#[^\n]*\n?", re.MULTILINE)
_INSTRUCTION = re.compile(r"^[ \t]*(FROM|ARG|ENV|CMD|ENTRYPOINT)[ \t]+([^\n]*)", re.MULTILINE)
_CONTINUED = re.compile(r"\\[ \t]*\n")
_FROM = re.compile(r"(?:--\S+\s+)*(\S+)(?:\s+(?i:as)\s+(\S+))?")


def docker_files(text: str) -> Iterator[Manifest]:
    """The command of a Docker file; nothing if the text is none."""
    lines = _CONTINUED.sub(" ", _COMMENT.sub("", text))
    found = [(kind, rest.strip()) for kind, rest in _INSTRUCTION.findall(lines)]
    environment: dict[str, str] = {}
    stages: dict[str, str] = {}
    said: dict[str, str] = {}
    image = ""
    for kind, rest in found:
        if kind in ("ARG", "ENV"):
            environment |= _pairs(rest)
        elif kind != "FROM":
            said[kind] = rest
        elif begun := _FROM.match(rest):
            image = Shell(environment).filled(begun[1])
            image = stages.get(image, image)
            stages[begun[2] or ""] = image
    entry, command = (_words(said.get(kind, "[]")) for kind in ("ENTRYPOINT", "CMD"))
    if entry is not None and command is not None:
        if words := (*entry, *command):
            yield Manifest(words, environment=environment, image=image)
    elif image:  # else these words begin a line of something else
        script = said["ENTRYPOINT"] if entry is None else shlex.join(entry) + " " + said["CMD"]
        yield Manifest(script=script, environment=environment, image=image)


def _words(listed: str) -> tuple[str, ...] | None:
    """The words of a list; None for a line of a shell."""
    try:
        return tuple(map(str, parse_json(listed))) if listed.startswith("[") else None
    except (UnreadableError, TypeError):
        return None


def _pairs(rest: str) -> dict[str, str]:
    """Variables of ``ENV A=1 B=2``, or of the older ``ENV A 1``."""
    words = [rest]
    with suppress(ValueError):
        words = shlex.split(rest)
    if words and "=" not in words[0]:
        name, _, value = rest.partition(" ")
        return {name: value.strip()} if value.strip() else {}
    return dict(word.split("=", 1) for word in words if "=" in word)
