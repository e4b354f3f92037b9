"""The text around a launch -> the words that SGLang gets, and the environment it runs in.

A launch comes as typed in a shell, in a script with variables, inside ``bash -c '...'`` or
``docker run``, or as the ``command`` of a compose or Kubernetes file. Nothing is run: variables
that the text sets are filled in, everything else stays as it is written.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from dflash_sim.calibrate.launches.docker_file import docker_files
from dflash_sim.calibrate.launches.manifest import FILE_OF_VARIABLES, Manifest, manifests
from dflash_sim.calibrate.launches.options import with_file
from dflash_sim.calibrate.launches.other_engines import refuse_other_engine
from dflash_sim.calibrate.launches.pasted import as_typed, commands_within
from dflash_sim.calibrate.launches.python_strings import scripts_in_python, variables_in_python
from dflash_sim.calibrate.launches.python_text import launches_in_python
from dflash_sim.calibrate.launches.router import MODULE, divided
from dflash_sim.calibrate.launches.service_units import service_units
from dflash_sim.calibrate.launches.shell_text import commands
from dflash_sim.calibrate.launches.shell_values import Shell
from dflash_sim.calibrate.launches.slurm_jobs import variables_of_job
from dflash_sim.profiles.errors import UsageError

EXAMPLE = (
    "python -m sglang.launch_server --model-path Qwen/Qwen3.5-397B-A17B --tp-size 8 "
    "--speculative-algorithm DFLASH"
)
_MODULES = {
    "sglang.launch_server",
    "dynamo.sglang",
    "dynamo.sglang.worker",
    "dynamo.sglang.decode_worker",
    "sglang.srt.entrypoints.http_server",
    MODULE,
}
_OF_DYNAMO = {
    "--endpoint", "--migration-limit", "--store-kv", "--request-plane", "--event-plane",
    "--custom-jinja-template", "--use-sglang-tokenizer", "--dump-config-to", "--connector",
    "--dyn-tool-call-parser", "--dyn-reasoning-parser", "--output-modalities",
}  # fmt: skip
_SERVES = ("serve", "launch_server", "launch-server")
_WITHIN = re.compile(
    r"sglang(?:_router)?\.launch_server|dynamo\.sglang|launch_server\.py|\bsglang\s+(?:serve|launch.server)\b"
)
_IMAGE = re.compile(r"(?:sglang(?!-runtime)[\w./-]*|sgl-dev):([\w.-]+)")
_CHART = re.compile(r"repository:[ \t]*\S*sglang\S*\s+tag:[ \t]*[\"']?([\w.-]+)")  # of Helm
_NAMED_IMAGE = re.compile(r"[\w./@-]+(?::[\w.-]+)*")
_ENV_FILE = re.compile(r"(?<!\S)--env-file[= ]\S+")
_DEEPEST = 6


@dataclass(frozen=True)
class Launch:
    """One launch.

    Parameters
    ----------
    arguments
        Words behind the launcher.
    environment
        Variables that it runs with.
    image
        Tag of the container it runs in, where one is named.
    router
        Words of a router in front of it.
    guesses
        Variables in it that rest on what the text does not say, each with what that is.
    serves
        True behind ``sglang serve``, where the first word may be the model.
    unsaid
        Arguments that the text tells of and does not write out, each with why.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    serves: bool = False
    router: tuple[str, ...] = ()
    guesses: tuple[tuple[str, str], ...] = ()
    unsaid: tuple[tuple[str, str], ...] = ()


def launches(text: str, *, contrary: bool = False) -> list[Launch]:
    """Every launch of a server in ``text``, in order.

    Parameters
    ----------
    contrary
        True to read the branches of a script that the text leaves open the other way.

    Raises
    ------
    UsageError
        There is none, or a quotation is not closed.
    """
    text = as_typed(text)
    found = list(_in_manifest(text, contrary=contrary)) or _in_program(text)
    if not found:
        try:
            job = Shell(variables_of_job(text), contrary=contrary)
            found = list(_in_shell(text, job, 0))
        except UsageError:
            found = [*_in_python(text), *_in_shell(commands_within(text), Shell(), 0)]
            if not found:
                refuse_other_engine(text)
                raise
    if not found and re.match(r"\s*--[a-z]", text):
        found = [Launch(tuple(word for one in commands(text, Shell()) for word in one.words))]
    found = found or list(_in_python(text))
    if not found:
        refuse_other_engine(text)
        words = text.split()
        shown = " ".join(words[:4]) or "nothing"
        msg = f"--from-launch '{shown[:80]}' is not an SGLang launch command; such as: {EXAMPLE}."
        raise UsageError(msg)
    around = variables_in_python(text)
    return [
        replace(
            launch,
            arguments=tuple(with_file(launch.arguments)),
            environment={**around, **launch.environment},
        )
        for launch in found
    ]


