"""Attached servers, reached without the bus: passed on as they are, watched, left when they fail."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from openai_server import OpenAIServer
from router_harness import RunningRouter, data, running_router, stub_worker

from autopoiesis.contracts.slo import STANDARD

Wait = Callable[..., Any]
MODEL = "served/model"


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **fields}


async def post(router: RunningRouter, **fields: Any) -> Any:
    return await router.client.post("/v1/chat/completions", json=ask(**fields))


async def test_answers_are_the_servers_own_without_a_bus(wait_for: Wait) -> None:
    async with OpenAIServer(tokens=3).running() as server, running_router("", attach=[server.url]) as router:
        await wait_for(router.ready)
        whole = await post(router)
        assert whole.json()["choices"][0]["message"]["content"] == "w w w "
        assert whole.headers["x-autopoiesis-replica"] == server.url.removeprefix("http://")
        stream = await post(router, stream=True, temperature=0.5)
        *events, done = data(stream.text)
        assert done == "[DONE]"
        assert [event["choices"][0]["delta"].get("content") for event in events][:4] == [
            "",
            "w0 ",
            "w1 ",
            "w2 ",
        ]
        assert not any(event.get("usage") for event in events), "counts that only the router asked for"
        assert server.bodies[-1]["temperature"] == 0.5
        assert server.bodies[-1]["stream_options"] == {"include_usage": True}
        metrics = (await router.client.get("/metrics")).text
        assert 'outcome="finished"' in metrics


async def test_counts_are_the_clients_where_it_asks(wait_for: Wait) -> None:
    async with OpenAIServer(tokens=3).running() as server, running_router("", attach=[server.url]) as router:
        await wait_for(router.ready)
        stream = await post(router, stream=True, stream_options={"include_usage": True})
        assert [
            event["usage"]["completion_tokens"] for event in data(stream.text)[:-1] if event.get("usage")
        ] == [3]


async def test_connections_are_kept(wait_for: Wait) -> None:
    async with OpenAIServer(tokens=2).running() as server, running_router("", attach=[server.url]) as router:
        await wait_for(router.ready)
        for number in range(6):
            assert (await post(router, stream=bool(number % 2))).status_code == 200
        assert len(server.bodies) == 6
        assert server.connections < 6


async def test_a_kept_connection_that_was_closed_is_replaced(wait_for: Wait) -> None:
    server = OpenAIServer(tokens=2, dead_when_reused=True)
    async with server.running(), running_router("", attach=[server.url]) as router:
        await wait_for(router.ready)
        for _ in range(3):
            assert (await post(router)).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_is_seen_by_the_server(wait_for: Wait, stream: bool) -> None:
    async with OpenAIServer(tokens=3).running() as server, running_router("", attach=[server.url]) as router:
        await wait_for(router.ready)
        server.gate.clear()
        call = asyncio.create_task(post(router, stream=stream))
        await wait_for(lambda: server.bodies)
        call.cancel()
        await wait_for(lambda: server.left == 1)


async def test_a_stream_that_breaks_ends_with_a_typed_error(wait_for: Wait) -> None:
    async with (
        OpenAIServer(tokens=5, cut_after=2).running() as server,
        running_router("", attach=[server.url]) as router,
    ):
        await wait_for(router.ready)
        answer = await post(router, stream=True)
        *_, last = data(answer.text)
        assert last["error"]["code"] == "unavailable"
        assert "[DONE]" not in answer.text


async def test_priorities_go_along_where_the_servers_take_them(wait_for: Wait) -> None:
    async with (
        OpenAIServer(tokens=2).running() as server,
        running_router("", attach=[server.url], attach_priority=True) as router,
    ):
        await wait_for(router.ready)
        for klass in ("batch", "interactive"):
            for stream in (True, False):
                headers = {"x-slo-class": klass}
                body = ask(stream=stream)
                await router.client.post("/v1/chat/completions", json=body, headers=headers)
        priorities = [body.get("priority") for body in server.bodies]
        expected = [STANDARD.of(klass).priority or None for klass in ("batch", "interactive")]
        assert priorities == [expected[0], expected[0], expected[1], expected[1]]
        assert len(set(expected)) == 2


async def test_a_dead_server_costs_nobody_a_request(wait_for: Wait) -> None:
    async with AsyncExitStack() as alive, AsyncExitStack() as dying:
        servers = [
            await stack.enter_async_context(OpenAIServer(tokens=2).running()) for stack in (alive, dying)
        ]
        urls = [server.url for server in servers]
        router = await alive.enter_async_context(
            running_router("", attach=urls, silence_s=30.0, suspect_after_s=30.0)
        )

        async def both() -> bool:
            fleet = (await router.state())["fleet"]
            return [row["state"] for row in fleet] == ["ready", "ready"]

        await wait_for(both)
        await dying.aclose()
        answers = await asyncio.gather(*[post(router, stream=bool(number % 2)) for number in range(8)])
        assert [answer.status_code for answer in answers] == [200] * 8


async def test_what_the_server_refuses_is_the_clients(wait_for: Wait) -> None:
    async with (
        OpenAIServer(status=400, error="temperature is too high").running() as server,
        running_router("", attach=[server.url]) as router,
    ):
        await wait_for(router.ready)
        for stream in (True, False):
            answer = await post(router, stream=stream)
            assert answer.status_code == 400
            assert "temperature is too high" in answer.json()["error"]["message"]


async def test_a_server_that_fails_again_and_again_is_left_alone(wait_for: Wait) -> None:
    async with (
        OpenAIServer(status=500).running() as broken,
        running_router("", attach=[broken.url], no_replica_wait_s=0.05, max_attempts=1) as router,
    ):
        await wait_for(router.ready)

        async def left_alone() -> bool:
            await post(router)
            return [row["state"] for row in (await router.state())["fleet"]] == ["draining"]

        await wait_for(left_alone)


async def test_workers_and_attached_servers_side_by_side(nats_url: str, wait_for: Wait) -> None:
    async with (
        OpenAIServer(tokens=2).running() as server,
        stub_worker(nats_url, "a") as worker,
        running_router(nats_url, attach=[server.url]) as router,
    ):

        async def both() -> bool:
            return len((await router.state())["fleet"]) == 2

        await wait_for(both)
        assert (await post(router)).status_code == 200
        assert (await router.chat()).status_code == 200
        assert len(worker.requests) == 1
        assert server.bodies[-1]["model"] == MODEL


async def test_all_models_of_a_server_are_served(wait_for: Wait) -> None:
    server, other = OpenAIServer(tokens=2, models=("base", "org/adapter")), OpenAIServer(models=("base",))
    async with (
        server.running(),
        other.running(),
        running_router("", attach=[server.url, other.url]) as router,
    ):

        async def listed() -> list[str]:
            return [model["id"] for model in (await router.client.get("/v1/models")).json()["data"]]

        async def answers(model: str, status: int) -> bool:
            return bool((await post(router, model=model)).status_code == status)

        async def fleet() -> int:
            return sum(row["state"] == "ready" for row in (await router.state())["fleet"])

        async def all_there() -> bool:
            return await fleet() == 3

        await wait_for(all_there)
        assert await listed() == ["base", "org/adapter"]
        for _ in range(4):
            assert await answers("org/adapter", 200)
        assert [body["model"] for body in server.bodies] == ["org/adapter"] * 4
        assert not other.bodies
        server.models = ("base", "another")

        async def loaded() -> bool:
            return await answers("another", 200)

        async def unloaded() -> bool:
            return await answers("org/adapter", 503)

        await wait_for(loaded)
        await wait_for(unloaded)
        metrics = (await router.client.get("/metrics")).text
        assert metrics.count("vllm:num_requests_running{") == 3, "one line each"


async def test_requests_that_are_no_json_are_relayed(wait_for: Wait) -> None:
    async with OpenAIServer().running() as server, running_router("", attach=[server.url]) as router:
        await wait_for(router.ready)
        client = router.client
        server.other = (201, "audio/wav", [b"RIFF"])
        form = await client.post(
            "/v1/audio/transcriptions", data={"model": MODEL}, files={"file": b"\x00\xff"}
        )
        assert (form.status_code, form.headers["content-type"], form.content) == (201, "audio/wav", b"RIFF")
        assert form.headers["x-autopoiesis-replica"] == server.url.removeprefix("http://")
        method, path, kind, body = server.others[-1]
        assert (method, path) == ("POST", "/v1/audio/transcriptions")
        assert kind == form.request.headers["content-type"]
        assert b'name="model"' in body
        assert b"\x00\xff" in body
        server.other = (404, "text/plain", [b"no such file"])
        missing = await client.get("/v1/files?after=x%20y")
        assert (missing.status_code, missing.text) == (404, "no such file")
        assert (await client.head("/v1/files/1")).content == b""
        assert (await client.delete("/v1/files/1")).status_code == 404
        assert [(method, path) for method, path, *_ in server.others[1:]] == [
            ("GET", "/v1/files?after=x%20y"),
            ("GET", "/v1/files/1"),
            ("DELETE", "/v1/files/1"),
        ]
        other = await client.post(
            "/v1/audio/transcriptions", data={"model": "another"}, files={"file": b"\x00"}
        )
        assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")


async def test_relayed_answers_come_as_they_are_made(wait_for: Wait) -> None:
    async with OpenAIServer().running() as server, running_router("", attach=[server.url]) as router:
        await wait_for(router.ready)
        server.other = (200, "video/mp4", [b"first", b"second"])
        server.gate.clear()
        async with router.client.stream("GET", "/v1/videos/1") as answer:
            pieces = answer.aiter_raw()
            assert await anext(pieces) == b"first"
            server.gate.set()
            assert await anext(pieces) == b"second"
        server.other = (200, "video/mp4", [b"first", b""])
        with pytest.raises(httpx.RemoteProtocolError):
            await router.client.get("/v1/videos/1")
        server.gate.clear()
        server.other = (200, "video/mp4", [b"first", b"second"])
        async with router.client.stream("GET", "/v1/videos/1") as answer:
            assert await anext(answer.aiter_raw()) == b"first"
        await wait_for(lambda: server.left == 1)


async def test_workers_are_asked_in_json_alone(nats_url: str, wait_for: Wait) -> None:
    async with stub_worker(nats_url, "a") as worker, running_router(nats_url) as router:
        await wait_for(router.ready)
        form = await router.client.post("/v1/audio/transcriptions", files={"file": b"\x00"})
        assert (form.status_code, form.json()["error"]["code"]) == (415, "unsupported_media_type")
        assert (await router.client.get("/v1/files")).status_code == 404
        assert not worker.requests


class Swallower:
    """A server that reads a body when it is told to, and then says that it is done; or that `breaks` where a body begins."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.head = b""
        self.body = bytearray()
        self.asked = asyncio.Event()
        self.read = asyncio.Event()
        self._breaks = breaks

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._serve(reader, writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET "):
            models = b'{"data":[{"id":"served/model"}]}'
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(models), models))
        elif not self._breaks:
            self.head = head
            self.asked.set()
            await self.read.wait()
            end = b"end\r\n0\r\n\r\n" if b"chunked" in head else b"end"
            while not self.body.endswith(end) and (piece := await reader.read(1 << 16)):
                self.body += piece
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\ndone")


