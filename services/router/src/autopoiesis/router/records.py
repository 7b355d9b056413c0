"""The telemetry record of one arrival."""

from __future__ import annotations

from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.router.flight import Flight


def first_token_s(flight: Flight) -> float | None:
    """Seconds from arrival to the first token, none if there was none.

    Where the answer is not streamed the worker says when its first token came, on its own clock, from receipt.
    """
    if flight.first_token is not None:
        return flight.first_token - flight.arrival
    finished = flight.finished
    if finished is None or flight.sent is None or finished.output_tokens == 0:
        return None
    return flight.sent - flight.arrival + finished.first_token_s


def pace_s(flight: Flight, first_s: float | None) -> float | None:
    """Mean seconds per output token after the first, none with fewer than two tokens."""
    if first_s is None or flight.output_tokens < 2:
        return None
    return max(0.0, flight.last_token - flight.arrival - first_s) / (flight.output_tokens - 1)


def record(flight: Flight, now: float, *, scope: str, gpu: str) -> RequestRecord:
    """What happened to `flight`, which ended at `now`."""
    assert flight.outcome is not None, "only an ended flight has a record"
    intake, identity, finished = flight.intake, flight.identity, flight.finished
    ttft_s = first_token_s(flight)
    return RequestRecord(
        request_id=flight.request_id,
        scope=scope,
        model=intake.model,
        arrival_unix_s=flight.arrival_unix,
        stream=intake.stream,
        prompt_bytes=intake.prompt_bytes,
        prompt_tokens=(finished.prompt_tokens if finished else 0) or flight.prompt_tokens,
        prompt_tokens_estimated=flight.prompt_tokens,
        max_tokens=flight.max_tokens,
        output_tokens=flight.output_tokens,
        output_censored=finished is None or finished.finish_reason not in {"stop", "tool_calls"},
        outcome=flight.outcome,
        error=flight.error,
        klass=identity.klass,
        priority=identity.priority,
        tenant=identity.tenant,
        session=identity.session,
        workflow=identity.workflow,
        block_hashes=flight.block_hashes,
        ttft_slo_s=identity.ttft_slo_s,
        tpot_slo_s=identity.tpot_slo_s,
        queue_wait_s=(now if flight.sent is None else flight.sent) - flight.arrival,
        ttft_s=ttft_s,
        tpot_s=pace_s(flight, ttft_s),
        e2e_s=now - flight.arrival,
        replica=flight.replica,
        gpu=gpu,
        attempts=flight.attempts,
        holds=flight.holds,
        epoch=flight.epoch,
        policy=flight.policy,
        fallback=flight.fallback,
        fuel=flight.fuel,
    )
