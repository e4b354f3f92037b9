"""The twin: an event engine stepped by requests, in wall time or faster."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from dflash_sim.profiles.errors import UsageError
from dflash_sim.serve.backend import Answer, Ask, Load, RefusedError
from dflash_sim.serve.information import server_info
from dflash_sim.serve.tokens import WORD
from dflash_sim.simulator.engine.live import Call, LiveEngine
from dflash_sim.simulator.requests.draws import draw_runs
from dflash_sim.simulator.requests.laws import Acceptance, NoSpeculation
from dflash_sim.simulator.requests.prompts import text_of_ids
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.trial import build_workload

FOREVER_S = 3600.0
PREFILLS = 10_000  # whose prices are remembered: some 25 MiB where each has a prefix of its own


class Twin:
    """A simulated server.

    Parameters
    ----------
    setup
        The scenario; its acceptance says how many tokens a cycle commits, its lengths how long an
        answer is that nobody bounds.
    speed
        Simulated seconds in a second of wall time [1].
    max_queued
        Requests that may wait; one more is refused.
    clock
        What tells wall time [s]; a test's own lets none of it pass.

    Raises
    ------
    UsageError
        The scenario has a policy, or acceptance that is drawn once for a whole batch.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        speed: float = 1.0,
        max_queued: int = 4096,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.setup, self.clock = setup, clock
        self.speed = speed
        self.max_queued = max_queued
        self._law: Acceptance = (
            setup.expectation.acceptance if setup.expectation else NoSpeculation()
        )
        if setup.policy is not None:
            msg = f"policy {setup.scenario.policy} is not served live; drop --policy."
            raise UsageError(msg)
        if self._law.shared_batch_draw:
            msg = (
                f"acceptance {self._law.name} is drawn once for a whole batch and is not served "
                "live; try --acceptance al:4.5."
            )
            raise UsageError(msg)
        seeds = np.random.SeedSequence(setup.scenario.seed).spawn(3)
        lengths, arrivals, draws = (np.random.default_rng(s) for s in seeds)
        self._draws, self._lengths = draws, lengths
        self._answers = build_workload(setup, lengths, arrivals).osl
        setup.step.reach(self.context_length)
        self.engine = LiveEngine(
            step=setup.step,
            host=setup.host,
            limits=setup.limits,
            mode=setup.scenario.engine_mode,
            host_length_sync=setup.host_length_sync,
            drafts=setup.block - 1 if setup.speculative else 0,
        )
        self._calls: dict[Answer, Call] = {}
        self._news = asyncio.Event()
        self._started = self.clock()

    @property
    def model(self) -> str:
        """The name that ``/v1/models`` gives."""
        return self.setup.scenario.model

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer at most: of the model, and of the KV cache."""
        setup, most = self.setup, self.setup.limits.kv_tokens
        return min(setup.scenario.context_length or setup.model.context or most, most)

    def now_s(self) -> float:
        """Simulated time that corresponds to this moment [s]."""
        return (self.clock() - self._started) * self.speed

    def check(self, fields: Mapping[str, Any]) -> None:
        """Refuse to stop at what every answer says; how one is sampled is the scenario's."""
        stop = fields.get("stop")
        for text in stop if isinstance(stop, list) else [stop or None]:
            if isinstance(text, str) and text in WORD * (len(text) + 1):
                msg = f"stop: {text[:9]!r} is in every simulated answer, {WORD!r} a token."
                raise RefusedError(msg)

    def take(self, ask: Ask) -> Answer:
        """Take a request: it arrives now."""
        if len(self.engine.scheduler.waiting) + len(self.engine.arrivals) >= self.max_queued:
            msg = "The request queue is full."
            raise RefusedError(msg, 503)
        self.setup.step.forget(PREFILLS)
        isl = len(ask.prompt)
        drawn = int(self._lengths.choice(self._answers))
        osl = ask.max_tokens if ask.ignore_eos else min(ask.max_tokens, drawn)
        osl = max(osl, min(ask.min_tokens, ask.max_tokens))
        answer = Answer(isl)
        reason = "length" if osl == ask.max_tokens else "stop"

        def told(call: Call, tokens: int) -> None:
            answer.cycles, answer.committed = call.cycles, call.committed
            answer.cached_tokens = call.req.cached if call.req else 0
            answer.tell(tokens)

        def over(call: Call) -> None:
            self._calls.pop(answer, None)
            answer.end(reason)

        unit = self.setup.limits.cache_unit
        text = text_of_ids(ask.prompt, unit) if unit else ()
        call = Call(isl, osl, self._commits(osl), told, over, text=text)
        self._calls[answer] = call
        self.engine.submit(call, self.now_s())
        self._news.set()
        return answer

    def _commits(self, osl: int) -> list[int]:
        """Tokens of each cycle of an answer; the prefill samples its first."""
        if self._law.block == 1:
            return [1] * (osl + 1)
        runs = draw_runs(self._law, self._draws, [osl - 1])
        return [*runs.commits[0, : int(runs.cycles[0])].tolist(), 1, 1]

    def drop(self, answer: Answer) -> None:
        """Take a request back."""
        call = self._calls.pop(answer, None)
        if call is not None:
            self.engine.abort(call)
            answer.end("abort")

    def load(self) -> Load:
        """What it does now."""
        s, totals = self.engine.scheduler, self.engine.totals
        counters = {**vars(totals), "retracted": s.retractions, "time_s": self.engine.now_s}
        running = [r for r in s.running if not r.done]
        return Load(
            running=len(running),
            queued=len(s.waiting) + len(self.engine.arrivals),
            cached_tokens_now=sum(r.kv for r in running),
            cache_tokens=self.setup.limits.kv_tokens,
            counters=counters,
            stages=self.engine.stages(),
        )

    def info(self) -> Mapping[str, Any]:
        """Server arguments and state, by SGLang's names."""
        return {**server_info(self.setup, self.load()), "simulated_speed": self.speed}

    def flush(self) -> bool:
        """Empty the prefix cache; False while requests run."""
        return self.engine.flush_cache()

    async def serve(self) -> None:
        """Let simulated time pass with wall time."""
        self._started = self.clock() - self.engine.now_s / self.speed
        while True:
            now = self.now_s()
            if self.engine.next_s <= now:
                self.engine.advance(now)
                await asyncio.sleep(0)  # readers first
            wait = (self.engine.next_s - self.now_s()) / self.speed
            if wait <= 0:
                continue
            self._news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait if wait < FOREVER_S else None)
