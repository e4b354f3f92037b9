"""A client times what a simulated server does, in simulated time, and tells what it cannot use."""

import asyncio
import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
httpx = pytest.importorskip("httpx")

from in_process import Served  # noqa: E402

from dflash_sim.calibrate.fit.rows import rows_of  # noqa: E402
from dflash_sim.calibrate.live.acceptance import matched  # noqa: E402
from dflash_sim.calibrate.live.client import Client, ServerError  # noqa: E402
from dflash_sim.calibrate.live.experiment import Cell, at_rest, measure, prompts  # noqa: E402
from dflash_sim.calibrate.live.target import Target, busy, look, scrape  # noqa: E402
from dflash_sim.calibrate.observations.names import Names  # noqa: E402
from dflash_sim.calibrate.observations.observation import Observation  # noqa: E402
from dflash_sim.calibrate.readers.sglang_bench_serving import read_bench_serving  # noqa: E402
from dflash_sim.profiles.errors import UsageError  # noqa: E402
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine  # noqa: E402
from dflash_sim.simulator.predict import predict  # noqa: E402
from dflash_sim.simulator.scenario import Scenario  # noqa: E402
from dflash_sim.simulator.setup import Setup, resolve  # noqa: E402

ASKED = {"gpu": "b200", "model": "qwen3-8b", "num_gpus": 1, "calibration": "none"}


@cache
def served(method: str = "none", **more: Any) -> Setup:
    law = {} if method == "none" else {"acceptance": "al:3.7,theta=0"}
    return resolve(Scenario.parse(**ASKED, method=method, isl=64, osl=64, **law, **more))


def measured(setup: Setup, cell: Cell) -> dict[str, Any]:
    """A cell of a server in this process."""

    async def work(client: Client) -> dict[str, Any]:
        return await measure(client, await look(client), cell, seed=1)

    found: dict[str, Any] = Served(setup).ask(work)
    return found


@pytest.mark.parametrize(
    ("method", "cell", "within"),
    [
        ("none", Cell(1, 256, 64), 0.005),
        ("none", Cell(8, 1024, 64), 0.005),
        ("dflash", Cell(4, 256, 256), 0.03),
    ],
)
def test_what_is_measured_is_what_is_predicted(method: str, cell: Cell, within: float) -> None:
    row = measured(served(method), cell)
    s = served(method).scenario
    asked = s.model_dump() | {
        "isl": cell.isl,
        "osl": cell.osl,
        "conc": cell.conc,
        "num_prompts": cell.requests,
    }
    known = predict(Scenario.parse(**asked), with_baseline=False, with_interval=False).values
    assert row["completed"] == cell.requests
    for name in ("output_throughput", "mean_tpot_ms", "mean_e2e_latency_ms"):
        assert known[name] == pytest.approx(row[name], rel=within), name
    assert known["mean_ttft_ms"] == pytest.approx(row["mean_ttft_ms"], rel=5 * within)


def test_a_row_is_read_as_what_was_asked() -> None:
    cell = Cell(4, 256, 64)
    raw = measured(served("dflash"), cell)
    info = Served(served("dflash")).ask(look).info
    read = read_bench_serving({**raw, "server_info": dict(info), "tag": "gpu=b200"}, "row", Names())
    want = {"isl": 256, "osl": 64, "conc": 4, "gpu": "b200", "model": "qwen3-8b", "tp": 1}
    assert want.items() <= read.fields.items()
    assert (read.fields["method"], read.fields["block"]) == ("dflash", 16)
    assert "range_ratio" not in read.fields
    length = read.metrics["accept_length_harmonic"]
    assert 2.5 < length < 4.0
    assert length == pytest.approx(raw["total_output_tokens"] / raw["verify_steps"])


def test_a_row_says_nothing_secret() -> None:
    server = Served(served())
    told = server.twin.info
    server.twin.info = lambda: {**told(), "api_key": "s3cret", "hf_token": "s3cret"}
    assert "s3cret" not in json.dumps(dict(server.ask(look).info))


