"""What a simulated engine does that its model does not say: noise on every run of steps, and a slow drift."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Standard deviations are of the logarithm of step time; 0 turns a part off."""

    run_sigma: float = 0.04
    drift_sigma: float = 0.06
    drift_time_s: float = 90.0
    """How long the drift remembers where it was."""

    def __post_init__(self) -> None:
        if self.run_sigma < 0 or self.drift_sigma < 0 or self.drift_time_s <= 0:
            raise ValueError(
                "noise: standard deviations must not be negative and the drift time must be above 0"
            )


class Perturbation:
    """Factors on step times: lognormal per run of steps, times an Ornstein-Uhlenbeck drift, both of mean about 1."""

    def __init__(self, noise: Noise, seed: str, clock: Callable[[], float]) -> None:
        self._noise = noise
        self._rng = random.Random(seed)
        self._clock = clock
        self._at = clock()
        self._drift = self._rng.gauss(0.0, noise.drift_sigma)

    def __call__(self) -> float:
        noise, now = self._noise, self._clock()
        kept = math.exp(-(now - self._at) / noise.drift_time_s)
        self._at = now
        self._drift = self._drift * kept + self._rng.gauss(0.0, noise.drift_sigma) * math.sqrt(
            1 - kept * kept
        )
        return math.exp(self._drift + self._rng.gauss(0.0, noise.run_sigma))
