"""A durable pull consumer that keeps itself alive."""

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from autopoiesis.contracts.codec import ContractError
from autopoiesis.contracts.subjects import Subject
from autopoiesis.runtime.bus import faults as kinds
from autopoiesis.runtime.bus import flushing
from autopoiesis.runtime.bus.errors import DisconnectedError
from autopoiesis.runtime.bus.received import Delivered, delivered
from autopoiesis.runtime.bus.tracing import processing

if TYPE_CHECKING:
    from autopoiesis.runtime.bus.connection import Bus

log = logging.getLogger(__name__)
M = TypeVar("M")
DeliveryHandler = Callable[[Delivered[M]], Awaitable[None]]

EXPIRES: Final = 30.0
IDLE_HEARTBEAT: Final = 2.0
"""A pull request that reaches a consumer as it is deleted is never answered: only missing heartbeats tell."""
NANO: Final = 1_000_000_000
IDLE, EXPIRED, NONE_LEFT = "100", "408", "404"


class Retry(Exception):  # noqa: N818 - a verdict of the handler, not an error
    """Raised by a handler: deliver this message again after `delay` seconds."""

    def __init__(self, delay: float) -> None:
        super().__init__(f"again in {delay:g} s")
        self.delay = delay


class Terminate(Exception):  # noqa: N818 - a verdict of the handler, not an error
    """Raised by a handler: never deliver this message again. The reason is logged and counted."""


