"""How long answers get: mean output length per model, class and prompt length, learned from ended requests only."""

from __future__ import annotations

PRIOR_WEIGHT = 8.0
"""Ends that a coarser level is worth in a finer one."""
KEEP = 1 - 1 / 512
OUTLIER = 8.0
"""One answer counts for at most this many times the mean."""
BUCKETS = 24


class Level:
    """One group of requests. Ends that were cut short add their length but no end, the maximum-likelihood mean of
    exponential lifetimes under censoring; the level above serves as prior.
    """

    __slots__ = ("_ends", "_parent", "_prior", "_tokens")

    def __init__(self, parent: Level | None, prior: float = 0.0) -> None:
        self._parent = parent
        self._prior = prior
        self._tokens = 0.0
        self._ends = 0.0

    def mean(self) -> float:
        prior = self._parent.mean() if self._parent else self._prior
        return (self._tokens + PRIOR_WEIGHT * prior) / (self._ends + PRIOR_WEIGHT)

    def observe(self, tokens: int, natural: bool) -> None:
        bounded = min(tokens, OUTLIER * self.mean())
        self._tokens = self._tokens * KEEP + bounded
        self._ends = self._ends * KEEP + natural
        if self._parent:
            self._parent.observe(tokens, natural)


class OutputLengths:
    """Predictor of one model's output lengths, in tokens."""

    __slots__ = ("_all", "_classes")

    def __init__(self, prior: float) -> None:
        self._all = Level(None, prior)
        self._classes: dict[str, list[Level]] = {}

    def level(self, klass: str, prompt_tokens: int) -> Level:
        """The finest level; prompts are grouped by powers of two."""
        buckets = self._classes.get(klass)
        if buckets is None:
            whole = Level(self._all)
            buckets = self._classes[klass] = [Level(whole) for _ in range(BUCKETS)]
        return buckets[min(prompt_tokens.bit_length(), BUCKETS - 1)]

    def mean(self) -> float:
        """Over all classes."""
        return self._all.mean()
