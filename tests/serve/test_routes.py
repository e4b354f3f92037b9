"""The routes answer as OpenAI's and SGLang's do, and refuse in one line."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.readers.sglang_server_info import read_server_info
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
httpx = pytest.importorskip("httpx")

from dflash_sim.serve.app import MOST_BYTES, Routes, application  # noqa: E402
from dflash_sim.serve.server import Brief, check_address, listen, serve  # noqa: E402
from dflash_sim.serve.tokens import Counted, load_tokens  # noqa: E402
from dflash_sim.serve.twin import Twin  # noqa: E402


@cache
def served(**changed: Any) -> Setup:
    asked = {"gpu": "h100", "model": "qwen3-8b", "method": "dflash", "acceptance": "al:3"}
    return resolve(Scenario.model_validate(asked | {"isl": 64, "osl": 32} | changed))


def visit(
    work: Callable[[Any, Twin], Awaitable[Any]],
    *,
    api_key: str | None = None,
    every: int = 1,
    max_queued: int = 64,
    **changed: Any,
) -> Any:
    """Run ``work(client, twin)`` against a server a thousand times as fast as its twin."""

    async def both() -> Any:
        twin = Twin(served(**changed), speed=1000.0, max_queued=max_queued)
        routes = Routes(twin, Counted(), every=every)
        app = application(routes, api_key=api_key)
        task = asyncio.create_task(twin.serve())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://twin") as client:
            try:
                return await work(client, twin)
            finally:
                task.cancel()

    return asyncio.run(both())


def post(path: str, body: Any, **more: Any) -> Any:
    async def work(client: Any, twin: Twin) -> Any:
        return await client.post(path, json=body)

    return visit(work, **more)


def get(path: str, **more: Any) -> Any:
    async def work(client: Any, twin: Twin) -> Any:
        return await client.get(path)

    return visit(work, **more)


def events(text: str) -> list[dict[str, Any]]:
    """What the server-sent events of an answer hold; the last says that it is the last."""
    lines = [line for line in text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_completion_has_as_many_tokens_as_were_asked() -> None:
    body = {"prompt": list(range(50)), "max_tokens": 20, "ignore_eos": True}
    found = post("/v1/completions", body).json()
    assert found["usage"]["prompt_tokens"] == 50
    assert found["usage"]["completion_tokens"] == 20
    assert len(found["choices"][0]["text"].split()) == 20
    assert found["choices"][0]["finish_reason"] == "length"


def test_an_answer_that_nobody_bounds_is_as_long_as_those_of_the_scenario() -> None:
    body = {"messages": [{"role": "user", "content": "Why?"}]}
    found = post("/v1/chat/completions", body).json()
    assert found["usage"]["completion_tokens"] == 32
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize("every", [1, 8])
def test_a_stream_says_every_token_once(every: int) -> None:
    body = {
        "prompt": "x", "max_tokens": 24, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }  # fmt: skip
    *parts, closing, counts = events(post("/v1/completions", body, every=every).text)
    texts = [part["choices"][0]["text"] for part in parts]
    assert sum(len(text.split()) for text in texts) == 24
    told = [part["usage"]["completion_tokens"] for part in parts]
    assert told == sorted(set(told))
    assert all(b - a >= every for a, b in pairwise(told[:-1]))
    assert closing["choices"][0]["finish_reason"] == "length"
    assert counts["choices"] == []
    assert counts["usage"]["completion_tokens"] == 24


def test_the_native_route_says_how_many_cycles_an_answer_took() -> None:
    body = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 31, "ignore_eos": True}}
    info = post("/generate", body).json()["meta_info"]
    assert info["prompt_tokens"] == 3
    assert info["completion_tokens"] == 31
    assert 30 / 16 <= info["spec_verify_ct"] <= 30
    assert info["finish_reason"]["type"] == "length"
    plain = post("/generate", body, method="none", acceptance=None).json()["meta_info"]
    assert "spec_verify_ct" not in plain


def test_the_accept_length_of_the_scenario_is_in_metrics_and_server_info() -> None:
    async def work(client: Any, twin: Twin) -> tuple[str, dict[str, Any]]:
        body = {"prompt": "x", "max_tokens": 400, "ignore_eos": True}
        await asyncio.gather(*(client.post("/v1/completions", json=body) for _ in range(24)))
        text = (await client.get("/metrics")).text
        return text, (await client.get("/get_server_info")).json()

    text, info = visit(work)
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    label = '{model_name="qwen3-8b"}'
    accepted = float(samples[f"sglang:spec_accept_length{label}"])
    assert accepted == pytest.approx(3.0, rel=0.06)
    assert info["internal_states"][0]["avg_spec_accept_length"] == accepted
    assert float(samples[f"sglang:generation_tokens_total{label}"]) == 24 * 400
    assert float(samples[f"sglang:num_requests_total{label}"]) == 24
    first = 'sglang:time_to_first_token_seconds_bucket{model_name="qwen3-8b",le="+Inf"}'
    assert float(samples[first]) == 24
    steps = float(samples[f"sglang:spec_verify_calls_total{label}"])
    assert steps == pytest.approx(24 * 399 / accepted, rel=0.02)


def test_what_the_server_tells_of_itself_is_the_scenario_again() -> None:
    info = get("/server_info").json()
    fields = read_server_info(info, Names()).fields
    assert fields["model"] == "qwen3-8b"
    assert fields["method"] == "dflash"
    assert fields["block"] == 16
    assert fields["tp"] == 1


def test_a_prompt_that_was_asked_before_is_found_in_the_prefix_cache() -> None:
    async def work(client: Any, twin: Twin) -> list[int]:
        first, other = list(range(500)), [7] * 500
        body = {"max_tokens": 4, "ignore_eos": True}
        found = []
        for prompt in (first, first, first[:300] + other, other):
            answer = await client.post("/v1/completions", json=body | {"prompt": prompt})
            found.append(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert (await client.post("/flush_cache")).status_code == 200
        answer = await client.post("/v1/completions", json=body | {"prompt": first})
        return [*found, answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]]

    page = served().limits.page_size
    whole = [n // page * page for n in (499, 300)]
    assert visit(work) == [0, whole[0], whole[1], 0, 0]


HELLO = {"role": "user", "content": "x"}


def test_a_server_that_runs_for_days_remembers_few_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prompt shares another length with the first; what is forgotten costs the same again."""
    monkeypatch.setattr("dflash_sim.serve.twin.PREFILLS", 4)

    async def work(client: Any, twin: Twin) -> tuple[list[int], list[int]]:
        known, cached, step = [], [], twin.setup.step
        page = twin.setup.limits.page_size
        for pages in (*range(30, 0, -1), 17):
            prompt = [7] * (pages * page) + [pages]
            body = {"prompt": prompt, "max_tokens": 2, "ignore_eos": True}
            told = (await client.post("/v1/completions", json=body)).json()
            cached.append(told["usage"]["prompt_tokens_details"]["cached_tokens"] // page)
            known.append(len(step._prefill_s))
        return known, cached

    known, cached = visit(work, seed=1)
    assert cached == [0, *range(29, 0, -1), 17]
    assert max(known) == 5
    assert known.count(1) >= 6
    step = served(seed=1).step
    before = [step.prefill_s(requests=2, tokens=90, prefix=64.0 * i) for i in range(6)]
    step.forget(0)
    assert not step._prefill_s
    assert [step.prefill_s(requests=2, tokens=90, prefix=64.0 * i) for i in range(6)] == before


REFUSED: list[tuple[str, Any, str]] = [
    ("/v1/completions", [], "no JSON object"),
    ("/v1/completions", {}, "prompt"),
    ("/v1/completions", {"prompt": 3}, "prompt"),
    ("/v1/completions", {"prompt": []}, "prompt"),
    ("/v1/completions", {"prompt": ""}, "prompt: it is empty"),
    ("/v1/completions", {"prompt": ["x", ""]}, "prompt: it is empty"),
    ("/generate", {"text": ""}, "text: it is empty"),
    ("/v1/completions", {"prompt": "x", "max_tokens": 0}, "max_tokens"),
    ("/v1/completions", {"prompt": "x", "max_tokens": "many"}, "max_tokens"),
    ("/v1/completions", {"prompt": "x", "max_tokens": 10**6}, "maximum context length of 40960"),
    ("/v1/completions", {"prompt": [1] * 40960}, "longer than the model's context"),
    ("/v1/completions", {"prompt": "x", "max_tokens": 5, "min_tokens": 9}, "min_tokens"),
    ("/v1/completions", {"prompt": "x", "n": 2}, "n: one answer"),
    ("/v1/completions", {"prompt": "x", "n": 10**4000}, "n: input"),
    ("/v1/completions", {"prompt": "x", "model": "x" * 501}, "model"),
    ("/v1/completions", {"prompt": "x", "best_of": 3}, "best_of: one answer"),
    ("/v1/completions", {"prompt": "x", "logprobs": 3}, "logprobs"),
    ("/v1/completions", {"prompt": ["x", "y"], "stream": True}, "2 prompts"),
    ("/v1/chat/completions", {"messages": []}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
     "image_url"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "tools": [1]},
     "tools"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}],
     "response_format": {"type": "json_object"}}, "response_format"),
    ("/v1/completions", {"prompt": "x", "logprobs": 0}, "logprobs"),
    ("/v1/completions", {"prompt": "x", "prompt_logprobs": 0}, "prompt_logprobs"),
    ("/v1/completions", {"prompt": "x", "suffix": "end"}, "suffix"),
    ("/v1/completions", {"prompt": "x", "guided_json": {}}, "guided_json"),
    ("/v1/completions", {"prompt": "x", "priority": 2}, "priority"),
    ("/v1/completions", {"prompt": "x", "use_beam_search": True}, "use_beam_search"),
    ("/v1/completions", {"prompt": "x", "stop": 5}, "stop"),
    ("/v1/completions", {"prompt": "x", "stop": ["\n", "a a"]}, "stop: 'a a'"),
    ("/v1/completions", {"prompt": "x", "stop_regex": "a"}, "stop_regex"),
    ("/v1/completions", {"prompt": "x", "max_completion_tokens": 9}, "called max_tokens"),
    ("/v1/completions", {"prompt": "x", "max_tokens": 8, "max_new_tokens": 9}, "called max_tokens"),
    ("/v1/completions", {"prompt": "x", "stream_options": {"include_usage": "?"}},
     "stream_options.include_usage"),
    ("/v1/chat/completions", {"messages": [HELLO], "max_tokens": 8, "max_completion_tokens": 9},
     "max_completion_tokens"),
    ("/v1/chat/completions", {"messages": [HELLO], "logprobs": True}, "logprobs"),
    ("/v1/chat/completions", {"messages": [HELLO], "top_logprobs": 2}, "top_logprobs"),
    ("/v1/chat/completions", {"messages": [HELLO], "response_format": "json"}, "response_format"),
    ("/v1/chat/completions", {"messages": [HELLO], "tool_choice": "required"}, "tool_choice"),
    ("/v1/chat/completions", {"messages": [HELLO], "functions": [{}]}, "functions"),
    ("/v1/chat/completions", {"messages": [HELLO], "chat_template": "{{ 1 }}"}, "chat_template"),
    ("/v1/chat/completions", {"messages": [HELLO], "chat_template_kwargs": {"a": 1}},
     "chat_template_kwargs"),
    ("/v1/chat/completions", {"messages": [HELLO], "continue_final_message": True},
     "continue_final_message"),
    ("/v1/chat/completions", {"messages": [HELLO], "add_generation_prompt": False},
     "add_generation_prompt"),
    ("/v1/chat/completions", {"messages": [HELLO], "modalities": ["text", "audio"]}, "modalities"),
    ("/v1/chat/completions", {"messages": [HELLO], "prediction": {"type": "content"}},
     "prediction"),
    ("/generate", {"text": "x", "max_new_tokens": 5}, "belongs into sampling_params"),
    ("/generate", {"text": "x", "sampling_params": {"max_tokens": 5}}, "called max_new_tokens"),
    ("/generate", {"text": "x", "sampling_params": {"stop": "a"}}, "stop: 'a'"),
    ("/generate", {}, "text or input_ids"),
    ("/generate", {"text": "x", "sampling_params": {"regex": "a*"}}, "regex"),
    ("/generate", {"text": "x", "lora_path": "a"}, "lora_path"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "said"), REFUSED)
