"""What one request teaches as it goes: predictors, corrections, counters of service and of objectives met."""

from __future__ import annotations

from typing import Final

from autopoiesis.dispatch.events import Ended
from autopoiesis.dispatch.parties import NO_SESSION
from autopoiesis.dispatch.ticket import Ticket

REPLICA_FAILURES: Final = frozenset({"unavailable", "overloaded", "internal"})
"""Ends that count against the replica."""


def charge(now: float, ticket: Ticket, tokens: int) -> None:
    """Tokens were served to its tenant and session."""
    ticket.tenant.service.add(now, tokens)
    session = ticket.session
    if session is not NO_SESSION:
        session.service.add(now, tokens)


def first_token(at: float, ticket: Ticket) -> None:
    state = ticket.replica
    assert state is not None
    state.first_token(ticket)
    ticket.first_at = at
    if ticket.raw_ttft:
        state.latency.ttft_correction.observe(ticket.raw_ttft, at - ticket.sent_at)


def prefilled(now: float, ticket: Ticket) -> None:
    """Its replica is done. Where the first token comes from the one that decodes, this is when the prompt was computed."""
    state = ticket.replica
    assert state is not None
    if ticket.first_at is None:
        state.first_token(ticket)
        if ticket.raw_ttft:
            state.latency.ttft_correction.observe(ticket.raw_ttft, now - ticket.sent_at)
        ticket.raw_ttft = 0.0


def ended(now: float, ticket: Ticket, event: Ended, tokens: int) -> None:
    """Its replica ended it after `tokens` tokens. To be called while the ticket still names the replica."""
    state, model = ticket.replica, ticket.model
    assert state is not None
    if ticket.first_at is None and event.first_token_s > 0:
        first_token(min(now, ticket.sent_at + event.first_token_s), ticket)
    code = event.code
    if ticket.raw_tpot and code is None and tokens > 1 and ticket.first_at is not None:
        state.latency.tpot_correction.observe(ticket.raw_tpot, (now - ticket.first_at) / (tokens - 1))
    if code is not None or state.faults.rate:
        state.faults.observe(now, code in REPLICA_FAILURES)
    if model.kept.service:
        charge(now, ticket, tokens - ticket.charged)
    if event.prompt_tokens and ticket.event.prompt_bytes:
        model.counted(ticket.event.prompt_bytes, event.prompt_tokens)


def judged(now: float, ticket: Ticket, tokens: int, finished: bool) -> None:
    """An end of which the client heard: were the objectives met?"""
    traffic = ticket.model.traffic
    counts = traffic.current if now < traffic.until else traffic.at(now)
    counts.judged += 1
    if not finished:
        return
    counts.ends += 1
    counts.output_tokens += tokens
    if not ticket.model.kept.attainment:
        return
    event, first = ticket.event, ticket.first_at
    if (now if first is None else first) - ticket.arrival <= event.ttft_slo:
        pace = 0.0 if first is None or tokens < 2 else (now - first) / (tokens - 1)
        counts.met += pace <= event.tpot_slo


def refused(now: float, ticket: Ticket, *, rejected: bool) -> None:
    """A request that was never served missed its objectives; `rejected` where the policy wanted it so."""
    counts = ticket.model.traffic.at(now)
    counts.judged += 1
    counts.rejects += rejected
