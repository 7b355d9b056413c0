"""Counted faults: what happened asynchronously and would otherwise be seen by nobody."""

import logging
from collections import Counter

from opentelemetry import metrics

log = logging.getLogger(__name__)

PERMISSION = "permission"
SLOW_CONSUMER = "slow_consumer"
CONNECTION = "connection"
HANDLER = "handler"
UNDECODABLE = "undecodable"
TERMINATED = "terminated"
DROPPED = "dropped"


class Faults:
    """Counts by kind; `faults[PERMISSION] == 0` is what tests and health checks look at."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._metric = metrics.get_meter("autopoiesis.bus").create_counter(
            "autopoiesis.bus.faults", description="Faults of the bus by kind"
        )
        self._last_connection_fault = ""

    def __getitem__(self, kind: str) -> int:
        return self._counts[kind]

    def snapshot(self) -> dict[str, int]:
        return dict(self._counts)

    def add(self, kind: str, message: str, *, error: BaseException | None = None) -> None:
        self._counts[kind] += 1
        self._metric.add(1, {"kind": kind})
        if kind == CONNECTION:  # one outage repeats the same error at every attempt
            if message == self._last_connection_fault:
                return
            self._last_connection_fault = message
        log.error("bus fault (%s): %s", kind, message, exc_info=error)

    def recovered(self) -> None:
        self._last_connection_fault = ""
