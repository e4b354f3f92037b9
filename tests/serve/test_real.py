"""Our own engine behind the routes answers what ``run`` does, token for token."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")
pytest.importorskip("starlette", reason="the extra [serve] is not installed")
httpx = pytest.importorskip("httpx")

from in_process import Wire  # noqa: E402

from dflash_sim.calibrate.live.client import Client  # noqa: E402
from dflash_sim.calibrate.live.experiment import Cell, measure  # noqa: E402
from dflash_sim.calibrate.live.target import look  # noqa: E402
from dflash_sim.profiles.errors import UsageError  # noqa: E402
from dflash_sim.realrun.job.faults import RunFailedError  # noqa: E402
from dflash_sim.serve.app import Routes, application  # noqa: E402
from dflash_sim.serve.backend import Ask, RefusedError  # noqa: E402
from dflash_sim.serve.real import Real, working  # noqa: E402
from dflash_sim.serve.tokens import ByteLevel, Counted, Spoken, load_tokens, tokens_of  # noqa: E402
from dflash_sim.studies.real.run_question import Job, RunOptions  # noqa: E402
from dflash_sim.studies.real.serve_question import engine_of  # noqa: E402

NEW = 40
Visit = Callable[[Any, Real], Awaitable[Any]]


async def until(done: Callable[[], bool]) -> None:
    """Wait for it, and fail if it does not come."""
    async with asyncio.timeout(60):
        while not done():
            await asyncio.sleep(0.01)


def visit(work: Visit, **flags: Any) -> Any:
    """Run ``work(client, backend)`` against the small pair in worker processes."""
    engine = engine_of({"max_running_requests": "4"} | flags, device="cpu")

    async def both(backend: Real) -> Any:
        routes = Routes(backend, tokens_of(engine.folder))
        app = application(routes)
        task = asyncio.create_task(backend.serve())
        task.add_done_callback(routes.ended)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://real") as client:
            try:
                found = await work(client, backend)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if routes.failure is not None:  # what the visit itself found wrong comes first
            raise routes.failure
        return found

    with working(engine.fitted) as workers:
        return asyncio.run(both(Real(engine.fitted, workers, name=engine.name)))


@pytest.fixture(scope="module")
def ran() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Prompts and answers of ``run``."""
    done = Job(RunOptions(conc=4, num_prompts=8, max_new_tokens=NEW)).run().run
    return [(answer.prompt, answer.output) for answer in done.answers]


def test_answers_are_those_of_run(ran: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    async def work(client: Any, backend: Real) -> Any:
        async def one(prompt: tuple[int, ...]) -> Any:
            body = {"input_ids": list(prompt), "sampling_params": {"max_new_tokens": NEW}}
            return (await client.post("/generate", json=body)).json()

        async def said(prompt: tuple[int, ...]) -> Any:
            text = bytes(prompt).decode()
            body = {"prompt": text, "max_tokens": NEW, "stream": True, "temperature": 0}
            streamed = (await client.post("/v1/completions", json=body)).text
            events = [json.loads(e[6:]) for e in streamed.split("\n\n") if e and "[DONE]" not in e]
            return "".join(e["choices"][0]["text"] for e in events)

        answers = await asyncio.gather(*(one(prompt) for prompt, _ in ran))
        texts = await asyncio.gather(*(said(prompt) for prompt, _ in ran))
        metrics = (await client.get("/metrics")).text
        return answers, texts, metrics, (await client.get("/get_server_info")).json()

    answers, texts, metrics, info = visit(work)
    for (_, output), answer, text in zip(ran, answers, texts, strict=True):
        assert tuple(answer["output_ids"]) == output
        assert text == answer["text"] == bytes(i for i in output if i < 256).decode()
        assert answer["meta_info"]["completion_tokens"] == len(output)
        ended = "length" if len(output) == NEW else "stop"
        assert answer["meta_info"]["finish_reason"]["type"] == ended
    made = 2 * sum(len(output) for _, output in ran)
    assert f'sglang:generation_tokens_total{{model_name="tiny"}} {made}.0' in metrics
    assert 'sglang:num_running_reqs{model_name="tiny"} 0.0' in metrics
    length = info["internal_states"][0]["avg_spec_accept_length"]
    assert f'sglang:spec_accept_length{{model_name="tiny"}} {length}' in metrics
    assert 1.5 < length < 12
    assert info["speculative_num_draft_tokens"] == 16


def test_what_it_cannot_do_as_asked_is_refused_and_cancelled_requests_leave() -> None:
    asked = [
        ({"temperature": 0.7}, "temperature"),
        ({"prompt": ""}, "prompt: it is empty"),
        ({"prompt": [""]}, "prompt: it is empty"),
        ({"stop": ["\n"]}, "stop"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"suffix": "end"}, "suffix"),
        ({"guided_regex": "a*"}, "guided_regex"),
        ({"guided_json": {}}, "guided_json"),
        ({"custom_logit_processor": "x"}, "custom_logit_processor"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"return_hidden_states": True}, "return_hidden_states"),
        ({"lora_name": "mine"}, "lora_name"),
        ({"min_tokens": 3}, "ignore_eos"),
        ({"prompt": [9, 264]}, "vocabulary of 264"),
        ({"max_tokens": 5000}, "maximum context length of 1024"),
    ]

    async def work(client: Any, backend: Real) -> Any:
        refused = [
            (await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 9} | more))
            for more, _ in asked
        ]
        quiet = {"stop": None, "presence_penalty": 0, "repetition_penalty": 1.0, "logit_bias": {}}
        quiet |= {"seed": 3, "suffix": None, "return_hidden_states": False}
        taken = await client.post("/v1/completions", json={"prompt": "x"} | quiet)
        longest = {"prompt": "x", "max_tokens": 900, "ignore_eos": True}
        clients = [
            asyncio.create_task(client.post("/v1/completions", json=longest)) for _ in range(9)
        ]
        # As many as there are slots; the others wait.
        await until(lambda: backend.load().running == 4)
        assert not backend.flush()
        for each in clients:
            each.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        for answer in tuple(backend._calls):  # what a server does when a client has gone
            backend.drop(answer)
        await until(lambda: backend.scheduler.counted.aborted == 9)
        assert backend.flush()
        batching = backend.scheduler.batching
        assert batching.slots.free == batching.slots.size
        assert batching.promised == 0
        again = await client.post("/v1/completions", json={"prompt": "x"})
        return refused, taken.status_code, again.status_code

    refused, taken, again = visit(work)
    for answer, (_, said) in zip(refused, asked, strict=True):
        assert answer.status_code == 400
        assert said in answer.json()["error"]["message"]
    assert (taken, again) == (200, 200)


