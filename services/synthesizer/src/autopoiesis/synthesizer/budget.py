"""What one cycle may spend, and what it has spent."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one cycle; 0 money with a priced model allows no call."""

    seconds: float
    candidates: int
    """Policies that are scored."""
    calls: int
    """Of the language model."""
    tokens: int
    """Prompt and completion tokens together."""
    cost: float
    """Money, in the currency of the configured prices."""


@dataclass(slots=True)
class Budget:
    """Counts against `Limits` from its creation on."""

    limits: Limits
    clock: Callable[[], float] = time.monotonic
    candidates: int = 0
    calls: int = 0
    tokens: int = 0
    cost: float = 0.0
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    @property
    def elapsed_s(self) -> float:
        return self.clock() - self._started

    @property
    def left_s(self) -> float:
        return max(0.0, self.limits.seconds - self.elapsed_s)

    @property
    def candidates_left(self) -> int:
        return max(0, self.limits.candidates - self.candidates) if self.left_s > 0 else 0

    def allows_call(self, *, tokens: int, cost: float) -> bool:
        """Whether one more call that uses at most so many tokens and so much money stays within every limit."""
        return (
            self.left_s > 0
            and self.calls < self.limits.calls
            and self.tokens + tokens <= self.limits.tokens
            and self.cost + cost <= self.limits.cost
        )

    def charge_call(self, *, tokens: int, cost: float) -> None:
        self.calls += 1
        self.tokens += tokens
        self.cost += cost

    def settle(self, *, tokens: int, cost: float) -> None:
        """Correct a charge that was made in advance by what was really used."""
        self.tokens += tokens
        self.cost += cost

    def to_json(self) -> dict[str, float]:
        return {
            "seconds": round(self.elapsed_s, 3),
            "candidates": self.candidates,
            "calls": self.calls,
            "tokens": self.tokens,
            "cost": self.cost,
        }
