"""uvicorn inside a loop that is already running and keeps its own signal handlers, with what its HTTP/1.1 lacks."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final, Self, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from autopoiesis.runtime.errors import OperatorError

MAX_HEAD_BYTES: Final = 64 * 1024
"""Longest head of a request, give or take one read: beyond it the answer is 431."""

HEAD_S: Final = 30
"""Seconds in which the head of a request must have come, counted from its first byte or from the connection's start."""

BODY_S: Final = 60
"""Seconds without a byte of a body that is not complete."""


_OFFER: Final = frozenset({b"connection", b"upgrade", b"http2-settings"})


class Cork:
    """Gathers writes of all connections until the loop has run what is ready.

    An answer's head and body are two writes, and so are two chunks that came together; each costs a system call and often
    wakes the reader.
    """

    __slots__ = ("loop", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: list[_Corked] = []

    def flush(self) -> None:
        waiting, self.waiting = self.waiting, []
        for transport in waiting:
            transport.flush()


class _Corked:
    """A transport whose writes wait for its cork."""

    __slots__ = ("_cork", "_pieces", "_transport")

    def __init__(self, transport: asyncio.Transport, cork: Cork) -> None:
        self._transport = transport
        self._cork = cork
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._pieces:
            cork = self._cork
            if not cork.waiting:
                cork.loop.call_soon(cork.flush)
            cork.waiting.append(self)
        self._pieces.append(data)

    def flush(self) -> None:
        pieces = self._pieces
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            if not self._transport.is_closing():
                self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.flush()
        self._transport.set_protocol(protocol)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with corked writes, and with bounds on what a client may send and how slowly.

    Instead of a timer for each request, the server calls `tick` once a second.
    """

    def __init__(self, *arguments: Any, cork: Cork, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cork = cork
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0
        self._ticks = 0
        """Seconds for which the client has owed something."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(cast("asyncio.Transport", _Corked(transport, self._cork)))

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        else:
            self._ticks = 0
        self._feed(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._reject(431, "the head of the request is too long")

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError as error:
            self._reject(400, f"this is not HTTP/1.1: {error}")

    def _decline(self, rest: bytes) -> None:
        """The client offers another protocol, as Java's does with its first request: go on as if it had not.

        The parser takes the body, which `rest` begins with, for that protocol, so it has to read the request again.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._reject(405, "this server is no proxy")
            return
        lines = [b"%b: %b" % (name, value) for name, value in self.headers if name not in _OFFER]
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"\r\n".join([b"%b %b HTTP/1.1" % (method, self.url), *lines, b"", rest]))

    def on_message_begin(self) -> None:
        self.begin_head()
        super().on_message_begin()

    def begin_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            self.end_head()
            super().on_headers_complete()

    def end_head(self) -> None:
        self._in_head = False
        self._in_body = True
        self._ticks = 0

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._in_body = False
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self._ticks = 0
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def tick(self) -> None:
        """A second has passed."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        busy = cycle is not None and not cycle.response_complete
        if busy and (not self._in_body or self.flow.read_paused) and not self._in_head:
            return
        self._ticks += 1
        if self._in_head:
            if self._ticks > HEAD_S:
                self._reject(408, "the head of the request did not come in time")
        elif self._ticks > (BODY_S if busy else HEAD_S if cycle is None else self.timeout_keep_alive):
            self.transport.close()

    def _reject(self, status: int, why: str) -> None:
        """Say why, if nothing else is being said, and close."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        answering = cycle is not None and not cycle.response_complete and (self.pipeline or not self._in_body)
        if not self.transport.is_closing() and not answering:
            body = why.encode()
            head = (
                b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self.transport.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            for connection in list(self.server_state.connections):
                cast("Connection", connection).tick()
        return await super().on_tick(counter)


class HttpServer:
    """A listening ASGI application."""

    def __init__(
        self, server: uvicorn.Server, task: asyncio.Task[None], host: str, port: int, *, tls: bool = False
    ) -> None:
        self.host = host
        self.port = port
        self.task = task
        """Ends when the server does; an exception in it is the server's."""
        self._server = server
        self._scheme = "https" if tls else "http"

    @property
    def url(self) -> str:
        """Where this machine reaches it: the loopback address when it listens on all."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104
        return f"{self._scheme}://{host}:{self.port}"

    @classmethod
    async def start(
        cls,
        app: Any,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        grace: float = 10.0,
        connection: Callable[..., Connection] = Connection,
        **options: Any,
    ) -> Self:
        """Serve `app` on `host`:`port` (0: a free one); returns when it accepts connections.

        `grace`: seconds that open requests get when it stops. `connection` makes the protocol of each connection.
        `options` go to `uvicorn.Config`. Raises `OperatorError` when the address cannot be had.
        """
        listener = _listen(host, port)
        config = uvicorn.Config(
            app,
            http=cast("Any", partial(connection, cork=Cork(asyncio.get_running_loop()))),
            ws="none",
            lifespan=options.pop("lifespan", "off"),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(grace)),
            timeout_keep_alive=options.pop("timeout_keep_alive", 75),
            **options,
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve([listener]), name=f"http {host}:{port}")
        while not server.started:
            if task.done():
                listener.close()
                task.result()
                raise OperatorError(f"the HTTP server on {host}:{port} ended at once")
            await asyncio.sleep(0.001)
        return cls(server, task, host, listener.getsockname()[1], tls=config.is_ssl)

    async def stop(self) -> None:
        """Accept no more connections, let open requests finish within the grace period, and return."""
        self._server.should_exit = True
        await asyncio.gather(self.task, return_exceptions=True)
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OperatorError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another host or port"
        ) from error
    listener.setblocking(False)
    return listener
