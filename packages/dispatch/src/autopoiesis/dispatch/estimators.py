"""Small statistics that cost the same however much they have seen."""

from __future__ import annotations

import math

HALF_LIFE_S = 60.0


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
        self._sum = self.at(now) + amount
        self._at = now


class Share:
    """How much of what happened lately was of one kind, forgotten with a half-life of 60 s."""

    __slots__ = ("_all", "_hits")

    def __init__(self) -> None:
        self._hits = Decaying()
        self._all = Decaying()

    def observe(self, now: float, hit: bool) -> None:
        self._all.add(now, 1.0)
        if hit:
            self._hits.add(now, 1.0)

    def at(self, now: float) -> float:
        """Between 0 and 1; sinks to 0 while nothing happens."""
        hits = self._hits.at(now)
        return hits / max(1.0, self._all.at(now)) if hits else 0.0


class Correction:
    """A factor on predictions, learned from observed ÷ predicted: the mean of its logarithm with exponential forgetting."""

    __slots__ = ("_log", "factor")

    RATE = 0.05
    LIMIT = 10.0
    FLOOR_S = 0.001

    def __init__(self) -> None:
        self._log = 0.0
        self.factor = 1.0

    def observe(self, predicted_s: float, observed_s: float) -> None:
        """`predicted_s` is the prediction before correction."""
        ratio = (observed_s + self.FLOOR_S) / (predicted_s + self.FLOOR_S)
        ratio = min(max(ratio, 1 / self.LIMIT), self.LIMIT)
        self._log += self.RATE * (math.log(ratio) - self._log)
        self.factor = math.exp(self._log)


class PromptRatio:
    """Prompt tokens per byte of one model, from engines' counts."""

    __slots__ = ("_bytes", "_tokens", "value")

    KEEP = 1 - 1 / 512

    def __init__(self, prior: float, prior_bytes: float = 4096.0) -> None:
        self._tokens = prior * prior_bytes
        self._bytes = prior_bytes
        self.value = prior

    def observe(self, prompt_bytes: int, tokens: int) -> None:
        self._bytes = self._bytes * self.KEEP + prompt_bytes
        self._tokens = self._tokens * self.KEEP + tokens
        self.value = self._tokens / self._bytes

    def tokens(self, prompt_bytes: int) -> int:
        return max(1, math.ceil(prompt_bytes * self.value))
