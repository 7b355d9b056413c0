"""The hot path's HTTP: requests for engines are taken right off the parser, all others go to FastAPI through uvicorn."""

from __future__ import annotations

import urllib.parse
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import httptools

from autopoiesis.router.http.exchange import PATHS, Desk, Exchange
from autopoiesis.runtime.http import Connection

_HOT = {path.encode(): path for path in PATHS}


PIPELINED: Final = 8
"""Requests that are read ahead. No more is read beyond them, and so it is not seen either that the client left."""


class Front(Connection):
    """One client's connection. `wanted` says of a method and a path whether an engine answers it."""

    def __init__(
        self, *arguments: Any, desk: Desk, wanted: Callable[[bytes, str], bool], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._desk = desk
        self._wanted = wanted
        self._reading: Exchange | None = None
        """Whose body comes."""
        self._answering: Exchange | None = None
        """Whose turn it is."""

    # Client

    @property
    def crowded(self) -> bool:
        return bool(self.flow.write_paused)

    def hold(self) -> None:
        self.flow.pause_reading()

    def release(self) -> None:
        self.flow.resume_reading()

    def answered(self, *, close: bool) -> None:
        self._answering = None
        if close:
            self.transport.close()
        self.on_response_complete()

    # httptools

    def on_message_begin(self) -> None:
        self.begin_head()
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        path, query = _HOT.get(self.url), b""
        if path is None:
            path, query = self._parse()
        method = self.parser.get_method()
        if path in PATHS or self._wanted(method, path):
            self.end_head()
            self._take(method, path, query)
        else:
            self._reading = None
            self._hand_over()

    def on_body(self, body: bytes) -> None:
        if self._reading is not None:
            self._reading.feed(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._reading is None or self.parser.should_upgrade():
            super().on_message_complete()
        else:
            self._in_body = False
            self._reading.complete()

    # asyncio

    def connection_lost(self, exc: Exception | None) -> None:
        for exchange in (self._answering, *(cycle for cycle, _ in self.pipeline)):
            if isinstance(exchange, Exchange):
                exchange.left()
        self.pipeline.clear()
        self._answering = self._reading = None
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._answering is not None:
            self._answering.hold()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._answering is not None:
            self._answering.release()

    def _parse(self) -> tuple[str, bytes]:
        """Path and query."""
        url = httptools.parse_url(self.url)
        path: str = url.path.decode("ascii")
        return (urllib.parse.unquote(path) if "%" in path else path), url.query or b""

    def _take(self, method: bytes, path: str, query: bytes) -> None:
        modern = self.parser.get_http_version() != "1.0"
        headers, self.headers = self.headers, []  # trailers are no headers
        exchange = Exchange(
            self._desk,
            self,
            method,
            path,
            headers,
            query=query,
            preamble=self._desk.preamble(self.server_state.default_headers),
            keep_alive=modern and self.parser.should_keep_alive(),
            chunked=modern,
            expects=self.expect_100_continue,
        )
        earlier: Any = self.cycle
        self.cycle: Any = exchange
        self._reading = exchange
        if earlier is None or earlier.response_complete:
            self._answering = exchange
            exchange.begin()
        else:
            if len(self.pipeline) >= PIPELINED:
                self.flow.pause_reading()
            cast("deque[Any]", self.pipeline).appendleft((exchange, self.app))

    def _hand_over(self) -> None:
        """Uvicorn's own way, from the beginning of the message."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.headers += headers
        self.expect_100_continue = expects
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, Exchange):
            self._answering = cycle
            self.loop.call_soon(cycle.begin)
        else:
            super()._start_asgi_task(cycle, app)
