"""Records that a real run leaves: one per request, and one per engine iteration.

Times are seconds from the start of the run, by the machine's monotonic clock. Stages and lanes have
the names of the simulated engine's timeline.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dflash_sim.simulator.engine.records import DECODE, PREFILL

Interval = tuple[str, str, float, float, int]
Span = tuple[str, float, float]
CAPTURED = "decode"  # the only phase of a captured step: what is inside cannot be told apart


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answered request.

    Parameters
    ----------
    prompt, output
        Token ids; ``output`` ends with the stop token if there was one.
    commits
        Tokens that each verify step committed, the bonus included, before the last was cut.
    chunk_s
        When each step's tokens left the scheduler; the first is the prefill's.
    """

    rid: int
    prompt: tuple[int, ...]
    output: tuple[int, ...]
    commits: tuple[int, ...]
    arrival_s: float
    finish_s: float
    chunk_s: tuple[float, ...]

    @property
    def first_token_s(self) -> float:
        """When the first token left the scheduler."""
        return self.chunk_s[0]

    def acceptance(self, rows: int) -> dict[str, Any]:
        """AIPerf's ``SpecDecodeAcceptanceRecord``, for a verify width of ``rows`` tokens.

        Its identities: the histogram counts the steps, and weighed holds the accepted drafts.
        """
        accepted = [n - 1 for n in self.commits]
        steps, drafted = len(accepted), (rows - 1) * len(accepted)
        return {
            "engine": "dflash-sim run",
            "request_id": str(self.rid),
            "mean_acceptance_length": sum(self.commits) / steps if steps else 0.0,
            "draft_acceptance_rate": sum(accepted) / drafted if drafted else 0.0,
            "acceptance_histogram": {str(j): n for j, n in sorted(Counter(accepted).items())},
            "num_accepted_draft_tokens": sum(accepted),
            "num_draft_tokens": drafted,
            "num_spec_steps": steps,
            "num_spec_tokens": rows - 1,
            "completion_tokens": len(self.output),
            "per_step_accepted": accepted,
        }


@dataclass(kw_only=True)
class Iteration:
    """One launched batch.

    Parameters
    ----------
    kind
        ``DECODE`` or ``PREFILL`` of :mod:`dflash_sim.simulator.engine.records`.
    batch, tokens
        Requests, and new tokens the target read (prefill: of the prompts).
    kv_tokens, wasted, accepted
        Decode: tokens cached before it, rows of requests that had ended, drafts accepted.
    host
        Stages ``(name, start_s, end_s)`` of the scheduler; ``wait`` is for the result.
    gpu
        Phases of rank 0 of the same form: ``prefill``; draft, verify, accept, materialise; or one
        ``decode`` that is all of a captured step.
    comm_s
        Of them in collectives [s]; nan where unknown.
    """

    index: int
    kind: int
    batch: int
    tokens: int
    kv_tokens: int = 0
    wasted: int = 0
    accepted: int = 0
    host: list[Span] = field(default_factory=list)
    gpu: list[Span] = field(default_factory=list)
    comm_s: float = 0.0

    @property
    def gpu_start_s(self) -> float:
        """When rank 0 began."""
        return self.gpu[0][1]

    @property
    def gpu_end_s(self) -> float:
        """When rank 0 was done."""
        return self.gpu[-1][2]

    @property
    def emit_s(self) -> float:
        """When its tokens left the scheduler."""
        return self.host[-1][2]

    @property
    def has_phases(self) -> bool:
        """Return True if the time of a decode's phases is known."""
        return any(name == "verify" for name, *_ in self.gpu)

    def stage_s(self, name: str) -> float:
        """Time the scheduler spent in a stage [s]."""
        return sum(end - start for stage, start, end in self.host if stage == name)


@dataclass(frozen=True)
class Run:
    """The outcome of a run: what was answered, and every iteration whose result was processed."""

    answers: tuple[Answer, ...]
    iterations: tuple[Iteration, ...]
    asked: int
    duration_s: float
    mode: str

    @property
    def decodes(self) -> tuple[Iteration, ...]:
        """Decode iterations."""
        return tuple(i for i in self.iterations if i.kind == DECODE)

    @property
    def prefills(self) -> tuple[Iteration, ...]:
        """Prefill iterations."""
        return tuple(i for i in self.iterations if i.kind == PREFILL)

    @property
    def output_tok_s(self) -> float:
        """Generated tokens over duration [token/s]."""
        made = sum(len(a.output) for a in self.answers)
        return made / self.duration_s if self.duration_s else 0.0

    @property
    def accept_length(self) -> float:
        """Tokens per verify step, the bonus included, over all steps."""
        commits = [n for a in self.answers for n in a.commits]
        return sum(commits) / len(commits) if commits else float("nan")

    def intervals(self) -> Iterator[Interval]:
        """``(lane, name, start_s, end_s, iteration)``, as the event engine tells them.

        Where a step runs in one go it encloses its phases.
        """
        for i in self.iterations:
            for name, start, end in i.host:
                yield "host", name, start, end, i.index
            in_one_go = not any(name == "prepare_draft" for name, *_ in i.host)
            if i.kind == DECODE and in_one_go and i.has_phases:
                yield "gpu", "decode", i.gpu_start_s, i.gpu_end_s, i.index
            for name, start, end in i.gpu:
                yield "gpu", name, start, end, i.index
