"""Circuit breakers: a replica that fails request after request is left alone for a while, though its heartbeats say it is well."""

from __future__ import annotations

from typing import Final

FAILURES: Final = 5
"""In a row, until the breaker opens."""
FIRST_S: Final = 1.0
LONGEST_S: Final = 30.0


class _Breaker:
    __slots__ = ("failures", "open_s", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.open_s = 0.0
        self.until = 0.0


class Breakers:
    """By replica. Open for `FIRST_S` seconds, then one request in a row of failures doubles it, up to `LONGEST_S`."""

    def __init__(self) -> None:
        self._breakers: dict[str, _Breaker] = {}

    def failed(self, replica: str, now: float) -> None:
        breaker = self._breakers.get(replica)
        if breaker is None:
            breaker = self._breakers[replica] = _Breaker()
        breaker.failures += 1
        if breaker.failures >= FAILURES and now >= breaker.until:
            breaker.open_s = min(LONGEST_S, 2.0 * breaker.open_s or FIRST_S)
            breaker.until = now + breaker.open_s

    def succeeded(self, replica: str) -> None:
        if self._breakers:
            self._breakers.pop(replica, None)

    def is_open(self, replica: str, now: float) -> bool:
        breaker = self._breakers.get(replica)
        return breaker is not None and now < breaker.until
