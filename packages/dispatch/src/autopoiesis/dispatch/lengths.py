"""How long answers get: mean output length per model, class and prompt length, learned from ended requests only."""

from __future__ import annotations

PRIOR_WEIGHT = 8.0
"""Ends that a coarser level is worth in a finer one."""
KEEP = 1 - 1 / 512
OUTLIER = 8.0
"""One answer counts for at most this many times the mean."""
BUCKETS = 24
MAX_CLASSES = 64


class Level:
    """One group of requests. Ends that were cut short add their length but no end: the maximum-likelihood mean of
    exponential lifetimes under censoring. The level above serves as prior.
    """

    __slots__ = ("_ends", "_parent", "_tokens", "mean")

    def __init__(self, parent: Level | None, mean: float) -> None:
        self._parent = parent
        self._tokens = 0.0
        self._ends = 0.0
        self.mean = mean

    def observe(self, tokens: int, natural: bool, prior: float) -> float:
        """Returns the new mean; `prior` is that of the level above."""
        most = OUTLIER * self.mean
        self._tokens = self._tokens * KEEP + min(most, tokens)
        self._ends = self._ends * KEEP + natural
        self.mean = (self._tokens + PRIOR_WEIGHT * prior) / (self._ends + PRIOR_WEIGHT)
        return self.mean

    def expected(self) -> float:
        parent = self._parent
        if parent is None:
            return self.mean
        return (self._tokens + PRIOR_WEIGHT * parent.mean) / (self._ends + PRIOR_WEIGHT)


class OutputLengths:
    """Predictor of one model's output lengths, in tokens: all requests, then classes, then prompts by powers of two."""

    __slots__ = ("_all", "_classes", "_prior")

    def __init__(self, prior: float) -> None:
        self._prior = prior
        self._all = Level(None, prior)
        self._classes: dict[str, list[Level]] = {}
        self._levels("")

    def expected(self, klass: str, prompt_tokens: int) -> float:
        """Mean length to be expected, before any limit of the request."""
        return self._levels(klass)[min(prompt_tokens.bit_length(), BUCKETS)].expected()

    def observe(self, klass: str, prompt_tokens: int, tokens: int, natural: bool) -> None:
        """An answer ended; `natural` where nothing cut it short."""
        levels = self._levels(klass)
        mean = self._all.observe(tokens, natural, self._prior)
        mean = levels[0].observe(tokens, natural, mean)
        levels[min(prompt_tokens.bit_length(), BUCKETS)].observe(tokens, natural, mean)

    @property
    def mean(self) -> float:
        """Over all classes."""
        return self._all.mean

    def _levels(self, klass: str) -> list[Level]:
        """The class as a whole, then its prompts of 1, 2-3, 4-7, ... tokens."""
        levels = self._classes.get(klass)
        if levels is None:
            if len(self._classes) >= MAX_CLASSES:
                return self._levels("")
            whole = Level(self._all, self._all.mean)
            levels = self._classes[klass] = [whole, *(Level(whole, whole.mean) for _ in range(BUCKETS))]
        return levels