class Consumer(Generic[M]):
    """Made by `Bus.consume`."""

    def __init__(
        self,
        bus: "Bus",
        subjects: tuple[Subject[Any], ...],
        durable: str,
        handler: DeliveryHandler[M],
        *,
        batch: int,
        workers: int,
        ack_wait: float,
        max_deliver: int,
        backoff: tuple[float, ...],
        manual_ack: bool,
        only_new: bool,
        since_s: float | None,
        filters: tuple[str, ...],
    ) -> None:
        streams = {subject.stream.name for subject in subjects if subject.stream is not None}
        if len(streams) != 1:
            raise ValueError(
                f"consumer {durable!r}: its subjects must be of one stream, not {sorted(streams) or 'none'}"
            )
        self.stream = streams.pop()
        self.durable = durable
        self.created = asyncio.Event()
        """Set once the consumer exists on the server."""
        self._bus = bus
        self._subjects = subjects
        self._handler = handler
        self._batch = batch
        self._workers = workers
        self._ack_wait = ack_wait
        self._max_deliver = max_deliver
        self._backoff = backoff
        self._manual = manual_ack
        self._anew = since_s is not None
        self._config = ConsumerConfig(
            durable_name=durable,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait,
            max_ack_pending=max(1000, 4 * batch),
            deliver_policy=_where_to_begin(only_new, since_s),
            opt_start_time=None if since_s is None else datetime.now(UTC) - timedelta(seconds=since_s),
            filter_subject=filters[0] if len(filters) == 1 else None,
            filter_subjects=list(filters) if len(filters) > 1 else None,
        )
        self._held: dict[int, Delivered[M]] = {}
        self._queue: asyncio.Queue[Delivered[M]] = asyncio.Queue()
        self._source: NatsSubscription | None = None
        self._inbox = bus.client.new_inbox()
        self._pull = 0
        self._outstanding = 0
        self._last_word = 0.0
        self._changed = asyncio.Event()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._source = await self._bus.client.subscribe(f"{self._inbox}.*", cb=self._on_message)
        self._bus.on_reconnect(self._renew)
        name = f"consumer {self.durable}"
        self._tasks = [
            asyncio.create_task(self._pull_loop(), name=name),
            asyncio.create_task(self._extend_loop(), name=name),
        ]
        self._tasks += [asyncio.create_task(self._work_loop(), name=name) for _ in range(self._workers)]

    async def drain(self) -> None:
        """Fetch no more, finish what handlers hold, give the rest back at once."""
        self._stop()
        if self._source is not None:
            source, self._source = self._source, None
            await flushing.drain(self._bus.client, source)
        while not self._queue.empty():
            self._queue.get_nowait()
            self._queue.task_done()
        await self._queue.join()
        for item in list(self._held.values()):
            await item.nak(0.0)
        await self.cancel()

    async def cancel(self) -> None:
        """Stop now; what is held is delivered again after `ack_wait`."""
        self._stop()
        if self._source is not None:
            source, self._source = self._source, None
            await flushing.cancel(self._bus.client, source)
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self) -> None:
        self._stopping = True
        self._changed.set()

    # -- pulling

    def _renew(self) -> None:
        """Create the consumer again if need be, and pull anew: requests do not survive their connection."""
        self.created.clear()
        self._outstanding = 0
        self._changed.set()

    async def _pull_loop(self) -> None:
        delay = 0.05
        while not self._stopping:
            self._changed.clear()  # before looking: what changes from here on ends the wait
            try:
                if not self.created.is_set():
                    await self._create()
                    delay = 0.05
                if self._outstanding == 0 and len(self._held) <= self._batch // 2:
                    await self._request(self._batch - len(self._held))
                await self._wait_for_change()
            except (nats.errors.Error, OSError, DisconnectedError) as error:
                log.info("bus: consumer %s of stream %s: %s; trying again", self.durable, self.stream, error)
                self._renew()
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, 5.0)

    async def _create(self) -> None:
        if not self._bus.connected:
            raise DisconnectedError("not connected to NATS")
        js = self._bus.client.jetstream()
        if self._anew:
            with contextlib.suppress(nats.js.errors.NotFoundError):
                await js.delete_consumer(self.stream, self.durable)
            self._anew = False
        await js.add_consumer(self.stream, self._config)
        self.created.set()

    async def _request(self, count: int) -> None:
        self._pull += 1
        self._outstanding = count
        self._last_word = asyncio.get_running_loop().time()
        request = {
            "batch": count,
            "expires": int(EXPIRES * NANO),
            "idle_heartbeat": int(IDLE_HEARTBEAT * NANO),
        }
        await self._bus.client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.durable}",
            json.dumps(request).encode(),
            f"{self._inbox}.{self._pull}",
        )

    async def _wait_for_change(self) -> None:
        silence = asyncio.get_running_loop().time() - self._last_word
        timeout = max(0.0, 2.5 * IDLE_HEARTBEAT - silence) if self._outstanding else None
        try:
            await asyncio.wait_for(self._changed.wait(), timeout)
        except TimeoutError:
            if asyncio.get_running_loop().time() - self._last_word >= 2.5 * IDLE_HEARTBEAT:
                raise DisconnectedError("the server's heartbeats stopped") from None

    async def _on_message(self, msg: Msg) -> None:
        self._last_word = asyncio.get_running_loop().time()
        if msg.subject.startswith(self._inbox):
            await self._on_status(msg)
            return
        self._outstanding = max(0, self._outstanding - 1)
        self._changed.set()
        subject = next(subject for subject in self._subjects if _matches(subject.pattern, msg.subject))
        try:
            item = delivered(subject, msg, self._answer)
        except ContractError as error:
            self._bus.faults.add(kinds.UNDECODABLE, f"{error}; terminated")
            await msg.term()
            return
        if item.sequence in self._held:
            return  # redelivered while its handler is still at work, which will acknowledge it
        if self._stopping:
            await item.nak(0.0)
            return
        self._held[item.sequence] = item
        self._queue.put_nowait(item)

    async def _on_status(self, msg: Msg) -> None:
        status = (msg.headers or {}).get("Status", "")
        if msg.subject != f"{self._inbox}.{self._pull}" or status == IDLE:
            return
        self._outstanding = 0
        if status not in (
            NONE_LEFT,
            EXPIRED,
        ):  # deleted, moved, or its server stops: find out by creating it again
            log.info(
                "bus: consumer %s: %s %s", self.durable, status, (msg.headers or {}).get("Description", "")
            )
            self.created.clear()
        self._changed.set()

    # -- handling

    async def _work_loop(self) -> None:
        while True:
            item = await self._queue.get()
            try:
                await self._handle(item)
            finally:
                self._queue.task_done()

    async def _handle(self, item: Delivered[M]) -> None:
        if (
            item.deliveries > self._max_deliver
        ):  # its handler never came to a verdict: it takes the process with it
            await self._give_up(item, f"delivered {item.deliveries - 1} times without a verdict")
            return
        final = item.deliveries == self._max_deliver
        with processing(item) as span:
            try:
                await self._handler(item)
            except Terminate as verdict:
                await self._give_up(item, str(verdict))
            except Retry as verdict:
                await (self._give_up(item, "still not done") if final else item.nak(verdict.delay))
            except Exception as error:
                span.record_exception(error)
                self._bus.faults.add(kinds.HANDLER, f"handler of {item.subject} raised", error=error)
                delay = self._backoff[min(item.deliveries, len(self._backoff)) - 1]
                await (self._give_up(item, repr(error)) if final else item.nak(delay))
            else:
                if not self._manual:
                    await item.ack()

    async def _give_up(self, item: Delivered[M], reason: str) -> None:
        where = f"{item.subject}: message {item.sequence} of stream {self.stream} terminated after {item.deliveries} deliveries"
        self._bus.faults.add(kinds.TERMINATED, f"{where}: {reason}")
        await item.terminate()

    async def _answer(self, item: Delivered[Any], verdict: bytes) -> None:
        if verdict != Msg.Ack.Progress:
            self._held.pop(item.sequence, None)
            self._changed.set()
        try:
            await self._bus.client.publish(item.reply, verdict)
        except nats.errors.Error as error:
            log.warning(
                "bus: %s: verdict on message %d was not sent, it will come again: %s",
                self.durable,
                item.sequence,
                error,
            )

    async def _extend_loop(self) -> None:
        while True:
            await asyncio.sleep(self._ack_wait / 3)
            if self._bus.connected:
                for item in list(self._held.values()):
                    await item.in_progress()


def _where_to_begin(only_new: bool, since_s: float | None) -> DeliverPolicy:
    if since_s is not None:
        return DeliverPolicy.BY_START_TIME
    return DeliverPolicy.NEW if only_new else DeliverPolicy.ALL


def _matches(pattern: str, name: str) -> bool:
    expected, actual = pattern.split("."), name.split(".")
    return len(expected) == len(actual) and all(
        token.startswith("{") or token == part for token, part in zip(expected, actual, strict=True)
    )
