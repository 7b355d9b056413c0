"""What this router has heard of replicas: for readiness, silence and labels. Decisions use the dispatcher's own view."""

from __future__ import annotations

import math

from autopoiesis.contracts.messages.fleet import Heartbeat, Role

_FORGET_S = 120.0


class Fleet:
    """Last heartbeat of every replica and when anything was last heard of it. Times are seconds on one clock."""

    def __init__(self) -> None:
        self._beats: dict[str, Heartbeat] = {}
        self._heard: dict[str, float] = {}
        self._former: dict[str, str] = {}
        self._capacity: dict[str, int] = {}

    def beat(self, heartbeat: Heartbeat, now: float) -> bool:
        """Whether it says that what ran there is lost: the engine was restarted, or ended. As the dispatcher judges it."""
        name = heartbeat.replica
        last = self._beats.get(name)
        restarted = False
        if last is not None and last.incarnation == heartbeat.incarnation:
            if heartbeat.beat <= last.beat:
                return False
        elif last is not None:
            if self._former.get(name) == heartbeat.incarnation:
                return False
            self._former[name] = last.incarnation
            restarted = True
        self._beats[name] = heartbeat
        self._heard[name] = now
        if heartbeat.model:  # an attached server that has not answered yet has none
            known = self._capacity.get(heartbeat.model, 0)
            self._capacity[heartbeat.model] = max(known, heartbeat.kv_capacity_tokens)
        return restarted or heartbeat.state in {"stopped", "failed"}

    def heard(self, replica: str, now: float) -> None:
        """The replica gave a sign of life other than a heartbeat at `now`."""
        if now > self._heard.get(replica, math.inf):
            self._heard[replica] = now

    def silent_s(self, replica: str, now: float) -> float:
        """Seconds since the last sign of life; 0 for a replica never heard of."""
        return now - self._heard.get(replica, now)

    def leaving(self, replica: str) -> bool:
        """It said that it takes no more requests."""
        beat = self._beats.get(replica)
        return beat is not None and beat.state in {"draining", "stopped"}

    def forget(self, now: float) -> None:
        """Drop replicas that have been silent for two minutes; their models stay known."""
        for replica in [name for name, heard in self._heard.items() if now - heard > _FORGET_S]:
            del self._beats[replica], self._heard[replica]
            self._former.pop(replica, None)

    def role(self, replica: str) -> Role:
        beat = self._beats.get(replica)
        return beat.role if beat else "mixed"

    def gpu(self, replica: str) -> str:
        beat = self._beats.get(replica)
        return beat.gpu if beat else ""

    @property
    def beats(self) -> list[Heartbeat]:
        """Last heartbeats, by replica name."""
        return [self._beats[name] for name in sorted(self._beats)]

    @property
    def models(self) -> dict[str, int]:
        """Every model ever heard of, with the largest KV capacity of a replica in tokens: no sequence can be longer."""
        return self._capacity
