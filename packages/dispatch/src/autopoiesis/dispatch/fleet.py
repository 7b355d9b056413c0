"""All replicas this router has heard of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.fleet import ReplicaState as EngineState
from autopoiesis.dispatch.latency import Latency
from autopoiesis.dispatch.models import ModelState
from autopoiesis.dispatch.names import Numbering, replica_id
from autopoiesis.dispatch.prefix import PrefixIndex
from autopoiesis.dispatch.replicas import ReplicaState
from autopoiesis.dispatch.settings import DispatchSettings
from autopoiesis.dispatch.ticket import Ticket


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """One replica, for metrics and people."""

    name: str
    model: str
    node: str
    gpu: str
    state: EngineState | Literal["suspect", "gone"]
    inflight: int
    stats_age_s: float


class Fleet:
    """Membership. Requests that a change leaves without their replica are returned to the caller."""

    def __init__(
        self, settings: DispatchSettings, router: str, model_of: Callable[[str], ModelState]
    ) -> None:
        self._settings = settings
        self._router = router
        self._model_of = model_of
        self._nodes = Numbering()
        self._zones = Numbering()
        self._former: dict[str, str] = {}  # replica to the incarnation before the present one
        self._free_slots: list[int] = []
        self._next_sweep = 0.0
        self.replicas: dict[str, ReplicaState] = {}
        self.prefixes = PrefixIndex()

    def beat(self, now: float, beat: Heartbeat) -> list[Ticket]:
        """Take in a heartbeat. Late ones, of this incarnation or the one before, are ignored."""
        self._sweep(now)
        state = self.replicas.get(beat.replica) or self._join(beat)
        last = state.beat
        orphans: list[Ticket] = []
        if last is not None:
            if last.incarnation == beat.incarnation:
                if beat.beat <= last.beat:
                    return orphans
                if beat.model != last.model:  # an attached server that had not said yet what it serves
                    self._move(state, beat.model)
                    state.model.changed()
            elif self._former.get(state.name) == beat.incarnation:
                return orphans
            else:
                self._former[state.name] = last.incarnation
                orphans = self._void(state)
                self._move(state, beat.model)
        offered = state.ready and now < state.beat_at + self._settings.suspect_after_s
        state.heard(now, beat, beat.received.get(self._router, 0))
        self._describe(state, beat)
        self._evict(state, last, beat)
        if beat.state in {"stopped", "failed"}:
            orphans += self._void(state)
        if state.ready != offered:
            state.model.changed()
        return orphans

    def gone(self, state: ReplicaState) -> list[Ticket]:
        """Nobody answers for it: it is not offered again before its next heartbeat.

        Neither is what runs on the same node, which one process serves: else a request would spend its attempts there. Unless the
        replica said that it leaves: then its process may well serve on.
        """
        for other in self.replicas.values():
            if other.view.node == state.view.node and not state.leaving:
                self.suspend(other)
        return self._void(state)

    def suspend(self, state: ReplicaState) -> None:
        """It refused work: not offered before its next heartbeat."""
        state.ready = False
        state.model.changed()

    def describe(self, now: float) -> list[ReplicaInfo]:
        return [self._info(now, state) for state in self.replicas.values() if state.beat]

    def _info(self, now: float, state: ReplicaState) -> ReplicaInfo:
        beat = state.beat
        assert beat is not None
        age = now - state.beat_at
        kind: EngineState | Literal["suspect", "gone"] = beat.state
        if kind == "ready" and not state.ready:
            kind = "gone"
        elif kind == "ready" and age >= self._settings.suspect_after_s:
            kind = "suspect"
        return ReplicaInfo(state.name, beat.model, beat.node, beat.gpu, kind, len(state.flights), age)

    def _evict(self, state: ReplicaState, last: Heartbeat | None, beat: Heartbeat) -> None:
        """Take in which blocks left the prefix cache; where heartbeats missed tell of more than this one, believe in none."""
        same = last is not None and last.incarnation == beat.incarnation
        new = beat.evictions - (last.evictions if same and last is not None else 0)
        if new > len(beat.evicted):
            self.prefixes.forget(state.slot)
        elif new > 0:
            self.prefixes.evict(state.slot, beat.evicted[-new:])

    def _join(self, beat: Heartbeat) -> ReplicaState:
        slot = self._free_slots.pop() if self._free_slots else len(self.replicas)
        model = self._model_of(beat.model)
        state = ReplicaState(beat.replica, slot, replica_id(beat.replica), model)
        self.replicas[beat.replica] = state
        model.enlist(state)
        return state

    def _void(self, state: ReplicaState) -> list[Ticket]:
        self.prefixes.forget(state.slot)
        state.model.changed()
        return state.void()

    def _move(self, state: ReplicaState, model: str) -> None:
        """A new engine in the old one's place, perhaps of another model."""
        state.latency = Latency()
        if model != state.model.name:
            state.model.dismiss(state)
            self._model_of(model).enlist(state)

    def _describe(self, state: ReplicaState, beat: Heartbeat) -> None:
        """Fields that heartbeats alone decide."""
        view = state.view
        view.node = self._nodes[beat.node]
        view.zone = self._zones[beat.zone]
        view.gpu = beat.gpu
        view.tp = beat.tp
        view.role = beat.role
        view.preemptible = beat.preemptible
        view.kv_capacity_tokens = beat.kv_capacity_tokens
        view.max_running = beat.max_running
        view.step_time = beat.step_time_s
        view.price = beat.price
        if beat.step_model is not None:
            state.model.step_model = beat.step_model

    def _sweep(self, now: float) -> None:
        """Now and then, forget what has been silent for long."""
        if now < self._next_sweep:
            return
        after = self._settings.forget_after_s
        self._next_sweep = now + after / 4
        for state in list(self.replicas.values()):
            if now - state.beat_at >= after and not state.flights:
                self._void(state)
                state.model.dismiss(state)
                del self.replicas[state.name]
                self._former.pop(state.name, None)
                self._free_slots.append(state.slot)
