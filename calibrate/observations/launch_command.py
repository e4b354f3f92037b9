"""A real SGLang launch command -> scenario fields.

The flags are those of ``python -m sglang.launch_server``; a launch command does not say which GPU,
data set or concurrency, so those stay as they are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dflash_sim.calibrate.launches.environment import (
    check_devices,
    check_environment,
    simulated_acceptance,
    worker_of,
)
from dflash_sim.calibrate.launches.flags import Written, written
from dflash_sim.calibrate.launches.router import WHY, beside_policy
from dflash_sim.calibrate.launches.words import Launch, launches
from dflash_sim.calibrate.observations.launch_fields import (
    AS_TP,
    FIELDS,
    REQUESTS,
    SWITCHES,
    WHAT,
)
from dflash_sim.calibrate.observations.launch_methods import method_of_launch
from dflash_sim.calibrate.observations.launch_override import OVERRIDE, overridden
from dflash_sim.calibrate.observations.sampling import client_sampling, sampling_of
from dflash_sim.calibrate.observations.values import naming
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import find_sheet
from dflash_sim.profiles.precision import quantised_name
from dflash_sim.profiles.releases.engine_versions import match_engine
from dflash_sim.profiles.ways_in import is_there, named_path
from dflash_sim.simulator.cost.cycle import Method
from dflash_sim.simulator.scenario import ONLY_SPECULATION


@dataclass(frozen=True)
class LaunchScenario:
    """The scenario that a launch command describes.

    Parameters
    ----------
    fields
        Scenario fields it sets.
    not_modelled
        Flags and variables that may change speed and are not simulated, with the reason of each.
    build
        Version of the engine, where a container is named by it.
    router
        Words of a router in front of such servers.
    """

    fields: dict[str, Any]
    not_modelled: tuple[tuple[str, str], ...] = ()
    build: str | None = None
    router: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is not modelled, each reason once, with the flags it is the reason for."""
        whole = [(" ".join(self.router), WHY)] if self.router else []
        return _by_reason([*whole, *self.not_modelled, *self._nameless])

    @property
    def remarks_of_plan(self) -> tuple[str, ...]:
        """The same of a plan, which simulates the policy of a router."""
        return _by_reason([*beside_policy(self.router), *self.not_modelled, *self._nameless])

    @property
    def _nameless(self) -> tuple[tuple[str, str], ...]:
        return () if "model" in self.fields else (("--model-path", _NO_MODEL),)


