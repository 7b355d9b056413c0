"""The hot path: chat, text completions and what is passed through, as raw ASGI without FastAPI's routing and models."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import structlog

from autopoiesis.contracts.messages.infer import Chunk, Endpoint, Finished
from autopoiesis.router.admission import Admission
from autopoiesis.router.auth import Doorkeeper
from autopoiesis.router.errors import ApiError, TooLargeError
from autopoiesis.router.flight import Flight, Item
from autopoiesis.router.http import sse
from autopoiesis.router.serving import Serving
from autopoiesis.router.transports.port import Passage

log = structlog.get_logger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATHS: Final[dict[str, Endpoint]] = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}

_LINGER: Final = 8
"""How many times the limit of a body is read, and thrown away, before the connection is closed on it."""

_JSON: Final = (b"content-type", b"application/json")
_STREAM: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class _Disconnected(Exception):  # noqa: N818 - not an error: the client left before its body was read
    pass


class Completions:
    """One ASGI application for all that goes to engines. `invalid` is told the status of whatever never became a request."""

    def __init__(
        self, serving: Serving, admission: Admission, door: Doorkeeper, invalid: Callable[[int], None]
    ) -> None:
        self._serving = serving
        self._door = door
        self._admission = admission
        self._invalid = invalid

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            visit = self._door.enter(scope["headers"])
        except ApiError as error:
            self._invalid(error.status)
            await _refuse(send, error, close=True)
            return
        try:
            flight = await self._admit(scope, receive, send, visit.tenant)
            if flight is None:
                return
            watch = asyncio.create_task(self._watch(receive, flight))
            try:
                self._serving.submit(flight)
                await (self._stream(flight, send) if flight.intake.stream else self._whole(flight, send))
            finally:
                watch.cancel()
                self._serving.leave(flight)
        finally:
            visit.leave()

    async def _admit(self, scope: Scope, receive: Receive, send: Send, tenant: bytes) -> Flight | None:
        """The request; none where it was refused, or its client left meanwhile."""
        path = scope["path"]
        try:
            if scope["method"] != "POST":
                raise ApiError(405, f"{path} takes POST, not {scope['method']}", code="method_not_allowed")
            body = await self._read(scope, receive)
            endpoint = PATHS.get(path, "passthrough")
            return self._admission.admit(endpoint, scope["headers"], body, path, tenant)
        except _Disconnected:
            return None
        except ApiError as error:
            self._invalid(error.status)
            await _refuse(send, error, close=isinstance(error, TooLargeError))
            return None

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """The body. One that is too long is read on for a while: a client that still writes would not see the answer."""
        limit = self._admission.max_body_bytes
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > _LINGER * limit:
                raise TooLargeError(limit)
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if not pieces and message["type"] == "http.request" and not message["more_body"]:
                body: bytes = message["body"]
                if len(body) <= limit:
                    return body
            if message["type"] == "http.disconnect":
                raise _Disconnected
            piece = message.get("body", b"")
            size += len(piece)
            if size <= limit:
                pieces.append(piece)
            more = message.get("more_body", False)
            if size > limit and (not more or size > _LINGER * limit):
                raise TooLargeError(limit)
            if not more:
                return b"".join(pieces)

    async def _watch(self, receive: Receive, flight: Flight) -> None:
        """Notice at once that the client left, whatever else goes on."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._serving.leave(flight)

    async def _whole(self, flight: Flight, send: Send) -> None:
        while True:
            item = (await flight.take())[-1]
            if isinstance(item, ApiError):
                await _refuse(send, item, flight)
                return
            if isinstance(item, Finished):
                await self._send_whole(self._answer(flight), item, flight, send)
                return

    async def _send_whole(
        self, answer: sse.Answer | sse.Verbatim, finished: Finished, flight: Flight, send: Send
    ) -> None:
        body = answer.whole(finished)
        kind = finished.content_type.encode("latin-1", "replace")
        headers = [
            (b"content-type", kind) if kind else _JSON,
            (b"content-length", b"%d" % len(body)),
            *_explain(flight),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, flight: Flight, send: Send) -> None:
        """Headers go out with the first thing there is to say, so that until then the status can still be another."""
        answer = self._answer(flight)
        started = False
        while True:
            items = await flight.take()
            last = items[-1]
            if not started:
                if isinstance(last, ApiError) and len(items) == 1:
                    await _refuse(send, last, flight)
                    return
                if isinstance(answer, sse.Verbatim) and isinstance(items[0], Finished):
                    # no stream, though one was asked for
                    await self._send_whole(answer, items[0], flight, send)
                    return
                started = True
                headers = [*_STREAM, *_explain(flight)]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            body = b"".join([self._encode(answer, item, flight) for item in items])
            more = isinstance(last, Chunk | Passage | str)
            await send({"type": "http.response.body", "body": body, "more_body": more})
            if not more:
                return

    def _encode(self, answer: sse.Answer | sse.Verbatim, item: Item, flight: Flight) -> bytes:
        if isinstance(item, Chunk):
            return answer.chunk(item)
        if isinstance(item, Passage):
            return item.events
        if isinstance(item, Finished):
            if flight.verbatim:
                return b""
            return answer.finish(item, include_usage=flight.intake.include_usage)
        return answer.error(item) if isinstance(item, ApiError) else sse.PING

    def _answer(self, flight: Flight) -> sse.Answer | sse.Verbatim:
        intake = flight.intake
        if intake.endpoint == "passthrough":
            return sse.Verbatim(intake.path)
        return sse.Answer(
            intake.endpoint,
            flight.request_id,
            intake.model,
            int(flight.arrival_unix),
            include_usage=intake.include_usage,
        )


def _explain(flight: Flight) -> list[tuple[bytes, bytes]]:
    """Who answers, and which policy chose it; not known yet where a ping sends the headers."""
    headers = [(b"x-request-id", flight.request_id.encode())]
    if flight.replica:
        headers.append((b"x-autopoiesis-replica", flight.replica.encode("latin-1", "replace")))
        headers.append((b"x-autopoiesis-policy", flight.policy[:16].encode()))
        headers.append((b"x-autopoiesis-epoch", b"%d" % flight.epoch))
    return headers


async def _refuse(send: Send, error: ApiError, flight: Flight | None = None, *, close: bool = False) -> None:
    body = error.body()
    headers = [_JSON, (b"content-length", b"%d" % len(body))]
    if flight is not None:
        headers += _explain(flight)
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": int(error.status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
