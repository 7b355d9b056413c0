"""Small statistics that cost the same however much they have seen."""

from __future__ import annotations

import math
from typing import Final

HALF_LIFE_S: Final = 60.0


class Decaying:
    """A sum that halves every `half_life` seconds."""

    __slots__ = ("_at", "_half_life", "_sum")

    def __init__(self, half_life: float = HALF_LIFE_S) -> None:
        self._half_life = half_life
        self._sum = 0.0
        self._at = 0.0

    def at(self, now: float) -> float:
        return self._sum * 0.5 ** ((now - self._at) / self._half_life) if self._sum else 0.0

    def add(self, now: float, amount: float) -> None:
        past = self._sum
        if past and now != self._at:
            past *= 0.5 ** ((now - self._at) / self._half_life)
        self._sum = past + amount
        self._at = now


class FaultRate:
    """Share of recent requests that failed: a mean with exponential forgetting that also halves every 60 s."""

    __slots__ = ("_at", "rate")

    WEIGHT: Final = 0.1

    def __init__(self) -> None:
        self.rate = 0.0
        """As it was when something was observed last; 0 before any failure, which ends that do not fail leave so."""
        self._at = 0.0

    def at(self, now: float) -> float:
        return self.rate * 0.5 ** ((now - self._at) / HALF_LIFE_S) if self.rate else 0.0

    def observe(self, now: float, failed: bool) -> None:
        if failed or self.rate:
            rate = self.at(now)
            self.rate = rate + self.WEIGHT * (failed - rate)
            self._at = now


class Correction:
    """A factor on predictions, learned from observed ÷ predicted: the mean of its logarithm with exponential forgetting."""

    __slots__ = ("_log", "factor")

    WEIGHT: Final = 0.05
    LIMIT: Final = 10.0
    FLOOR_S: Final = 0.001

    def __init__(self) -> None:
        self._log = 0.0
        self.factor = 1.0

    def observe(self, predicted_s: float, observed_s: float) -> None:
        """`predicted_s` is the prediction before correction."""
        ratio = (observed_s + self.FLOOR_S) / (predicted_s + self.FLOOR_S)
        if not 1 / self.LIMIT < ratio < self.LIMIT:
            ratio = self.LIMIT if ratio > 1 else 1 / self.LIMIT
        self._log += self.WEIGHT * (math.log(ratio) - self._log)
        self.factor = math.exp(self._log)


class PromptRatio:
    """Prompt tokens per byte of one model, from engines' counts."""

    __slots__ = ("_bytes", "_tokens", "value")

    KEEP: Final = 1 - 1 / 512

    def __init__(self, prior: float, prior_bytes: float = 4096.0) -> None:
        self._tokens = prior * prior_bytes
        self._bytes = prior_bytes
        self.value = prior

    def observe(self, prompt_bytes: int, tokens: int) -> None:
        self._bytes = self._bytes * self.KEEP + prompt_bytes
        self._tokens = self._tokens * self.KEEP + tokens
        self.value = self._tokens / self._bytes

    def tokens(self, prompt_bytes: int) -> int:
        tokens = math.ceil(prompt_bytes * self.value)
        return tokens if tokens > 1 else 1