def _by_reason(left: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    by_reason: dict[str, list[str]] = {}
    for name, why in left:
        by_reason.setdefault(why, []).append(name)
    return tuple(f"{', '.join(dict.fromkeys(names))} ({why})" for why, names in by_reason.items())


_OFF = {"--cuda-graph-backend-decode": "disabled"}
_DRAFTING = ("steps", "topk", "window", "draft_model", "speculative_draft_model_quantization")
_UNQUANT = "unquant"
_BLOCKS = "--speculative-use-block-verification"
_IDLE = "it acts with another --speculative-algorithm"
_LONGEST = "context_length"
_PARTS = 4  # of a path, from its end, one of which may name the checkpoint
_HUB = re.compile(r"(?:models--)?([\w.-]+?)(?:--|__)([\w.-]+)")  # ``models--org--name`` of a cache
_MIRRORED = re.compile(r"___")  # ModelScope's folders have no dots
_OF_TARGET = re.compile(r"(?i)next-?n|mtp")
_NO_MODEL = "the text names no model: that of --model is asked about, or the default"
_BY_REQUESTS = "--enable-dp-attention"
_UNSET = re.compile(r"\$\{?((?:(?i:env):)?[A-Za-z_]\w*)(?![\w.(\[])")
_BLANK = re.compile(r"\{\{.*\}\}|<.*>|\[.*\]")  # of a form that is to be filled in
_OTHER_DRAFTERS = re.compile(r"(?i)domino|dspark|dflash-?2")


def scenario_from_launch(text: str, build: str | None = None) -> LaunchScenario:
    """The scenario fields of a launch.

    Parameters
    ----------
    text
        As typed in a shell, in a script, or in a compose or Kubernetes file. Of the command of a
        benchmark in it, how its answers are sampled is read.
    build
        Release of the engine, if it is known; else the tag of the container says it.

    Raises
    ------
    UsageError
        It is no launch, a flag is unknown or ambiguous, a value is malformed, it asks for what is
        not simulated, or it holds launches that differ.
    """
    client = client_sampling(text)
    found = launches(text)
    read = [_read(launch, build, client) for launch in found]
    if any(launch.guesses for launch in found) and _same_either_way(text, build, client, read):
        read = [_read(replace(launch, guesses=()), build, client) for launch in found]
    others = [one for one in read if one.fields != read[0].fields]
    if others:
        msg = f"--from-launch: the text holds {len(read)} launches that differ; give one of them."
        raise UsageError(msg)
    return read[0]


def _same_either_way(
    text: str, build: str | None, client: Mapping[str, Any], read: list[LaunchScenario]
) -> bool:
    """Return True if branches that the text leaves open change nothing that is simulated."""
    try:
        others = [_read(launch, build, client) for launch in launches(text, contrary=True)]
    except UsageError:
        return False
    return [one.fields for one in others] == [one.fields for one in read]


def _read(launch: Launch, build: str | None, client: Mapping[str, Any]) -> LaunchScenario:
    tag = launch.image if launch.image and match_engine(launch.image) else None
    parsed = _Parsed(environment=dict(launch.environment), build=build or tag)
    flags = list(written(launch.arguments, model_first=launch.serves))
    values = " ".join(v for one in flags if one.flag.name in FIELDS for v in one.values)
    if names := dict.fromkeys(_UNSET.findall(values)):
        parsed.wanting = " ".join(f"{'$' if ':' in name else ''}{name}=VALUE" for name in names)
    # What splits attention says more of a server than how many parts there are.
    for one in sorted(flags, key=lambda one: one.flag.name != _BY_REQUESTS):
        parsed.take(one)
    fields = parsed.scenario() | dict(client)
    around = check_environment(launch.environment)
    check_devices(launch.environment, fields.get("tp", 1), parsed.flags.get("tp", "--tp"))
    left = [*parsed.left, *around, *launch.unsaid, *launch.guesses]
    return LaunchScenario(fields, tuple(dict.fromkeys(left)), tag, launch.router)


@dataclass
class _Parsed:
    """Flags seen so far, by scenario field; as with argparse, the last one wins."""

    environment: Mapping[str, str] = field(default_factory=dict)
    build: str | None = None
    found: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    left: list[tuple[str, str]] = field(default_factory=list)
    served: str | None = None
    wanting: str = "NAME=VALUE"

    def take(self, one: Written) -> None:
        name = one.flag.name
        if name == "--served-model-name":
            self.served = one.values[-1]
        if name in SWITCHES:
            key, setting = SWITCHES[name]
            self.found[key], self.flags[key] = setting, one.typed
        elif name in FIELDS:
            self._field(one)
        elif name == OVERRIDE:
            self.found = overridden(one.values[-1]) | self.found
        elif name == REQUESTS:
            with naming(f"--from-launch: {one.typed}"):
                self.found |= sampling_of({"extra_body": one.values[-1]})
        elif one.flag.kind == "refused":
            self._refused(one)
        elif one.flag.kind == "unmodelled" and not _harmless(one):
            self.left.append((one.typed, one.flag.why))

    def _field(self, one: Written) -> None:
        key, read = FIELDS[one.flag.name]
        for value in one.values:
            if "$" in value or _BLANK.fullmatch(value):
                if key == _LONGEST:
                    return  # a server starts with one that is long enough
                msg = (
                    f"--from-launch: {one.typed} {value}: the text does not set the variable; "
                    f"put {self.wanting} before the command, or write the value in its place."
                )
                raise UsageError(msg)
        amounts = [read(value) for value in one.values]
        if None in amounts:
            msg = f"--from-launch: {one.text} is not {WHAT[read]}; change it or drop it."
            raise UsageError(msg)
        self.found[key] = max(amounts) if len(amounts) > 1 else amounts[-1]
        self.flags[key] = one.typed

    def _refused(self, one: Written) -> None:
        values = {value.lower() for value in one.values}
        if values and values <= one.flag.harmless:
            if values == {_OFF.get(one.flag.name)}:
                self.found["cuda_graph_max_bs"] = 0
            return
        can = ", ".join(sorted(one.flag.harmless)) if values else ""
        remedy = f"; give {one.typed} {can}, or leave it out" if can else ""
        msg = f"--from-launch: {one.text[:120]} is not simulated{remedy}. {one.flag.why}"
        raise UsageError(msg)

    def scenario(self) -> dict[str, Any]:
        """Fields under the scenario's names; without an algorithm it is plain decoding."""
        out = dict(self.found)
        if out.get("quantization", "").lower() == _UNQUANT:
            del out["quantization"]  # asks for nothing: the checkpoint says what it is in
        if out.get("kv_cache_dtype", "").lower() == "auto":
            del out["kv_cache_dtype"]
        if (backend := out.pop("decode_backend", None)) is not None:
            out["attention_backend"] = backend
        if out.get("ep_size") == AS_TP:
            out["ep_size"] = out.get("tp", 1)
        if out.get("ep_size") == 1:
            del out["ep_size"]  # as without the flag
        if "model" in out:
            out["model"] = self._target(out["model"])
        method = method_of_launch(
            out.pop("algorithm", None), out.get("model"), out.get("draft_model")
        )
        out["method"] = method.name
        width = out.pop("draft_tokens", None)
        if not method.speculative:
            drafting = {*ONLY_SPECULATION, "draft_tokens", "drafts"}
            self.left += [(self.flags[n], _IDLE) for n in self.flags if n in drafting]
            return {name: value for name, value in out.items() if name not in drafting}
        self._width(out, method, width)
        if method.sequential and any(name == _BLOCKS for name, _ in self.left):
            out["speculative_use_rejection_sampling"] = True  # as the server resolves it
        if method.network == "mtp-layer" and "draft_model" in out:
            self._own_layer(out.pop("draft_model"), out.get("model"))
        # DFLASH sets the steps to 1; MTP reads its layer from the target.
        self._drop(out, *(n for n in _DRAFTING if n not in method.takes))
        if "draft_model" in out:
            self._drafter(out)
        self._worker(out, chain=method.sequential)
        if (acceptance := simulated_acceptance(self.environment)) is not None:
            out["acceptance"] = acceptance
        return {name: value for name, value in out.items() if value is not None}

    def _width(self, out: dict[str, Any], method: Method, width: int | None) -> None:
        """Rows that are verified: by block, by steps, by DSpark's drafts, or of a tree both."""
        if method.sequential:
            self._drop(out, "block", "drafts")
            if out.get("topk", 1) > 1:
                out["block"] = width
                return
            out.pop("topk", None)
            out["steps"] = self._same("steps", out.get("steps"), width and width - 1)
            return
        if out.get("topk") == 1:
            del out["topk"]  # as the server sets it
        if method.counts_drafts:
            self._drop(out, "block")
            drafts = self._same("drafts", out.pop("drafts", None), width and width - 1)
            out["block"] = drafts and drafts + 1
            return
        self._drop(out, "drafts")
        out["block"] = self._same("block", out.get("block"), width)

    def _drafter(self, out: dict[str, Any]) -> None:
        """The drafter by its sheet; one without stands back for the one known for the target."""
        named = out["draft_model"]
        out["draft_model"] = found = _shipped("drafters", named, ".json")
        if found != named or is_there(named):
            return
        if find_sheet("drafters", named, ".json") is None and not _OTHER_DRAFTERS.search(named):
            del out["draft_model"]
            why = "it has no sheet: the drafter known for the target stands in"
            self.left.append((f"{self.flags['draft_model']} {named}", why))

    def _target(self, path: str) -> str:
        """The target by its name; where the path says none, by the one it is served under."""
        name = _shipped("models", path, ".json")
        unknown_here = name == path and path[:1] in "/.~" and not is_there(named_path(path))
        served = self.served
        if unknown_here and served and (find_sheet("models", served, ".json") or
                                        quantised_name(served)):  # fmt: skip
            why = f"no such folder here: {served}, as it is served, stands in"
            self.left.append((f"{self.flags['model']} {path}", why))
            return served
        return name

    def _own_layer(self, named: str, model: str | None) -> None:
        """A checkpoint of the target's own MTP layer says nothing new; another is not read."""
        if not _OF_TARGET.search(named) and named != model:
            why = "the MTP layer of the target stands in"
            self.left.append((f"{self.flags['draft_model']} {named}", why))

    def _worker(self, out: dict[str, Any], *, chain: bool) -> None:
        worker = worker_of(self.environment, self.build, chain=chain)
        if worker.mode is not None and "engine_mode" not in out:
            out["engine_mode"] = worker.mode
        if worker.note is not None:
            name, _, why = worker.note.partition(": ")
            self.left.append((name, why) if why else ("SGLANG_ENABLE_SPEC_V2=0", worker.note))

    def _drop(self, out: dict[str, Any], *names: str) -> None:
        for name in names:
            if out.pop(name, None) is not None:
                self.left.append((self.flags[name], _IDLE))

    def _same(self, name: str, given: int | None, implied: int | None) -> int | None:
        """A width given directly and as a number of draft tokens must be the same."""
        if given and implied and given != implied:
            msg = (
                f"--from-launch: {self.flags[name]} {given} contradicts "
                f"{self.flags['draft_tokens']}, which makes it {implied} (k steps verify k+1 "
                "tokens); drop one of them."
            )
            raise UsageError(msg)
        return given or implied


def _harmless(one: Written) -> bool:
    """Return True if every value that is written is one that changes nothing."""
    return bool(one.values) and {value.lower() for value in one.values} <= one.flag.harmless


def _shipped(folder: str, path: str, suffix: str) -> str:
    """A checkpoint folder of the server, not on this disk, is known by a part of its path."""
    local = named_path(path)
    if path[:1] not in "/.~" or is_there(local):
        return path
    for part in reversed(local.parts[-_PARTS:]):
        name = _MIRRORED.sub(".", part)
        if hub := _HUB.fullmatch(name):
            name = f"{hub[1]}/{hub[2]}"
        if find_sheet(folder, name, suffix) or quantised_name(name):
            return name
    return path
