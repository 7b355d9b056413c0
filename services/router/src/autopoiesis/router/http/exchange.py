"""One request for an engine on one client's connection: its body in, its answer out, without ASGI, tasks or events."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Protocol

import structlog

from autopoiesis.contracts.messages.infer import Chunk, Endpoint, Finished
from autopoiesis.router.admission import Admission
from autopoiesis.router.auth import Doorkeeper, Visit
from autopoiesis.router.errors import ApiError, TooLargeError
from autopoiesis.router.flight import Flight, Item
from autopoiesis.router.http import sse
from autopoiesis.router.serving import Serving
from autopoiesis.router.transports.port import Opening, Passage
from autopoiesis.router.upload import STREAMED_FROM, Upload

log = structlog.get_logger(__name__)

PATHS: Final[dict[str, Endpoint]] = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}

_LINGER: Final = 8
"""How many times the limit of a body is read, and thrown away, before the connection is closed on it."""

_JSON: Final = b"application/json"
_EVENTS: Final = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_NOBODY: Final = Visit()
_EXPLAINED: Final = 4096
"""Heads that are remembered."""


class Client(Protocol):
    """The connection that an exchange answers on."""

    @property
    def crowded(self) -> bool:
        """It does not take what was written."""

    transport: asyncio.Transport

    def hold(self) -> None:
        """Read no more of it for now."""

    def release(self) -> None: ...

    def answered(self, *, close: bool) -> None:
        """The answer is complete."""


class Desk:
    """What all exchanges share. `invalid` is told the status of whatever never became a request."""

    def __init__(
        self, serving: Serving, admission: Admission, door: Doorkeeper, invalid: Callable[[int], None]
    ) -> None:
        self.serving = serving
        self.door = door
        self.admission = admission
        self.invalid = invalid
        self._explained: dict[tuple[str, str, int], bytes] = {}
        self._preamble: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")

    def preamble(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The lines of uvicorn's own headers, of which it makes a new list once a second."""
        if headers is not self._preamble[0]:
            self._preamble = (headers, b"".join([b"%b: %b\r\n" % header for header in headers]))
        return self._preamble[1]

    def explain(self, flight: Flight) -> bytes:
        """Headers that say who answers, and which policy chose it; not known yet where a ping sends the headers."""
        if not flight.replica:
            return b"x-request-id: %b\r\n" % flight.request_id.encode()
        key = (flight.replica, flight.policy, flight.epoch)
        chosen = self._explained.get(key)
        if chosen is None:
            if len(self._explained) >= _EXPLAINED:
                self._explained.clear()
            chosen = self._explained[key] = (
                b"x-autopoiesis-replica: %b\r\nx-autopoiesis-policy: %b\r\nx-autopoiesis-epoch: %d\r\n"
                % (_safe(flight.replica), flight.policy[:16].encode(), flight.epoch)
            )
        return b"x-request-id: %b\r\n%b" % (flight.request_id.encode(), chosen)


