"""Everything that is told to the outside about requests and policies: metrics, spans, telemetry, faults."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from autopoiesis.dispatch import events as ev
from autopoiesis.router.faults import FaultReports
from autopoiesis.router.fleet import Fleet
from autopoiesis.router.flight import Flight
from autopoiesis.router.listening import Result
from autopoiesis.router.metrics import Metrics
from autopoiesis.router.records import record
from autopoiesis.router.shipping import Shipper
from autopoiesis.router.tracing import Tracing

log = structlog.get_logger(__name__)

SETTLE_S: Final = 0.05
SETTLE: Final = 64
"""Ended requests are counted and recorded together, after so long or when there are so many: that halves what each costs."""
_NOTHING: Final = msgspec.Raw()


class Reporting:
    """The `Listener` of `Serving`."""

    def __init__(
        self,
        metrics: Metrics,
        tracing: Tracing,
        shipper: Shipper,
        faults: FaultReports,
        fleet: Fleet,
        *,
        scope: str,
    ) -> None:
        self._metrics = metrics
        self._tracing = tracing
        self._shipper = shipper
        self._faults = faults
        self._fleet = fleet
        self._scope = scope
        self._over: list[tuple[Flight, float]] = []

    def begun(self, flight: Flight) -> None:
        self._tracing.begin(flight)

    def decided(self, seconds: float) -> None:
        self._metrics.decided(seconds)

    def sent(self, flight: Flight) -> dict[str, str]:
        return self._tracing.sent(flight)

    def resumed(self, flight: Flight, reason: str) -> None:
        self._tracing.resumed(flight, reason)
        self._metrics.resumed()
        log.info(
            "stream goes on elsewhere", request=flight.request_id, tokens=len(flight.token_ids), reason=reason
        )

    def hedged(self, flight: Flight, loser: Flight, result: Result) -> None:
        self._tracing.hedged(flight, loser, result)
        self._metrics.hedged(result)

    def ended(self, flight: Flight, now: float) -> None:
        self._tracing.ended(flight)
        flight.body, flight.intake.prompt = _NOTHING, b""
        if not self._over:
            asyncio.get_running_loop().call_later(SETTLE_S, self.settle)
        self._over.append((flight, now))
        if len(self._over) >= SETTLE:
            self.settle()

    def settle(self) -> None:
        """Count and record what has ended; called before anybody reads."""
        over, self._over = self._over, []
        for flight, now in over:
            entry = record(flight, now, scope=self._scope, gpu=self._fleet.gpu(flight.replica))
            self._metrics.ended(flight.intake.operation, entry)
            if flight.intake.generates:
                self._shipper.add(entry)

    def fault(self, fault: ev.Fault) -> None:
        self._metrics.fault(fault)
        self._faults.report(fault)

    def swapped(self, swapped: ev.Swapped) -> None:
        self._metrics.swapped(swapped)
        if swapped.refused:
            log.error("activation refused", hash=swapped.hash, epoch=swapped.epoch, reason=swapped.refused)
        else:
            log.info("policy swapped", hash=swapped.hash, epoch=swapped.epoch)
