"""One run: routers, engines, clients and time.

The routers are the real ones, `autopoiesis.dispatch.Dispatcher`; they see what live ones see (sizes in bytes, heartbeats as
stale as live, ends as they come). The recorded output length goes to the engine alone.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import msgspec

from autopoiesis.dispatch import CompiledPolicy, Dispatcher
from autopoiesis.dispatch import events as ev
from autopoiesis.simulator.engine import Job, Model, TooLongError
from autopoiesis.simulator.fleet import Fleet
from autopoiesis.simulator.lookahead import engine_of
from autopoiesis.simulator.requests.engines import Engine
from autopoiesis.simulator.requests.membership import Membership
from autopoiesis.simulator.requests.outcome import (
    ABANDONED,
    EXPIRED,
    FAILED,
    FINISHED,
    OPEN,
    REJECTED,
    UNFINISHED,
    Outcome,
    Rows,
)
from autopoiesis.simulator.requests.prepared import Prepared
from autopoiesis.simulator.requests.settings import WorldSettings
from autopoiesis.simulator.requests.transfers import Transfers
from autopoiesis.simulator.workload.window import InFlight

if TYPE_CHECKING:
    from autopoiesis.simulator.requests.planning import Planner, Planning

_ENGINE: Final = 0
_DELIVER: Final = 1
_ROOT: Final = 2
_BEAT: Final = 3
_WAKE: Final = 4
_ARRIVE: Final = 5
_TIMEOUT: Final = 6
_CALL: Final = 7
_ROOTS_FIRST: Final = -(1 << 62)
_SENDS_FIRST: Final = -(1 << 61)
"""Where the order of things that happen at once begins: arrivals of the trace, then deliveries, then all else."""
_REFUSED: Final = {
    "rejected": REJECTED,
    "queue_full": REJECTED,
    "overloaded": REJECTED,
    "no_replica": FAILED,
    "deadline": EXPIRED,
}


class World:
    """Runs once. Deterministic: same arguments, same outcome."""

    def __init__(
        self,
        prepared: Prepared,
        fleet: Fleet,
        policies: Sequence[CompiledPolicy],
        settings: WorldSettings,
        *,
        seed: int = 0,
        in_flight: Sequence[InFlight] = (),
        model: Callable[..., Model] = engine_of,
        planning: Planning | None = None,
    ) -> None:
        """One compiled policy per router: each has a meter of its own. `model` makes the engines (tests pass the oracle)."""
        if len(policies) != settings.routers:
            raise ValueError(f"{len(policies)} compiled policies for {settings.routers} routers")
        self._prepared = prepared
        self._settings = settings
        self._seed = seed
        self._rows = Rows(len(prepared))
        self._ids = [event.request_id for event in prepared.events]
        """Of each arrival's present attempt."""
        self._retried: dict[int, int] = {}
        self._away: set[int] = set()
        """Arrivals whose client has left; what still comes for them is dropped."""
        self._returning: set[int] = set()
        """Arrivals that were refused and whose client will try again."""
        self._latency_s = settings.latency_s
        self._timeout_s = settings.clients.timeout_s
        self._names = [f"router-{n}" for n in range(settings.routers)]
        self._routers = [
            Dispatcher(settings.dispatch, router=name, policy=policy, seed=seed, compile=None)
            for name, policy in zip(self._names, policies, strict=True)
        ]
        self._holds = [router.holding for router in self._routers]
        self._wakes = [math.inf] * settings.routers
        self._heap: list[tuple[float, int, int, Any]] = []
        self._order, self._order_of_sends = count(), count(_SENDS_FIRST)
        self._open = len(prepared)
        self._faults: dict[str, int] = {}
        self._limit = math.inf
        self._now = min(prepared.root_times[0], 0.0) if prepared.root_times else 0.0
        self._members = Membership(
            settings,
            seed,
            tell=self._tell_all,
            later=lambda at, call: self._push(at, _CALL, call),
            beat_later=lambda at, engine: self._push(at, _BEAT, engine),
            model=model,
        )
        self._engines, self._index = self._members.engines, self._members.index
        self._transfers = Transfers(
            prepared,
            self._rows,
            self._members,
            latency_s=settings.latency_s,
            later=lambda at, call: self._push(at, _CALL, call),
            landed=self._schedule,
            broken=self._broken,
        )
        for spec in fleet.replicas:
            self._members.add(self._now, spec)
        self._restore(in_flight)
        for engine in self._engines:
            self._members.greet(self._now, engine)
        for change in fleet.changes:
            self._push(max(change.at, self._now), _CALL, partial(self._members.change, change))
        self._planner: Planner | None = None
        if planning is not None:
            self._planner = planning.start(
                prepared, self._rows, self._members, lambda at, call: self._push(at, _CALL, call)
            )
            self._push(self._now + planning.step_s, _CALL, self._planner.step)

    def run(self) -> Outcome:
        """Until every arrival has ended, or `drain_s` after the last one."""
        collecting = gc.isenabled()
        gc.disable()  # the loop makes hardly any cycles, and the collector would walk the whole trace again and again
        try:
            self._loop()
        finally:
            if collecting:
                gc.enable()
        for row, outcome in enumerate(self._rows.outcome):
            if outcome == OPEN:
                self._rows.outcome[row] = UNFINISHED
        stats = [router.stats() for router in self._routers]
        return Outcome(
            rows=self._rows,
            replicas=[engine.totals(self._now) for engine in self._engines],
            ended_at=self._now,
            faults=self._faults,
            quarantined=any(one.quarantined for one in stats),
            decisions=sum(one.counters.sends + sum(one.counters.refused.values()) for one in stats),
            replica_names=[engine.spec.name for engine in self._engines],
            replica_gpus=[engine.spec.gpu for engine in self._engines],
            plan=None if self._planner is None else self._planner.totals,
        )

    # --- time ---

    def _loop(self) -> None:
        heap, times, rows = self._heap, self._prepared.root_times, self._rows
        first, started, tokens = rows.first, rows.started, rows.tokens
        ids, away, routers, router = self._ids, self._away, self._routers, self._prepared.router
        self._limit = limit = (times[-1] if times else 0.0) + self._settings.drain_s
        now, order = self._now, self._order
        self._next_root(0)
        what: Any
        row: int
        more: int
        began: float
        while self._open:
            now, _, kind, what = heappop(heap)
            if now > limit:
                limit = self._limit
                if now > limit:
                    now = limit
                    break
            if kind == _ENGINE:
                if what.due != now:
                    continue
                for row, _, more, finished, began in what.replica.advance(now):
                    if row < 0 or row in away:
                        continue
                    tokens[row] += more
                    if first[row] != first[row]:
                        first[row] = now
                        started[row] = began
                        routers[router[row]].handle(
                            now, ev.Tokens(ids[row], 1)
                        )  # from which no order follows
                    if finished:
                        self._finished(now, row)
                what.due = due = what.replica.next_event
                if due < math.inf:
                    heappush(heap, (due, next(order), _ENGINE, what))
                else:
                    self._idle(now, what)
            elif kind == _DELIVER:
                self._deliver(now, *what)
            elif kind == _ROOT:
                self._next_root(what + 1)
                self._arrive(now, self._prepared.roots[what])
            else:
                self._happen(now, kind, what)
        self._now = now

    def _next_root(self, place: int) -> None:
        """Arrivals of the trace enter the heap one by one: it stays small."""
        times = self._prepared.root_times
        if place < len(times):
            heappush(self._heap, (times[place], _ROOTS_FIRST + place, _ROOT, place))

    def _push(self, at: float, kind: int, what: Any) -> None:
        heappush(self._heap, (at, next(self._order), kind, what))

    def _happen(self, now: float, kind: int, what: Any) -> None:
        if kind == _BEAT:
            self._members.beat(now, what)
        elif kind == _WAKE:
            if self._wakes[what] == now:
                self._wakes[what] = math.inf
                self._tell(now, what, ev.Wake())
        elif kind == _ARRIVE:
            self._arrive(now, what)
        elif kind == _TIMEOUT:
            self._timeout(now, *what)
        else:
            what(now)

    # --- requests ---

    def _arrive(self, now: float, row: int) -> None:
        event, arrived, router = self._prepared.events[row], self._rows.arrived, self._prepared.router[row]
        if arrived[row] != arrived[row]:
            arrived[row] = now
        else:
            event = self._again(row)
        if self._timeout_s < math.inf:
            self._push(now + self._timeout_s, _TIMEOUT, (row, event.request_id))
        for action in self._routers[router].handle(now, event):
            if type(action) is ev.Send:
                self._send(now, router, action, row)
            else:
                self._act(now, router, action)
        if self._holds[router].waiting:
            self._set_wake(now, router)

    def _again(self, row: int) -> ev.Arrival:
        """A retry is a new request to its router."""
        self._away.discard(row)
        self._returning.discard(row)
        self._retried[row] = tries = self._retried.get(row, 0) + 1
        self._ids[row] = f"{row}.{tries}"
        return msgspec.structs.replace(self._prepared.events[row], request_id=self._ids[row])

    def _row(self, request_id: str) -> int:
        return int(request_id.partition(".")[0] if self._retried else request_id)

    def _tell(self, now: float, router: int, event: ev.Event) -> None:
        for action in self._routers[router].handle(now, event):
            self._act(now, router, action)
        if self._holds[router].waiting:
            self._set_wake(now, router)

    def _set_wake(self, now: float, router: int) -> None:
        wake = self._routers[router].next_wake
        if wake < self._wakes[router]:
            self._wakes[router] = wake = max(wake, now)
            self._push(wake, _WAKE, router)

    def _tell_all(self, now: float, event: ev.Event) -> None:
        for router in range(len(self._routers)):
            self._tell(now, router, event)

    def _act(self, now: float, router: int, action: ev.Action) -> None:
        if type(action) is ev.Send:
            self._send(now, router, action, self._row(action.request_id))
        elif type(action) is ev.Refuse:
            self._refused(now, action)
        elif type(action) is ev.Abort:
            self._under_way(now, router, action, self._row(action.request_id))
        elif type(action) is ev.HandOver:
            self._transfers.start(now, self._row(action.request_id), router, action)
        elif type(action) is ev.Lost:
            self._end(now, self._row(action.request_id), FAILED)
        elif type(action) is ev.Fault:
            self._faults[action.fault] = self._faults.get(action.fault, 0) + 1

    def _send(self, now: float, router: int, send: ev.Send, row: int) -> None:
        rows = self._rows
        rows.sent[row] = now
        rows.attempts[row] = send.attempt
        rows.holds[row] = send.holds
        rows.fuel[row] = send.fuel
        rows.fallback[row] = send.fallback
        rows.replica[row] = self._index[send.replica]
        self._under_way(now, router, send, row)

    def _under_way(self, now: float, router: int, action: ev.Send | ev.Abort, row: int) -> None:
        order = next(self._order_of_sends)
        heappush(self._heap, (now + self._latency_s, order, _DELIVER, (router, action, row)))

    def _refused(self, now: float, refuse: ev.Refuse) -> None:
        row = self._row(refuse.request_id)
        self._rows.holds[row] = refuse.holds
        self._rows.fuel[row] = refuse.fuel
        if refuse.reason in {"rejected", "queue_full", "overloaded"} and self._may_retry(row):
            self._returning.add(row)
            self._push(now + max(refuse.retry_after, self._settings.clients.retry_after_s), _ARRIVE, row)
        else:
            self._end(now, row, _REFUSED[refuse.reason])

    def _may_retry(self, row: int) -> bool:
        return self._retried.get(row, 0) < self._settings.clients.retries

    def _timeout(self, now: float, row: int, request_id: str) -> None:
        rows = self._rows
        served = rows.outcome[row] != OPEN or rows.first[row] == rows.first[row]
        if served or row in self._returning or self._ids[row] != request_id:
            return
        self._away.add(row)
        self._tell(now, self._prepared.router[row], ev.Left(request_id))
        if self._may_retry(row):
            self._push(now + self._settings.clients.retry_after_s, _ARRIVE, row)
        else:
            self._end(now, row, ABANDONED)

    def _end(self, now: float, row: int, outcome: int) -> None:
        rows = self._rows
        if rows.outcome[row] != OPEN:
            raise RuntimeError(f"request {row} ended twice")
        rows.outcome[row] = outcome
        rows.ended[row] = now
        self._open -= 1
        if self._planner is not None:
            self._planner.ended.append((now, row))
        children = self._prepared.children
        for child in children.get(row, ()) if children else ():
            if outcome != FINISHED and self._settings.clients.give_up:
                self._push(now, _CALL, partial(self._forgo, child))
            else:
                at = now + self._prepared.think[child]
                self._limit = max(self._limit, at + self._settings.drain_s)
                self._push(at, _ARRIVE, child)

    def _forgo(self, row: int, now: float) -> None:
        self._rows.arrived[row] = now
        self._end(now, row, ABANDONED)

    # --- engines ---

    def _deliver(self, now: float, router: int, action: ev.Send | ev.Abort, row: int) -> None:
        engine = self._engines[self._index[action.replica]]
        replica = engine.replica
        if type(action) is not ev.Send:
            replica.cancel(now, row)
            self._schedule(now, engine)
            return
        if engine.state != "ready":
            self._undeliverable(now, router, action, row, engine)
            return
        engine.received[self._names[router]] = action.nth
        prepared = self._prepared
        if engine.prefills and prepared.output[row] > 1:
            job = self._transfers.prompt_only(row, action.priority)
        else:
            job = Job(row, prepared.prompt[row], prepared.output[row], action.priority, prepared.blocks[row])
        try:
            replica.submit(now, job)
        except TooLongError:
            self._broken(now, row, ev.Ended(request_id=action.request_id, code="invalid_request"))
            return
        if replica.next_event != engine.due:
            self._schedule(now, engine)

    def _broken(self, now: float, row: int, event: ev.Ended) -> None:
        self._tell(now, self._prepared.router[row], event)
        self._end(now, row, FAILED)

    def _undeliverable(self, now: float, router: int, send: ev.Send, row: int, engine: Engine) -> None:
        if self._rows.attempts[row] != send.attempt or self._ids[row] != send.request_id:
            return  # sent elsewhere since: the engine's last heartbeat was faster
        if engine.state != "failed":
            self._tell(now, router, ev.Bounced(send.request_id, engine.state))
        elif not engine.silent:
            self._tell(now, router, ev.ReplicaGone(send.replica, "no responder"))

    def _schedule(self, now: float, engine: Engine) -> None:
        due = engine.replica.next_event
        if due != engine.due:
            engine.due = due
            if due < math.inf:
                self._push(due, _ENGINE, engine)
            else:
                self._idle(now, engine)

    def _idle(self, now: float, engine: Engine) -> None:
        if engine.state == "draining":
            self._members.idle(now, engine)

    def _finished(self, now: float, row: int) -> None:
        """An engine is done with it."""
        prepared = self._prepared
        router, output = prepared.router[row], prepared.output[row]
        if self._rows.tokens[row] < output:
            self._tell(now, router, ev.Prefilled(self._ids[row]))
            return
        ended = ev.Ended(
            request_id=self._ids[row],
            prompt_tokens=prepared.prompt[row],
            output_tokens=output,
            natural=output < prepared.events[row].max_tokens,
        )
        self._tell(now, router, ended)
        self._end(now, row, FINISHED)

    def _restore(self, in_flight: Sequence[InFlight]) -> None:
        """Work that engines had when the window began, not scored; their ids are negative."""
        for number, work in enumerate(in_flight, 1):
            index = self._index.get(work.replica)
            if index is None or work.produced_tokens >= work.output_tokens:
                continue
            engine = self._engines[index]
            job = Job(-number, work.prompt_tokens, work.output_tokens)
            try:
                engine.replica.restore(self._now, job, work.produced_tokens)
            except TooLongError:
                continue  # another engine's limits than when it was recorded
            self._schedule(self._now, engine)
