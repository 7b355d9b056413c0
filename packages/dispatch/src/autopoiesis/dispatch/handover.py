"""Prefill and decode apart: where a computed prompt goes on, and what it costs to move its KV cache there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from autopoiesis.policy.api import Assign

if TYPE_CHECKING:
    from autopoiesis.dispatch.control import Control
    from autopoiesis.dispatch.deciding import Decider
    from autopoiesis.dispatch.models import Offer
    from autopoiesis.dispatch.replicas import ReplicaState
    from autopoiesis.dispatch.ticket import Ticket


def transfer_time(state: ReplicaState, ticket: Ticket) -> float:
    """Seconds to move the prompt's KV cache to `state`: from where it is, or before any send from another node.

    0 where it is there already, and where heartbeats do not tell sizes or speeds.
    """
    source, beat = ticket.replica, state.beat
    if source is state or beat is None or not beat.kv_token_bytes:
        return 0.0
    links = [beat]
    if source is not None and source.beat is not None:
        links.append(source.beat)
    near = source is not None and source.view.node == state.view.node
    bandwidth = min(link.link_bandwidth if near else link.network_bandwidth for link in links)
    return ticket.prompt_tokens * beat.kv_token_bytes / bandwidth if bandwidth else 0.0


def place(
    now: float, ticket: Ticket, offer: Offer, control: Control, fault: Callable[[Exception], None]
) -> tuple[ReplicaState, bool]:
    """The replica that decodes, and whether the fallback chose it: named by `route`, else by `place_decode`.

    A policy that names one that only computes prompts is at fault. Where no other is ready the prompt stays where it is.
    """
    source, named = ticket.replica, ticket.decode
    assert source is not None
    if named is not None and named in offer.states and named.view.role != "prefill":
        return named, False
    if not offer.states:
        return source, True
    if control.decider.places and not control.quarantined:
        try:
            return _asked(now, ticket, offer, control.decider), False
        except Exception as error:
            fault(error)
    best = control.fallback.place_decode(now, ticket, offer)
    assert isinstance(best, Assign)
    chosen = offer.states[best.replica]
    return (source if chosen.view.role == "prefill" else chosen), True


def _asked(now: float, ticket: Ticket, offer: Offer, decider: Decider) -> ReplicaState:
    answer = decider.place_decode(now, ticket, offer)
    if not isinstance(answer, Assign):
        raise TypeError(f"place_decode returned {answer!r}; it returns Assign(index)")
    state = offer.states[answer.replica]
    if state.view.role == "prefill":
        raise ValueError(f"place_decode chose replica {answer.replica}, which only computes prompts")
    return state


def move(now: float, ticket: Ticket, target: ReplicaState, routers: int) -> None:
    """Account for the request at `target` from now on; its prompt is no work there, but held KV."""
    source = ticket.replica
    assert source is not None
    source.ended(ticket)
    if ticket.raw_tpot:
        if target.stale:
            target.predict(now, routers)
        ticket.raw_tpot = target.latency.raw_tpot(ticket.prompt_tokens)
    ticket.uncached = 0
    target.sent(now, ticket)
    target.generated(ticket.prompt_tokens)
