"""One planner at a time: a lease on the bus, with an epoch that nodes compare."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from autopoiesis.contracts.messages.fleet import PlannerLease
from autopoiesis.contracts.subjects import PLANNER_LEASE, slug
from autopoiesis.runtime.bus import Bus, OutrunError, Received

log = structlog.get_logger(__name__)

TRUSTED: Final = 2 / 3
"""Share of the lease's time for which its holder trusts its last renewal; the rest is for clocks that run unevenly."""


class Lease:
    """Held by at most one planner, whatever clocks say: a write succeeds only over the message that its writer has read.

    A message counts as stale when it has been the newest for the lease's time on the reader's own monotonic clock; no two machines'
    clocks are compared. A holder that was stopped and wakes up late may still believe for a moment that it decides: nodes have then
    seen its successor's epoch and refuse it.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        scope: str,
        holder: str,
        duration_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.epoch = 0
        """Of the lease held now or last."""
        self._bus = bus
        self._scope = slug(scope)
        self._holder = holder
        self._duration_s = duration_s
        self._clock = clock
        self._until = -1.0
        self._newest = -1
        self._since = 0.0

    @property
    def held(self) -> bool:
        return self._clock() < self._until

    async def renew(self, seen_epoch: int) -> bool:
        """Renew the lease, or take it where nobody holds it. `seen_epoch`: the highest that nodes know of; a new one is higher.

        Raises BusError while the bus or its stream is away; the lease then runs out by itself.
        """
        started = self._clock()
        found = await self._bus.last(PLANNER_LEASE, scope=self._scope)
        sequence = found.sequence_read if found else 0
        if sequence != self._newest:
            self._newest, self._since = sequence, started
        record = self._next(found, seen_epoch)
        if record is None:
            self._until = -1.0
            return False
        try:
            self._newest = await self._bus.publish_after(PLANNER_LEASE, record, sequence, scope=self._scope)
        except OutrunError:
            self._until = -1.0
            return False
        if record.epoch != self.epoch:
            log.info("this planner decides", epoch=record.epoch)
        self.epoch, self._since, self._until = record.epoch, started, started + TRUSTED * self._duration_s
        return True

    async def release(self) -> None:
        """Let another planner take over at once. Raises BusError."""
        if self.held:
            self._until = -1.0
            record = PlannerLease(holder=self._holder, epoch=self.epoch, released=True)
            await self._bus.publish_after(PLANNER_LEASE, record, self._newest, scope=self._scope)

    def _next(self, found: Received[PlannerLease] | None, seen_epoch: int) -> PlannerLease | None:
        """What to write now; None where another planner holds the lease."""
        if found is None:
            return PlannerLease(holder=self._holder, epoch=max(seen_epoch, self.epoch) + 1)
        last = found.message
        if last.holder == self._holder and not last.released and last.epoch >= seen_epoch:
            return PlannerLease(holder=self._holder, epoch=last.epoch, renewal=last.renewal + 1)
        if last.released or last.holder == self._holder or self._clock() - self._since >= self._duration_s:
            return PlannerLease(holder=self._holder, epoch=max(seen_epoch, last.epoch) + 1)
        return None
