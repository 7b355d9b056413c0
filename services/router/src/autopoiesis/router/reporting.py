"""Everything that is told to the outside about requests and policies: metrics, spans, telemetry, faults."""

from __future__ import annotations

import structlog

from autopoiesis.dispatch import events as ev
from autopoiesis.router.faults import FaultReports
from autopoiesis.router.fleet import Fleet
from autopoiesis.router.flight import Flight
from autopoiesis.router.metrics import Metrics
from autopoiesis.router.records import record
from autopoiesis.router.shipping import Shipper
from autopoiesis.router.tracing import Tracing

log = structlog.get_logger(__name__)


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

    def ended(self, flight: Flight, now: float) -> None:
        self._tracing.ended(flight)
        self._metrics.ended(flight, now)
        if flight.intake.generates:
            self._shipper.add(record(flight, now, scope=self._scope, gpu=self._fleet.gpu(flight.replica)))

    def fault(self, fault: ev.Fault) -> None:
        self._metrics.fault(fault)
        self._faults.report(fault)

    def swapped(self, swapped: ev.Swapped) -> None:
        self._metrics.swapped(swapped)
        if swapped.refused:
            log.error("activation refused", hash=swapped.hash, epoch=swapped.epoch, reason=swapped.refused)
        else:
            log.info("policy swapped", hash=swapped.hash, epoch=swapped.epoch)
