"""The router's side of a request: one inbox for all replies, one `ReplyStream` per request."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final, Self

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from autopoiesis.contracts.codec import ContractError, decode, encode
from autopoiesis.contracts.messages.infer import Cancel, Chunk, FailureCode, Generate, Reply
from autopoiesis.contracts.subjects import CANCEL, GENERATE, ROUTER_INBOX
from autopoiesis.runtime.bus import faults as kinds
from autopoiesis.runtime.bus import flushing
from autopoiesis.runtime.bus.connection import Bus
from autopoiesis.runtime.bus.errors import (
    DisconnectedError,
    NoRespondersError,
    ReplyError,
    SequenceGapError,
    SlowReaderError,
    StalledError,
)

STALL_TIMEOUT: Final = 15.0
"""Seconds of silence before a stream fails; workers send something at least every third of it."""
MAX_PENDING: Final = 2048
"""Chunks a reader may leave unread."""


class ReplyStream:
    """The replies to one request, in order and without gaps, or an error.

    ``async for batch in stream`` (or `next_batch`) gives all replies that wait, coalesced; the last one of a stream
    that ends well is `Finished`, of one that the worker ended badly `Failed`. Anything else raises a `ReplyError`.
    """

    __slots__ = (
        "_ended",
        "_expected",
        "_failure",
        "_last",
        "_limit",
        "_owner",
        "_pending",
        "_stall",
        "_timer",
        "_waiter",
        "key",
        "replica",
    )

    def __init__(self, owner: "RequestStreams", key: str, replica: str, stall: float, limit: int) -> None:
        self.key = key
        self.replica = replica
        self._owner = owner
        self._limit = limit
        self._expected = 0
        self._pending: list[Reply] = []
        self._waiter: asyncio.Future[None] | None = None
        self._failure: ReplyError | None = None
        self._ended = False
        loop = asyncio.get_running_loop()
        self._stall = stall
        self._last = loop.time()
        self._timer = loop.call_later(stall, self._check_stall)

    @property
    def ended(self) -> bool:
        """Nothing more will arrive; what waits can still be read."""
        return self._ended

    async def next_batch(self) -> list[Reply]:
        """Every reply that waits, at least one; empty after the last. Raises the `ReplyError` that ended the stream."""
        while not self._pending:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        batch, self._pending = self._pending, []
        return batch

    async def __aiter__(self) -> AsyncIterator[list[Reply]]:
        while batch := await self.next_batch():
            yield batch

    async def cancel(self, reason: FailureCode = "cancelled") -> None:
        """Tell the worker to stop, and forget the stream. Nothing happens when it has already ended."""
        if not self._ended:
            self.fail(ReplyError(f"request {self.key}: cancelled here ({reason})"))
            await self._owner.send_cancel(self, reason)

    def accept(self, reply: Reply) -> None:
        if self._ended:
            return
        if reply.seq != self._expected:
            self.fail(
                SequenceGapError(f"request {self.key}: reply {self._expected} was lost, {reply.seq} arrived")
            )
            return
        if len(self._pending) >= self._limit:
            self.fail(SlowReaderError(f"request {self.key}: {self._limit} chunks wait unread"))
            return
        self._expected += 1
        self._last = asyncio.get_running_loop().time()
        self._pending.append(reply)
        if not isinstance(reply, Chunk):
            self._end()
        self._wake()

    def fail(self, error: ReplyError) -> None:
        if not self._ended:
            self._failure = error
            self._end()
            self._wake()

    def _end(self) -> None:
        self._ended = True
        self._timer.cancel()
        self._owner.forget(self)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check_stall(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._last + self._stall - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._check_stall)
        else:
            self.fail(
                StalledError(f"request {self.key}: nothing from replica {self.replica} for {self._stall:g} s")
            )


class RequestStreams:
    """Sends requests to replicas and hands each reply to its stream.

    One wildcard subscription, ``_INBOX.router.<router>.*``, carries all replies: nothing to subscribe per request,
    and one thing to restore after a reconnect.
    """

    def __init__(
        self, bus: Bus, router: str, *, stall_timeout: float = STALL_TIMEOUT, max_pending: int = MAX_PENDING
    ) -> None:
        self._bus = bus
        self._prefix = f"{ROUTER_INBOX}.{router}."
        self._stall_timeout = stall_timeout
        self._max_pending = max_pending
        self._streams: dict[str, ReplyStream] = {}
        self._source: NatsSubscription | None = None

    @classmethod
    async def start(
        cls,
        bus: Bus,
        router: str,
        *,
        stall_timeout: float = STALL_TIMEOUT,
        max_pending: int = MAX_PENDING,
        inbox_msgs: int = 65_536,
        inbox_bytes: int = 64 * 1024 * 1024,
    ) -> Self:
        """`router`: this router's name, one subject token. `inbox_*` bound what all streams together leave unprocessed."""
        streams = cls(bus, router, stall_timeout=stall_timeout, max_pending=max_pending)
        streams._source = await bus.client.subscribe(
            f"{streams._prefix}*",
            cb=streams._on_reply,
            pending_msgs_limit=inbox_msgs,
            pending_bytes_limit=inbox_bytes,
        )
        bus.on_slow[streams._source._id] = streams._on_dropped  # noqa: SLF001 - the error names its subscription by id only
        return streams

    def __len__(self) -> int:
        return len(self._streams)

    async def open(
        self,
        replica: str,
        request: Generate,
        *,
        headers: Mapping[str, str] | None = None,
        stall_timeout: float | None = None,
    ) -> ReplyStream:
        """Send `request` to `replica` and return the stream of its replies.

        Raises `DisconnectedError` at once when there is no connection, `PayloadTooLargeError` (answer HTTP 413) when
        the server would not take it. A missing worker shows on the stream, as `NoRespondersError`.
        """
        key = request.request_id
        if key in self._streams:
            raise ValueError(f"request {key} is already open")
        payload = encode(request)
        stream = ReplyStream(self, key, replica, stall_timeout or self._stall_timeout, self._max_pending)
        self._streams[key] = stream
        try:
            await self._bus.send(
                GENERATE.at(replica=replica), payload, reply=self._prefix + key, headers=headers
            )
        except BaseException:
            stream.fail(ReplyError(f"request {key} was not sent"))
            raise
        return stream

    async def send_cancel(self, stream: ReplyStream, reason: FailureCode) -> None:
        try:
            await self._bus.publish(
                CANCEL, Cancel(request_id=stream.key, reason=reason), replica=stream.replica
            )
        except DisconnectedError as error:  # the worker notices by itself: its chunks find no responder
            self._bus.faults.add(kinds.DROPPED, f"cancel of request {stream.key}: {error}")

    def forget(self, stream: ReplyStream) -> None:
        self._streams.pop(stream.key, None)

    async def close(self) -> None:
        """Fail what is still open, and stop listening."""
        for stream in list(self._streams.values()):
            stream.fail(ReplyError(f"request {stream.key}: the router is stopping"))
        if self._source is not None:
            await flushing.cancel(self._bus.client, self._source)
            self._source = None

    async def _on_reply(self, msg: Msg) -> None:
        stream = self._streams.get(msg.subject[len(self._prefix) :])
        if stream is None:
            return  # late: the stream was cancelled or has failed
        if msg.headers is not None and msg.headers.get("Status") == "503":
            stream.fail(
                NoRespondersError(f"request {stream.key}: nobody listens for replica {stream.replica}")
            )
            return
        try:
            reply: Reply = decode(Reply, msg.data, where=msg.subject)
        except ContractError as error:
            self._bus.faults.add(kinds.UNDECODABLE, str(error))
            stream.fail(ReplyError(str(error)))
            return
        stream.accept(reply)

    def _on_dropped(self, subject: str) -> None:
        stream = self._streams.get(subject[len(self._prefix) :])
        if stream is not None:
            stream.fail(
                SequenceGapError(f"request {stream.key}: a reply was dropped, this router's inbox is full")
            )
