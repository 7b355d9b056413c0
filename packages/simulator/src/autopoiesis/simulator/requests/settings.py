"""What the world around routers and engines is like."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from autopoiesis.dispatch import DispatchSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """How callers behave. Seconds."""

    timeout_s: float = math.inf
    """Without a first token by then, the client goes away."""
    retries: int = 0
    """Times it tries again, after a timeout or a 429."""
    retry_after_s: float = 1.0
    give_up: bool = False
    """Requests that depend on one that did not finish never come; they count as abandoned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSettings:
    """Seconds where not said."""

    routers: int = 1
    """They share the fleet; each request reaches a random one."""
    heartbeat_s: float = 0.25
    latency_s: float = 0.002
    """From router to engine and back, charged on the way there; heartbeats' own is within their interval."""
    dispatch: DispatchSettings = field(default_factory=DispatchSettings)
    clients: Clients = field(default_factory=Clients)
    step_noise: float = 0.0
    """Sigma of a lognormal factor on the times of each run of steps."""
    drain_s: float = 3600.0
    """After the last arrival, requests that have not ended within this time count as unfinished."""
    max_tokens: int = 4096
    """The limit clients send, where a trace has no longer answers: the same for all, so it tells nothing."""

    def __post_init__(self) -> None:
        if self.routers < 1:
            raise ValueError(f"routers = {self.routers}: must be at least 1")
        if self.heartbeat_s <= 0 or self.latency_s < 0 or self.step_noise < 0:
            raise ValueError("heartbeat_s must be above 0, latency_s and step_noise not negative")
