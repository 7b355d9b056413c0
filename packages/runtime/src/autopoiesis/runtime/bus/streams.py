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


class Conversation:
    """What comes for one request: in order, without gaps and without long silence, or an error.

    Subclasses say what becomes of it, in `heard` and `over`, which must not block or raise.
    """

    __slots__ = ("_expected", "_owner", "_stall", "ended", "key", "replica", "silent")

    def __init__(self, owner: "RequestStreams", key: str, replica: str, stall: float | None = None) -> None:
        self.key = key
        self.replica = replica
        self.ended = False
        """Nothing more will arrive."""
        self.silent = 0.0
        """Seconds without a word, of those in which this process was awake."""
        self._owner = owner
        self._expected = 0
        self._stall = stall or owner.stall_timeout

    def heard(self, reply: Reply) -> None:
        raise NotImplementedError

    def over(self, error: ReplyError | None) -> None:
        """It ended: by its last reply, or by `error`."""
        raise NotImplementedError

    def accept(self, reply: Reply) -> None:
        if self.ended:
            return
        if reply.seq != self._expected:
            self.fail(
                SequenceGapError(f"request {self.key}: reply {self._expected} was lost, {reply.seq} arrived")
            )
            return
        self._expected += 1
        self.silent = 0.0
        if type(reply) is Chunk:
            self.heard(reply)
            return
        self.forget()
        self.heard(reply)
        self.over(None)

    def fail(self, error: ReplyError) -> None:
        if not self.ended:
            self.forget()
            self.over(error)

    def forget(self) -> None:
        """Hear nothing more of it."""
        self.ended = True
        self._owner.forget(self)

    def stalled(self, seconds: float, tolerance: float) -> bool:
        """Another `seconds` have passed without a word; whether they were too many, by `tolerance`."""
        self.silent += seconds
        return self.silent >= self._stall + tolerance

    def fail_stalled(self) -> None:
        self.fail(
            StalledError(f"request {self.key}: nothing from replica {self.replica} for {self._stall:g} s")
        )


class ReplyStream(Conversation):
    """The replies to one request, to be read one batch after the other.

    ``async for batch in stream`` (or `next_batch`) gives all replies that wait, coalesced; the last one of a stream
    that ends well is `Finished`, of one that the worker ended badly `Failed`. Anything else raises a `ReplyError`.
    """

    __slots__ = ("_failure", "_limit", "_pending", "_waiter")

    def __init__(
        self, owner: "RequestStreams", key: str, replica: str, stall: float | None, limit: int
    ) -> None:
        super().__init__(owner, key, replica, stall)
        self._limit = limit
        self._pending: list[Reply] = []
        self._waiter: asyncio.Future[None] | None = None
        self._failure: ReplyError | None = None

    async def next_batch(self) -> list[Reply]:
        """Every reply that waits, at least one; empty after the last. Raises the `ReplyError` that ended the stream."""
        while not self._pending:
            if self._failure is not None:
                raise self._failure
            if self.ended:
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
        if not self.ended:
            self.fail(ReplyError(f"request {self.key}: cancelled here ({reason})"))
            await self._owner.send_cancel(self, reason)

    def heard(self, reply: Reply) -> None:
        if len(self._pending) >= self._limit:
            self._failure = SlowReaderError(f"request {self.key}: {self._limit} chunks wait unread")
            self.forget()
        else:
            self._pending.append(reply)
        self._wake()

    def over(self, error: ReplyError | None) -> None:
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class RequestStreams:
    """Sends requests to replicas and hands each reply to its stream.

    One wildcard subscription, ``_INBOX.router.<router>.*``, carries all replies: nothing to subscribe per request,
    and one thing to restore after a reconnect.
    """

    def __init__(
        self, bus: Bus, router: str, *, stall_timeout: float = STALL_TIMEOUT, max_pending: int = MAX_PENDING
    ) -> None:
        self.stall_timeout = stall_timeout
        self._bus = bus
        self._prefix = f"{ROUTER_INBOX}.{router}."
        self._max_pending = max_pending
        self._streams: dict[str, Conversation] = {}
        self._source: NatsSubscription | None = None
        self._tick = min(1.0, stall_timeout / 8.0)
        self._ticked = 0.0
        self._timer: asyncio.TimerHandle | None = None

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
        stream = ReplyStream(self, request.request_id, replica, stall_timeout, self._max_pending)
        await self.send(stream, request, headers)
        return stream

    async def send(
        self, conversation: Conversation, request: Generate, headers: Mapping[str, str] | None = None
    ) -> None:
        """As `open`, for a conversation of the caller's own; an error that is raised is not told to it as well."""
        key = conversation.key
        if key in self._streams:
            raise ValueError(f"request {key} is already open")
        self._streams[key] = conversation
        if self._timer is None:
            self._watch()
        try:
            subject = GENERATE.at(replica=conversation.replica)
            await self._bus.send(subject, encode(request), reply=self._prefix + key, headers=headers)
        except BaseException:
            conversation.forget()
            raise

    async def send_cancel(self, stream: Conversation, reason: FailureCode) -> None:
        try:
            await self._bus.publish(
                CANCEL, Cancel(request_id=stream.key, reason=reason), replica=stream.replica
            )
        except DisconnectedError as error:  # the worker notices by itself: its chunks find no responder
            self._bus.faults.add(kinds.DROPPED, f"cancel of request {stream.key}: {error}")

    def forget(self, conversation: Conversation) -> None:
        self._streams.pop(conversation.key, None)

    async def close(self) -> None:
        """Fail what is still open, and stop listening."""
        for stream in list(self._streams.values()):
            stream.fail(ReplyError(f"request {stream.key}: the router is stopping"))
        if self._timer is not None:
            self._timer.cancel()
        if self._source is not None:
            await flushing.cancel(self._bus.client, self._source)
            self._source = None

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        self._ticked = loop.time()
        self._timer = loop.call_later(self._tick, self._look)

    def _look(self) -> None:
        """Count the silence of each conversation.

        A late look means that this process stood still, and that words may be waiting unread: that time does not count.
        """
        passed = min(asyncio.get_running_loop().time() - self._ticked, 2.0 * self._tick)
        for conversation in list(self._streams.values()):
            if conversation.stalled(passed, self._tick):
                conversation.fail_stalled()
        self._timer = None
        if self._streams:
            self._watch()

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