def test_what_is_not_served_is_refused_by_name(path: str, body: Any, said: str) -> None:
    answer = post(path, body)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert said in message
    assert "\n" not in message
    assert len(message) < 400


# What clients send that changes nothing here: none of it is refused.
QUIET: list[tuple[str, Any]] = [
    ("/v1/completions", {"min_tokens": None, "ignore_eos": None, "stream": None}),
    ("/v1/chat/completions", {"stream_options": {"include_usage": None}}),
    ("/v1/completions", {"logprobs": None, "echo": False, "n": 1, "best_of": 1, "suffix": None}),
    ("/v1/completions", {"stop": ["\n\n", "</s>"], "seed": 3, "user": "me", "temperature": 0.7}),
    ("/v1/completions", {"max_completion_tokens": 7, "stop_token_ids": [2], "priority": 0}),
    ("/v1/chat/completions", {"logprobs": False, "top_logprobs": 0, "tools": [], "n": None}),
    ("/v1/chat/completions", {"response_format": {"type": "text"}, "tool_choice": "auto"}),
    ("/v1/chat/completions", {"modalities": ["text"], "parallel_tool_calls": True, "stop": ""}),
    ("/v1/chat/completions", {"max_completion_tokens": 7, "chat_template_kwargs": None}),
]


