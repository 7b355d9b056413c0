"""What the observer counts of the system it observes: each arrival and event once, whatever is delivered again."""

from collections import Counter
from collections.abc import Sequence

from opentelemetry import metrics

from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.contracts.messages.trace import Drifted, SnapshotReady
from autopoiesis.observer.rows import EventRow

_meter = metrics.get_meter("autopoiesis.observer")
_arrivals = _meter.create_counter(
    "autopoiesis_observer_arrivals", description="Requests that ended, and whether they met their objectives"
)
_events = _meter.create_counter(
    "autopoiesis_observer_events", description="Judgements, activations, faults and changes of plan"
)
_snapshots = _meter.create_counter("autopoiesis_observer_snapshots", description="Windows kept, by cause")
_drifts = _meter.create_counter("autopoiesis_observer_drifts", description="Features that moved")


def arrived(records: Sequence[RequestRecord]) -> None:
    for (scope, klass, met), count in Counter((r.scope, r.klass, r.met) for r in records).items():
        _arrivals.add(count, {"scope": scope, "slo_class": klass, "met": str(met).lower()})


def happened(rows: Sequence[EventRow]) -> None:
    for row in rows:
        _events.add(1, {"scope": row.scope, "kind": row.kind, "event": row.topic})


def kept(ready: SnapshotReady) -> None:
    _snapshots.add(1, {"scope": ready.scope, "cause": ready.cause})


def moved(drift: Drifted) -> None:
    _drifts.add(1, {"scope": drift.scope, "feature": drift.feature})
