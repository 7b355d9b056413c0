"""What a dispatcher has counted, for metrics and telemetry."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    arrivals: int = 0
    sends: int = 0
    retries: int = 0
    fallbacks: int = 0
    holds: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """By reason."""
    ended: int = 0
    left: int = 0
    lost: int = 0
    handovers: int = 0
    faults: int = 0
    swaps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counters and the state of the moment."""

    counters: Counters
    policy: str
    """Hash of what decides now."""
    epoch: int
    quarantined: bool
    queued: dict[str, int]
    """Held requests by model."""
    inflight: int
    fuel: int
    """Spent since the start."""
    passes: int
    """Passes over held requests since the start."""
