"""A lean HTTP/1.1 client for one origin: keep-alive connections, bodies handed over as they arrive.

A load generator shares the machine with what it measures, so a request may cost little here: no per-chunk task or queue, the
parser's callbacks lead straight to the reader of the answer.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

_CONNECT_TIMEOUT_S: Final = 10.0


class ExchangeError(Exception):
    """The exchange ended before the answer was complete; the message says how."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an OpenAI-compatible server is. `path` is what stands before `/chat/completions`, usually `/v1`."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> "Origin":
        """Read `http://host:port`, with or without `/v1`. Raises `ValueError` on anything else."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is not an HTTP address; give one such as http://127.0.0.1:8080")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        path = parts.path.rstrip("/")
        return cls(parts.scheme, parts.hostname, port, path or "/v1")

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._on_body: Callable[[bytes], None] | None = None
        self._done: asyncio.Future[int] | None = None
        self.heard = False
        """Whether any byte of the present exchange's answer has come."""

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(
        self, request: bytes, on_body: Callable[[bytes], None], status: Callable[[int], None]
    ) -> None:
        """Send `request`, hand its answer over as it comes. Raises `ExchangeError`; a cancelled exchange cuts the connection."""
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._on_body, self._status, self.heard = on_body, status, False
        self._transport.write(request)
        try:
            await self._done
        except BaseException:
            self.abort()
            raise
        finally:
            self._on_body = self._done = None

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the server does not speak HTTP/1.1: {error}")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(
            f"the connection was lost: {exc}"
            if exc
            else "the server closed the connection before the end of the answer"
        )

    def on_headers_complete(self) -> None:
        if self._on_body is not None:
            self._status(self._parser.get_status_code())

    def on_body(self, body: bytes) -> None:
        if self._on_body is not None:
            self._on_body(body)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        if self._done is not None and not self._done.done():
            self._done.set_result(self._parser.get_status_code())

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ExchangeError(why))


class Client:
    """POSTs to one origin over as many kept connections as there are exchanges at once."""

    def __init__(self, origin: Origin, headers: Mapping[str, str]) -> None:
        """`headers` go with every request. Raises `ValueError` where one of them holds a line break."""
        self._origin = origin
        self._idle: list[Connection] = []
        self._tls = ssl.create_default_context() if origin.scheme == "https" else None
        self._fixed = f"Host: {origin.authority}\r\nContent-Type: application/json\r\n{header_lines(headers)}"

    async def post(
        self,
        path: str,
        headers: str,
        body: bytes,
        on_body: Callable[[bytes], None],
        on_status: Callable[[int], None],
    ) -> None:
        """One exchange. `headers` are ready lines (`header_lines`). Raises `OSError` (no connection) or `ExchangeError`.

        A kept connection that the server closed just as it was used again, unheard, is replaced once by a fresh one.
        """
        head = f"POST {self._origin.path}{path} HTTP/1.1\r\n{self._fixed}{headers}Content-Length: {len(body)}\r\n\r\n"
        request = head.encode("latin-1") + body
        kept = self._take()
        if kept is not None:
            try:
                return await self._over(kept, request, on_body, on_status)
            except ExchangeError:
                if kept.heard:
                    raise
        return await self._over(await self._connect(), request, on_body, on_status)

    def close(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    async def _over(
        self,
        connection: Connection,
        request: bytes,
        on_body: Callable[[bytes], None],
        on_status: Callable[[int], None],
    ) -> None:
        await connection.exchange(request, on_body, on_status)
        if connection.open:
            self._idle.append(connection)

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(
                Connection, self._origin.host, self._origin.port, ssl=self._tls
            )
        return connection


def header_lines(headers: Mapping[str, str]) -> str:
    """Headers as lines of a request head. Raises `ValueError` naming one that holds a line break."""
    for name, value in headers.items():
        if "\r" in value or "\n" in value:
            raise ValueError(f"header {name} holds a line break: {value!r}")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())
