"""One scope under observation: its recent arrivals and whether they drift."""

import logging
import time
from collections.abc import Callable, Sequence

from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.contracts.messages.trace import Drifted
from autopoiesis.observer.drift import TEST, DriftDetector, DriftRule
from autopoiesis.observer.recent import RecentArrivals
from autopoiesis.observer.settings import ObserverSettings

log = logging.getLogger(__name__)


class ScopeWatch:
    """Fed with records as they end, asked at will."""

    def __init__(
        self, scope: str, settings: ObserverSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self.scope = scope
        self.recent = RecentArrivals(settings.recent_arrivals)
        self.drifts: list[Drifted] = []
        """Newest last."""
        self.last_arrival_unix_s = 0.0
        self._settings, self._clock = settings, clock
        self._detector = DriftDetector(
            DriftRule(
                alpha=settings.drift_alpha,
                min_statistic=settings.drift_statistic,
                min_change=settings.drift_change,
            )
        )
        self._block_start = clock()

    def extend(self, records: Sequence[RequestRecord]) -> None:
        self.recent.extend(records)
        newest = max((record.arrival_unix_s for record in records), default=0.0)
        self.last_arrival_unix_s = max(self.last_arrival_unix_s, newest)

    def horizon_s(self) -> float:
        """Age at which nearly every arrival has ended: the 99th percentile of what recent ones took, within the settings' bounds."""
        now = self._clock()
        took = self.recent.between(now - self._settings.snapshot_window_s, now)["e2e_s"]
        if not took.size:
            return self._settings.settle_s
        slow = float(sorted(took)[min(took.size - 1, int(0.99 * took.size))])
        return min(max(slow, self._settings.settle_s), self._settings.settle_most_s)

    def look(self) -> list[Drifted]:
        """Compare the next block with the reference, if one is complete; returns what is confirmed to have moved."""
        now = self._clock()
        end = now - self.horizon_s()
        if end - self._block_start < self._settings.drift_block_s:
            return []
        block = self.recent.between(self._block_start, end)
        if block.size < self._settings.drift_block_arrivals:
            return []
        self._block_start = end
        found = [
            Drifted(
                scope=self.scope,
                at_unix_s=now,
                feature=shift.feature,
                test=TEST,
                statistic=shift.statistic,
                p_value=shift.p_value,
                before=shift.before,
                after=shift.after,
            )
            for shift in self._detector.offer(block)
        ]
        for drift in found:
            log.info(
                "observer: %s of %s moved from %.3g to %.3g",
                drift.feature,
                self.scope,
                drift.before,
                drift.after,
            )
        self.drifts = [*self.drifts, *found][-100:]
        return found