def _in_program(text: str) -> list[Launch]:
    """Launches of a Python program that has some in its strings; those of its lists come first."""
    scripts = list(scripts_in_python(text))
    said = list(_in_python(text)) if scripts else []
    return said or [one for script in scripts for one in _in_shell(script, Shell(), 1)]


def _in_python(text: str) -> Iterator[Launch]:
    for spoken in launches_in_python(text):
        yield Launch(spoken.words, unsaid=spoken.unsaid)


def _in_manifest(text: str, *, contrary: bool) -> Iterator[Launch]:
    for manifest in _files(text):
        around = manifest.environment
        shell = Shell(dict(around), dict(around), contrary=contrary)
        if manifest.script is not None:
            found = list(_in_shell(manifest.script, shell, 1))
        else:
            words = [word for item in manifest.words for word in _expanded(item, shell)]
            found = list(_of_words(words, shell, 1)) or _flags_alone(words)
        for launch in found:
            unsaid = (*launch.unsaid, *manifest.unsaid)
            image = launch.image or _tag(manifest.image)
            if not image and not _NAMED_IMAGE.fullmatch(manifest.image):  # else it is another's
                image = _tag(text)
            yield replace(launch, image=image, unsaid=unsaid)


def _files(text: str) -> list[Manifest]:
    """What runs by the first kind of file that the text is."""
    kinds = (docker_files, service_units, manifests)
    return next((found for kind in kinds if (found := list(kind(text)))), [])


def _expanded(item: str, shell: Shell) -> list[str]:
    """Words of an item of a list; one that is a script of its own is read as such later."""
    return [item] if re.search(r"\s", item.strip()) else shell.expanded(item)


def _flags_alone(words: Sequence[str]) -> list[Launch]:
    names = {word.partition("=")[0] for word in words}
    there = bool(words) and words[0].startswith("--") and names & {"--model-path", "--model"}
    return [Launch(tuple(words))] if there else []


def _without_dynamo(words: Sequence[str]) -> list[str]:
    """Words of a worker of Dynamo less the flags that are Dynamo's own."""
    kept: list[str] = []
    own = False
    for word in words:
        begins = word.startswith("--")
        own = word.partition("=")[0] in _OF_DYNAMO if begins else own
        if not own:
            kept.append(word)
    return kept


def _tag(text: str) -> str | None:
    """The tag of SGLang's image; None if there is none, or if there are several."""
    tags = {*_IMAGE.findall(text), *_CHART.findall(text)}
    return tags.pop() if len(tags) == 1 else None


def _in_shell(text: str, shell: Shell, depth: int) -> Iterator[Launch]:
    for command in commands(text, shell):
        around = {**shell.environment, **command.environment}
        for launch in _of_words(command.words, replace(shell, environment=around), depth):
            yield replace(launch, guesses=(*launch.guesses, *command.guesses))


def _of_words(words: Sequence[str], shell: Shell, depth: int) -> Iterator[Launch]:
    """The launch that a command is, or that one of its words holds as a command of its own."""
    before = _launcher(words)
    if before is not None:
        front, behind, router = words[:before], list(words[before:]), list[str]()
        if "dynamo." in front[-1]:
            behind = _without_dynamo(behind)
        if MODULE in front[-1]:
            behind, router = divided(behind)
        image = next((m[1] for word in front if (m := _IMAGE.search(word))), None)
        around = {**shell.environment, **_assigned(front)}
        serves = front[-1] == "serve"
        unsaid = tuple((file, FILE_OF_VARIABLES) for file in _ENV_FILE.findall(" ".join(front)))
        yield Launch(
            tuple(behind), around, image, serves=serves, router=tuple(router), unsaid=unsaid
        )
        return
    for i, word in enumerate(words):
        if depth < _DEEPEST and re.search(r"\s", word.strip()) and _WITHIN.search(word):
            inner = replace(shell, environment={**shell.environment, **_assigned(words[:i])})
            image = next((m[1] for w in words[:i] if (m := _IMAGE.search(w))), None)
            for launch in _in_shell(word.strip("`"), inner, depth + 1):
                yield replace(launch, image=launch.image or image)


def _assigned(words: Sequence[str]) -> dict[str, str]:
    """``A=B`` before the launcher, also as ``-e A=B`` of a container."""
    found = {}
    for word in words:
        pair = re.fullmatch(r"(?:--env=|-e)?([A-Za-z_]\w*)=(.*)", word, re.DOTALL)
        if pair and not word.startswith("--env-file"):
            found[pair[1]] = pair[2]
    return found


def _launcher(words: Sequence[str]) -> int | None:
    """Where the arguments begin; None if the words launch no server."""
    for i, word in enumerate(words):
        name = PurePosixPath(word).name
        then = words[i + 1] if i + 1 < len(words) else ""
        if word.removeprefix("-m") in _MODULES or name == "launch_server.py":
            return i + 1
        if name == "sglang" and then in _SERVES:
            return i + 2
    return None
