"""HTTP/1.1 as the router's own protocol speaks it: what clients, proxies and attackers put on the wire."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from router_harness import WORDS, RunningRouter, StubWorker, chat, half, running_router, slowly, stub_worker

from autopoiesis.runtime import http

LIMIT = 20_000
PATIENCE_S = 30.0


@dataclass
class Wire:
    """A raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def write(self, *pieces: bytes) -> None:
        self.writer.write(b"".join(pieces))

    async def write_for_ever(self, line: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self.writer.write(line)
                await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:-2])
            if headers.get("transfer-encoding") == "chunked":
                body = b"".join([piece async for piece in self._chunks()])
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                body = b""
            return int(head[0].split()[1]), headers, body

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readline(), 16):
            yield await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)

    async def rest(self) -> bytes:
        """All that comes until the router closes the connection."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()


@asynccontextmanager
async def connected(router: RunningRouter) -> AsyncIterator[Wire]:
    port = int(router.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


@pytest.fixture
async def worker(nats_url: str) -> AsyncIterator[StubWorker]:
    async with stub_worker(nats_url, "gpu/0") as worker:
        yield worker


@pytest.fixture
async def router(
    nats_url: str, worker: StubWorker, wait_for: Callable[..., Any]
) -> AsyncIterator[RunningRouter]:
    async with running_router(nats_url, max_body_bytes=LIMIT) as router:
        await wait_for(router.ready)
        yield router


def head(
    *lines: str, method: str = "POST", path: str = "/v1/chat/completions", version: str = "1.1"
) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "host: router", *lines, "", ""]).encode()


def request(content: str = "hello", *lines: str, version: str = "1.1", **fields: Any) -> bytes:
    body = json.dumps(chat(content, **fields)).encode()
    return head(f"content-length: {len(body)}", *lines, version=version) + body


def said(body: bytes) -> str:
    text: str = json.loads(body)["choices"][0]["message"]["content"]
    return text


async def test_requests_one_after_the_other(router: RunningRouter) -> None:
    async with connected(router) as wire:
        for stream in (False, True, False):
            wire.write(request(stream=stream))
            status, headers, body = await wire.answer()
            assert status == 200
            assert "date" in headers
            assert body.endswith(b"data: [DONE]\n\n") if stream else said(body) == "".join(WORDS)


async def test_pipelined_requests_are_answered_in_order(router: RunningRouter, worker: StubWorker) -> None:
    worker.engine = slowly(0.005)
    async with connected(router) as wire:
        wire.write(
            request("one", stream=True),
            head("content-length: 2") + b"{}",
            head(method="GET", path="/health"),
            request("two"),
            head(method="GET", path="/v1/completions"),
        )
        answers = [await wire.answer() for _ in range(5)]
    assert [status for status, _, _ in answers] == [200, 400, 200, 200, 405]
    assert answers[0][2].endswith(b"data: [DONE]\n\n")
    assert json.loads(answers[1][2])["error"]["param"] == "model"
    assert json.loads(answers[2][2]) == {"status": "alive"}
    assert said(answers[3][2]) == "".join(WORDS)
    contents = [json.loads(bytes(sent.body))["messages"][0]["content"] for _, sent, _ in worker.requests]
    assert contents == ["one", "two"]


async def test_a_client_that_leaves_takes_its_pipelined_requests_along(
    router: RunningRouter, worker: StubWorker, wait_for: Callable[..., Any]
) -> None:
    worker.engine = half
    async with connected(router) as wire:
        wire.write(request("one", stream=True), request("two"), request("three"))
        await wait_for(lambda: len(worker.requests) == 1)
    await wait_for(lambda: len(worker.cancels) == 1)

    async def idle() -> bool:
        return bool((await router.state())["in_flight"] == 0)

    await wait_for(idle)
    worker.requests.clear()
    async with connected(router) as wire:
        worker.engine = slowly(0.0)
        wire.write(request("four"))
        assert (await wire.answer())[0] == 200
    assert len(worker.requests) == 1, "what was pipelined behind a client that left is never sent"


async def test_a_body_in_chunks_and_in_single_bytes(router: RunningRouter) -> None:
    body = json.dumps(chat()).encode()
    chunks = b"".join(b"1;ext=x\r\n%c\r\n" % byte for byte in body) + b"0\r\nx-tenant-id: smuggled\r\n\r\n"
    async with connected(router) as wire:
        for byte in head("transfer-encoding: chunked") + chunks:
            wire.write(bytes([byte]))
            await wire.writer.drain()
        status, _, answer = await wire.answer()
        assert (status, said(answer)) == (200, "".join(WORDS))


async def test_expect_continue(router: RunningRouter) -> None:
    body = json.dumps(chat()).encode()
    async with connected(router) as wire:
        wire.write(head(f"content-length: {len(body)}", "expect: 100-continue"))
        assert (await wire.answer())[0] == 100
        wire.write(body)
        assert (await wire.answer())[0] == 200
        wire.write(head(f"content-length: {100 * LIMIT}", "expect: 100-continue"))
        status, headers, _ = await wire.answer()
        assert (status, headers["connection"]) == (413, "close")
        assert await wire.rest() == b""


async def test_bodies_that_are_too_long_in_chunks(router: RunningRouter) -> None:
    async with connected(router) as wire:
        wire.write(head("transfer-encoding: chunked"))
        for _ in range(4):
            wire.write(b"%x\r\n%b\r\n" % (LIMIT, bytes(LIMIT)))
        wire.write(b"0\r\n\r\n")
        status, _, body = await wire.answer()
        assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")


async def test_old_clients(router: RunningRouter) -> None:
    async with connected(router) as wire:
        wire.write(request(stream=True, version="1.0"))
        answer = await wire.rest()
        assert b"transfer-encoding" not in answer
        assert answer.endswith(b"data: [DONE]\n\n")
        assert answer.partition(b"\r\n\r\n")[2].startswith(b"data: ")


async def test_connection_close_is_kept_to(router: RunningRouter) -> None:
    async with connected(router) as wire:
        wire.write(request("hello", "connection: close", stream=True))
        status, headers, body = await wire.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert body.endswith(b"data: [DONE]\n\n")
        assert await wire.rest() == b""


async def test_an_upgrade_is_not_taken_up(router: RunningRouter) -> None:
    """Java's client offers HTTP/2 with its first request."""
    async with connected(router) as wire:
        wire.write(
            request("hello", "connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: x")
        )
        status, _, body = await wire.answer()
        assert (status, said(body)) == (200, "".join(WORDS))


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a plain port
        b"hello\r\n\r\n",
        head("content-length: 5", "transfer-encoding: chunked") + b"0\r\n\r\n",
        head("content-length: 5", "content-length: 6") + b"hello",
        head("content-length: -1"),
        head("content-length: 99999999999999999999999"),
        head("transfer-encoding: chunked") + b"nonsense\r\n",
        head("a header without colon"),
        head("x: \x00"),
        head(path="/\xff"),
    ],
)
async def test_what_is_not_http_is_refused_and_the_connection_closed(
    router: RunningRouter, worker: StubWorker, garbage: bytes
) -> None:
    async with connected(router) as wire:
        wire.write(garbage)
        answer = await wire.rest()
        assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert not worker.requests


