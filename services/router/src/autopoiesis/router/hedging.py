"""When a request whose first token is late gets a second attempt at another replica, and how many do."""

from __future__ import annotations

from collections import deque
from typing import Final

KEPT: Final = 256
"""First tokens of a model from which the quantile is taken."""
LEAST: Final = 32
"""As many must be known before it counts; it is taken anew after as many."""
BURST: Final = 10.0
"""Second attempts that a quiet time saves up."""


class _Firsts:
    """How long the last first tokens of one model took, from the send."""

    __slots__ = ("delay_s", "new", "seconds")

    def __init__(self) -> None:
        self.seconds: deque[float] = deque(maxlen=KEPT)
        self.new = 0
        self.delay_s = 0.0


class Hedging:
    """At most `share` of all requests, 0 to 1, get one: after `after_s` seconds, and only when `quantile` of the last first tokens
    of their model had come sooner.
    """

    def __init__(self, share: float, after_s: float, quantile: float) -> None:
        self._share = share
        self._after_s = after_s
        self._quantile = quantile
        self._credit = 0.0
        self._models: dict[str, _Firsts] = {}

    def earn(self) -> None:
        """A request arrived."""
        self._credit = min(BURST, self._credit + self._share)

    def spend(self) -> bool:
        """Whether one more second attempt is within the budget; if so it counts."""
        if self._credit < 1.0:
            return False
        self._credit -= 1.0
        return True

    def refund(self) -> None:
        """It was not sent after all."""
        self._credit += 1.0

    def observe(self, model: str, seconds: float) -> None:
        """A first token came so long after its request was first sent."""
        firsts = self._models.get(model)
        if firsts is None:
            firsts = self._models[model] = _Firsts()
        firsts.seconds.append(seconds)
        firsts.new += 1
        if firsts.new >= LEAST:
            firsts.new = 0
            ordered = sorted(firsts.seconds)
            firsts.delay_s = ordered[min(len(ordered) - 1, int(len(ordered) * self._quantile))]

    def delay_s(self, model: str) -> float:
        """Seconds from the send after which a request of `model` is late."""
        firsts = self._models.get(model)
        return max(self._after_s, firsts.delay_s) if firsts else self._after_s
