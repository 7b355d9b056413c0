"""What came and went lately: sums over the last 10 and 60 seconds at constant cost."""

from __future__ import annotations

import math
from typing import Final

SHORT_S: Final = 10
LONG_S: Final = 60


class Counts:
    """What happened within some time. Integers, so that sums stay exact."""

    __slots__ = ("arrivals", "ends", "judged", "met", "output_tokens", "prompt_tokens", "rejects")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.arrivals = 0
        self.prompt_tokens = 0
        self.ends = 0
        self.output_tokens = 0
        self.judged = 0  # requests whose objectives were met or missed
        self.met = 0
        self.rejects = 0

    def add(self, other: Counts, sign: int = 1) -> None:
        self.arrivals += sign * other.arrivals
        self.prompt_tokens += sign * other.prompt_tokens
        self.ends += sign * other.ends
        self.output_tokens += sign * other.output_tokens
        self.judged += sign * other.judged
        self.met += sign * other.met
        self.rejects += sign * other.rejects


class Traffic:
    """Counts of one model: the second that runs now, and sums over the full ones before it."""

    __slots__ = ("_full", "_long", "_ring", "_short", "_tick", "current", "until")

    def __init__(self) -> None:
        self._ring = [Counts() for _ in range(LONG_S + 1)]
        self._short = Counts()
        self._long = Counts()
        self._tick: int | None = None
        self.until = -math.inf
        """`current` holds the counts to add to before then; ask `at` from then on."""
        self.current = self._ring[0]
        self._full = 0

    def at(self, now: float) -> Counts:
        """The counts to add to."""
        if now < self.until:
            return self.current
        self._advance(math.floor(now))
        return self.current

    def _advance(self, tick: int) -> None:
        ring = self._ring
        size = len(ring)
        if self._tick is None:
            self._tick = tick
        elif tick - self._tick > LONG_S:
            for counts in (self._short, self._long, *ring):
                counts.clear()
            self._full = LONG_S
            self._tick = tick
        while self._tick < tick:
            self._short.add(self.current)
            self._long.add(self.current)
            self._tick += 1
            self._full = min(self._full + 1, LONG_S)
            self._short.add(ring[(self._tick - 1 - SHORT_S) % size], -1)
            leaving = ring[self._tick % size]
            self._long.add(leaving, -1)
            leaving.clear()
            self.current = leaving
        self.current = ring[tick % size]
        self.until = tick + 1.0

    def arrival_rate(self, now: float) -> float:
        """Requests per s over the last 10 s."""
        current = self.at(now)
        return (self._short.arrivals + current.arrivals) / self._span(now, SHORT_S)

    def arrival_rate_60(self, now: float) -> float:
        current = self.at(now)
        return (self._long.arrivals + current.arrivals) / self._span(now, LONG_S)

    def _span(self, now: float, window: int) -> float:
        return max(1.0, min(self._full, window) + now - math.floor(now))

    def mean_prompt_tokens(self, now: float) -> float:
        return _mean(self._short, self.at(now), "prompt_tokens", "arrivals")

    def mean_prompt_tokens_60(self, now: float) -> float:
        return _mean(self._long, self.at(now), "prompt_tokens", "arrivals")

    def mean_output_tokens(self, now: float) -> float:
        """Of requests that ended in the last 10 s, 0 if none did."""
        return _mean(self._short, self.at(now), "output_tokens", "ends")

    def mean_output_tokens_60(self, now: float) -> float:
        return _mean(self._long, self.at(now), "output_tokens", "ends")

    def attainment(self, now: float) -> float:
        """Share of the last 60 s' requests that met their objectives, 1 if none ended."""
        return _mean(self._long, self.at(now), "met", "judged", 1.0)

    def may_reject(self, now: float, share: float) -> bool:
        """Whether one more reject stays within `share` of the last 60 s' arrivals."""
        current = self.at(now)
        return self._long.rejects + current.rejects + 1 <= share * (self._long.arrivals + current.arrivals)

    def ends_per_second(self, now: float) -> float:
        current = self.at(now)
        return (self._short.ends + current.ends) / self._span(now, SHORT_S)


def _mean(past: Counts, current: Counts, total: str, count: str, default: float = 0.0) -> float:
    number = getattr(past, count) + getattr(current, count)
    return float((getattr(past, total) + getattr(current, total)) / number) if number else default
