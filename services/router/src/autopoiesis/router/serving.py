"""The serving core: facts of HTTP and bus into the dispatcher, its orders out to replicas and clients.

All of it runs on the event loop, one event after the other, so a policy is swapped between two requests and never during
one. What decides is `autopoiesis.dispatch`; what carries is a `Transport`; what is told of it is a `Listener`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from msgspec import structs

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.infer import Chunk, Failed, FailureCode, Finished, Reply
from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.contracts.messages.telemetry import Outcome
from autopoiesis.dispatch import Dispatcher
from autopoiesis.dispatch import events as ev
from autopoiesis.dispatch.recording import Recorder
from autopoiesis.router import errors
from autopoiesis.router.breaker import Breakers
from autopoiesis.router.errors import ApiError
from autopoiesis.router.fleet import Fleet
from autopoiesis.router.flight import CROWDED, PING, Flight
from autopoiesis.router.hedging import Hedging
from autopoiesis.router.listening import Listener, Result
from autopoiesis.router.orders import arrival, generate
from autopoiesis.router.transports.port import Opening, Passage, Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what, in seconds."""

    request_s: float = 600.0
    """Arrival to deadline."""
    silence_s: float = 5.0
    """A replica with requests in flight that gives no sign of life for so long is given up."""
    ping_s: float = 15.0
    """Streams that bring nothing get a comment this often."""
    sweep_s: float = 0.5
    resumes: int = 3
    """How often one stream may go on elsewhere."""