@pytest.mark.parametrize("own", [None, {"min_new_tokens": None, "ignore_eos": None}])
def test_nulls_of_sampling_parameters_are_as_if_not_given(own: Any) -> None:
    answer = post("/generate", {"text": "x", "sampling_params": own, "stream": None})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("path", "more"), QUIET)
def test_what_asks_for_nothing_else_changes_nothing(path: str, more: Any) -> None:
    asked = {"prompt": "x"} if path == "/v1/completions" else {"messages": [HELLO]}
    answer = post(path, asked | {"max_tokens": 7, "ignore_eos": True} | more)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 7


def test_bodies_that_are_no_json_or_too_long() -> None:
    async def work(client: Any, twin: Twin) -> list[Any]:
        texts = [b"{", b"[" * 100_000, b'{"prompt": "' + b"x" * MOST_BYTES + b'"}', b"\xff\xfe"]
        return [await client.post("/v1/completions", content=text) for text in texts]

    answers = visit(work)
    assert [a.status_code for a in answers] == [400, 400, 413, 400]


@settings(max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(
            ["prompt", "messages", "max_tokens", "stream", "n", "stop", "text", "sampling_params",
             "input_ids", "stream_options", "min_tokens", "ignore_eos", "temperature"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats() | st.text(max_size=9),
            lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
            max_leaves=6,
        ),
    ),
    st.sampled_from(["/v1/completions", "/v1/chat/completions", "/generate"]),
)  # fmt: skip
def test_no_body_breaks_the_server(body: dict[str, Any], path: str) -> None:
    async def work(client: Any, twin: Twin) -> tuple[Any, Any]:
        sent = json.dumps(body).encode()  # with NaN and Infinity, as Python writes them
        return await client.post(path, content=sent), await client.get("/health")

    answer, health = visit(work)
    assert answer.status_code in (200, 400)
    assert health.status_code == 200


