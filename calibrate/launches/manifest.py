"""Compose and Kubernetes files -> the words or the script that a container runs."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dflash_sim.calibrate.launches.options import is_options, words_of
from dflash_sim.calibrate.launches.server_args import RESOLVED, words_of_resolved
from dflash_sim.profiles.ways_in import UnreadableError, parse_yamls

_LOOKS = re.compile(
    r"^[ \t]*(?:-[ \t]+)?[\"']?(?:command|args|entrypoint|containers|services|image)[\"']?\s*:"
    r"|^[ \t]*[\"']?(?:model[-_]path|tensor[-_]parallel[-_]size|tp[-_]size)[\"']?\s*:"
    r"|^[ \t]*(?:-[ \t]+)?run\s*:"
    r"|\A\s*(?:\w+:\s*)?\[|\A\s*-\s+\S|\A\s*\{\s*\"",
    re.MULTILINE,
)
_NAMED = re.compile(r"(?<!\$)\$\(([A-Za-z_]\w*)\)")
_LONGEST = 200_000
_DEEPEST = 40
_SHOWN = 80  # letters
_DOCUMENTS = 1000
FILE_OF_VARIABLES = "the variables in it are not in the text"


@dataclass(frozen=True)
class Manifest:
    """The command of a container: its words, or a script.

    Parameters
    ----------
    unsaid
        What it runs with and the text does not write out, each with why.
    """

    words: tuple[str, ...] = ()
    script: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    unsaid: tuple[tuple[str, str], ...] = ()


def manifests(text: str) -> Iterator[Manifest]:
    """Every command that a YAML or JSON file holds; none if it is no such file."""
    if _LOOKS.search(text) and len(text) <= _LONGEST:
        yield from _walk(_parsed(text), 0, {})


def _parsed(text: str) -> list[Any]:
    if "&" in text and re.search(r":\s*&\w", text):
        text = re.sub(r":\s*&\w+", ":", text)  # an anchor may be a bomb; what it names stays
    try:
        plain = textwrap.dedent(text.expandtabs(2)).strip("\n")
        return parse_yamls(plain.rstrip().removesuffix(","), most=_DOCUMENTS)
    except UnreadableError:
        return []


def _walk(node: Any, depth: int, around: Mapping[str, str]) -> Iterator[Manifest]:
    """Commands of a node and below it; they have the variables of the nodes ``around`` them too."""
    if depth > _DEEPEST:
        return
    if isinstance(node, list):
        if node and all(isinstance(item, str | int | float) for item in node):
            yield Manifest(_words(node), environment=around)
            return
        for item in node:
            yield from _walk(item, depth + 1, around)
    elif isinstance(node, Mapping):
        around = {**around, **_environment(node)}
        if isinstance(node.get("Config"), Mapping):  # as ``docker inspect`` tells of a container
            said = {name.lower(): value for name, value in node["Config"].items()}
            yield _container({**said, "command": said.pop("cmd", None)}, around)
            return
        if any(key in node for key in ("command", "args", "entrypoint")):
            yield _container(node, around)
        elif isinstance(node.get("run"), str):
            yield Manifest(script=node["run"], environment=around)
        elif len(node) > RESOLVED and "model_path" in node:  # server_info, which names its release
            words = ("sglang", "serve", *words_of_resolved(node))
            yield Manifest(words, image=f"sglang:{node.get('version', '')}")
        elif is_options(node):
            yield Manifest(("sglang", "serve", *words_of(node)), environment=around)
        for key, item in node.items():
            if key not in ("command", "args", "entrypoint", "run"):
                yield from _walk(item, depth + 1, around)


def _container(node: Mapping[str, Any], around: Mapping[str, str]) -> Manifest:
    """Parts are joined as they are run: the entry point, the command, its arguments."""
    environment = {**around, **_environment(node)}
    parts = [
        _filled(node[key], environment)
        for key in ("entrypoint", "command", "args")
        if node.get(key)
    ]
    about: dict[str, Any] = {"environment": environment, "image": str(node.get("image", ""))}
    if file := node.get("env_file"):
        named = file if isinstance(file, str) else json.dumps(file)
        about["unsaid"] = ((f"env_file: {named}"[:_SHOWN], FILE_OF_VARIABLES),)
    if all(isinstance(part, str) for part in parts):
        return Manifest(script=" ".join(part.strip() for part in parts), **about)
    words: list[str] = []
    for part in parts:
        words += _words(part) if isinstance(part, list) else str(part).split()
    return Manifest(tuple(words), **about)


def _filled(part: Any, environment: Mapping[str, str]) -> Any:
    """``$(NAME)`` as Kubernetes fills it in, and ``$$`` as it and Compose write one ``$``."""
    if isinstance(part, list):
        return [_filled(item, environment) for item in part]
    if not isinstance(part, str):
        return part
    filled = _NAMED.sub(lambda found: environment.get(found[1], found[0]), part)
    return filled.replace("$$", "$")


def _words(items: list[Any]) -> tuple[str, ...]:
    """Each item is a word; ``- --tp 8`` is two, as its writer meant."""
    words: list[str] = []
    for item in items:
        text = str(item).strip()
        words += text.split(None, 1) if re.match(r"--[\w-]+\s", text) else [text]
    return tuple(words)


def _environment(node: Mapping[str, Any]) -> dict[str, str]:
    listed = node.get("environment", node.get("env", node.get("envs")))
    if isinstance(listed, Mapping):
        return {str(name): str(value) for name, value in listed.items()}
    found = {}
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, Mapping) and "name" in item:
            found[str(item["name"])] = str(item.get("value", ""))
        elif isinstance(item, str):
            name, equals, value = item.partition("=")
            if equals:  # else the shell around it has the value
                found[name] = value
    return found