async def test_garbage_after_a_request_ends_it(
    router: RunningRouter, worker: StubWorker, wait_for: Callable[..., Any]
) -> None:
    worker.engine = half
    async with connected(router) as wire:
        wire.write(request(stream=True))
        await wait_for(lambda: len(worker.requests) == 1)
        wire.write(b"\x00garbage\r\n\r\n")
        await wire.rest()
    await wait_for(lambda: len(worker.cancels) == 1)


async def test_heads_without_end_are_cut_off(router: RunningRouter) -> None:
    async with connected(router) as wire:
        wire.write(head()[:-2])
        with pytest.raises(ConnectionError):  # an answer that comes while one still writes may be lost
            await wire.write_for_ever(b"x-filler: " + b"x" * 4000 + b"\r\n")


async def test_clients_that_never_finish_are_let_go(
    nats_url: str, worker: StubWorker, wait_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "HEAD_S", 0)
    monkeypatch.setattr(http, "BODY_S", 0)
    async with running_router(nats_url) as router:
        await wait_for(router.ready)
        async with connected(router) as silent, connected(router) as slow, connected(router) as stuck:
            slow.write(head()[:-2])
            stuck.write(head("content-length: 100"), b"{")
            assert await silent.rest() == b""
            assert (await slow.rest()).startswith(b"HTTP/1.1 408 ")
            assert await stuck.rest() == b""
        async with connected(router) as wire:
            wire.write(request())
            assert (await wire.answer())[0] == 200, "who is merely waiting for an answer is left alone"


async def test_a_client_that_closes_its_side_has_left(
    router: RunningRouter, worker: StubWorker, wait_for: Callable[..., Any]
) -> None:
    worker.engine = half
    async with connected(router) as wire:
        wire.write(request(stream=True))
        await wait_for(lambda: len(worker.requests) == 1)
        wire.writer.write_eof()
        await wait_for(lambda: len(worker.cancels) == 1)


async def test_running_answers_end_before_a_router_stops(
    nats_url: str, worker: StubWorker, wait_for: Callable[..., Any]
) -> None:
    worker.engine = slowly(0.05)
    async with running_router(nats_url) as router:
        await wait_for(router.ready)
        async with connected(router) as wire, connected(router) as idle:
            wire.write(request(stream=True))
            await wait_for(lambda: len(worker.requests) == 1)
            stopping = asyncio.create_task(router.stop())
            status, _, body = await wire.answer()
            assert status == 200
            assert body.endswith(b"data: [DONE]\n\n")
            assert await idle.rest() == b""
            await stopping


async def test_what_probes_and_browsers_ask(router: RunningRouter) -> None:
    for path in ("/health", "/ready"):
        looked = await router.client.head(path)
        assert (looked.status_code, looked.content) == (200, b"")
    wrong = await router.client.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