class Exchange:
    """Stands where uvicorn has its `RequestResponseCycle`, and is a flight's `Reader`.

    `begin` when all earlier requests of the connection are answered, `feed` and `complete` as the body comes, `left` when
    the client has gone. Whatever goes wrong in here is this client's answer, never an exception.
    """

    message_event: Final = asyncio.Event()
    """What uvicorn sets when a client leaves; nobody waits for it."""

    response_complete = False
    disconnected = False
    _visit = _NOBODY
    _flight: Flight | None = None
    _upload: Upload | None = None
    _unread = False
    """Its body, of at most `_limit` bytes, goes on as it comes."""
    _size = 0
    _turn = False
    _whole = False
    _started = False
    _lingers = False
    """It is answered, and what still comes of its body is thrown away."""
    _mute = False
    """The answer has no body."""

    def __init__(
        self,
        desk: Desk,
        client: Client,
        method: bytes,
        path: str,
        headers: list[tuple[bytes, bytes]],
        *,
        query: bytes = b"",
        preamble: bytes = b"",
        keep_alive: bool = True,
        chunked: bool = True,
        expects: bool = False,
    ) -> None:
        """`preamble`: header lines of every answer. `chunked`: the client knows HTTP/1.1. `expects`: it waits for 100."""
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.preamble = preamble
        self.keep_alive = keep_alive
        self._desk = desk
        self._client = client
        self._chunked = chunked
        self._expects = expects
        self._answer: sse.Answer | sse.Verbatim | None = None
        self._pieces: list[bytes] = []
        self._limit = desk.admission.max_body_bytes
        self._most = _LINGER * self._limit
        if path not in PATHS:
            self._limit, self._unread = desk.admission.limit(method.decode("latin-1"), headers)
            self._most = max(self._most, self._limit + self._most * self._unread)

    # what comes from the client

    def begin(self) -> None:
        """It is its turn."""
        if self.disconnected:
            return
        self._turn = True
        self._guarded(self._begin)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self._broken(error)

    def _begin(self) -> None:
        try:
            self._visit = self._desk.door.enter(self.headers)
        except ApiError as error:
            self._turn_away(error, close=True)
            return
        if self.method != b"POST" and self.path in PATHS:
            what = f"{self.path} takes POST, not {self.method.decode('latin-1')}"
            self._turn_away(ApiError(405, what, code="method_not_allowed"))
        elif self._announced() > (self._limit if self._expects else self._most):
            self._turn_away(self._too_large(), close=True)
        elif self._whole or (self._unread and STREAMED_FROM < self._size <= self._limit):
            self._submit()
        elif self._expects:
            self._client.transport.write(_CONTINUE)

    def feed(self, piece: bytes) -> None:
        """Some of its body. One that is too long is read on for a while: a client that still writes would not see the answer."""
        if self.response_complete:
            return
        self._size += len(piece)
        if self._upload is not None and self._size <= self._limit:
            self._upload.feed(piece)
        elif self._size <= self._limit and not self._lingers:
            self._pieces.append(piece)
            if self._unread and self._size > STREAMED_FROM and self._announced() <= self._limit:
                self._guarded(self._submit) if self._turn else self._client.hold()
        elif self._upload is not None:
            self._give_up()
        elif self._lingers and self._size > self._most:
            self._over(close=True)
        elif self._turn and self._size > self._most:
            self._turn_away(self._too_large(), close=True)

    def complete(self) -> None:
        """Its body is complete."""
        self._whole = True
        if self._upload is not None:
            self._upload.finish()
        elif self._lingers:
            self._over(close=True)
        elif self._turn and not self.response_complete:
            self._guarded(self._submit)

    def left(self) -> None:
        """The client has gone."""
        self.disconnected = True
        flight, self._flight = self._flight, None
        self._visit.leave()
        if flight is not None:
            flight.reader = None
            self._desk.serving.leave(flight)

    def hold(self) -> None:
        """The client does not keep up."""
        if self._flight is not None:
            self._flight.hold()

    def release(self) -> None:
        if self._flight is not None:
            self._flight.release()

    def _announced(self) -> int:
        for name, value in self.headers:
            if name == b"content-length":
                return int(value) if value.isdigit() else 0
        return 0

    def _submit(self) -> None:
        desk = self._desk
        try:
            if self._size > self._limit:
                raise self._too_large()
            body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            endpoint = PATHS.get(self.path)
            if endpoint is not None:
                flight = desk.admission.admit(endpoint, self.headers, body, "", self._visit.tenant)
            else:
                flight = self._admit_other(body)
                if not self._whole:
                    self._begin_upload(flight, body)
        except ApiError as error:
            self._turn_away(error, close=isinstance(error, TooLargeError) or not self._whole)
            return
        self._pieces.clear()
        self._flight = flight
        flight.reader = self
        if self._client.crowded:
            flight.hold()
        desk.serving.submit(flight)

    def _admit_other(self, body: bytes) -> Flight:
        return self._desk.admission.admit(
            "passthrough",
            self.headers,
            body,
            self.path,
            self._visit.tenant,
            method=self.method.decode("latin-1"),
            query=self.query.decode("latin-1"),
        )

    def _begin_upload(self, flight: Flight, first: bytes) -> None:
        """The rest of the body goes on as it comes."""
        announced = self._announced() or None
        flight.upload = self._upload = Upload(first, announced, self._client.hold, self._client.release)
        flight.intake.prompt_bytes = announced or len(first)

    def _give_up(self) -> None:
        """The upload is longer than it may be: its server is let go, and what still comes is thrown away like that of others."""
        flight, self._flight, self._upload = self._flight, None, None
        if flight is not None:
            flight.reader = None
            self._desk.serving.leave(flight)
        if self._started:
            self._over(close=True)

    def _too_large(self) -> TooLargeError:
        return TooLargeError(self._limit, upload=self._unread)

    # what goes to the client

    def read(self, item: Item) -> None:
        """`Reader`. Headers go out with the first thing there is to say, so that until then the status can still be another."""
        if self._started and isinstance(item, Passage) and self._chunked:
            events = item.events
            self._client.transport.write(b"%x\r\n%b\r\n" % (len(events), events))
            return
        flight = self._flight
        if flight is None or self.response_complete:
            return
        try:
            if flight.intake.endpoint == "relay":
                self._relay(item, flight)
            elif flight.intake.stream:
                self._stream(item, flight)
            elif isinstance(item, Finished):
                self._send_whole(item, flight)
            elif isinstance(item, ApiError):
                self._refuse(item, flight)
        except Exception as error:
            self._broken(error)

    def _stream(self, item: Item, flight: Flight) -> None:
        last = isinstance(item, Finished | ApiError)
        answer = self._answer
        if answer is None:
            answer = self._answer = self._make_answer(flight)
        if self._started:
            events = self._encode(answer, item, flight)
            self._client.transport.write(self._frame(events, last=last))
        elif isinstance(item, ApiError):
            self._refuse(item, flight)
            return
        elif isinstance(answer, sse.Verbatim) and isinstance(item, Finished):
            self._send_whole(item, flight)  # no stream, though one was asked for
            return
        else:
            self._started = True
            coding = b"transfer-encoding: chunked\r\n" if self._chunked else b""
            head = self._head(200, _EVENTS + coding + self._desk.explain(flight))
            self._client.transport.write(head + self._frame(self._encode(answer, item, flight), last=last))
        if last:
            self._done()

    def _relay(self, item: Item, flight: Flight) -> None:
        """The server's own words. An answer that breaks off can only be cut off: no client takes that for its end."""
        if isinstance(item, ApiError) and not self._started:
            self._refuse(item, flight)
        elif isinstance(item, ApiError):
            self._over(close=True)
        elif isinstance(item, Opening):
            self._started = True
            self.keep_alive = self.keep_alive and self._whole
            fields = self._desk.explain(flight)
            if item.content_type:
                fields += b"content-type: %b\r\n" % _safe(item.content_type)
            self._mute = self.method == b"HEAD" or item.status in {204, 304}
            self._chunked = self._chunked and not self._mute
            if self._chunked:
                fields += b"transfer-encoding: chunked\r\n"
            self._client.transport.write(self._head(item.status, fields))
        elif isinstance(item, Passage) and not self._mute:
            self._client.transport.write(self._frame(item.events, last=False))
        elif isinstance(item, Finished):
            if self._chunked:
                self._client.transport.write(b"0\r\n\r\n")
            self._done()

    def _frame(self, events: bytes, *, last: bool) -> bytes:
        if not self._chunked:
            return events
        if last:
            return b"%x\r\n%b\r\n0\r\n\r\n" % (len(events), events) if events else b"0\r\n\r\n"
        return b"%x\r\n%b\r\n" % (len(events), events) if events else b""

    def _encode(self, answer: sse.Answer | sse.Verbatim, item: Item, flight: Flight) -> bytes:
        if isinstance(item, Passage):
            return item.events
        if isinstance(item, Chunk):
            return answer.chunk(item)
        if isinstance(item, Finished):
            if flight.verbatim:
                return b""
            return answer.finish(item, include_usage=flight.intake.include_usage)
        return answer.error(item) if isinstance(item, ApiError) else sse.PING

    def _make_answer(self, flight: Flight) -> sse.Answer | sse.Verbatim:
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

    def _send_whole(self, finished: Finished, flight: Flight) -> None:
        body = self._make_answer(flight).whole(finished) if finished.body is None else bytes(finished.body)
        kind = _safe(finished.content_type) if finished.content_type else _JSON
        fields = b"content-type: %b\r\ncontent-length: %d\r\n%b" % (
            kind,
            len(body),
            self._desk.explain(flight),
        )
        self._client.transport.write(self._head(200, fields) + body)
        self._done()

    def _turn_away(self, error: ApiError, *, close: bool = False) -> None:
        """It never becomes a request."""
        self._desk.invalid(error.status)
        self._refuse(error, close=close)

    def _refuse(self, error: ApiError, flight: Flight | None = None, *, close: bool = False) -> None:
        body = error.body()
        fields = b"content-type: %b\r\ncontent-length: %d\r\n" % (_JSON, len(body))
        if flight is not None:
            fields += self._desk.explain(flight)
        if error.status == HTTPStatus.METHOD_NOT_ALLOWED:
            fields += b"allow: POST\r\n"
        if error.retry_after_s is not None:
            fields += b"retry-after: %d\r\n" % max(1, round(error.retry_after_s))
        self.keep_alive = self.keep_alive and not close and (self._upload is None or self._whole)
        self._client.transport.write(self._head(int(error.status), fields) + body)
        self._done()

    def _head(self, status: int, fields: bytes) -> bytes:
        phrase = b"OK" if status == 200 else _PHRASES.get(status, "").encode()
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        return b"HTTP/1.1 %d %b\r\n%b%b%b" % (status, phrase, self.preamble, fields, end)

    def _broken(self, error: Exception) -> None:
        """It is our own fault: a typed error where one can still be said, else an end that no client takes for one."""
        log.error("a request failed in this router", path=self.path, exc_info=error)
        flight = self._flight
        self.left()
        if self.response_complete:
            return
        if not self._started:
            failed = ApiError(
                500, "this router failed; its log says how", type="server_error", code="internal"
            )
            self._refuse(failed, flight)
        else:
            self.response_complete = True
            self._client.answered(close=True)

    def _done(self) -> None:
        if self._upload is not None and not self._whole:
            self._lingers, self._upload, self._flight = True, None, None
            self._client.release()
        else:
            self._over(close=not self.keep_alive)

    def _over(self, *, close: bool) -> None:
        self.response_complete = True
        self._flight = None
        self._visit.leave()
        self._client.answered(close=close)


def _safe(value: str) -> bytes:
    """A header's value without what would end it."""
    return _CONTROL.sub(b"?", value.encode("latin-1", "replace"))