def test_a_full_queue_refuses_the_next() -> None:
    async def work(client: Any, twin: Twin) -> list[int]:
        body = {"prompt": "x", "max_tokens": 50, "ignore_eos": True}
        sent = [client.post("/v1/completions", json=body) for _ in range(12)]
        return sorted(answer.status_code for answer in await asyncio.gather(*sent))

    codes = visit(work, max_queued=2, max_running_requests=1)
    assert codes.count(503) >= 1
    assert codes.count(200) >= 2
    assert set(codes) == {200, 503}


def test_a_body_that_does_not_go_on_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dflash_sim.serve.app.SILENT_S", 0.05)

    async def work(client: Any, twin: Twin) -> Any:
        async def half() -> Any:
            yield b'{"prompt": '
            await asyncio.sleep(1.0)

        return await client.post("/v1/completions", content=half())

    answer = visit(work)
    assert answer.status_code == 408
    assert "did not go on" in answer.json()["message"]


def test_what_the_system_refuses_is_logged_once_and_in_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log, brief = logging.getLogger("some.server"), Brief()
    log.addFilter(brief)
    for error in (OSError(24, "Too many open files"), asyncio.CancelledError(), ValueError("bug")):
        for _ in range(3):
            log.error("it happened\nsocket: x", exc_info=error)
    log.removeFilter(brief)
    told = [(r.getMessage(), bool(r.exc_info)) for r in caplog.records]
    assert told == [("it happened: Too many open files", False)] + 3 * [
        ("it happened\nsocket: x", True)
    ]


