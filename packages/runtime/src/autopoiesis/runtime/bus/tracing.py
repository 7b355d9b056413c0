"""Trace context over NATS: in the headers of requests, jobs and events, never of chunks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind

from autopoiesis.contracts.subjects import Subject
from autopoiesis.runtime.bus.received import Received

_tracer = trace.get_tracer("autopoiesis.bus")


@contextmanager
def publishing(subject: Subject[Any]) -> Iterator[dict[str, str]]:
    """A PRODUCER span ``<pattern> publish``; yields the headers that carry it."""
    with _tracer.start_as_current_span(
        f"{subject.pattern} publish",
        kind=SpanKind.PRODUCER,
        attributes=_attributes(subject.pattern, "publish"),
    ):
        headers: dict[str, str] = {}
        propagate.inject(headers)
        yield headers


@contextmanager
def processing(item: Received[Any]) -> Iterator[Span]:
    """A CONSUMER span ``<pattern> process``, child of the span in the message's headers."""
    with _tracer.start_as_current_span(
        f"{item.pattern} process",
        context=propagate.extract(item.headers),
        kind=SpanKind.CONSUMER,
        attributes=_attributes(item.pattern, "process"),
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield span


def _attributes(pattern: str, operation: str) -> dict[str, str]:
    return {
        "messaging.system": "nats",
        "messaging.destination.template": pattern,
        "messaging.operation.type": operation,
    }
