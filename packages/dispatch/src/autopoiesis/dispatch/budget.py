"""How much fuel passes over held requests may still spend."""

from __future__ import annotations

import math


class FuelBudget:
    """Spending is counted per full second of the clock."""

    __slots__ = ("_per_second", "_second", "_spent", "total")

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = -math.inf
        self._spent = 0
        self.total = 0

    def spend(self, now: float, fuel: int) -> None:
        if now >= self._second + 1.0:
            self._second = math.floor(now)
            self._spent = 0
        self._spent += fuel
        self.total += fuel

    def left(self, now: float) -> int:
        return self._per_second - self._spent if now < self._second + 1.0 else self._per_second

    def refilled_at(self) -> float:
        """When the running second ends."""
        return self._second + 1.0