def test_a_server_that_has_ended_leaves_the_logs_as_they_were() -> None:
    class Broken(Twin):
        async def serve(self) -> None:
            msg = "it broke"
            raise UsageError(msg)

    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "asyncio")]
    before = [list(logger.filters) for logger in loggers]
    during: list[int] = []
    with listen("127.0.0.1", 0) as listening, pytest.raises(UsageError, match="it broke"):
        serve(
            Routes(Broken(served()), Counted()),
            listening,
            ready=lambda address: during.extend(len(logger.filters) for logger in loggers),
        )
    assert [list(logger.filters) for logger in loggers] == before
    assert during == [len(filters) + 1 for filters in before]


def test_of_several_prompts_all_are_taken_or_none() -> None:
    async def work(client: Any, twin: Twin) -> tuple[int, int]:
        body = {"prompt": ["x"] * 40, "max_tokens": 5}
        code = (await client.post("/v1/completions", json=body)).status_code
        return code, len(twin.engine.calls)

    assert visit(work, max_queued=30) == (503, 0)
    assert visit(work, max_queued=50) == (200, 0)


def test_only_clients_with_the_key_are_answered() -> None:
    async def work(client: Any, twin: Twin) -> list[int]:
        keys = [{}, {"Authorization": "Bearer no"}, {"Authorization": "Bearer yes"}]
        codes = [(await client.get("/v1/models", headers=k)).status_code for k in keys]
        return [*codes, (await client.get("/health")).status_code]

    assert visit(work, api_key="yes") == [401, 401, 200, 200]


def test_beyond_this_machine_only_with_a_key() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        check_address(host, None)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(UsageError, match="--api-key"):
            check_address(host, None)
        check_address(host, "secret")
    for key in ("", "\u00e9", "a\nb"):
        with pytest.raises(UsageError, match="--api-key"):
            check_address("127.0.0.1", key)


def test_a_port_that_is_taken_is_named() -> None:
    taken = listen("127.0.0.1", 0)
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{port}: .*--port"):
        listen("127.0.0.1", port)
    taken.close()


def test_texts_that_begin_alike_have_ids_that_begin_alike() -> None:
    words = Counted()
    a, b = words.ids("The same beginning, one end"), words.ids("The same beginning, another")
    assert list(a[:4]) == list(b[:4])
    assert len(words.ids("x" * 400)) == 100
    assert len(words.ids("x")) == 1


def test_a_tokenizer_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        load_tokens(tmp_path)
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="not a tokenizer"):
        load_tokens(tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"policy": "batch:8"}, "--policy"), ({"acceptance": "sglang-simulated:3"}, "whole batch")],
)
def test_what_cannot_be_served_live_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Twin(served(**changed))
