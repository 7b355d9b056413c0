"""uvicorn inside a loop that is already running and keeps its own signal handlers."""

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any, Self, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from autopoiesis.runtime.errors import OperatorError


class _Corked:
    """A transport that writes once per turn of the event loop: an answer's head and body are two writes, and each costs a
    system call and often wakes the reader.
    """

    __slots__ = ("_loop", "_transport", "_waiting")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append(data)

    def flush(self) -> None:
        if self._waiting:
            data = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
            self._waiting.clear()
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.flush()
        self._transport.set_protocol(protocol)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(cast("asyncio.Transport", _Corked(transport, self.loop)))


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


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
        cls, app: Any, *, host: str = "127.0.0.1", port: int = 0, grace: float = 10.0, **options: Any
    ) -> Self:
        """Serve `app` on `host`:`port` (0: a free one); returns when it accepts connections.

        `grace`: seconds that open requests get when it stops. `options` go to `uvicorn.Config`.
        Raises `OperatorError` when the address cannot be had.
        """
        listener = _listen(host, port)
        config = uvicorn.Config(
            app,
            http=_Protocol,
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
