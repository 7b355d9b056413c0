"""The dispatcher: facts in, orders out. See `events` for both, and ADR 5 for the rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any, Final, Literal

from autopoiesis.dispatch import events as ev
from autopoiesis.dispatch import handover, learning
from autopoiesis.dispatch.admission import too_late
from autopoiesis.dispatch.control import Control
from autopoiesis.dispatch.fleet import Fleet, ReplicaInfo
from autopoiesis.dispatch.holding import Holding
from autopoiesis.dispatch.keeping import Kept, kept_for
from autopoiesis.dispatch.models import ModelState, Offer
from autopoiesis.dispatch.names import Recent
from autopoiesis.dispatch.parties import NO_SESSION, Party
from autopoiesis.dispatch.port import Compile, CompiledPolicy
from autopoiesis.dispatch.replicas import ReplicaState
from autopoiesis.dispatch.settings import DispatchSettings
from autopoiesis.dispatch.stats import Counters, Stats
from autopoiesis.dispatch.ticket import Ticket
from autopoiesis.dispatch.workflows import WorkflowState, time_alone
from autopoiesis.policy.api import HOLD, REJECT, Assign, RouteDecision

CHARGE_EVERY: Final = 64
"""Output tokens after which a running answer is charged to its tenant."""

LEARN_EVERY: Final = 4
"""Predictions are compared with what happens for one request in so many of each replica, where the policy does not ask for them anyway."""

Reason = Literal["rejected", "queue_full", "overloaded", "no_replica", "deadline"]


class Dispatcher:
    """Decides where requests go. No clock, no I/O; not thread-safe."""

    def __init__(
        self,
        settings: DispatchSettings,
        *,
        router: str,
        policy: CompiledPolicy,
        seed: int = 0,
        compile: Compile | None,  # noqa: A002 - the word for it
    ) -> None:
        """Without `compile` the policy stays: no activation is taken, and only what this policy or the fallback reads is kept."""
        self._settings = settings
        self._kept = Kept() if compile is not None else kept_for(policy.reads)
        self._now = -math.inf
        self._seq = 0
        self._models: dict[str, ModelState] = {}
        self._adapters = Recent(settings.max_parties, int, first=1)
        self._tenants = Recent(settings.max_parties, Party)
        self._sessions = Recent(settings.max_parties, Party, first=1)
        self._workflows = Recent(settings.max_parties, WorkflowState)
        self._live: dict[str, Ticket] = {}
        self._fleet = Fleet(settings, router, self._model)
        self._control = Control(settings, policy, compile, self._hits, seed)
        self.holding = self._holding = Holding(settings)
        """Held requests; while `holding.waiting` is false, `next_wake` is inf and need not be asked for."""
        self._fuel = self._holding.fuel
        self._admit_factor = settings.admit_ttft_factor
        self._counters = Counters()
        self._handlers: dict[type, Callable[[float, Any, list[ev.Action]], None]] = {
            ev.Arrival: self._arrival,
            ev.Beat: self._beat,
            ev.ReplicaGone: self._replica_gone,
            ev.Bounced: self._bounced,
            ev.Tokens: self._tokens,
            ev.Ended: self._ended,
            ev.Left: self._left,
            ev.Activated: self._activated,
            ev.Wake: self._wake,
            ev.Prefilled: self._prefilled,
        }

    def handle(self, now: float, event: ev.Event) -> list[ev.Action]:
        """Orders that follow from one fact. Raises ValueError where `now` falls or a request id is in use."""
        if now < self._now:
            raise ValueError(f"time went back from {self._now!r} to {now!r}")
        self._now = now
        actions: list[ev.Action] = []
        self._handlers[type(event)](now, event, actions)
        return actions

    @property
    def next_wake(self) -> float:
        """When to send Wake; inf if nothing waits."""
        holding = self._holding
        return holding.next_due() if holding.waiting else math.inf

    @property
    def active(self) -> CompiledPolicy:
        """What decides now: the fallback while the policy in force is quarantined."""
        return self._control.decider.policy

    @property
    def epoch(self) -> int:
        return self._control.epoch

    def queue_length(self, model: str) -> int:
        state = self._models.get(model)
        return len(state.queue) if state else 0

    def fleet(self) -> list[ReplicaInfo]:
        return self._fleet.describe(self._now)

    def stats(self) -> Stats:
        queued = {name: len(model.queue) for name, model in self._models.items()}
        return Stats(
            counters=deepcopy(self._counters),
            policy=self.active.hash,
            epoch=self.epoch,
            quarantined=self._control.quarantined,
            queued=queued,
            inflight=len(self._live) - sum(queued.values()),
            fuel=self._fuel.spent,
            passes=self._holding.passes,
        )

    # what happens

    def _arrival(self, now: float, event: ev.Arrival, out: list[ev.Action]) -> None:
        live, request_id = self._live, event.request_id
        if request_id in live:
            raise ValueError(f"request id {request_id!r} is in use")
        model = self._models.get(event.model) or self._model(event.model)
        seq, kept = self._seq, self._kept
        self._seq = seq + 1
        prompt = model.ratio.tokens(event.prompt_bytes)
        live[request_id] = ticket = Ticket(event, seq, now, model, prompt)
        if kept.lengths:
            expected, limit = model.lengths.expected(event.klass, prompt), event.max_tokens
            ticket.expected_output = expected if expected < limit else limit
        if kept.callers:
            self._introduce(now, ticket)
        traffic = model.traffic
        counts = traffic.current if now < traffic.until else traffic.at(now)
        counts.arrivals += 1
        counts.prompt_tokens += prompt
        self._counters.arrivals += 1
        self._decide(now, ticket, out)

    def _introduce(self, now: float, ticket: Ticket) -> None:
        """Whose request it is."""
        event = ticket.event
        ticket.tenant = self._tenants.get(event.tenant)
        if event.session:
            ticket.session = self._sessions.get(event.session)
        if event.adapter:
            ticket.adapter = self._adapters.get(event.adapter)
        if event.workflow:
            ticket.workflow = workflow = self._workflows.get(event.workflow)
            workflow.opened(now, ticket.seq, time_alone(ticket, ticket.expected_output))

    def _beat(self, now: float, event: ev.Beat, out: list[ev.Action]) -> None:
        beat = event.heartbeat
        orphans = self._fleet.beat(now, beat)
        state = self._fleet.replicas[beat.replica]
        for ticket in orphans:
            reason = "the engine stopped" if beat.state in {"stopped", "failed"} else "the engine restarted"
            self._orphaned(now, ticket, state, reason, out)
        self._holding.room(now, state.model)

    def _replica_gone(self, now: float, event: ev.ReplicaGone, out: list[ev.Action]) -> None:
        state = self._fleet.replicas.get(event.replica)
        if state is None:
            return
        for ticket in self._fleet.gone(state):
            self._orphaned(now, ticket, state, event.reason, out)
        self._holding.room(now, state.model)

    def _bounced(self, now: float, event: ev.Bounced, out: list[ev.Action]) -> None:
        ticket = self._live.get(event.request_id)
        if ticket is None or ticket.replica is None:
            return
        state = ticket.replica
        state.ended(ticket)
        self._fleet.suspend(state)
        self._orphaned(now, ticket, state, event.reason, out, leaving=event.leaving)
        self._holding.room(now, state.model)

    def _tokens(self, now: float, event: ev.Tokens, out: list[ev.Action]) -> None:
        ticket, count = self._live.get(event.request_id), event.count
        if ticket is None or ticket.replica is None or count <= 0:
            return
        if ticket.first_at is None:
            learning.first_token(now, ticket)
        ticket.tokens = tokens = ticket.tokens + count
        ticket.replica.generated(count)
        if tokens - ticket.charged >= CHARGE_EVERY and self._kept.service:
            learning.charge(now, ticket, tokens - ticket.charged)
            ticket.charged = tokens

    def _ended(self, now: float, event: ev.Ended, out: list[ev.Action]) -> None:
        ticket = self._live.get(event.request_id)
        if ticket is None:
            return
        state, finished = ticket.replica, event.code is None
        told, seen = event.output_tokens, ticket.tokens
        tokens = told if told > seen else seen
        if state is not None:
            learning.ended(now, ticket, event, tokens)
            state.ended(ticket)
            if event.code == "unavailable":
                self._fleet.suspend(state)
        self._counters.ended += 1
        self._close(now, ticket, tokens, natural=finished and event.natural, finished=finished)
        learning.judged(now, ticket, tokens, finished)
        if state is not None and ticket.model.queue.entries:
            self._holding.room(now, ticket.model)

    def _left(self, now: float, event: ev.Left, out: list[ev.Action]) -> None:
        ticket = self._live.get(event.request_id)
        if ticket is None:
            return
        self._counters.left += 1
        state = ticket.replica
        if state is not None:
            state.ended(ticket)
            out.append(ev.Abort(event.request_id, state.name, "cancelled"))
            self._holding.room(now, ticket.model)
        self._close(now, ticket, ticket.tokens, natural=False, finished=False)

    def _activated(self, now: float, event: ev.Activated, out: list[ev.Action]) -> None:
        swapped = self._control.activate(event.activation, force=event.force)
        if swapped is None:
            return
        out.append(swapped)
        if not swapped.refused:
            self._counters.swaps += 1
            for model in self._models.values():
                self._holding.room(now, model)

    def _wake(self, now: float, event: ev.Wake, out: list[ev.Action]) -> None:
        for ticket in self._holding.expired(now):
            self._decide(now, ticket, out)
        self._holding.offer(
            now,
            lambda ticket: self._decide(now, ticket, out),
            lambda ticket: self._key(now, ticket, ticket.model.offer(now), out),
        )

    def _prefilled(self, now: float, event: ev.Prefilled, out: list[ev.Action]) -> None:
        ticket = self._live.get(event.request_id)
        if ticket is None or ticket.replica is None:
            return
        learning.prefilled(now, ticket)
        source, offer = ticket.replica, ticket.model.offer(now)
        target, fallback = handover.place(
            now, ticket, offer, self._control, lambda error: self._fault(now, error, out)
        )
        handover.move(now, ticket, target, offer.routers)
        self._counters.handovers += 1
        out.append(
            ev.HandOver(
                request_id=event.request_id,
                source=source.name,
                replica=target.name,
                nth=ticket.nth,
                fallback=fallback,
                fuel=ticket.fuel,
            )
        )
        self._holding.room(now, ticket.model)

    # deciding

    def _decide(self, now: float, ticket: Ticket, out: list[ev.Action]) -> None:
        """Ask the policy, and carry out its answer or the fallback's."""
        if ticket.event.deadline <= now:
            self._refuse(now, ticket, "deadline", out)
            return
        model = ticket.model
        offer = model.present
        if now >= offer.until:
            offer = model.offer(now)
        if not offer.states:
            self._await_replica(now, ticket, offer, out)
            return
        ticket.no_replica_since = None
        factor = self._admit_factor
        if factor and _is_new(ticket) and too_late(now, ticket, offer, self._hits(ticket), factor):
            self._refuse(now, ticket, "overloaded", out)
            return
        verdict: RouteDecision | None = None
        decider, fuel, before = self._control.decider, self._fuel, ticket.fuel
        if decider is not self._control.fallback:
            try:
                verdict = decider.route(now, ticket, offer)
            except Exception as error:
                self._fault(now, error, out)
        fuel.spent += ticket.fuel - before + len(offer.states)
        if type(verdict) is Assign:
            self._send(now, ticket, offer, verdict, False, out)
            return
        if verdict is HOLD:
            self._counters.holds += 1
            ticket.holds += 1
            if ticket.hold_until == math.inf:
                ticket.hold_until = now + self._settings.hold_max_s
            if now < ticket.hold_until:
                self._hold(now, ticket, offer, ticket.hold_until, out)
                return
        elif verdict is REJECT and self._may_reject(now, ticket):
            self._refuse(now, ticket, "rejected", out)
            return
        verdict = self._control.fallback.route(now, ticket, offer)
        assert isinstance(verdict, Assign)
        self._send(now, ticket, offer, verdict, True, out)

    def _may_reject(self, now: float, ticket: Ticket) -> bool:
        return _is_new(ticket) and ticket.model.traffic.may_reject(now, self._settings.max_reject_share)

    def _fault(self, now: float, error: Exception, out: list[ev.Action]) -> None:
        self._counters.faults += 1
        out.append(self._control.fault(now, error))
        if self._control.quarantined:
            for model in self._models.values():
                self._holding.room(now, model)

    def _send(
        self, now: float, ticket: Ticket, offer: Offer, assign: Assign, fallback: bool, out: list[ev.Action]
    ) -> None:
        if ticket.queued:
            ticket.model.queue.remove(ticket)
            ticket.due = math.inf
        state, event, control, kept = offer.states[assign.replica], ticket.event, self._control, self._kept
        blocks, prompt, decode = event.block_hashes, ticket.prompt_tokens, assign.decode
        uncached = prompt
        if blocks:
            hit = self._fleet.prefixes.hits_of(state.slot, blocks) * ticket.model.block_tokens
            uncached = uncached - hit if hit < uncached else 0
        ticket.uncached = uncached
        if control.decider.predicts or state.nth % LEARN_EVERY == 0:
            if state.stale:
                state.predict(now, offer.routers)
            ticket.raw_ttft = state.latency.raw_ttft(uncached)
            if kept.paces:
                ticket.raw_tpot = state.latency.raw_tpot(prompt)
        if decode >= 0:
            ticket.decode = offer.states[decode]
        state.sent(now, ticket)
        if blocks:
            self._fleet.prefixes.add(state.slot, blocks, self._prefix_limit(state))
        if kept.service:
            learning.charge(now, ticket, prompt)
        if ticket.session is not NO_SESSION:
            ticket.session.replica = state
        attempts, counters = ticket.attempts, self._counters
        counters.sends += 1
        if attempts:
            counters.retries += 1
        if fallback:
            counters.fallbacks += 1
        out.append(
            ev.Send(
                request_id=event.request_id,
                replica=state.name,
                nth=ticket.nth,
                prompt_tokens=prompt,
                priority=event.priority if assign.priority is None else assign.priority,
                decode=offer.states[decode].name if decode >= 0 else "",
                attempt=attempts + 1,
                epoch=control.epoch,
                policy=control.policy.hash,
                fallback=fallback,
                holds=ticket.holds,
                fuel=ticket.fuel,
            )
        )

    def _prefix_limit(self, state: ReplicaState) -> int:
        most, kv_capacity = self._settings.max_prefix_blocks, state.view.kv_capacity_tokens
        return min(most, kv_capacity // state.model.block_tokens) if kv_capacity else most

    def _refuse(self, now: float, ticket: Ticket, reason: Reason, out: list[ev.Action]) -> None:
        model = ticket.model
        refused = self._counters.refused
        refused[reason] = refused.get(reason, 0) + 1
        learning.refused(now, ticket, rejected=reason == "rejected")
        waiting = len(model.queue) + 1
        self._close(now, ticket, 0, natural=False, finished=False)
        out.append(
            ev.Refuse(
                request_id=ticket.event.request_id,
                reason=reason,
                message=MESSAGES[reason].format(model=model.name),
                retry_after=min(max(1.0, waiting / max(model.traffic.ends_per_second(now), 0.1)), 60.0),
                epoch=self._control.epoch,
                policy=self._control.policy.hash,
                holds=ticket.holds,
                fuel=ticket.fuel,
            )
        )

    # holding

    def _hold(self, now: float, ticket: Ticket, offer: Offer, until: float, out: list[ev.Action]) -> None:
        """Keep it in the queue, and look at it again at `until` or at its deadline."""
        queue = ticket.model.queue
        if not ticket.queued:
            if len(queue) >= self._settings.max_queue and _is_new(ticket):
                self._refuse(now, ticket, "queue_full", out)
                return
            queue.add(ticket, self._key(now, ticket, offer, out))
        self._holding.watch(ticket, min(until, ticket.event.deadline))

    def _key(self, now: float, ticket: Ticket, offer: Offer, out: list[ev.Action]) -> float:
        before = ticket.fuel
        try:
            return self._control.decider.key(now, ticket, offer)
        except Exception as error:
            self._fault(now, error, out)
            return self._control.fallback.key(now, ticket, offer)
        finally:
            self._fuel.spent += ticket.fuel - before + 1

    def _await_replica(self, now: float, ticket: Ticket, offer: Offer, out: list[ev.Action]) -> None:
        if ticket.no_replica_since is None:
            ticket.no_replica_since = now
        moved = ticket.excused or ticket.event.moved
        until = math.inf if moved else ticket.no_replica_since + self._settings.no_replica_wait_s
        if until <= now:
            self._refuse(now, ticket, "no_replica", out)
        else:
            self._hold(now, ticket, offer, until, out)

    # ends

    def _orphaned(
        self,
        now: float,
        ticket: Ticket,
        state: ReplicaState,
        reason: str,
        out: list[ev.Action],
        *,
        leaving: bool = False,
    ) -> None:
        """Its replica failed: send it elsewhere where nothing was lost with it."""
        ticket.replica = None
        ticket.raw_ttft = ticket.raw_tpot = 0.0
        ticket.attempts += 1
        if leaving or state.leaving:
            ticket.excused += 1
        else:
            state.faults.observe(now, True)
        if ticket.first_at is None and ticket.attempts - ticket.excused < self._settings.max_attempts:
            self._decide(now, ticket, out)
            return
        self._counters.lost += 1
        self._close(now, ticket, ticket.tokens, natural=False, finished=False)
        learning.judged(now, ticket, ticket.tokens, finished=False)
        out.append(ev.Lost(ticket.event.request_id, state.name, reason))

    def _close(self, now: float, ticket: Ticket, tokens: int, *, natural: bool, finished: bool) -> None:
        del self._live[ticket.event.request_id]
        if tokens:
            lengths = ticket.model.lengths
            if self._kept.lengths:
                lengths.observe(ticket.event.klass, ticket.prompt_tokens, tokens, natural)
            else:
                lengths.observe_mean(tokens)
        if ticket.workflow:
            service = now - ticket.sent_at if finished else 0.0
            ticket.workflow.closed(ticket.seq, time_alone(ticket, tokens), service, finished)
        if ticket.queued:
            ticket.model.queue.remove(ticket)

    def _model(self, name: str) -> ModelState:
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = ModelState(name, len(self._models), self._settings, self._kept)
        return model

    def _hits(self, ticket: Ticket) -> dict[int, int]:
        """Prompt tokens believed cached, by replica slot."""
        blocks = ticket.event.block_hashes
        if not blocks:
            return {}
        size, most = ticket.model.block_tokens, ticket.prompt_tokens
        return {slot: min(count * size, most) for slot, count in self._fleet.prefixes.hits(blocks).items()}


def _is_new(ticket: Ticket) -> bool:
    """It may be turned away: it was sent nowhere yet."""
    return not ticket.attempts and not ticket.event.begun


MESSAGES: Final[dict[Reason, str]] = {
    "rejected": "the dispatch policy turned the request away to protect others",
    "queue_full": "the queue of model {model} is full",
    "overloaded": "every replica of model {model} is too busy for the first token to come in time",
    "no_replica": "no replica of model {model} is ready",
    "deadline": "the deadline passed before a replica of model {model} took the request",
}
