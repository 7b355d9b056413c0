"""Who is in the fleet: replicas load, become ready, are told of their loss, drain, sleep, wake, leave and fail."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial

from autopoiesis.dispatch import events as ev
from autopoiesis.simulator.engine import Model
from autopoiesis.simulator.fleet import Change, ReplicaSpec
from autopoiesis.simulator.lookahead import engine_of
from autopoiesis.simulator.requests.engines import Engine
from autopoiesis.simulator.requests.settings import WorldSettings


class Membership:
    """The engines of one world, in order of joining; `index` finds them by name.

    `tell` gives an event to every router, `later` calls something at a time, `beat_later` calls `beat` at a time.
    """

    def __init__(
        self,
        settings: WorldSettings,
        seed: int,
        *,
        tell: Callable[[float, ev.Event], None],
        later: Callable[[float, Callable[[float], None]], None],
        beat_later: Callable[[float, Engine], None],
        model: Callable[..., Model] = engine_of,
    ) -> None:
        self.engines: list[Engine] = []
        self.index: dict[str, int] = {}
        self._settings = settings
        self._seed = seed
        self._tell = tell
        self._later = later
        self._beat_later = beat_later
        self._model = model
        self.freed: Callable[[float], None] | None = None
        """Called when an engine has given its GPUs up."""

    def add(self, now: float, spec: ReplicaSpec) -> Engine:
        noise = self._settings.step_noise
        draw = random.Random(f"{self._seed}/{spec.name}").lognormvariate if noise else None
        engine = Engine(spec, now, (lambda: draw(0.0, noise)) if draw else None, self._model)
        self.index[spec.name] = len(self.engines)
        self.engines.append(engine)
        return engine

    def greet(self, now: float, engine: Engine) -> None:
        """A heartbeat at once; those that follow have a phase of their own."""
        self._tell(now, ev.Beat(engine.heartbeat(now)))
        if not engine.beating:
            engine.beating = True
            phase = random.Random(f"{self._seed}/{engine.spec.name}/beat").random()
            self._beat_later(now + phase * self._settings.heartbeat_s, engine)

    def beat(self, now: float, engine: Engine) -> None:
        """One of its regular heartbeats."""
        if engine.state in {"failed", "stopped"}:
            engine.beating = False
            return
        self._tell(now, ev.Beat(engine.heartbeat(now)))
        self._beat_later(now + self._settings.heartbeat_s, engine)

    def change(self, change: Change, now: float) -> None:
        if change.kind == "join":
            self._join(change, now)
            return
        place = self.index.get(change.replica)
        if place is None or self.engines[place].left == self.engines[place].left:
            return  # it never came, or has gone already
        engine = self.engines[place]
        if change.kind == "notice":
            engine.loss_at = now + change.takes_s
            self._later(engine.loss_at, partial(self._fail, engine, 0.0))
        elif change.kind == "fail":
            self._fail(engine, change.takes_s, now)
        elif change.kind == "wake":
            self._wake(engine, change.takes_s, now)
        else:
            engine.asleep = change.kind == "sleep"
            engine.become("draining", now)
            self.idle(now, engine)

    def idle(self, now: float, engine: Engine) -> None:
        """Its last work may have ended: one that drains then leaves, or falls asleep."""
        if engine.state != "draining" or engine.inbound or engine.replica.next_event < math.inf:
            return
        engine.become("stopped", now)
        engine.replica.drop_all()
        engine.release(now)
        self._tell(now, ev.Beat(engine.heartbeat(now)))
        if not engine.asleep:
            engine.left = now
        self._hand_over(engine, now)

    def _join(self, change: Change, now: float) -> None:
        place = self.index.get(change.after)
        before = None if place is None else self.engines[place]
        if before is not None and before.held_from == before.held_from:
            before.successors.append(change)
            return
        assert change.spec is not None
        engine = self.add(now, change.spec)
        self._load(engine, change.takes_s, now)

    def _load(self, engine: Engine, takes_s: float, now: float) -> None:
        engine.load(now, takes_s)
        self.greet(now, engine)
        if takes_s:
            self._later(engine.ready_at, partial(self._ready, engine))

    def _ready(self, engine: Engine, now: float) -> None:
        if engine.state == "loading" and engine.ready_at == now:
            engine.become("ready", now)
            self._tell(now, ev.Beat(engine.heartbeat(now)))

    def _wake(self, engine: Engine, takes_s: float, now: float) -> None:
        if not engine.asleep:
            return
        engine.asleep = False
        if engine.state == "stopped":
            self._load(engine, takes_s, now)
        else:
            engine.become("ready", now)

    def _fail(self, engine: Engine, unnoticed_s: float, now: float) -> None:
        if engine.left == engine.left:
            return
        engine.become("failed", now)
        engine.silent = unnoticed_s > 0
        engine.left = now
        engine.release(now)
        engine.replica.drop_all()
        engine.due = math.inf
        if engine.silent:
            self._later(now + unnoticed_s, partial(self._noticed, engine))
        else:
            self._noticed(engine, now)
        self._hand_over(engine, now)

    def _noticed(self, engine: Engine, now: float) -> None:
        engine.silent = False
        self._tell(now, ev.ReplicaGone(engine.spec.name, "the connection ended"))

    def _hand_over(self, engine: Engine, now: float) -> None:
        """Its GPUs are free for those that waited."""
        for change in engine.successors:
            self._later(now + change.gap_s, partial(self._join, change))
        engine.successors.clear()
        if self.freed is not None:
            self.freed(now)