class Serving:
    """Owns the dispatcher. Every method runs on the event loop and returns at once."""

    def __init__(
        self,
        dispatcher: Dispatcher | Recorder,
        transport: Transport,
        listener: Listener,
        fleet: Fleet,
        *,
        router: str,
        patience: Patience,
        hedging: Hedging | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without `hedging` no request has two attempts at once."""
        self._dispatcher = dispatcher
        self._transport = transport
        self._listener = listener
        self._router = router
        self.patience = patience
        self._hedging = hedging
        self._races = 0
        self._clock = clock
        self._breakers = Breakers()
        self._flights: dict[str, Flight] = {}  # by ticket
        self._wires: dict[str, Flight] = {}
        self._events: deque[ev.Event] = deque()
        self._feeding = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._swept = clock()
        self._refusal = ""
        self._idle: asyncio.Event | None = None
        self.fleet = fleet
        self._acts: Final[dict[type, Callable[[Any, float], None]]] = {
            ev.Send: self._send,
            ev.Refuse: self._refuse,
            ev.Abort: self._abort,
            ev.Lost: self._lost,
            ev.Fault: lambda fault, now: listener.fault(fault),
            ev.Swapped: self._swapped,
            ev.HandOver: self._hand_over,
        }

    @property
    def in_flight(self) -> int:
        """Requests that have not ended, held ones included."""
        return len(self._flights) - self._races

    @property
    def connected(self) -> bool:
        """Whether the bus is."""
        return self._transport.connected

    @property
    def serves_without_bus(self) -> bool:
        """A server is ready that is reached directly."""
        return self._transport.direct_ready

    def submit(self, flight: Flight) -> None:
        """A request arrived. Its answer comes to `flight.reader`."""
        now = self._clock()
        flight.arrival = flight.last_item = now
        flight.arrival_unix = time.time()
        flight.deadline = now + self.patience.request_s
        self._flights[flight.ticket] = flight
        self._listener.begun(flight)
        if self._hedging is not None:
            self._hedging.earn()
        self._feed(arrival(flight))
        self._listener.decided(self._clock() - now)

    def leave(self, flight: Flight) -> None:
        """The client went away. Nothing happens to a request that has ended, or was never submitted."""
        if flight.open and flight.ticket in self._flights:
            self._feed(ev.Left(flight.ticket))
            self._answer(flight, errors.client_left(), "cancelled")

    def activate(self, activation: Activation, force: bool) -> str:
        """Swap the policy between two requests. Returns why it was refused, empty if it was not (see `Activated`)."""
        self._refusal = ""
        self._feed(ev.Activated(activation, force))
        return self._refusal

    def beat(self, heartbeat: Heartbeat) -> None:
        now = self._clock()
        if self.fleet.beat(heartbeat, now):
            self._abandon_replica(heartbeat.replica)
        if heartbeat.state == "ready" and self._breakers.is_open(heartbeat.replica, now):
            heartbeat = structs.replace(heartbeat, state="draining")
        self._feed(ev.Beat(heartbeat))

    def on_reply(self, wire: str, reply: Reply | Passage | Opening) -> None:
        """A replica said something of the request that was sent to it under the name `wire`."""
        flight = self._wires.get(wire)
        if flight is None:
            return
        if flight.rival is not None and _decides(flight, reply):
            flight = self._race_won(flight)
        flight.heard = now = self._clock()
        if isinstance(reply, Passage):
            flight.verbatim, flight.resumable = True, False
            self._tokens(flight, reply, reply.tokens, now)
        elif isinstance(reply, Chunk):
            if not reply.empty:
                if flight.resumable:
                    flight.remember(reply)
                self._tokens(flight, reply, max(1, reply.tokens), now)
        elif isinstance(reply, Opening):
            flight.verbatim, flight.resumable, flight.first_token = True, False, now
            flight.push(reply, now)
        else:
            self.fleet.heard(flight.replica, now)
            if isinstance(reply, Finished):
                self._finished(flight, reply, now)
            else:
                self._failed(flight, reply, now)

    def on_broken(self, wire: str, error: ApiError) -> None:
        """The replies to `wire` cannot be trusted to go on: some were lost, none come any more, or it was never sent."""
        flight = self._wires.get(wire)
        if flight is None:
            return
        self._transport.cancel(wire, "cancelled")
        late = error.code == "deadline"
        if error.code in _LOST:
            self._breakers.failed(flight.replica, self._clock())
        if self._left_to_rival(flight, "internal"):
            return
        if error.code in _LOST and self._elsewhere(flight, "internal", error):
            return
        self._answer(flight, error, "expired" if late else "failed")
        self._feed_ended(flight, "deadline" if late else "internal")

    def on_gone(self, wire: str, replica: str, reason: str) -> None:
        """Nobody answers for `replica`; all that was sent there is concerned, `wire` among it."""
        if wire in self._wires:
            self._abandon_replica(replica)
            self._feed(ev.ReplicaGone(replica, reason))

    def sweep(self) -> None:
        """Pings, and replicas that fell silent. Called every `sweep_s` seconds.

        A late call means that this process itself stood still: heartbeats may be waiting unread, so nobody is blamed.
        """
        now = self._clock()
        late = now - self._swept > 2.0 * self.patience.sweep_s
        self._swept = now
        self.fleet.forget(now)
        for flight in list(self._flights.values()):
            if flight.intake.pings and not flight.shadow and now - flight.last_item >= self.patience.ping_s:
                flight.push(PING, now)
        if late:
            return
        for flight in self._wires.values():
            self.fleet.heard(flight.replica, flight.heard)
        for replica in sorted({flight.replica for flight in self._wires.values()}):
            silent_s = self.fleet.silent_s(replica, now)
            if silent_s > self.patience.silence_s:
                self._abandon_replica(replica)
                self._feed(ev.ReplicaGone(replica, f"no sign of life for {silent_s:.1f} s"))
        for wire, flight in list(self._wires.items()):
            if now > flight.deadline + _DEADLINE_GRACE_S:  # the worker should have ended it
                self.on_broken(wire, errors.failed("deadline", "the deadline of this request passed"))

    async def idle(self, timeout_s: float) -> bool:
        """Wait until no request is left, for at most `timeout_s` seconds; whether that came."""
        self._idle = asyncio.Event()
        if not self._flights:
            return True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def abandon(self, message: str) -> None:
        """End every request that has not ended: the process stops."""
        for flight in [flight for flight in self._flights.values() if not flight.shadow]:
            self._feed(ev.Left(flight.ticket))
            self._answer(flight, errors.UnavailableError(message, "shutting_down"), "failed")

    def _abandon_replica(self, replica: str) -> None:
        """Stop listening to it, lest it wakes up and answers what has been sent elsewhere by then."""
        for wire, flight in list(self._wires.items()):
            if flight.replica == replica:
                del self._wires[wire]
                self._transport.cancel(wire, "cancelled")

    def _feed(self, event: ev.Event) -> None:
        if self._feeding:
            self._events.append(event)
            return
        self._feeding = True
        try:
            self._step(event)
            while self._events:
                self._step(self._events.popleft())
        finally:
            self._feeding = False
        self._arm()

    def _step(self, event: ev.Event) -> None:
        now = self._clock()
        for action in self._dispatcher.handle(now, event):
            self._acts[type(action)](action, now)

    def _arm(self) -> None:
        wake = self._dispatcher.next_wake
        if wake >= self._timer_at:
            return  # the earlier timer arms the next one
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = wake
        delay = max(0.0, wake - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay, self._wake)

    def _wake(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._dispatcher.next_wake <= self._clock():
            self._feed(ev.Wake())
        else:
            self._arm()

    def _send(self, send: ev.Send, now: float) -> None:
        flight = self._flights.get(send.request_id)
        if flight is None:
            return  # its race ended meanwhile; the dispatcher hears so next
        rival = flight.rival
        if rival is not None and rival.wire in self._wires and rival.replica == send.replica:
            self._race_won(rival)  # two attempts at one replica are none
            return
        flight.decided(send, now)
        flight.prefill_only = self.fleet.role(send.replica) == "prefill" and flight.splits
        self._dispatch(flight, send.nth, now)
        if self._hedging is not None and not flight.shadow and flight.hedges:
            delay = self._hedging.delay_s(flight.intake.model)
            asyncio.get_running_loop().call_later(delay, self._hedge, flight, flight.wire)

    def _hand_over(self, order: ev.HandOver, now: float) -> None:
        """The prompt is computed: another replica fetches its KV cache and makes the answer."""
        flight = self._flights[order.request_id]
        flight.handed_over(order)
        self._dispatch(flight, order.nth, now)

    def _dispatch(self, flight: Flight, nth: int, now: float) -> None:
        self._wires[flight.wire] = flight
        headers = self._listener.sent(flight)
        order = generate(flight, nth, now, self._router)
        self._transport.send(flight.replica, order, headers, flight.upload)

    # two attempts at once

    def _hedge(self, flight: Flight, wire: str) -> None:
        """Its first token is late: let another replica try as well, if the budget allows."""
        hedging = self._hedging
        waits = flight.open and flight.wire == wire and flight.first_token is None and flight.rival is None
        if hedging is not None and waits and hedging.spend():
            shadow = flight.second()
            self._flights[shadow.ticket] = shadow
            self._races += 1
            self._feed(arrival(shadow))

    def _race_won(self, winner: Flight) -> Flight:
        """One attempt goes on, the other one is ended. Returns the flight that the client reads, which is the winner from now on."""
        loser = winner.rival
        assert loser is not None
        if not winner.shadow:
            self._drop(loser)
            return winner
        loser.trade(winner)
        for flight in (loser, winner):
            self._flights[flight.ticket] = flight
            if flight.wire in self._wires:
                self._wires[flight.wire] = flight
        self._drop(winner, "won")
        return loser

    def _left_to_rival(self, flight: Flight, code: FailureCode) -> bool:
        """Its attempt failed: whether there is another, which goes on alone."""
        if flight.rival is None:
            return False
        self._feed_ended(flight, code)
        self._race_won(flight.rival)
        return True

    def _drop(self, shadow: Flight, result: Result = "lost") -> None:
        """End the attempt that nobody waits for any more."""
        flight = shadow.rival
        assert flight is not None
        flight.rival = shadow.rival = None
        flight.attempts += shadow.attempts
        self._races -= 1
        self._flights.pop(shadow.ticket, None)
        if self._wires.pop(shadow.wire, None) is not None:
            self._transport.cancel(shadow.wire, "cancelled")
        if not shadow.attempts:
            result = "unsent"
            if self._hedging is not None:
                self._hedging.refund()
        self._listener.hedged(flight, shadow, result)
        self._feed(ev.Left(shadow.ticket))

    def _refuse(self, refuse: ev.Refuse, now: float) -> None:
        flight = self._flights[refuse.request_id]
        if flight.rival is not None:
            self._race_won(flight.rival)
            return
        flight.epoch, flight.policy = refuse.epoch, refuse.policy
        flight.holds, flight.fuel = refuse.holds, refuse.fuel
        if flight.moves and flight.refusal is not None:  # nobody took over what was lost
            self._answer(flight, flight.refusal, "failed")
        else:
            self._answer(flight, errors.refused(refuse), _OUTCOME[refuse.reason])

    def _abort(self, abort: ev.Abort, now: float) -> None:
        flight = self._flights.get(abort.request_id)
        if flight is None:
            return
        self._transport.cancel(flight.wire, abort.code)
        if abort.code == "deadline":
            self._answer(flight, errors.failed("deadline", "the deadline of this request passed"), "expired")

    def _lost(self, lost: ev.Lost, now: float) -> None:
        flight = self._flights.get(lost.request_id)
        if flight is None:
            return
        if flight.rival is not None:
            self._race_won(flight.rival)
            return
        message = f"replica {lost.replica} failed while it served this request: {lost.reason}"
        if not self._resume(flight, message, self.fleet.leaving(lost.replica)):
            refusal = flight.refusal
            if refusal is None or refusal.message != lost.reason:  # an earlier replica's
                refusal = errors.UnavailableError(message, "replica_lost")
            self._answer(flight, refusal, "failed")

    def _elsewhere(
        self, flight: Flight, code: FailureCode, error: ApiError, *, leaving: bool = False
    ) -> bool:
        """Send it to another replica, from the start or behind what the client has; whether that is possible."""
        if flight.upload is not None and flight.upload.taken:
            return False
        if flight.first_token is None:
            flight.refusal = error
            self._close_wire(flight)
            self._feed(ev.Bounced(flight.ticket, error.message, leaving))
            return True
        if not self._may_resume(flight, leaving):
            return False
        self._feed_ended(flight, code)
        return self._resume(flight, error.message, leaving)

    def _may_resume(self, flight: Flight, leaving: bool) -> bool:
        """That its replica was retired is no failure, and happens as often as the plan changes."""
        known = flight.resumable and bool(flight.token_ids)
        return known and (leaving or flight.resumes < self.patience.resumes)

    def _resume(self, flight: Flight, reason: str, leaving: bool) -> bool:
        """Let a stream go on behind the tokens that its client has; whether it can."""
        if not self._may_resume(flight, leaving):
            return False
        flight.resumes += not leaving
        flight.moves += 1
        flight.refusal = errors.UnavailableError(reason, "replica_lost")
        self._close_wire(flight)
        del self._flights[flight.ticket]
        flight.ticket = f"{flight.request_id}~{flight.moves}"
        flight.untold, flight.told = 0, False  # the next token is the first at another replica
        self._flights[flight.ticket] = flight
        self._listener.resumed(flight, reason)
        self._feed(arrival(flight, moved=leaving))
        return True

    def _swapped(self, swapped: ev.Swapped, now: float) -> None:
        self._refusal = swapped.refused
        self._listener.swapped(swapped)

    def _tokens(self, flight: Flight, item: Chunk | Passage, tokens: int, now: float) -> None:
        if tokens:
            if flight.first_token is None:
                flight.first_token = now
                if self._hedging is not None and flight.sent is not None:
                    self._hedging.observe(flight.intake.model, now - flight.sent)
            flight.last_token = now
            flight.output_tokens += item.tokens
        flight.last_item, reader = now, flight.reader  # `push`, written out where every token passes
        if reader is not None and not flight.held:
            reader.read(item)
        else:
            flight.unread.append(item)
            if flight.backlog >= CROWDED and flight.on_room is None:
                self._crowded(flight)
        untold = flight.untold = flight.untold + tokens
        if untold >= TELL_EVERY or (tokens and not flight.told):
            flight.untold, flight.told = 0, True
            self._feed(ev.Tokens(flight.ticket, untold))

    def _crowded(self, flight: Flight) -> None:
        """Its client does not keep up. What cannot be held back ends before it fills the memory."""
        if flight.backlog >= OVERFLOW:
            self._transport.cancel(flight.wire, "cancelled")
            slow = ApiError(499, "the client reads too slowly", type="timeout_error", code="slow_client")
            self._answer(flight, slow, "cancelled")
            self._feed_ended(flight, "cancelled")
        elif flight.verbatim:
            self._transport.pause(flight.wire)
            flight.on_room = partial(self._transport.resume, flight.wire)

    def _prefilled(self, flight: Flight, finished: Finished) -> None:
        """Its prompt is computed; nothing of it has gone to the client."""
        self._breakers.succeeded(flight.replica)
        self._close_wire(flight)
        flight.kv_transfer = finished.kv_transfer
        self._feed(ev.Prefilled(flight.ticket))

    def _finished(self, flight: Flight, finished: Finished, now: float) -> None:
        if flight.prefill_only:
            self._prefilled(flight, finished)
            return
        if not flight.intake.stream:
            flight.last_token = now
        self._breakers.succeeded(flight.replica)
        flight.finished = finished
        flight.output_tokens = finished.output_tokens
        ended = ev.Ended(
            request_id=flight.ticket,
            prompt_tokens=finished.prompt_tokens,
            output_tokens=finished.output_tokens,
            cached_tokens=finished.cached_tokens,
            natural=finished.finish_reason in {"stop", "tool_calls"},
            first_token_s=finished.first_token_s,
        )
        self._end(flight, "finished", "")
        self._feed(ended)
        flight.push(finished, now)

    def _failed(self, flight: Flight, failed: Failed, now: float) -> None:
        error = errors.failed(failed.code, failed.message, failed.param, failed.status)
        leaving = failed.leaving or self.fleet.leaving(flight.replica)
        if failed.code in _LOST and failed.code != "overloaded" and not leaving:
            self._breakers.failed(flight.replica, now)
        if self._left_to_rival(flight, failed.code):
            return
        if failed.code in _LOST and self._elsewhere(flight, failed.code, error, leaving=leaving):
            return
        flight.output_tokens = max(flight.output_tokens, failed.output_tokens)
        self._answer(flight, error, "expired" if failed.code == "deadline" else "failed")
        self._feed_ended(flight, failed.code)

    def _feed_ended(self, flight: Flight, code: FailureCode) -> None:
        tokens = flight.output_tokens
        self._feed(ev.Ended(request_id=flight.ticket, code=code, output_tokens=tokens, natural=False))

    def _answer(self, flight: Flight, error: ApiError, outcome: Outcome) -> None:
        self._end(flight, outcome, error.code or "")
        flight.push(error, self._clock())

    def _end(self, flight: Flight, outcome: Outcome, error: str) -> None:
        flight.outcome, flight.error = outcome, error
        if flight.rival is not None:
            self._drop(flight.rival)
        self._close_wire(flight)
        del self._flights[flight.ticket]
        self._listener.ended(flight, self._clock())
        if self._idle is not None and not self._flights:
            self._idle.set()

    def _close_wire(self, flight: Flight) -> None:
        if flight.wire and self._wires.pop(flight.wire, None) is not None:
            self._transport.close(flight.wire)


_DEADLINE_GRACE_S: Final = 5.0
_LOST: Final = frozenset({"unavailable", "overloaded", "internal", "stalled", "stream_broken"})
"""Ends that are the replica's fault: another one may do better."""
TELL_EVERY: Final = 8
"""Tokens of a stream of which the dispatcher is told together, after the first: an event costs more than a token."""
OVERFLOW: Final = 4096
"""Items that wait for a slow client, beyond which its request ends."""
_OUTCOME: Final[dict[str, Outcome]] = {
    "rejected": "rejected",
    "queue_full": "rejected",
    "overloaded": "rejected",
    "no_replica": "failed",
    "deadline": "expired",
}


def _decides(flight: Flight, reply: Reply | Passage | Opening) -> bool:
    """Whether a race of two attempts ends with what one of them says."""
    if isinstance(reply, Chunk):
        return not reply.empty
    return isinstance(reply, Passage) or (isinstance(reply, Finished) and not flight.prefill_only)
