"""Telemetry on its way out: batched, sent at least once under one name, bounded while the bus is away."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from autopoiesis.contracts.messages.telemetry import RequestBatch, RequestRecord

log = structlog.get_logger(__name__)

Publish = Callable[[RequestBatch, str], Awaitable[None]]
"""Stores a batch under a name that makes a second try harmless; raises where it cannot say that it was stored."""

BATCH_RECORDS: Final = 200
BATCH_BYTES: Final = 512 * 1024
"""Well under the bus's payload limit, since long prompts carry many block hashes."""
_RECORD_BYTES, _HASH_BYTES = 800, 20
_RETRY_S: Final = 1.0


class Shipper:
    """Ships records in batches of at most `BATCH_RECORDS`, every `interval_s` seconds or when one is full.

    While publishing fails the same batch is tried again; records wait behind it, at most `capacity` of them: beyond
    that the oldest are dropped and counted in `dropped`.
    """

    def __init__(
        self,
        publish: Publish,
        *,
        router: str,
        incarnation: str,
        interval_s: float = 0.5,
        capacity: int = 50_000,
        wanted: bool = True,
    ) -> None:
        """Nothing is kept where it is not `wanted`, for there is no bus, nor will be."""
        self._publish = publish
        self._router = router
        self._incarnation = incarnation
        self._interval_s = interval_s
        self._waiting: deque[RequestRecord] = deque(maxlen=capacity)
        self._full = asyncio.Event()
        self._batch: RequestBatch | None = None
        self._shipping = asyncio.Lock()
        self._number = 0
        self._failing = False
        self._wanted = wanted
        self.dropped = 0

    def add(self, record: RequestRecord) -> None:
        if not self._wanted:
            return
        if len(self._waiting) == self._waiting.maxlen:
            self.dropped += 1
        self._waiting.append(record)
        if len(self._waiting) >= BATCH_RECORDS:
            self._full.set()

    async def run(self) -> None:
        """Ship until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            if not await self._ship():
                await asyncio.sleep(_RETRY_S)

    async def flush(self, timeout_s: float) -> int:
        """Ship all that waits, for at most `timeout_s` seconds. Returns how many records were left behind."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._ship():  # noqa: ASYNC110 - a retry, not a poll
                    await asyncio.sleep(_RETRY_S)
        except TimeoutError:
            log.warning("telemetry left behind", records=self.waiting)
        return self.waiting

    @property
    def waiting(self) -> int:
        """Records not yet known to be stored."""
        return len(self._waiting) + (len(self._batch.records) if self._batch else 0)

    async def _ship(self) -> bool:
        async with self._shipping:
            while self._batch or self._waiting:
                self._batch = self._batch or self._form()
                name = f"{self._router}-{self._incarnation}-{self._batch.batch}"
                try:
                    await self._publish(self._batch, name)
                except Exception as error:
                    level = log.debug if self._failing else log.warning
                    level(
                        "telemetry is not stored; keeping it and trying again", batch=name, error=repr(error)
                    )
                    self._failing = True
                    return False
                if self._failing:
                    log.info("telemetry is stored again", waiting=self.waiting, dropped=self.dropped)
                self._failing = False
                self._batch = None
        return True

    def _form(self) -> RequestBatch:
        records: list[RequestRecord] = []
        size = 0
        while self._waiting and len(records) < BATCH_RECORDS:
            size += _RECORD_BYTES + _HASH_BYTES * len(self._waiting[0].block_hashes)
            if records and size > BATCH_BYTES:
                break
            records.append(self._waiting.popleft())
        self._number += 1
        return RequestBatch(
            router=self._router, incarnation=self._incarnation, batch=self._number, records=tuple(records)
        )
