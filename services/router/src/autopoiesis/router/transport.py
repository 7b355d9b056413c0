"""The port between the serving core and whatever carries requests to replicas; and the one over NATS."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol

from autopoiesis.contracts.messages.infer import Cancel, FailureCode, Generate, Reply
from autopoiesis.contracts.subjects import CANCEL, slug
from autopoiesis.router.errors import ApiError, TooLargeError, UnavailableError
from autopoiesis.runtime.bus import (
    Bus,
    DisconnectedError,
    NoRespondersError,
    PayloadTooLargeError,
    ReplyError,
    ReplyStream,
    RequestStreams,
    StalledError,
)


class Replies(Protocol):
    """What a transport calls back, on the event loop, in the order in which replies were sent.

    `wire` is the `Generate.request_id` that was sent.
    """

    def on_reply(self, wire: str, reply: Reply) -> None: ...

    def on_broken(self, wire: str, error: ApiError) -> None: ...

    def on_gone(self, wire: str, replica: str, reason: str) -> None: ...


class Transport(Protocol):
    """Sends requests and hands every reply to `Replies`. No method waits or raises."""

    @property
    def connected(self) -> bool: ...

    def send(self, replica: str, generate: Generate, headers: dict[str, str]) -> None:
        """Send; what goes wrong comes through `Replies`."""

    def cancel(self, wire: str, reason: FailureCode) -> None:
        """Ask the replica to stop, and forget the request."""

    def close(self, wire: str) -> None:
        """Forget the request: replies that still come are dropped."""


class _Carriage:
    __slots__ = ("cancelled", "replica", "stream", "task")

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self.stream: ReplyStream | None = None
        self.cancelled: FailureCode | None = None
        self.task: asyncio.Task[None] | None = None


class NatsTransport:
    """One task per request sent, which reads its replies. `replies` must be set before the first send."""

    replies: Replies

    def __init__(self, bus: Bus, streams: RequestStreams) -> None:
        self._bus = bus
        self._streams = streams
        self._carriages: dict[str, _Carriage] = {}
        self._cancels: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        return self._bus.connected

    def send(self, replica: str, generate: Generate, headers: dict[str, str]) -> None:
        carriage = self._carriages[generate.request_id] = _Carriage(replica)
        carriage.task = asyncio.create_task(self._carry(carriage, replica, generate, headers))

    def cancel(self, wire: str, reason: FailureCode) -> None:
        carriage = self._carriages.pop(wire, None)
        if carriage is None:
            return
        if carriage.stream is None:
            carriage.cancelled = reason  # it is being sent: `_carry` cancels behind it
        else:
            carriage.stream.fail(ReplyError(f"request {wire} was cancelled here"))
            self._cancel(carriage.replica, wire, reason)

    def close(self, wire: str) -> None:
        carriage = self._carriages.pop(wire, None)
        if carriage is not None and carriage.stream is not None:
            carriage.stream.fail(ReplyError(f"request {wire} is over"))

    async def aclose(self) -> None:
        """Let cancels go out, and stop reading."""
        await asyncio.gather(*self._cancels, return_exceptions=True)
        await self._streams.close()

    def _cancel(self, replica: str, wire: str, reason: FailureCode) -> None:
        task = asyncio.create_task(self._send_cancel(replica, wire, reason))
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)

    async def _send_cancel(self, replica: str, wire: str, reason: FailureCode) -> None:
        with suppress(DisconnectedError):  # then the worker notices by itself: its chunks find no responder
            await self._bus.publish(CANCEL, Cancel(request_id=wire, reason=reason), replica=slug(replica))

    async def _carry(
        self, carriage: _Carriage, replica: str, generate: Generate, headers: dict[str, str]
    ) -> None:
        wire = generate.request_id
        try:
            stream = await self._streams.open(slug(replica), generate, headers=headers or None)
            carriage.stream = stream
            if carriage.cancelled is not None:
                await stream.cancel(carriage.cancelled)
                return
            while batch := await stream.next_batch():
                for reply in batch:
                    self.replies.on_reply(wire, reply)
        except NoRespondersError as error:
            self.replies.on_gone(wire, replica, str(error))
        except StalledError as error:
            self.replies.on_broken(wire, ApiError(504, str(error), type="timeout_error", code="stalled"))
        except ReplyError as error:
            self.replies.on_broken(wire, ApiError(502, str(error), type="server_error", code="stream_broken"))
        except DisconnectedError as error:
            self.replies.on_broken(wire, UnavailableError(str(error), "bus_unavailable"))
        except PayloadTooLargeError as error:
            self.replies.on_broken(wire, TooLargeError(error.limit))
        finally:
            if self._carriages.get(wire) is carriage:
                del self._carriages[wire]
