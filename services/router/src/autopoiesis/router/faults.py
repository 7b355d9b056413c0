"""`policy.faulted` events, at a rate that a policy which faults on every request cannot turn into a flood."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from autopoiesis.contracts.messages.policy import Faulted
from autopoiesis.dispatch.events import Fault

log = structlog.get_logger(__name__)

Publish = Callable[[Faulted, str], Awaitable[None]]
"""Stores the event under a name that makes a second try harmless."""

INTERVAL_S: Final = 1.0


class FaultReports:
    """Reports at most one fault per policy and second; a quarantine is always reported."""

    def __init__(
        self, publish: Publish, *, scope: str, service: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._publish = publish
        self._scope = scope
        self._service = service
        self._clock = clock
        self._reported: dict[str, float] = {}
        self._quarantined = ""
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.suppressed = 0
        """Faults that were counted in `strikes` but not reported one by one."""

    def report(self, fault: Fault) -> None:
        now = self._clock()
        news = fault.quarantined and self._quarantined != fault.hash
        if not news and now - self._reported.get(fault.hash, -INTERVAL_S) < INTERVAL_S:
            self.suppressed += 1
            return
        if news:
            self._quarantined = fault.hash
        self._reported = {fault.hash: now}
        self._number += 1
        log.warning(
            "policy fault", hash=fault.hash, fault=fault.fault, line=fault.line, quarantined=fault.quarantined
        )
        event = Faulted(
            scope=self._scope,
            kind="dispatch",
            epoch=fault.epoch,
            hash=fault.hash,
            service=self._service,
            fault=fault.fault,
            line=fault.line,
            strikes=fault.strikes,
            quarantined=fault.quarantined,
            at_unix_s=time.time(),
        )
        task = asyncio.create_task(self._send(event, f"{self._service}-fault-{self._number}"))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def flush(self, timeout_s: float) -> None:
        """Wait for what is on its way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def _send(self, event: Faulted, name: str) -> None:
        try:
            await self._publish(event, name)
        except Exception as error:
            log.warning("policy fault not stored", hash=event.hash, error=repr(error))
