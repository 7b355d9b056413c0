"""One replica as this router sees it: its last heartbeat, corrected by what this router did since."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.dispatch.estimators import Decaying, FaultRate
from autopoiesis.dispatch.latency import UNKNOWN, Latency
from autopoiesis.policy.api import Replica

if TYPE_CHECKING:
    from autopoiesis.dispatch.models import ModelState
    from autopoiesis.dispatch.ticket import Ticket

PREFILL_RATE_HALF_LIFE_S: Final = 10.0
PER_SECOND: Final = math.log(2) / PREFILL_RATE_HALF_LIFE_S
"""Turns a sum that decays with that half-life into a rate."""


class ReplicaState:
    """`view` is what policies read. Sends whose `nth` the heartbeat has not received are *fresh*: its figures miss them."""

    __slots__ = (
        "_ended",
        "_fresh",
        "_fresh_live",
        "_prefill_sent",
        "beat",
        "beat_at",
        "faults",
        "flights",
        "fresh_kv",
        "fresh_prefill",
        "held",
        "latency",
        "model",
        "name",
        "notice_at",
        "nth",
        "queued",
        "ready",
        "slot",
        "stale",
        "view",
    )

    def __init__(self, name: str, slot: int, identity: int, model: ModelState) -> None:
        self.name = name
        self.slot = slot
        self.model = model
        self.view = Replica()
        self.view.id = identity
        self.beat: Heartbeat | None = None
        self.beat_at = -math.inf
        self.notice_at = math.inf
        self.ready = False
        self.nth = 0
        self.flights: dict[str, Ticket] = {}
        self.latency = Latency()
        self.faults = FaultRate()
        self.stale = True
        """Predictions are to be computed anew."""
        self._prefill_sent = Decaying(PREFILL_RATE_HALF_LIFE_S)
        self._fresh: deque[tuple[int, Ticket]] = deque()  # with their `nth`; ended ones stay in
        self._clear()
        self._settle()

    def _clear(self) -> None:
        self._fresh_live = 0
        self.fresh_prefill = 0
        """Prompt tokens of fresh sends without a first token."""
        self.fresh_kv = 0
        """Prompt tokens of fresh sends."""

    def _settle(self) -> None:
        """Start from the heartbeat's figures."""
        beat = self.beat
        self._ended = 0  # included sends that ended since
        self.queued = beat.queued_prefill_tokens if beat else 0
        """Less those of included sends that got a first token since; below 0 where these were not queued."""
        self.held = beat.kv_used_tokens if beat else 0
        """With what came since, without what ended since; below 0 where estimates were too large."""

    def _touch(self) -> None:
        """The corrected fields and the predictions are to be computed anew. Written out where a request passes."""
        self.stale = True
        self.model.touched[self] = None

    @property
    def leaving(self) -> bool:
        """It said goodbye: that it takes no requests any more is no failure, and says nothing of its node."""
        return self.beat is not None and self.beat.state in {"draining", "stopped"}

    def void(self) -> list[Ticket]:
        """The engine is gone or new: forget what was in it and return the requests that were running there."""
        orphans = list(self.flights.values())
        self.flights.clear()
        self._fresh.clear()
        self._clear()
        self._settle()
        self.ready = False
        self._touch()
        return orphans

    def heard(self, now: float, beat: Heartbeat, acked: int) -> None:
        """A new heartbeat that includes all sends up to number `acked`."""
        self.beat = beat
        self.beat_at = now
        self.notice_at = math.inf if beat.notice_s is None else now + beat.notice_s
        self.ready = beat.state == "ready"
        self._settle()
        fresh = self._fresh
        while fresh and fresh[0][0] <= acked:
            nth, ticket = fresh.popleft()
            if ticket.replica is self and ticket.nth == nth:
                self._unfreshen(ticket)
                ticket.included = True
        self._touch()

    def _unfreshen(self, ticket: Ticket) -> None:
        self._fresh_live -= 1
        self.fresh_kv -= ticket.uncached
        if ticket.first_at is None:
            self.fresh_prefill -= ticket.uncached

    def sent(self, now: float, ticket: Ticket) -> None:
        uncached, model = ticket.uncached, self.model
        self.nth = ticket.nth = nth = self.nth + 1
        ticket.replica = self
        ticket.sent_at = now
        ticket.included = False
        self.flights[ticket.event.request_id] = ticket
        self._fresh.append((nth, ticket))
        self._fresh_live += 1
        self.fresh_prefill += uncached
        self.fresh_kv += uncached
        if model.kept.paces:
            self._prefill_sent.add(now, uncached)
        self.stale = True
        model.touched[self] = None

    def first_token(self, ticket: Ticket) -> None:
        """To be called before `ticket.first_at` is set."""
        if ticket.included:
            self._computed(ticket.uncached)
        else:
            self.fresh_prefill -= ticket.uncached
        self.stale = True
        self.model.touched[self] = None

    def _computed(self, tokens: int) -> None:
        """Prompt tokens that the heartbeat had as queued are held now; what it had not as queued it had as held."""
        queued = self.queued
        if queued > 0:
            self.held += tokens if tokens < queued else queued
        self.queued = queued - tokens

    def generated(self, tokens: int) -> None:
        self.held += tokens
        self.stale = True
        self.model.touched[self] = None

    def ended(self, ticket: Ticket) -> None:
        del self.flights[ticket.event.request_id]
        if ticket.included:
            self._ended += 1
            self.held -= ticket.prompt_tokens + ticket.tokens
            if ticket.first_at is None:
                self._computed(ticket.uncached)
        else:
            self._unfreshen(ticket)
            self.held -= ticket.tokens
        ticket.replica = None
        self.stale = True
        self.model.touched[self] = None

    def batch(self) -> tuple[int, int]:
        """Requests that run and that wait in its engine, as far as is known now."""
        beat, ended = self.beat, self._ended
        assert beat is not None
        running = beat.running - ended if beat.running > ended else 0
        waiting = beat.waiting + self._fresh_live
        if waiting:
            limit = beat.max_running
            # Waiting with room in the batch means that the KV cache is full: then only ended sequences make room.
            starved = beat.waiting > 0 and (not limit or beat.running < limit)
            room = ended if starved else limit - running if limit else waiting
            admitted = waiting if waiting < room else room if room > 0 else 0
            running += admitted
            waiting -= admitted
        return running, waiting

    def predict(self, now: float, routers: int) -> None:
        """Bring the predictions up to what is known now."""
        beat = self.beat
        assert beat is not None
        running, waiting = self.batch()
        queued, held = self.queued, self.held
        self.latency.update(
            beat.step_model or UNKNOWN,
            running,
            waiting,
            self.fresh_prefill + (queued if queued > 0 else 0),
            self.fresh_kv + (held if held > 0 else 0) - self.fresh_prefill,
            beat.kv_capacity_tokens,
            beat.max_running,
            self.model.lengths.mean,
            self._prefill_sent.at(now) * routers * PER_SECOND,
        )
        self.stale = False
