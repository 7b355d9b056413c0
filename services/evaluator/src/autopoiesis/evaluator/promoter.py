"""The one who speaks for the store: relays the outbox, repeats what is in force, guards what was promoted.

One process at a time does so, by a lock in PostgreSQL; the others wait for it.
"""

import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from autopoiesis.contracts.subjects import FAULTED, PROMOTED, REQUEST_TELEMETRY, ROLLED_BACK, Subject, slug
from autopoiesis.evaluator.guard import Guard
from autopoiesis.runtime.bus import Bus
from autopoiesis.store import Store, promotion
from autopoiesis.store.engine import Exclusive
from autopoiesis.store.relay import POLL_S, keep_relaying, relay

log = logging.getLogger(__name__)

OWNER = "evaluator"


class Promoter:
    """Publishes activations and judgements in the order they were decided, at least once.

    A stream that lost its contents heals when this starts: it publishes the activation in force of every (scope, kind)
    anew, and receivers that have it ignore it by its epoch.
    """

    def __init__(self, store: Store, bus: Bus, guard: Guard, *, poll_s: float = POLL_S) -> None:
        self._store = store
        self._bus = bus
        self._guard = guard
        self._poll_s = poll_s
        self.leading = False

    async def run(self) -> None:
        """For ever, until cancelled."""
        await keep_relaying(self._store, OWNER, self._publish, leading=self._lead, poll_s=self._poll_s)

    @asynccontextmanager
    async def _lead(self, lock: Exclusive) -> AsyncIterator[None]:
        await self._continue_epochs(lock)
        await relay(lock, OWNER, self._publish)
        await self._repeat(lock)
        async with AsyncExitStack() as stack:
            faults = await self._bus.consume(FAULTED, "evaluator-guard-faults", self._guard.on_fault)
            stack.push_async_callback(faults.cancel)
            self._guard.begin()
            requests = await self._bus.consume(
                REQUEST_TELEMETRY,
                "evaluator-guard-requests",
                self._guard.on_requests,
                since_s=self._guard.memory_s,
            )
            stack.push_async_callback(requests.cancel)
            self.leading = True
            try:
                yield
            finally:
                self.leading = False

    async def _continue_epochs(self, lock: Exclusive) -> None:
        """A database that is younger than what routers have heard of would speak to deaf ears."""
        kept = [item for subject in (PROMOTED, ROLLED_BACK) for item in await self._bus.last_all(subject)]
        newest = max((item.message.epoch for item in kept), default=0)
        async with lock.begin() as unit:
            if not await unit.activations.continue_after(newest):
                return
            log.warning("the bus remembers epoch %d, this database does not: going on above it", newest)
            for standing in await unit.activations.in_force():
                message = standing.message
                await promotion.promote(
                    unit,
                    message.scope,
                    message.kind,
                    message.hash,
                    expected=message.hash,
                    cause=f"restored: epochs go on above {newest}",
                )

    async def _repeat(self, lock: Exclusive) -> None:
        async with lock.begin() as unit:
            standings = await unit.activations.in_force()
        for standing in standings:
            message = standing.message
            log.info("in force: %s for %s since epoch %d", message.hash[:12], message.scope, message.epoch)
            await self._publish(
                promotion.subject_of(standing),
                message,
                msg_id=uuid.uuid4().hex,
                scope=slug(message.scope),
                kind=message.kind,
            )

    async def _publish(self, subject: Subject[Any], message: Any, *, msg_id: str, **tokens: str) -> None:
        await self._bus.publish_event(subject, message, msg_id=msg_id, timeout=30.0, **tokens)
