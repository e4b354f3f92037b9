"""Our own engine behind the routes: networks that run, in a thread and processes of their own."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from dflash_sim.realrun.job.faults import RunFailedError, WorkerLostError
from dflash_sim.realrun.job.requests import Request
from dflash_sim.realrun.job.setup import Fitted
from dflash_sim.realrun.launch import check_weights
from dflash_sim.realrun.scheduler.crew import Crew
from dflash_sim.realrun.scheduler.live import Call, LiveScheduler, News
from dflash_sim.realrun.scheduler.scheduler import Workers
from dflash_sim.serve.backend import Answer, Ask, Load, RefusedError
from dflash_sim.serve.information import accept_length
from dflash_sim.simulator.engine.live import CATEGORIES, IDLE, OTHER

# Fields that would change an answer, and the value with which they do not; null is as if not given.
_NEUTRAL: dict[str, Any] = {
    "stop": [],
    "stop_token_ids": [],
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "min_p": 0,
}
_SEEDS = dict.fromkeys(("seed", "sampling_seed"), "")  # a greedy answer has no use for one


class Real:
    """An engine that runs.

    Parameters
    ----------
    fitted
        Networks and how they are run.
    workers
        What computes; :func:`working` makes them.
    name
        What ``/v1/models`` gives.
    max_queued
        Requests that may wait; one more is refused.
    """

    def __init__(
        self, fitted: Fitted, workers: Workers, *, name: str, max_queued: int = 4096
    ) -> None:
        self.fitted, self.max_queued = fitted, max_queued
        self.scheduler = LiveScheduler(fitted, workers, self._told)
        self._name = name
        self._answers: dict[Call, Answer] = {}
        self._calls: dict[Answer, Call] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun_s = time.perf_counter()
        self._other_s = 0.0
        self._over = False

    @property
    def model(self) -> str:
        """The name that ``/v1/models`` gives."""
        return self._name

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer at most."""
        return self.fitted.longest - 2 * self.fitted.rows

    def check(self, fields: Mapping[str, Any]) -> None:
        """Refuse what would be sampled or cut otherwise than all that this server answers."""
        setup = self.fitted.setup
        for name, neutral in (_NEUTRAL | _SEEDS if setup.temperature else _NEUTRAL).items():
            value = fields.get(name)
            if value is not None and value != neutral and value != "":
                msg = f"{name}: it is not applied here; leave it out."
                raise RefusedError(msg)
        own = {"temperature": setup.temperature, "top_k": setup.top_k, "top_p": setup.top_p}
        for name, ours in own.items() if setup.temperature else [("temperature", 0.0)]:
            value = fields.get(name)
            if value is not None and value != ours:
                msg = f"{name}: every answer is sampled at {ours} here, not {str(value)[:40]}."
                raise RefusedError(msg)

    def take(self, ask: Ask) -> Answer:
        """Take a request: it arrives now."""
        if self._over:
            msg = "the server is shutting down."
            raise RefusedError(msg, 503)
        if self.scheduler.waiting >= self.max_queued:
            msg = "The request queue is full."
            raise RefusedError(msg, 503)
        vocab = self.fitted.target.shape.vocab
        if (largest := max(ask.prompt)) >= vocab:
            msg = f"prompt: token {largest} is not in a vocabulary of {vocab}."
            raise RefusedError(msg)
        if ask.min_tokens and not ask.ignore_eos:
            msg = "min_tokens: an answer ends where the model ends it; give ignore_eos as well."
            raise RefusedError(msg)
        ends = frozenset[int]() if ask.ignore_eos else self.fitted.setup.target.end_tokens
        call = Call(Request(prompt=tuple(ask.prompt), max_new_tokens=ask.max_tokens, stop=ends))
        answer = Answer(len(ask.prompt), ids=[])
        self._answers[call], self._calls[answer] = answer, call
        self.scheduler.submit(call)
        return answer

    def drop(self, answer: Answer) -> None:
        """Take a request back."""
        call = self._calls.pop(answer, None)
        if call is not None:
            del self._answers[call]
            self.scheduler.abort(call)
            answer.end("abort")

    def load(self) -> Load:
        """What it does now."""
        fitted, scheduler = self.fitted, self.scheduler
        running = scheduler.running
        return Load(
            running=len(running),
            queued=scheduler.waiting,
            cached_tokens_now=sum(r.committed for r in running),
            cache_tokens=fitted.pages * fitted.setup.page_size,
            counters={**vars(scheduler.counted), "cached_tokens": 0, "retracted": 0},
            stages=self._stages(),
        )

    def _stages(self) -> dict[str, float]:
        spent = dict.fromkeys(CATEGORIES.values(), 0.0)
        for stage, seconds in tuple(self.scheduler.stage_s.items()):
            if (name := CATEGORIES.get(stage)) is not None:
                spent[name] += seconds
        spent[IDLE] = self.scheduler.idle_s
        left = time.perf_counter() - self._begun_s - sum(spent.values())
        # A stage counts when it is over: until then its time is among the rest, which never falls.
        self._other_s = max(self._other_s, left)
        return {**spent, OTHER: self._other_s}

    def info(self) -> Mapping[str, Any]:
        """Server arguments and state, by SGLang's names."""
        fitted, setup = self.fitted, self.fitted.setup
        info: dict[str, Any] = {
            "model_path": str(setup.target.path or setup.target.name),
            "served_model_name": self.model,
            "tp_size": setup.tp,
            "dp_size": 1,
            "ep_size": 1,
            "page_size": setup.page_size,
            "context_length": self.context_length,
            "vocab_size": fitted.target.shape.vocab,
            "max_running_requests": setup.max_running_requests,
            "max_total_num_tokens": fitted.pages * setup.page_size,
            "chunked_prefill_size": setup.chunked_prefill_size,
            "disable_overlap_schedule": setup.mode != "v2",
            "disable_radix_cache": True,
            "speculative_algorithm": setup.speculation.algorithm,
            "simulated": False,
        }
        state: dict[str, Any] = {"memory_usage": {"token_capacity": info["max_total_num_tokens"]}}
        if fitted.rows > 1:
            info["speculative_num_draft_tokens"] = fitted.rows
            if (steps := setup.speculation.steps(fitted.rows)) is not None:
                info |= {"speculative_num_steps": steps, "speculative_eagle_topk": 1}
            if setup.drafter is not None:
                drafter = setup.drafter.path or setup.drafter.name
                info["speculative_draft_model_path"] = str(drafter)
            state["avg_spec_accept_length"] = accept_length(self.load())
        return {**info, "internal_states": [state]}

    def flush(self) -> bool:
        """There is no prefix cache; False while requests run."""
        return not self._calls

    async def serve(self) -> None:
        """Run the scheduler in its thread until cancelled.

        Raises
        ------
        RunFailedError
            A worker died or does not answer.
        """
        self._loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "scheduler") as thread:
            work = self._loop.run_in_executor(thread, self.scheduler.work)
            try:
                await asyncio.shield(work)
            except WorkerLostError as lost:
                raise RunFailedError(str(lost)) from lost
            except asyncio.CancelledError:
                self.scheduler.stop()
                await asyncio.gather(work, return_exceptions=True)
                raise
            finally:
                self._over = True
                for answer in self._calls:
                    answer.end("abort")
                self._calls.clear()
                self._answers.clear()

    def _told(self, news: Sequence[News]) -> None:
        """In the scheduler's thread: hand it to the routes' own."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._hear, news)

    def _hear(self, news: Sequence[News]) -> None:
        for new in news:
            answer = self._answers.get(new.call)
            if answer is None or answer.ids is None:
                continue
            answer.ids += new.tokens
            answer.cycles += new.commit > 0
            answer.committed += new.commit
            answer.tell(len(answer.ids))
            if new.ended:
                del self._answers[new.call], self._calls[answer]
                answer.end(new.ended)


@contextmanager
def working(fitted: Fitted) -> Iterator[Workers]:
    """Worker processes for as long as a server runs; they leave cores to it.

    Raises
    ------
    UsageError
        Weights are missing or misshapen.
    RunFailedError
        They cannot start.
    """
    check_weights(fitted)
    try:
        with Crew(fitted, shares=True) as crew:
            yield crew
    except WorkerLostError as lost:
        raise RunFailedError(str(lost)) from lost
