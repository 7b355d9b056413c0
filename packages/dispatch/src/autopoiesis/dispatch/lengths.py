"""How long answers get: mean output length per model, class and prompt length, learned from ended requests only."""

from __future__ import annotations

from typing import Final

PRIOR_WEIGHT: Final = 8.0
"""Ends that a coarser level is worth in a finer one."""
KEEP: Final = 1 - 1 / 512
OUTLIER: Final = 8.0
"""One answer counts for at most this many times the mean."""
BUCKETS: Final = 24
MAX_CLASSES: Final = 64


class Level:
    """One group of requests. Ends that were cut short add their length but no end: the maximum-likelihood mean of
    exponential lifetimes under censoring. The level above serves as prior.
    """

    __slots__ = ("ends", "mean", "tokens")

    def __init__(self, mean: float) -> None:
        self.tokens = 0.0
        self.ends = 0.0
        self.mean = mean

    def observe(self, tokens: int, natural: bool, prior: float) -> float:
        """The mean with one more answer, where that of the level above is `prior`."""
        most = OUTLIER * self.mean
        self.tokens = total = self.tokens * KEEP + (tokens if tokens < most else most)
        self.ends = ends = self.ends * KEEP + natural
        self.mean = mean = (total + PRIOR_WEIGHT * prior) / (ends + PRIOR_WEIGHT)
        return mean


Path = tuple[Level, Level, Level]
"""From all requests to a class, and on to its prompts of one magnitude."""


class OutputLengths:
    """Predictor of one model's output lengths, in tokens: all requests, then classes, then prompts by powers of two."""

    __slots__ = ("_all", "_classes", "_prior", "_served")

    def __init__(self, prior: float) -> None:
        self._prior = prior
        self._served = Level(prior)
        self._all = Level(prior)
        self._classes: dict[str, list[Path]] = {}
        self._path("", 0)

    def expected(self, klass: str, prompt_tokens: int) -> float:
        """Mean length to be expected, before any limit of the request."""
        _, whole, level = self._path(klass, prompt_tokens)
        return (level.tokens + PRIOR_WEIGHT * whole.mean) / (level.ends + PRIOR_WEIGHT)

    def observe(self, klass: str, prompt_tokens: int, tokens: int, natural: bool) -> None:
        """An answer ended; `natural` where nothing cut it short."""
        self.observe_mean(tokens)
        mean = self._prior
        for level in self._path(klass, prompt_tokens):
            mean = level.observe(tokens, natural, mean)

    def observe_mean(self, tokens: int) -> None:
        """The same, where nobody asks for `expected`."""
        self._served.observe(tokens, True, self._prior)

    @property
    def mean(self) -> float:
        """Of answers as they came, whatever ended them: so many tokens long each holds its place in a batch.

        Where limits end every answer, true lengths cannot be known, and their estimate grows without bound.
        """
        return self._served.mean

    def _path(self, klass: str, prompt_tokens: int) -> Path:
        """Prompts of 0, 1, 2-3, 4-7, ... tokens have levels of their own."""
        paths = self._classes.get(klass)
        if paths is None:
            if len(self._classes) >= MAX_CLASSES:
                return self._path("", prompt_tokens)
            mean = self._all.mean
            whole = Level(mean)
            paths = self._classes[klass] = [(self._all, whole, Level(mean)) for _ in range(BUCKETS + 1)]
        magnitude = prompt_tokens.bit_length()
        return paths[magnitude if magnitude < BUCKETS else BUCKETS]
