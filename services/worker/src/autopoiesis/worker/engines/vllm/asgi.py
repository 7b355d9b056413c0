"""Calls an ASGI application in this process: what a server and a client would do over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

App = Callable[..., Awaitable[None]]

_NO_BODY: Final = (b"", b"null")
_EVENTS: Final = "text/event-stream"
_BREAK: Final = b"\n\n"


class Exchange:
    """One request and its response. Server-sent events go to `on_event` as they come, each with the empty line that ends it."""

    def __init__(self, path: str, body: bytes, on_event: Callable[[bytes], None]) -> None:
        self.status = 0
        self.content_type = ""
        self.content = bytearray()
        """Of a response that is no stream of events."""
        self._path, _, self._query = path.partition("?")
        self._body = body
        self._on_event = on_event
        self._asked = False
        self._left = asyncio.Event()

    @property
    def left(self) -> bool:
        return self._left.is_set()

    def leave(self) -> None:
        """Disconnect: the application stops working on it."""
        self._left.set()

    async def run(self, app: App) -> None:
        """Until the application has answered, or stopped because of `leave`."""
        await app(self._scope(), self._receive, self._send)

    def _scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            # From 2.4 on Starlette notices a client that left only when it writes; the engine shall stop at once.
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET" if self._body in _NO_BODY else "POST",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": self._query.encode(),
            "root_path": "",
            "headers": [(b"content-type", b"application/json"), (b"host", b"engine")],
            "client": None,
            "server": None,
            "state": {},
        }

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = {name.lower(): value for name, value in message.get("headers", ())}
            self.content_type = headers.get(b"content-type", b"").decode("latin-1")
        elif message["type"] == "http.response.body":
            self.content += message.get("body", b"")
            if self.content_type.startswith(_EVENTS):
                *events, rest = bytes(self.content).split(_BREAK)
                self.content = bytearray(rest)
                for event in events:
                    self._on_event(event + _BREAK)
