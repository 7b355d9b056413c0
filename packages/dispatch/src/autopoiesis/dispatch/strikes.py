"""Faults of the policy in force, and whether there were too many."""

from __future__ import annotations

from collections import deque


class Strikes:
    """`limit` faults within `window` seconds quarantine the policy for as long as it is in force."""

    __slots__ = ("_limit", "_times", "_window", "quarantined")

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._times: deque[float] = deque()
        self.quarantined = False

    def strike(self, now: float) -> int:
        """Count one more and return how many are within the window."""
        times = self._times
        times.append(now)
        while times[0] <= now - self._window:
            times.popleft()
        if len(times) >= self._limit:
            self.quarantined = True
        return len(times)
