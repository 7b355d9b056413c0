"""Whether a request could still have its first token in time, anywhere."""

from __future__ import annotations

from collections.abc import Mapping

from autopoiesis.dispatch.models import Offer
from autopoiesis.dispatch.ticket import Ticket


def too_late(now: float, ticket: Ticket, offer: Offer, hits: Mapping[int, int], factor: float) -> bool:
    """By every replica's prediction the first token comes later than `factor` times the objective.

    `hits`: prompt tokens believed cached, by replica slot. A replica whose pace is not known is given the benefit of doubt.
    """
    left = ticket.arrival + factor * ticket.event.ttft_slo - now
    for state in offer.states:
        if state.beat is None or state.beat.step_model is None:
            return False
        if state.stale:
            state.predict(now, offer.routers)
        if state.latency.ttft(max(0, ticket.prompt_tokens - hits.get(state.slot, 0))) <= left:
            return False
    return True