@pytest.mark.parametrize("wanted", [1.4, 3.0, 6.5])
def test_the_acceptance_of_a_row_takes_as_many_steps_as_were_counted(wanted: float) -> None:
    engine = load_engine(HOME)
    fields = {k: v for k, v in ASKED.items() if k != "calibration"}
    fields |= {"method": "dflash", "isl": 256, "osl": 128, "conc": 4, "num_prompts": 48}
    seen = Observation(row="r", source="s", fields=fields, metrics={"output_throughput": 1000.0})
    (row,), _ = rows_of([seen], engine)
    tokens = 48 * 128
    text = matched(row, engine, {"total_output_tokens": tokens, "verify_steps": tokens / wanted})
    one = {"acceptance": text, "runs": 1}
    given = resolve(row.scenario.model_copy(update=one), engine=engine)
    got = predict(given.scenario, with_baseline=False, with_interval=False, setup=given).values
    assert got["accept_length_harmonic"] == pytest.approx(wanted, rel=0.005)
    assert matched(replace(row, width=1), engine, {"verify_steps": 1}) is None
    assert matched(row, engine, {"total_output_tokens": tokens}) is None


def test_prompts_are_never_alike() -> None:
    draw = prompts(64, (1, 2, 3))
    begins = {tuple(next(draw)[:8]) for _ in range(500)}
    assert len(begins) == 500
    assert len(next(draw)) == 64
    small = prompts(64, (1, 2, 3), 264)
    told = {token for _ in range(50) for token in next(small)}
    assert told <= set(range(33, 198))
    assert len(told) > 150


# ---- servers that cannot be used ---------------------------------------------------------------


def answering(status: int, body: Any = None, *, path: str = "/v1/models") -> Client:
    """A client of a server that answers so at one address, and 404 elsewhere."""

    def answer(request: Any) -> Any:
        if request.url.path != path:
            return httpx.Response(404)
        return httpx.Response(status, text=body if isinstance(body, str) else json.dumps(body))

    return Client("http://127.0.0.1:1", transport=httpx.MockTransport(answer))


@pytest.mark.parametrize(
    ("client", "why"),
    [
        (answering(404), "no OpenAI server"),
        (answering(200, "<html>hello</html>"), "no OpenAI server"),
        (answering(200, {"data": []}), "no OpenAI server"),
        (answering(200, ["gpt"]), "no OpenAI server"),
        (answering(401), "--api-key"),
        (Client("http://127.0.0.1:1"), "cannot be reached"),
    ],
)
def test_what_is_no_server_is_said_in_a_line(client: Client, why: str) -> None:
    async def ask() -> None:
        async with client:
            await look(client)

    with pytest.raises(ServerError, match=why) as error:
        asyncio.run(ask())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:30000", "ftp://x", "http://", "x y", "http://x:99999", "http://[::1"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--url"):
        Client(url)


