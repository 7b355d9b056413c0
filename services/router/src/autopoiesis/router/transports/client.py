"""HTTP/1.1 to one server: kept connections, answers handed on as they come.

On the path of every token, hence asyncio's protocol and httptools' parser rather than a client library: those cost more per
request than all else in the router (`benchmarks/gateway/clients.py`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

import httptools

from autopoiesis.router.upload import Upload

CONNECT_TIMEOUT_S: Final = 5.0
MAX_IDLE: Final = 256
"""Connections kept for later requests."""


_JSON: Final = b"content-type: application/json\r\n"


class Exchange(Protocol):
    """One request's answer, told as it comes. `over` is the last call."""

    def head(self, status: int, content_type: str) -> None: ...

    def data(self, data: bytes) -> None: ...

    def over(self) -> None:
        """The answer is complete."""

    def broken(self, reason: str, *, connected: bool) -> None:
        """No complete answer will come; `connected` where there was a connection."""


class Call:
    """A request under way."""

    __slots__ = ("connection", "exchange", "payload", "retried", "upload")

    def __init__(self, payload: bytes, exchange: Exchange, upload: Upload | None = None) -> None:
        self.payload = payload
        self.upload = upload
        self.exchange: Exchange | None = exchange
        self.connection: Connection | None = None
        self.retried = False

    def cancel(self) -> None:
        """Forget it; the server sees its connection end."""
        self.exchange = None
        if self.connection is not None:
            self.connection.abort()

    def pause(self) -> None:
        if self.connection is not None and not self.connection.paused:
            self.connection.paused = True
            self.connection.transport.pause_reading()

    def resume(self) -> None:
        if self.connection is not None:
            self.connection.resume()


class Connection(asyncio.Protocol):
    """One kept connection, with at most one request at a time."""

    transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._call: Call | None = None
        self._type = ""
        self._served = 0
        self._answering = False
        self._pieces: list[bytes] = []
        self.paused = False

    def begin(self, call: Call) -> None:
        self._call = call
        self._answering = False
        call.connection = self
        self.transport.write(call.payload)
        if call.upload is not None:
            call.upload.begin(self.transport)

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.transport.resume_reading()

    def abort(self) -> None:
        self._call = None
        self.transport.abort()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._answering = True
        try:
            self._parser.feed_data(data)
            if self._pieces:
                self._hand_on()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"its answer is not HTTP: {error}")
            self.transport.abort()

    def pause_writing(self) -> None:
        if self._call is not None and self._call.upload is not None:
            self._call.upload.pause()

    def resume_writing(self) -> None:
        if self._call is not None and self._call.upload is not None:
            self._call.upload.resume()

    def connection_lost(self, error: Exception | None) -> None:
        self._pool.lost(self)
        call = self._call
        if call is not None and self._served and not self._answering and not call.retried:
            self._call = call.connection = None  # the server closed a kept connection just then
            call.retried = True
            self._pool.connect(call)
        else:
            self._fail(str(error) if error else "it closed the connection")

    def _hand_on(self) -> None:
        """What came together goes on together."""
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._call is not None and self._call.exchange is not None:
            self._call.exchange.data(body)

    def _fail(self, reason: str) -> None:
        call, self._call = self._call, None
        if call is not None and call.exchange is not None:
            call.connection = None
            call.exchange.broken(reason, connected=True)

    # httptools

    def on_message_begin(self) -> None:
        self._type = ""

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 12 and name.lower() == b"content-type":
            self._type = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._call is not None and self._call.exchange is not None:
            self._call.exchange.head(self._parser.get_status_code(), self._type)

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._pieces:
            self._hand_on()
        call, self._call = self._call, None
        self._served += 1
        self.resume()
        half = call is not None and call.upload is not None and not call.upload.complete
        if self._parser.should_keep_alive() and not half:
            self._pool.release(self)
        else:
            self.transport.close()
        if call is not None and call.exchange is not None:
            call.connection = None
            call.exchange.over()


class Pool:
    """Connections to one server. `url` is its base, without path."""

    def __init__(self, url: str, api_key: str = "") -> None:
        """Raises ValueError for what is no HTTP URL."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is no HTTP URL; write for instance http://127.0.0.1:8000")
        self.host, self.port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        key = f"authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = f"host: {parts.netloc}\r\n{key}".encode("latin-1")
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    def post(
        self,
        path: str,
        body: bytes,
        exchange: Exchange,
        headers: dict[str, str] | None = None,
        *,
        method: str = "POST",
        upload: Upload | None = None,
    ) -> Call:
        """Send now, on a kept connection where there is one; what comes of it is told to `exchange`.

        The body is JSON unless `headers` say what it is. An `upload` goes in its place, on a connection of its own: a kept one may turn
        out to be closed, and then it could not be sent again.
        """
        more = b""
        if headers:
            more = b"".join([f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()])
        kind = b"" if headers and "content-type" in headers else _JSON
        first = (method.encode(), path.encode("latin-1"), self._head, kind, more)
        if upload is not None:
            call = Call(b"%b %b HTTP/1.1\r\n%b%b%b%b\r\n" % (*first, upload.head), exchange, upload)
            self.connect(call)
            return call
        head = b"%b %b HTTP/1.1\r\n%b%b%bcontent-length: %d\r\n\r\n%b"
        call = Call(head % (*first, len(body), body), exchange)
        if self._idle:
            self._idle.pop().begin(call)
        else:
            self.connect(call)
        return call

    async def get(self, path: str, timeout_s: float) -> tuple[int, bytes]:
        """Status and body. Raises OSError where none comes, TimeoutError where it takes longer than `timeout_s`."""
        answer = _Whole()
        call = Call(b"GET %s HTTP/1.1\r\n%s\r\n" % (path.encode("latin-1"), self._head), answer)
        self.connect(call) if not self._idle else self._idle.pop().begin(call)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer.done
        finally:
            if not answer.done.done() or answer.done.cancelled():
                call.cancel()

    def connect(self, call: Call) -> None:
        """Begin `call` on a new connection."""
        task = asyncio.create_task(self._connect(call))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def release(self, connection: Connection) -> None:
        if len(self._idle) < MAX_IDLE and not connection.transport.is_closing():
            self._idle.append(connection)
        else:
            connection.transport.close()

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        for task in self._connecting:
            task.cancel()
        for connection in list(self._open):
            connection.transport.close()

    async def _connect(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        make: Callable[[], Any] = lambda: Connection(self)  # noqa: E731
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(make, self.host, self.port, ssl=self._ssl)
        except (OSError, TimeoutError) as error:
            if call.exchange is not None:
                call.exchange.broken(
                    str(error) or f"no connection within {CONNECT_TIMEOUT_S:g} s", connected=False
                )
            return
        self._open.add(connection)
        if call.exchange is None:
            self.release(connection)
        else:
            connection.begin(call)


class _Whole:
    """Collects an answer."""

    def __init__(self) -> None:
        self.done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._parts: list[bytes] = []

    def head(self, status: int, content_type: str) -> None:
        self._status = status

    def data(self, data: bytes) -> None:
        self._parts.append(data)

    def over(self) -> None:
        if not self.done.done():
            self.done.set_result((self._status, b"".join(self._parts)))

    def broken(self, reason: str, *, connected: bool) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(reason))
