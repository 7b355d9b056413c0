"""From the bus to disk: a message is acknowledged when, and only when, its rows are on disk."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from opentelemetry import metrics

from autopoiesis.observer.segments import Batch, Segment, SegmentLog
from autopoiesis.runtime.bus import Delivered

log = logging.getLogger(__name__)
R = TypeVar("R", bound=msgspec.Struct)

MOST = 256
"""Messages per write."""
LINGER_S = 0.02
"""Seconds that a first message waits for company: one fsync then serves many."""
RETRY_S = 1.0
ROLL_S = 1.0

_meter = metrics.get_meter("autopoiesis.observer")
_rows = _meter.create_counter("autopoiesis_observer_rows", description="Telemetry rows stored")
_again = _meter.create_counter(
    "autopoiesis_observer_redelivered", description="Batches that were stored already"
)
_failed = _meter.create_counter(
    "autopoiesis_observer_write_failures", description="Writes that failed and were repeated"
)


class Ingest(Generic[R]):
    """Stores one kind of rows. `take` is a consumer's handler (manual acknowledgement); `run` does the work.

    `on_rows` sees the rows of each new batch, after they are safe; `on_segment` each segment that was closed.
    """

    def __init__(
        self,
        segments: SegmentLog[R],
        convert: Callable[[Delivered[Any]], Batch[R]],
        *,
        on_rows: Callable[[Sequence[R]], None] = lambda rows: None,
        on_segment: Callable[[Segment], None] = lambda segment: None,
    ) -> None:
        self.segments = segments
        self.lock = asyncio.Lock()
        """Held while the segment log is used: it has one writer."""
        self._convert = convert
        self._on_rows, self._on_segment = on_rows, on_segment
        self._queue: asyncio.Queue[Delivered[Any]] = asyncio.Queue()
        self._finishing = False

    async def take(self, delivered: Delivered[Any]) -> None:
        self._queue.put_nowait(delivered)

    async def run(self) -> None:
        """Store what comes until `finish` was called and nothing waits any more."""
        while not (self._finishing and self._queue.empty()):
            try:
                first = await asyncio.wait_for(self._queue.get(), ROLL_S)
            except TimeoutError:
                await self._roll()
                continue
            await asyncio.sleep(LINGER_S)
            await self.store([first, *self._waiting()])
            await self._roll()

    def finish(self) -> None:
        """Have `run` return; call it when no more messages come."""
        self._finishing = True

    async def store(self, messages: Sequence[Delivered[Any]]) -> None:
        """Write, tell, acknowledge. A disk that refuses is tried again for as long as it takes; nothing is acknowledged until then."""
        batches = [self._convert(message) for message in messages]
        await self.append(batches)
        for message in messages:
            await message.ack()

    async def append(self, batches: Sequence[Batch[R]]) -> None:
        """Write, then tell."""
        kind = {"kind": self.segments.kind}
        while True:
            try:
                async with self.lock:
                    fresh = await asyncio.to_thread(self.segments.append, batches)
                break
            except OSError as error:
                log.error(
                    "observer: %s cannot be written, nothing is acknowledged: %s", self.segments.root, error
                )
                _failed.add(1, kind)
                await asyncio.sleep(RETRY_S)
        _rows.add(sum(len(batch.rows) for batch in fresh), kind)
        _again.add(len(batches) - len(fresh), kind)
        for batch in fresh:
            self._on_rows(batch.rows)

    def _waiting(self) -> list[Delivered[Any]]:
        return [self._queue.get_nowait() for _ in range(min(MOST, self._queue.qsize()))]

    async def _roll(self) -> None:
        try:
            async with self.lock:
                segment = await asyncio.to_thread(self.segments.roll)
        except OSError as error:
            log.error("observer: a segment of %s cannot be closed yet: %s", self.segments.root, error)
            _failed.add(1, {"kind": self.segments.kind})
            return
        if segment is not None:
            self._on_segment(segment)