AUDIO = {"content-type": "audio/wav"}
PIECE = b"x" * (1 << 18)


async def pieces(count: int, sent: list[int]) -> AsyncIterator[bytes]:
    for number in range(count):
        yield PIECE
        sent.append(number)
    yield b"end"


@pytest.mark.parametrize("length", [True, False])
async def test_uploads_go_on_as_they_come(wait_for: Wait, length: bool) -> None:
    swallower, count, sent = Swallower(), 256, list[int]()
    size = count * len(PIECE) + 3
    async with swallower.running() as url, running_router("", attach=[url], max_body_bytes=1000) as router:
        await wait_for(router.ready)
        headers = AUDIO | ({"content-length": str(size)} if length else {})
        call = asyncio.create_task(
            router.client.post("/v1/audio", content=pieces(count, sent), headers=headers)
        )
        await asyncio.wait_for(swallower.asked.wait(), 30)
        assert len(sent) < count, "nobody keeps it meanwhile"
        swallower.read.set()
        answer = await call
    assert (answer.status_code, answer.text) == (200, "done")
    assert swallower.body.count(b"x") == size - 3
    assert (b"content-length: %d\r\n" % size in swallower.head) == length


async def test_uploads_have_a_limit(wait_for: Wait) -> None:
    swallower = Swallower()
    swallower.read.set()
    async with (
        swallower.running() as url,
        running_router("", attach=[url], max_upload_bytes=2 << 20) as router,
    ):
        await wait_for(router.ready)
        headers = AUDIO | {"content-length": str(4 << 20)}
        known = await router.client.post("/v1/audio", content=b"x" * (4 << 20), headers=headers)
        unknown = await router.client.post("/v1/audio", content=pieces(16, []), headers=AUDIO)
        for answer in (known, unknown):
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
            assert "router.max_upload_bytes" in answer.json()["error"]["message"]
        fits = await router.client.post("/v1/audio", content=pieces(7, []), headers=AUDIO)
        assert fits.status_code == 200


async def test_an_upload_that_was_begun_cannot_be_sent_again(wait_for: Wait) -> None:
    async with Swallower(breaks=True).running() as url, running_router("", attach=[url]) as router:
        await wait_for(router.ready)
        answer = await router.client.post("/v1/audio", content=pieces(16, []), headers=AUDIO)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
