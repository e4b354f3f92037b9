"""What an SGLang server says of itself: ``server_info`` and its log, by way of its launch flags."""

import shlex
from dataclasses import dataclass
from typing import Any

from dflash_sim.calibrate.launches.server_args import SWITCHES, VALUES, words_of_resolved
from dflash_sim.calibrate.observations.decode_log import SteadyBatch
from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.calibrate.observations.lengths import fixed_lengths
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import Observation, drafts_nothing
from dflash_sim.calibrate.observations.values import Raw, naming, word
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.units import MS

AT_CONTEXT = "simulated at its median context, the prompts in the cache"
_STRATEGY = "mamba_radix_cache_strategy"
_SIMULATED = 256  # tokens of each answer, so that the context stays near the log's
_LAUNCH = ("python", "-m", "sglang.launch_server")


@dataclass(frozen=True)
class Server:
    """A server, as it describes itself."""

    fields: dict[str, Any]
    build: str | None
    notes: tuple[str, ...] = ()


def read_server_info(info: Raw, names: Names) -> Server:
    """Scenario fields of a server, from its resolved arguments, else from its launch command.

    Raises
    ------
    UsageError
        It was run in a way that is not simulated, or its arguments contradict each other.
    """
    if not info:
        return Server({}, None)
    build = word(info, "version")
    with naming("server_info"):
        words = list(words_of_resolved(info))
        command = shlex.join([*_LAUNCH, *words]) if words else word(info, "launch_command")
        if command is None:
            return Server({}, build)
        try:
            parsed = scenario_from_launch(command, build)
        except UsageError as error:
            msg = str(error).replace("--from-launch: ", "").replace("--from-launch", "launch")
            raise UsageError(msg) from None
        fields = dict(parsed.fields)
        if "model" in fields:
            fields["model"] = names.model(fields["model"])
    notes = tuple(f"server_info: not modelled: {remark}" for remark in parsed.remarks)
    # False is stated as clearly as True. Spec V1 ran with the overlap off, which reads v2-sync.
    if info.get("disable_overlap_schedule") is False:
        fields["engine_mode"] = "v2"
    if info.get("disable_radix_cache") is False:
        fields["radix_cache"] = True
    if isinstance(fields.get("draft_model"), str):
        if (drafter := names.drafter(fields["draft_model"])) is None:
            notes = (*notes, f"no sheet for the drafter {fields.pop('draft_model')}")
        else:
            fields["draft_model"] = drafter
    return Server(fields, build, notes)


def read_decode_log(
    batch: SteadyBatch, launch: str | None, where: str, names: Names
) -> Observation:
    """A steady batch of a log: its time per token, at the context that it had then.

    Nothing was prefilled meanwhile, so the simulated prompts are in the cache: many long ones would
    be prefilled between the first tokens of some and their next, and that counts as time per token.
    """
    server = read_server_info({} if launch is None else {"launch_command": launch}, names)
    fields: dict[str, Any] = server.fields | {"conc": batch.requests, "num_prompts": batch.requests}
    notes = [*server.notes, f"{batch.lines} lines of the log are one batch; {AT_CONTEXT}"]
    if batch.context is not None:
        made = min(_SIMULATED, batch.context)
        fields |= fixed_lengths(batch.context - made / 2, made)
        if fields.get("radix_cache") is False:  # then its states have no places in one
            fields.pop(_STRATEGY, None)
        fields |= {"cache_hit": 1.0, "radix_cache": True}
    if not batch.in_graphs:
        notes.append("decoding ran outside CUDA graphs, as the log says")
    metrics = {"mean_tpot_ms": batch.requests / batch.tokens_s / MS}
    if batch.accept_length is not None and not drafts_nothing(server.fields):
        metrics["accept_length_cycle"] = batch.accept_length
    return Observation(
        row=where,
        source="",
        fields=fields,
        metrics=metrics,
        build=server.build,
        about={"tool": "sglang log", "engine": "sglang"},
        notes=tuple(notes),
    )


def stated(info: Raw) -> dict[str, Any]:
    """The arguments that a row keeps: those with a meaning for the answer, and no key or token."""
    kept = ("version", "max_total_num_tokens", *VALUES, *SWITCHES)
    return {name: info[name] for name in kept if name in info}
