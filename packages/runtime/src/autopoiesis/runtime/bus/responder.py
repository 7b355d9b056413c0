"""The worker's side of a request: coalesced chunks, keep-alive, and noticing that the router has gone."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Self

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from autopoiesis.contracts.codec import encode
from autopoiesis.contracts.messages.infer import Chunk, Failed, FailureCode, Finished, FinishReason, Generate
from autopoiesis.runtime.bus import faults as kinds
from autopoiesis.runtime.bus import flushing
from autopoiesis.runtime.bus.connection import Bus
from autopoiesis.runtime.bus.received import Received

COALESCE: Final = 0.01
"""Seconds over which tokens of one request gather into one chunk; 0 sends one chunk per loop iteration."""
KEEPALIVE: Final = 5.0
"""Seconds after which a silent request sends an empty chunk, so that routers can tell queueing from a stall."""
WORKER_INBOX: Final = "_INBOX.worker"


class Responder:
    """Answers one request. Not thread-safe: belongs to the event loop."""

    __slots__ = (
        "_buffers",
        "_on_gone",
        "_owner",
        "_probe",
        "_reply",
        "_seq",
        "ended",
        "gone",
        "last_sent",
        "request_id",
    )

    def __init__(
        self, owner: "Responders", request_id: str, reply: str, on_gone: Callable[[], None] | None
    ) -> None:
        self.request_id = request_id
        self.gone = False
        """The router that asked has gone, or this worker was cut off from it."""
        self.ended = False
        self.last_sent = asyncio.get_running_loop().time()
        self._owner = owner
        self._reply = reply
        self._probe = owner.prefix + request_id
        self._on_gone = on_gone
        self._seq = 0
        self._buffers: dict[int, tuple[list[str], list[int], int]] = {}

    def write(self, text: str, *, tokens: int = 1, token_ids: tuple[int, ...] = (), index: int = 0) -> None:
        """Add to the stream, to be sent with whatever else is written within the coalescing time."""
        texts, ids, count = self._buffers.get(index) or ([], [], 0)
        texts.append(text)
        ids.extend(token_ids)
        self._buffers[index] = (texts, ids, count + tokens)
        self._owner.mark(self)

    async def delta(self, delta: msgspec.Raw, *, tokens: int = 0, index: int = 0) -> None:
        """Send an engine's own OpenAI delta, after what was written before it."""
        await self.chunk(delta=delta, tokens=tokens, index=index)

    async def chunk(self, **fields: Any) -> None:
        """Send a `Chunk` with these fields by itself, after what was written before it."""
        await self.flush()
        await self._send(Chunk(seq=self._next(), **fields))

    async def finish(
        self, finish_reason: FinishReason, *, prompt_tokens: int, output_tokens: int, **rest: Any
    ) -> None:
        """Send what waits, then `Finished`; `rest` are its other fields."""
        await self.flush()
        await self._end(
            Finished(
                seq=self._next(),
                finish_reason=finish_reason,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                **rest,
            )
        )

    async def fail(self, code: FailureCode, message: str, **rest: Any) -> None:
        """Send what waits, then `Failed`; `rest` are its other fields."""
        await self.flush()
        await self._end(Failed(seq=self._next(), code=code, message=message, **rest))

    async def flush(self) -> None:
        buffers, self._buffers = self._buffers, {}
        for index, (texts, ids, count) in buffers.items():
            await self._send(
                Chunk(seq=self._next(), text="".join(texts), tokens=count, token_ids=tuple(ids), index=index)
            )

    async def keep_alive(self) -> None:
        await self._send(Chunk(seq=self._next()))

    def router_gone(self) -> None:
        if not self.gone:
            self.gone = True
            self._owner.forget(self)
            if self._on_gone is not None and not self.ended:
                self._on_gone()

    def _next(self) -> int:
        seq, self._seq = self._seq, self._seq + 1
        return seq

    async def _end(self, last: Finished | Failed) -> None:
        if self.ended:
            raise RuntimeError(f"request {self.request_id} was already answered")
        self.ended = True
        self._owner.forget(self)
        await self._send(last)

    async def _send(self, message: Chunk | Finished | Failed) -> None:
        if self.gone:
            return
        self.last_sent = asyncio.get_running_loop().time()
        try:
            await self._owner.bus.client.publish(self._reply, encode(message), self._probe)
        except nats.errors.MaxPayloadError:
            await self._oversized(message)
        except nats.errors.Error as error:  # closed, or cut off for so long that the client's buffer is full
            self._owner.bus.faults.add(kinds.DROPPED, f"reply to request {self.request_id}: {error}")
            self.router_gone()

    async def _oversized(self, message: Chunk | Finished | Failed) -> None:
        self.ended = True
        self._owner.forget(self)
        text = f"an answer exceeds the bus's limit of {self._owner.bus.max_payload} bytes"
        await self._send(Failed(seq=message.seq, code="internal", message=text))


class Responders:
    """All requests in answer at one worker process.

    Each chunk names a reply subject of ours, ``_INBOX.worker.<worker>.<request>``, on which nobody answers except the
    server: when the router's inbox has gone it says "no responders" there, and `on_gone` is called.
    """

    def __init__(self, bus: Bus, worker: str, *, coalesce: float, keepalive: float) -> None:
        self.bus = bus
        self.prefix = f"{WORKER_INBOX}.{worker}."
        self._coalesce = coalesce
        self._keepalive = keepalive
        self._active: dict[str, Responder] = {}
        self._dirty: dict[str, Responder] = {}
        self._wake = asyncio.Event()
        self._source: NatsSubscription | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(
        cls, bus: Bus, worker: str, *, coalesce: float = COALESCE, keepalive: float = KEEPALIVE
    ) -> Self:
        """`worker`: this process's name, one subject token. Times are seconds."""
        responders = cls(bus, worker, coalesce=coalesce, keepalive=keepalive)
        responders._source = await bus.client.subscribe(f"{responders.prefix}*", cb=responders._on_status)
        responders._tasks = [
            asyncio.create_task(responders._pump(), name="responders pump"),
            asyncio.create_task(responders._keep_alive(), name="responders keep-alive"),
        ]
        return responders

    def __len__(self) -> int:
        return len(self._active)

    def respond(self, request: Received[Generate], on_gone: Callable[[], None] | None = None) -> Responder:
        """`on_gone` is called once, from the event loop, when the router has gone before the answer ended."""
        responder = Responder(self, request.message.request_id, request.reply, on_gone)
        self._active[responder.request_id] = responder
        return responder

    def mark(self, responder: Responder) -> None:
        self._dirty[responder.request_id] = responder
        self._wake.set()

    def forget(self, responder: Responder) -> None:
        self._active.pop(responder.request_id, None)
        self._dirty.pop(responder.request_id, None)

    async def close(self) -> None:
        """Stop coalescing and listening; answers should have ended before."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._source is not None:
            await flushing.cancel(self.bus.client, self._source)
            self._source = None

    async def _on_status(self, msg: Msg) -> None:
        if msg.headers is not None and msg.headers.get("Status") == "503":
            responder = self._active.get(msg.subject[len(self.prefix) :])
            if responder is not None:
                responder.router_gone()

    async def _pump(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            dirty, self._dirty = self._dirty, {}
            for responder in dirty.values():
                await responder.flush()
            await asyncio.sleep(self._coalesce)

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._keepalive / 5)
            now = asyncio.get_running_loop().time()
            for responder in list(self._active.values()):
                if now - responder.last_sent >= self._keepalive:
                    await responder.keep_alive()
