"""The newest message per subject, kept current without a gap."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

import nats.errors

from autopoiesis.contracts.subjects import Subject
from autopoiesis.runtime.bus import faults as kinds
from autopoiesis.runtime.bus.errors import BusError
from autopoiesis.runtime.bus.received import Received
from autopoiesis.runtime.bus.subscription import Subscription

if TYPE_CHECKING:
    from autopoiesis.runtime.bus.connection import Bus

log = logging.getLogger(__name__)
M = TypeVar("M")


class Watch(Generic[M]):
    """Made by `Bus.watch_last`. A plain subscription recovers at once after a reconnect, and a re-read fills its gap."""

    def __init__(
        self,
        bus: "Bus",
        subject: Subject[M],
        handler: Callable[[Received[M]], None],
        live: Subscription[M],
        tokens: Mapping[str, str],
    ) -> None:
        self.synced = asyncio.Event()
        """Set once the stored messages have been read since the last (re)connect."""
        self._bus = bus
        self._subject = subject
        self._handler = handler
        self._live = live
        self._tokens = tokens
        self._stale = asyncio.Event()
        self._stale.set()
        bus.on_reconnect(self._reread)
        self._task = asyncio.create_task(self._read(), name=f"watch {subject.pattern}")

    async def wait_synced(self, timeout: float) -> bool:
        try:
            await asyncio.wait_for(self.synced.wait(), timeout)
        except TimeoutError:
            log.warning(
                "bus: stored messages of %s could not be read yet; still trying", self._subject.pattern
            )
            return False
        return True

    async def drain(self) -> None:
        await self.cancel()
        await self._live.drain()

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._live.cancel()

    def _reread(self) -> None:
        self.synced.clear()
        self._stale.set()

    async def _read(self) -> None:
        delay = 0.05
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                messages = await self._bus.last_all(self._subject, **self._tokens)
            except (BusError, nats.errors.Error) as error:
                log.info("bus: reading stored messages of %s: %s", self._subject.pattern, error)
                self._stale.set()
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)
                continue
            delay = 0.05
            for item in messages:
                try:
                    self._handler(item)
                except Exception as error:
                    self._bus.faults.add(kinds.HANDLER, f"handler of {item.subject} raised", error=error)
            if not self._stale.is_set():
                self.synced.set()
