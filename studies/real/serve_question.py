"""The question behind ``serve --real``: which networks run, and how."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_sim.kernels.layers.spec import read_target
from dflash_sim.profiles.errors import UsageError
from dflash_sim.realrun.job.networks import Network
from dflash_sim.realrun.job.setup import Fitted, Setup, fit
from dflash_sim.studies.real.run_question import check_width, networks

WHOLE = ("block", "steps", "tp", "top_k", "max_running_requests", "chunked_prefill_size",
         "max_prefill_tokens", "page_size", "seed", "stream_interval",
         "context_length")  # fmt: skip
REAL = ("temperature", "top_p")
WORDS = ("model", "draft_model", "method", "dtype", "engine_mode")
_NAMES = {"engine_mode": "mode"}
_CONTEXT = "max_position_embeddings"


@dataclass(frozen=True)
class Engine:
    """Networks that are to be served.

    Parameters
    ----------
    folder
        Where their tokenizer is looked for.
    stream_interval
        Tokens that are sent together.
    """

    fitted: Fitted
    name: str
    folder: Path
    stream_interval: int = 1

    @property
    def vocab(self) -> int:
        """Tokens of the vocabulary."""
        return self.fitted.target.shape.vocab


def engine_of(flags: Mapping[str, Any], *, device: str) -> Engine:
    """Return what scenario flags ask for, those of ``dflash-sim run`` among them.

    Parameters
    ----------
    flags
        Values of the command line by name; None where left out. Prompt and answer are at most as
        long as ``context_length`` says, or as the target was made for.
    device
        ``cpu`` or ``cuda``.

    Raises
    ------
    UsageError, InfeasibleError
        A flag that only a simulation has; options that do not go together, or do not fit.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for name in given:
        if name not in (*WHOLE, *REAL, *WORDS):
            flag = "--" + name.replace("_", "-")
            msg = f"{flag}: --real runs networks and simulates nothing; leave it out."
            raise UsageError(msg)
    model, method = str(given.pop("model", "tiny")), str(given.pop("method", "dflash"))
    drafter = given.pop("draft_model", None)
    target, drafts = networks(model, drafter and Path(drafter), method, random_weights=False)
    options = {_NAMES.get(name, name): _value(name, value) for name, value in given.items()}
    every, context_length = options.pop("stream_interval", 1), options.pop("context_length", None)
    if every < 1:
        msg = f"--stream-interval {every}: at least one token is sent at a time."
        raise UsageError(msg)
    check_width(method, block=options.get("block"), steps=options.get("steps"))
    setup = Setup(target=target, drafter=drafts, method=method, device=device, **options)
    most = _context(target)
    if context_length is not None and most is not None and context_length > most:
        msg = f"--context-length {context_length}: {target.name} was made for {most} tokens."
        raise UsageError(msg)
    longest = context_length or most
    if longest is None:
        msg = f"{target.name}: its config names no {_CONTEXT}; give --context-length."
        raise UsageError(msg)
    assert target.path is not None
    return Engine(fit(setup, longest_text=longest), model, target.path, every)


def _context(target: Network) -> int | None:
    """Tokens that a target was made for."""
    read_target(target.config, target.name)
    own = {**target.config, **(target.config.get("text_config") or {})}
    found = own.get(_CONTEXT)
    return found if isinstance(found, int) else None


def _value(name: str, value: Any) -> Any:
    if name in WORDS:
        return value
    kind = int if name in WHOLE else float
    try:
        return kind(value)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        msg = f"--{name.replace('_', '-')} {value}: --real takes {wanted}."
        raise UsageError(msg) from None
