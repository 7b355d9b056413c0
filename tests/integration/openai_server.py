"""A small OpenAI-compatible server under a test's control."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class OpenAIServer:
    """Answers with `tokens` words, each after `gate` lets it through. What it does otherwise is set by the test."""

    url: str = ""
    tokens: int = 3
    status: int = 200
    error: str = "no"
    health: int = 200
    models: tuple[str, ...] = ("served/model",)
    metrics: str | None = None
    cut_after: int | None = None
    """Close the connection after so many words."""
    dead_when_reused: bool = False
    """Close a kept connection, unheard, when a second request comes over it."""
    usage: bool = True
    delta: dict[str, Any] | None = None
    """Sent before the words."""
    script: Callable[[dict[str, Any]], int] | None = None
    """Status by request body, instead of `status`."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    other: tuple[int, str, list[bytes]] = (200, "text/plain", [b"other"])
    """Status, type and pieces of the answer to anything else, the gate before each piece but the first."""
    others: list[tuple[str, str, str, bytes]] = field(default_factory=list)
    connections: int = 0
    open_streams: int = 0
    left: int = 0
    """Clients that went away in the middle of an answer."""

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[OpenAIServer]:
        self.gate.set()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served = 0
        try:
            while line := await reader.readline():
                if self.dead_when_reused and served:
                    break
                served += 1
                method, path, _ = line.decode().split()
                headers = {}
                while (line := await reader.readline()) != b"\r\n":
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._route(method, path, headers, body, reader, writer)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _route(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if path == "/health":
            self._plain(writer, self.health, b"")
        elif path == "/v1/models":
            self._plain(writer, 200, json.dumps({"data": [{"id": model} for model in self.models]}).encode())
        elif path == "/metrics":
            self._plain(writer, 404 if self.metrics is None else 200, (self.metrics or "").encode())
        elif method != "POST" or not headers["content-type"].startswith("application/json"):
            self.others.append((method, path, headers["content-type"], body))
            await self._other(reader, writer)
        else:
            self.headers.append(headers)
            self.bodies.append(json.loads(body))
            await self._answer(self.bodies[-1], reader, writer)

    async def _answer(
        self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        status = self.script(body) if self.script else self.status
        if status != 200:
            self._plain(writer, status, json.dumps({"error": {"message": self.error, "param": "n"}}).encode())
        elif body.get("stream"):
            await self._stream(body, reader, writer)
        else:
            async with _watching(reader) as gone:
                await self._pass_gate(gone)
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": "w " * self.tokens},
                "finish_reason": "stop",
            }
            usage = {"prompt_tokens": 9, "completion_tokens": self.tokens, "total_tokens": 9 + self.tokens}
            self._plain(writer, 200, json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode())

    async def _stream(
        self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.open_streams += 1
        writer.write(STREAM_HEAD)
        self._event(writer, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        if self.delta is not None:
            self._event(writer, {"choices": [{"index": 0, "delta": self.delta}]})
        try:
            async with _watching(reader) as gone:
                for i in range(self.tokens):
                    await self._pass_gate(gone)
                    if i == self.cut_after:
                        await writer.drain()
                        raise ConnectionError("cut, as the test wants it")
                    self._event(writer, {"choices": [{"index": 0, "delta": {"content": f"w{i} "}}]})
                    await writer.drain()
        finally:
            self.open_streams -= 1
        self._event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        if self.usage:
            self._event(
                writer, {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": self.tokens}}
            )
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    async def _other(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status, kind, pieces = self.other
        writer.write(b"HTTP/1.1 %d X\r\nContent-Type: %b\r\n" % (status, kind.encode()))
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        async with _watching(reader) as gone:
            for number, piece in enumerate(pieces):
                if number:
                    await self._pass_gate(gone)
                if not piece:
                    raise ConnectionError("cut, as the test wants it")
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
        writer.write(b"0\r\n\r\n")

    async def _pass_gate(self, gone: asyncio.Future[Any]) -> None:
        """Wait until the test opens the gate. Raises ConnectionError when the client leaves meanwhile."""
        passed: asyncio.Future[Any] = asyncio.ensure_future(self.gate.wait())
        await asyncio.wait([passed, gone], return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            passed.cancel()
            self.left += 1
            raise ConnectionError("the client left")

    @staticmethod
    def _event(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
        data = f"data: {json.dumps(event)}\n\n".encode()
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    @staticmethod
    def _plain(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


@asynccontextmanager
async def _watching(reader: asyncio.StreamReader) -> AsyncIterator[asyncio.Future[Any]]:
    """A future that is done once the client has left."""
    gone: asyncio.Future[Any] = asyncio.ensure_future(reader.read(1))
    try:
        yield gone
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
