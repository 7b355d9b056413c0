"""One trace from HTTP through the bus to the worker: a SERVER span per request, a CLIENT span per send."""

from __future__ import annotations

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from autopoiesis.router.flight import Flight
from autopoiesis.router.listening import Result
from autopoiesis.router.records import first_token_s


class Tracing:
    """Spans by OpenTelemetry's API; where nothing is `recording` them, a client's trace context is handed on as it came."""

    def __init__(self, *, recording: bool = True) -> None:
        self._recording = recording
        self._tracer = trace.get_tracer("autopoiesis.router")

    def begin(self, flight: Flight) -> None:
        """Open the SERVER span, under the client's own trace if it sent one."""
        if not self._recording:
            return
        context = propagate.extract(flight.identity.trace) if flight.identity.trace else None
        intake = flight.intake
        route = intake.route
        span = self._tracer.start_span(f"POST {route}", context=context, kind=SpanKind.SERVER)
        if span.is_recording():
            span.set_attributes(
                {
                    "http.request.method": "POST",
                    "http.route": route,
                    "gen_ai.operation.name": intake.operation,
                    "gen_ai.provider.name": "autopoiesis",
                    "gen_ai.request.model": intake.model,
                    "gen_ai.request.max_tokens": flight.max_tokens,
                    "gen_ai.request.choice.count": intake.n,
                    "gen_ai.request.stream": intake.stream,
                    "gen_ai.response.id": flight.request_id,
                }
            )
        flight.span = span

    def sent(self, flight: Flight) -> dict[str, str]:
        """Open the CLIENT span of one send; returns the headers that carry the trace to the worker."""
        if not self._recording:
            return flight.identity.trace
        self._close_send(flight)
        if flight.span is None or not flight.span.get_span_context().is_valid:
            return {}
        parent = trace.set_span_in_context(flight.span)
        name = f"{flight.intake.operation} {flight.intake.model}"
        span = self._tracer.start_span(name, context=parent, kind=SpanKind.CLIENT)
        if span.is_recording():
            span.set_attributes(
                {
                    "messaging.system": "nats",
                    "messaging.destination.template": "infer.{replica}",
                    "autopoiesis.replica": flight.replica,
                    "autopoiesis.attempt": flight.attempts,
                    "autopoiesis.prefill_only": flight.prefill_only,
                    "autopoiesis.hedge": flight.shadow,
                    "autopoiesis.policy": flight.policy,
                    "autopoiesis.epoch": flight.epoch,
                    "autopoiesis.fallback": flight.fallback,
                }
            )
        flight.send_span = span
        headers: dict[str, str] = {}
        propagate.inject(headers, trace.set_span_in_context(span))
        return headers

    def resumed(self, flight: Flight, reason: str) -> None:
        """Say on the SERVER span that another replica goes on, and behind how many tokens."""
        self._close_send(flight)
        if flight.span is not None:
            tokens = len(flight.token_ids)
            flight.span.add_event("resumed", {"autopoiesis.tokens": tokens, "autopoiesis.reason": reason})

    def hedged(self, flight: Flight, loser: Flight, result: Result) -> None:
        """Say on the SERVER span which of two attempts went on, and close the other one's."""
        self._close_send(loser)
        if flight.span is not None:
            facts = {"autopoiesis.hedge": result, "autopoiesis.replica": flight.replica}
            flight.span.add_event("hedged", {**facts, "autopoiesis.loser": loser.replica})

    def ended(self, flight: Flight) -> None:
        """Close what is open, with usage and what went wrong."""
        span = flight.span
        if span is not None and span.is_recording():
            self._describe(flight, span)
        self._close_send(flight)
        if span is not None:
            span.end()

    def _close_send(self, flight: Flight) -> None:
        if flight.send_span is not None:
            flight.send_span.end()
            flight.send_span = None

    def _describe(self, flight: Flight, span: Span) -> None:
        span.set_attribute("gen_ai.usage.output_tokens", flight.output_tokens)
        first_s = first_token_s(flight)
        if first_s is not None:
            span.set_attribute("gen_ai.response.time_to_first_chunk", first_s)
        if flight.finished is not None:
            span.set_attribute("gen_ai.response.finish_reasons", [flight.finished.finish_reason])
            span.set_attribute("gen_ai.usage.input_tokens", flight.finished.prompt_tokens)
            span.set_attribute("gen_ai.usage.cache_read.input_tokens", flight.finished.cached_tokens)
        if flight.error:
            span.set_attribute("error.type", flight.error)
        if flight.outcome == "failed":
            span.set_status(Status(StatusCode.ERROR, flight.error))
