"""How much fuel passes over held requests may still spend."""

from __future__ import annotations


class FuelBudget:
    """A bucket that fills at `per_second` and holds one second's worth. Every decision draws from it through `spent`, but
    only passes over held requests ask whether something is left, so only they pay for the reckoning.
    """

    __slots__ = ("_at", "_counted", "_level", "_per_second", "spent")

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._level = float(per_second)
        self._at: float | None = None
        self._counted = 0
        self.spent = 0
        """Fuel of all decisions since the start; the dispatcher adds to it."""

    def left(self, now: float) -> float:
        """May be negative, where decisions for arrivals alone used more; no deeper than one second's worth."""
        passed = 0.0 if self._at is None else now - self._at
        refilled = self._level + passed * self._per_second - (self.spent - self._counted)
        self._level = min(max(refilled, -float(self._per_second)), float(self._per_second))
        self._at = now
        self._counted = self.spent
        return self._level

    def available_at(self, now: float, fuel: float) -> float:
        """When `fuel` will be left if nothing else draws."""
        return now + max(0.0, fuel - self.left(now)) / self._per_second