def test_a_cell_of_an_experiment_is_measured_of_it() -> None:
    async def work(client: Any, backend: Real) -> Any:
        wire = Wire(client._transport.app, 0.0)
        async with Client("http://real", transport=wire) as asks:
            target = await look(asks)
            return target, await measure(asks, target, Cell(2, 32, 512), seed=1)

    target, row = visit(work)
    assert target.counts
    assert (target.model, target.vocab, target.most_tokens) == ("tiny", 264, 1024)
    assert row["total_output_tokens"] == 12 * 512
    # The first token of an answer comes from its prefill.
    assert row["verify_steps"] < 12 * 511
    assert row["accept_length"] == pytest.approx(12 * 512 / row["verify_steps"])


def test_a_worker_that_dies_ends_the_server_with_its_name() -> None:
    async def work(client: Any, backend: Real) -> Any:
        pending = asyncio.create_task(
            client.post("/v1/completions", json={"prompt": "x", "max_tokens": 900})
        )
        await until(lambda: backend.load().running > 0)
        (process,) = backend.scheduler.workers.processes.values()  # type: ignore[attr-defined]
        os.kill(process.pid, signal.SIGKILL)
        broken = (await pending).json()
        await until(lambda: backend._over)
        assert (await client.get("/health")).status_code == 503
        after = await client.post("/v1/completions", json={"prompt": "x"})
        assert broken["choices"][0]["finish_reason"] == "abort"
        assert after.status_code == 503

    with pytest.raises(RunFailedError, match="rank 0"):
        visit(work)


def counted(metrics: str) -> dict[str, float]:
    """Seconds of each stage."""
    name = r'^sglang:scheduler_stage_seconds_total{category="(\w+)",.*} (\S+)$'
    return {stage: float(value) for stage, value in re.findall(name, metrics, re.M)}


def test_seconds_of_no_stage_run_backwards() -> None:
    async def work(client: Any, backend: Real) -> list[dict[str, float]]:
        found = []
        for _ in range(3):
            await until(lambda: backend.scheduler._idled[1] is not None)
            found.append(counted((await client.get("/metrics")).text))
            await asyncio.sleep(0.2)  # idle, and counted so while it still is
            found.append(counted((await client.get("/metrics")).text))
            body = {"prompt": "x", "max_tokens": 9, "ignore_eos": True}
            writes = asyncio.create_task(client.post("/v1/completions", json=body))
            while not writes.done():
                found.append(counted((await client.get("/metrics")).text))
                await asyncio.sleep(0)
        return found

    found = visit(work)
    assert found[1]["idle"] - found[0]["idle"] >= 0.2 * 0.99
    for before, after in pairwise(found):
        assert all(after[stage] >= seconds for stage, seconds in before.items())


def test_whatever_ends_the_scheduler_ends_its_answers() -> None:
    async def work(client: Any, backend: Real) -> Any:
        body = {"prompt": "x", "max_tokens": 900, "ignore_eos": True}
        pending = asyncio.create_task(client.post("/v1/completions", json=body))
        await until(lambda: backend.load().running > 0)

        def broken(*given: Any) -> Any:
            raise ZeroDivisionError

        backend.scheduler.process_batch_result = broken  # type: ignore[method-assign]
        async with asyncio.timeout(60):
            answer = (await pending).json()
        assert answer["choices"][0]["finish_reason"] == "abort"
        assert backend.flush()
        with pytest.raises(RefusedError, match="shutting down") as refused:
            backend.take(Ask([1], 4))
        assert refused.value.status == 503

    with pytest.raises(ZeroDivisionError):
        visit(work)


