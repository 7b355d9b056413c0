"""Requests to our workers, over NATS."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import structlog

from autopoiesis.contracts.messages.infer import Cancel, FailureCode, Generate, Reply
from autopoiesis.contracts.subjects import CANCEL, slug
from autopoiesis.router.errors import ApiError, TooLargeError, UnavailableError
from autopoiesis.router.transports.port import Replies
from autopoiesis.runtime.bus import (
    Bus,
    Conversation,
    DisconnectedError,
    NoRespondersError,
    PayloadTooLargeError,
    ReplyError,
    RequestStreams,
    StalledError,
)

log = structlog.get_logger(__name__)

NOT_YET: Final = "not connected to NATS yet: the request was not sent"


class _Call(Conversation):
    """One request at a worker; what comes goes straight on."""

    __slots__ = ("_name", "_replies")

    def __init__(self, owner: RequestStreams, wire: str, replica: str, replies: Replies) -> None:
        super().__init__(owner, wire, slug(replica))
        self._name = replica
        self._replies = replies

    def heard(self, reply: Reply) -> None:
        self._replies.on_reply(self.key, reply)

    def over(self, error: ReplyError | None) -> None:
        if error is None:
            return
        if isinstance(error, NoRespondersError):
            self._replies.on_gone(self.key, self._name, str(error))
        elif isinstance(error, StalledError):
            stalled = ApiError(504, str(error), type="timeout_error", code="stalled")
            self._replies.on_broken(self.key, stalled)
        else:
            broken = ApiError(502, str(error), type="server_error", code="stream_broken")
            self._replies.on_broken(self.key, broken)


_Request = tuple[_Call, Generate, dict[str, str]]
_Cancel = tuple[str, FailureCode]


class BusTransport:
    """One task sends for all requests, in order, so that a cancel never overtakes its request.

    `replies` must be set before the first send; until `join` every send fails.
    """

    replies: Replies

    def __init__(self) -> None:
        self._bus: Bus | None = None
        self._streams: RequestStreams | None = None
        self._calls: dict[str, _Call] = {}
        self._outgoing: deque[_Request | tuple[str, Cancel]] = deque()
        self._waiting = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None

    def join(self, bus: Bus, streams: RequestStreams) -> None:
        """There is a bus now."""
        self._bus, self._streams = bus, streams
        self._sender = asyncio.create_task(self._send_forever(bus, streams), name="sends to workers")

    @property
    def connected(self) -> bool:
        return self._bus is not None and self._bus.connected

    def send(self, replica: str, generate: Generate, headers: dict[str, str]) -> None:
        wire = generate.request_id
        if self._streams is None:
            error = UnavailableError(NOT_YET, "bus_unavailable")
            asyncio.get_running_loop().call_soon(self.replies.on_broken, wire, error)
            return
        call = self._calls[wire] = _Call(self._streams, wire, replica, self.replies)
        self._outgoing.append((call, generate, headers))
        self._waiting.set()

    def cancel(self, wire: str, reason: FailureCode) -> None:
        call = self._calls.pop(wire, None)
        if call is not None:
            call.forget()
            self._outgoing.append((call.replica, Cancel(request_id=wire, reason=reason)))
            self._waiting.set()

    def close(self, wire: str) -> None:
        call = self._calls.pop(wire, None)
        if call is not None:
            call.forget()

    def pause(self, wire: str) -> None:
        """Core NATS holds nothing back; `Serving` bounds what waits."""

    def resume(self, wire: str) -> None: ...

    async def aclose(self) -> None:
        """Let cancels go out, and stop reading."""
        if self._bus is None or self._streams is None or self._sender is None:
            return
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)
        await self._send_all(self._bus, self._streams)
        await self._streams.close()

    async def _send_forever(self, bus: Bus, streams: RequestStreams) -> None:
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            await self._send_all(bus, streams)

    async def _send_all(self, bus: Bus, streams: RequestStreams) -> None:
        while self._outgoing:
            item = self._outgoing.popleft()
            if isinstance(item[0], _Call):
                await self._send(streams, *item)
            else:
                await self._cancel(bus, *item)

    async def _send(
        self, streams: RequestStreams, call: _Call, generate: Generate, headers: dict[str, str]
    ) -> None:
        if call.ended:  # the client left before it was sent
            return
        try:
            await streams.send(call, generate, headers or None)
        except DisconnectedError as error:
            self.replies.on_broken(call.key, UnavailableError(str(error), "bus_unavailable"))
        except PayloadTooLargeError as error:
            self.replies.on_broken(call.key, TooLargeError(error.limit))
        except Exception as error:
            log.exception("a request could not be sent", request=call.key)
            self.replies.on_broken(
                call.key, ApiError(502, f"the request could not be sent: {error}", type="server_error")
            )

    async def _cancel(self, bus: Bus, replica: str, cancel: Cancel) -> None:
        try:
            await bus.publish(CANCEL, cancel, replica=replica)
        except DisconnectedError:  # the worker notices by itself: its chunks find no responder
            log.debug("cancel not sent", request=cancel.request_id)
