"""Units of systemd, Podman and supervisor -> the line that they run, and its environment."""

import re
import shlex
from collections.abc import Iterator, Mapping
from functools import partial

from dflash_sim.calibrate.launches.manifest import FILE_OF_VARIABLES, Manifest

_SECTION = re.compile(r"^\[(?:Service|Container|program:[^\]\n]+)\][ \t]*$", re.MULTILINE)
_NEXT = re.compile(r"^\[", re.MULTILINE)
_DROPPED = re.compile(r"^[ \t]*[#;][^\n]*\n?", re.MULTILINE)
_CONTINUED = re.compile(r"\\[ \t]*\n|\n(?=[ \t])")
_SETTING = re.compile(r"^([A-Za-z_]+)[ \t]*=[ \t]*(.*)$", re.MULTILINE)
_EXPANDED = re.compile(r"%(?:%|\((?:ENV_)?(\w+)\)\d*[sd])")  # by supervisor
_HOW = "-@:+!|"  # signs of systemd before the program: how it is run


def service_units(text: str) -> Iterator[Manifest]:
    """What every service of the text runs; nothing if it has none."""
    for section in _SECTION.finditer(text):
        ends = _NEXT.search(text, section.end())
        rest = text[section.end() : ends.start() if ends else None]
        lines = _CONTINUED.sub(" ", _DROPPED.sub("", rest))
        environment: dict[str, str] = {}
        unsaid: list[tuple[str, str]] = []
        script = image = ""
        for name, value in _SETTING.findall(lines):
            if name == "Environment":
                environment |= _pairs(value, " \t")
            elif name == "environment":
                environment |= _pairs(value, ",\n ")
            elif name == "EnvironmentFile":
                unsaid.append((f"{name}={value.lstrip('-')}", FILE_OF_VARIABLES))
            elif name == "Image":
                image = value
            elif name in ("ExecStart", "Exec", "command"):
                script = value.lstrip(_HOW).replace("$$", "$")
        if section[0].startswith("[program:"):
            script = _EXPANDED.sub(partial(_value, environment), script)
        if script:
            unread = tuple(unsaid)
            yield Manifest(script=script, environment=environment, image=image, unsaid=unread)


def _value(known: Mapping[str, str], found: re.Match[str]) -> str:
    return known.get(found[1], f"${{{found[1]}}}") if found[1] else "%"


def _pairs(value: str, between: str) -> dict[str, str]:
    words = shlex.shlex(value, posix=True)
    words.whitespace, words.whitespace_split, words.commenters = between, True, ""
    try:
        return dict(word.split("=", 1) for word in words if "=" in word)
    except ValueError:  # a quotation that is not closed
        return {}