def test_a_connection_that_breaks_when_it_is_used_again_loses_nothing() -> None:
    """A client that keeps connections is lost on such a server."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await reader.read(1)  # until the client closes it, or asks again
        writer.transport.abort()

    async def both() -> None:
        server = await asyncio.start_server(once, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, Client(url) as ours:
            for _ in range(3):
                assert await ours.get("/v1/models") == "{}"
            async with httpx.AsyncClient(base_url=url, trust_env=False) as keeps:
                await keeps.get("/v1/models")
                with pytest.raises(httpx.HTTPError):
                    await keeps.get("/v1/models")

    asyncio.run(both())


def test_a_key_that_no_header_carries_is_refused() -> None:
    for key in ("\udcff", "a\nb", "\u00e9"):
        with pytest.raises(UsageError, match="--api-key"):
            Client("http://x", api_key=key)


def test_a_key_is_sent() -> None:
    server = Served(served(), api_key="sesame")
    with pytest.raises(ServerError, match="--api-key"):
        server.ask(look)

    async def ask() -> str:
        async with server.connect(api_key="sesame") as client:
            return (await look(client)).model

    assert server.run(ask()) == "qwen3-8b"


def test_a_server_without_metrics_is_measured_all_the_same() -> None:
    server = Served(served("dflash"), metrics=False)

    async def work(client: Client) -> Any:
        target = await look(client)
        return target, await measure(client, target, Cell(1, 64, 512), seed=0)

    target, row = server.ask(work)
    assert not target.counts
    assert any("--enable-metrics" in note for note in target.notes)
    assert "verify_steps" not in row
    assert 2.5 < row["accept_length"] < 4.5


def test_a_loaded_server_is_seen_before_and_while_it_is_measured() -> None:
    server = Served(served())

    async def waits(client: Client) -> None:
        target = await look(client)
        other = asyncio.create_task(client.answer(target.model, [1] * 64, 20000))
        await asyncio.sleep(0.5)
        found = await scrape(client)
        assert found is not None
        assert busy(found) == 1
        try:
            await at_rest(client, target)
        finally:
            other.cancel()

    with pytest.raises(ServerError, match="is loaded: 1 requests of others"):
        server.ask(waits)

    async def meanwhile(client: Client) -> None:
        target = await look(client)

        async def others() -> None:
            await asyncio.sleep(1.0)
            await asyncio.gather(*(client.answer(target.model, [1] * 64, 32) for _ in range(3)))

        other = asyncio.create_task(others())
        try:
            await measure(client, target, Cell(2, 64, 256), seed=0)
        finally:
            await other

    with pytest.raises(ServerError, match="others had 3 answers"):
        Served(served()).ask(meanwhile)


def test_a_page_without_end_is_not_read() -> None:
    async def endless(_: Any) -> Any:
        async def parts() -> Any:
            while True:
                yield b" " * (1 << 20)

        return httpx.Response(200, content=parts())

    async def ask() -> None:
        async with Client("http://x", transport=httpx.MockTransport(endless)) as client:
            await client.get("/metrics")

    with pytest.raises(ServerError, match="more than 16 MiB"):
        asyncio.run(ask())


def test_answers_that_come_whole_cannot_be_timed() -> None:
    event = {"choices": [{"text": " a a"}], "usage": {"completion_tokens": 8, "prompt_tokens": 8}}
    stream = "".join(f"data: {part}\n\n" for part in (json.dumps(event), "[DONE]"))

    async def ask() -> None:
        async with answering(200, stream, path="/v1/completions") as client:
            await measure(client, Target(client.url, "m"), Cell(8, 8, 8), seed=0)

    with pytest.raises(ServerError, match="sends answers whole"):
        asyncio.run(ask())


def test_a_simulation_in_time_of_its_own_is_refused() -> None:
    server = Served(served())
    server.twin.speed = 20.0
    with pytest.raises(ServerError, match=r"simulated 20\.0 times as fast .* --speed 1"):
        server.ask(look)


def test_a_refusal_is_told_with_its_reason() -> None:
    async def long(client: Client) -> None:
        await client.answer("qwen3-8b", [1] * 64, 10**6)

    with pytest.raises(ServerError, match="answers 400") as error:
        Served(served()).ask(long)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('data: {"choices": []}\n\ndata: [DONE]\n\n', "no tokens"),
        ("data: nonsense\n\n", "no JSON"),
        ('data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
        ("data: " + "[" * 100_000 + "\n\n", "no JSON"),
        ("data: " + "x" * (1 << 21), "a line of more than 1 MiB"),
        ('data: {"choices": ["a", {}, null], "usage": [3]}\n\n', "no tokens"),
        (
            'data: {"choices": [{"text": "a"}], "usage": {"completion_tokens": 8, '
            '"prompt_tokens": "2"}}\n\n',
            "counts '2' tokens in a prompt of 2",
        ),
        ('data: {"choices": [{"text": "a"}]}\n\n', "no usage"),
        (
            'data: {"choices": [{"text": "a"}], "usage": {"completion_tokens": 3}}\n\n',
            "answered 3 tokens where 8",
        ),
    ],
)
def test_a_stream_that_cannot_be_timed_is_refused(body: str, why: str) -> None:
    async def ask() -> None:
        async with answering(200, body, path="/v1/completions") as client:
            await client.answer("m", [1, 2], 8)

    with pytest.raises(ServerError, match=why):
        asyncio.run(ask())
