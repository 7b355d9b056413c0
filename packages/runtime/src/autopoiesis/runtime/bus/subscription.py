"""A core subscription: decode, then call or enqueue."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, cast

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from autopoiesis.contracts.codec import ContractError
from autopoiesis.contracts.subjects import Subject
from autopoiesis.runtime.bus import faults as kinds
from autopoiesis.runtime.bus import flushing
from autopoiesis.runtime.bus.faults import Faults
from autopoiesis.runtime.bus.received import Received, received

M = TypeVar("M")
Handler = Callable[[Received[M]], None] | Callable[[Received[M]], Awaitable[None]]


class Subscription(Generic[M]):
    """Made by `Bus.subscribe`."""

    def __init__(
        self,
        client: Client,
        subject: Subject[M],
        handler: Handler[M],
        faults: Faults,
        *,
        workers: int,
        bound: int,
    ) -> None:
        self._client = client
        self._subject = subject
        self._handler: Callable[[Received[M]], Any] = handler
        self._faults = faults
        self._queue: asyncio.Queue[Received[M]] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._source: NatsSubscription | None = None
        if inspect.iscoroutinefunction(handler):
            self._queue = asyncio.Queue(bound)
            self._tasks = [
                asyncio.create_task(self._work(self._queue), name=f"{subject.pattern} worker")
                for _ in range(workers)
            ]

    async def start(self, name: str, queue_group: str, pending_msgs: int, pending_bytes: int) -> None:
        self._source = await self._client.subscribe(
            name,
            queue_group,
            self._on_message,
            pending_msgs_limit=pending_msgs,
            pending_bytes_limit=pending_bytes,
        )

    async def drain(self) -> None:
        """Receive no more; return when everything received has been handled."""
        if self._source is not None:
            source, self._source = self._source, None
            await flushing.drain(self._client, source)
        if self._queue is not None:
            await self._queue.join()
        await self.cancel()

    async def cancel(self) -> None:
        """Receive and handle no more."""
        if self._source is not None:
            source, self._source = self._source, None
            await flushing.cancel(self._client, source)
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _on_message(self, msg: Msg) -> None:
        try:
            item = received(self._subject, msg)
        except ContractError as error:
            self._faults.add(kinds.UNDECODABLE, str(error))
            return
        if self._queue is None:
            try:
                self._handler(item)
            except Exception as error:
                self._faults.add(kinds.HANDLER, f"handler of {msg.subject} raised", error=error)
            return
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            self._faults.add(kinds.SLOW_CONSUMER, f"{msg.subject}: dropped a message, its handlers are busy")

    async def _work(self, queue: asyncio.Queue[Received[M]]) -> None:
        while True:
            item = await queue.get()
            try:
                await cast("Awaitable[None]", self._handler(item))
            except Exception as error:
                self._faults.add(kinds.HANDLER, f"handler of {item.subject} raised", error=error)
            finally:
                queue.task_done()