def test_a_seed_is_refused_where_answers_are_sampled() -> None:
    async def work(client: Any, backend: Real) -> list[int]:
        body = {"prompt": "x", "max_tokens": 3}
        bodies = [body, body | {"seed": 1}, body | {"sampling_seed": 0}]
        return [(await client.post("/v1/completions", json=b)).status_code for b in bodies]

    assert visit(work, temperature="1") == [200, 400, 400]


FLAGS: list[tuple[dict[str, str], str]] = [
    ({"gpu": "b200"}, "--gpu: --real runs networks"),
    ({"acceptance": "al:3"}, "--acceptance: --real runs networks"),
    ({"block": "x"}, "--block x: --real takes a whole number"),
    ({"block": "64"}, "block 64 is not in 2..16"),
    ({"method": "magic"}, "magic"),
    ({"stream_interval": "0"}, "--stream-interval 0"),
    ({"model": "/nowhere"}, "/nowhere"),
]


@pytest.mark.parametrize(("flags", "said"), FLAGS)
def test_flags_that_a_real_server_has_not_are_named(flags: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        engine_of(flags, device="cpu")


def test_a_context_beyond_the_target_is_refused() -> None:
    with pytest.raises(UsageError, match="made for 1024"):
        engine_of({"context_length": "2048"}, device="cpu")
    assert engine_of({"context_length": "100"}, device="cpu").fitted.longest == 100 + 2 * 16


@pytest.mark.parametrize("cut", range(1, 8))
def test_characters_are_said_whole(cut: int) -> None:
    data = "naïve — 多".encode()
    voice = ByteLevel().voice()
    pieces = [data[i : i + cut] for i in range(0, len(data), cut)]
    said = [voice(list(piece), last=piece is pieces[-1]) for piece in pieces]
    assert "".join(said) == data.decode()
    assert not any("\ufffd" in piece for piece in said)
    half = ByteLevel().voice()
    assert half(list(data[:3]), last=True) == "na\ufffd"


def trained() -> Any:
    """A small tokenizer, whose vocabulary is about as large as one of bytes."""
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    bpe.train_from_iterator(["one and one and naïve 多多"], trainer)
    return bpe


def test_bytes_are_the_vocabulary_of_the_shipped_pair_alone(tmp_path: Path) -> None:
    small = trained()
    assert 256 <= small.get_vocab_size() < 512
    shipped = engine_of({}, device="cpu").folder
    assert isinstance(tokens_of(shipped), ByteLevel)
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        tokens_of(tmp_path)
    small.save(str(tmp_path / "tokenizer.json"))
    for words in (tokens_of(tmp_path), tokens_of(shipped, tmp_path)):
        assert isinstance(words, Spoken)
        assert list(words.ids("one and")) == small.encode("one and").ids


def test_a_tokenizer_says_the_same_in_pieces_as_at_once() -> None:
    words = Spoken(trained())
    text = "naïve and 多 one"
    ids = words.ids(text)
    voice = words.voice()
    said = [voice([i], last=k == len(ids) - 1) for k, i in enumerate(ids)]
    assert "".join(said) == text


HELLO = {"role": "user", "content": "one and"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [{}]}


def test_a_conversation_is_as_the_checkpoint_has_it(tmp_path: Path) -> None:
    """Without a template a real model is not asked, and the small pair has no other form."""

    def said(words: Any, *turns: Any, **options: Any) -> Any:
        try:
            return asyncio.run(words.chat(turns, options))
        except RefusedError as refused:
            return str(refused)

    trained().save(str(tmp_path / "tokenizer.json"))
    assert "no chat template; give the text to /v1/completions" in said(tokens_of(tmp_path), HELLO)
    assert said(load_tokens(tmp_path), HELLO) == said(Counted(), HELLO)
    for words, form in (
        (ByteLevel(), "user: one and\nassistant:"),
        (Counted(), said(Counted(), HELLO)),
    ):
        assert said(words, HELLO) == form
        assert "chat_template_kwargs" in said(words, HELLO, enable_thinking=False)
        assert "tool_calls" in said(words, HELLO, CALLED)
    own = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ mood }}:"
    (tmp_path / "chat_template.jinja").write_text(own)
    for words in (tokens_of(tmp_path), load_tokens(tmp_path)):
        assert said(words, HELLO, CALLED, mood="calm") == "<user>one and<assistant>Nonecalm:"


def test_a_simulated_server_imports_no_torch() -> None:
    check = "import sys, dflash_sim.serve.twin, dflash_sim.serve.app; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
