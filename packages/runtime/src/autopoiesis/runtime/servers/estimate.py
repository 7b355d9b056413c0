"""Learns an affine step model of a server whose steps nobody shows, from what its requests took.

Least squares of the relative error, with exponential forgetting. A pause between tokens is one step; a first token takes the steps of
the prompt. A server in one steady state (a batch that is always full) says nothing of what each part costs, and as older states are
forgotten any split would fit as well; the ridge, relative to each feature's own weight, keeps it from running away (Levenberg and
Marquardt's scaling).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from autopoiesis.contracts.messages.fleet import StepModel

_FORGET: Final = 0.995
_RIDGE: Final = 1e-3
_FORGOTTEN: Final = 1e-200
"""A feature's sum of squares below which it was not seen for too long."""
ENOUGH_PAUSES: Final = 20
ENOUGH_FIRSTS: Final = 5


class StepEstimator:
    """Feed it `pause` and `first`; `model` is none until both kinds have been seen often enough."""

    def __init__(self, chunk_tokens: int = 2048) -> None:
        self._chunk_tokens = chunk_tokens
        self._products = [[0.0] * 4 for _ in range(4)]
        """Sums of products of features over what was observed; the lower triangle."""
        self._sums = [0.0] * 4
        self._pauses = 0
        self._firsts = 0

    def pause(self, seconds: float, *, kv_tokens: float, sequences: float) -> None:
        """Mean seconds between two tokens while `sequences` ran that held `kv_tokens` in all."""
        self._pauses += 1
        self._learn((1.0, 0.0, kv_tokens, sequences), seconds)

    def first(self, seconds: float, *, prefill_tokens: int, kv_tokens: float, sequences: float) -> None:
        """Seconds to a first token with `prefill_tokens` to compute, others' before it included."""
        self._firsts += 1
        steps = -(-prefill_tokens // self._chunk_tokens)
        self._learn((steps, prefill_tokens, steps * kv_tokens, steps * sequences), seconds)

    @property
    def model(self) -> StepModel | None:
        if self._pauses < ENOUGH_PAUSES or self._firsts < ENOUGH_FIRSTS:
            return None
        base, prefill, kv, sequence = self._coefficients()
        return StepModel(
            base_s=base,
            prefill_token_s=prefill,
            kv_token_s=kv,
            sequence_s=sequence,
            chunk_tokens=self._chunk_tokens,
        )

    def _learn(self, features: tuple[float, ...], seconds: float) -> None:
        if seconds <= 0:
            return
        x = [value / seconds for value in features]
        sums = self._sums
        for i, row in enumerate(self._products):
            for j in range(i + 1):
                row[j] = _FORGET * row[j] + x[i] * x[j]
            sums[i] = _FORGET * sums[i] + x[i]

    def _coefficients(self) -> list[float]:
        """None below 0: what would be is left out, and the others are what they are without it."""
        free = [i for i in range(4) if self._products[i][i] > _FORGOTTEN]
        found = [0.0] * 4
        while free:
            weights = self._solved(free)
            least = min(range(len(free)), key=weights.__getitem__)
            if weights[least] >= 0:
                for i, weight in zip(free, weights, strict=True):
                    found[i] = weight
                break
            del free[least]
        return found

    def _solved(self, free: Sequence[int]) -> list[float]:
        """The ridge regression on some features, in units in which each one's sum of squares is 1; by Cholesky's decomposition."""
        units = [self._products[i][i] ** 0.5 for i in free]
        lower: list[list[float]] = []
        found: list[float] = []
        for n, i in enumerate(free):
            row: list[float] = []
            for m, j in enumerate(free[:n]):
                product = self._products[i][j] / units[n] / units[m]
                row.append((product - _dot(row, lower[m])) / lower[m][m])
            row.append((1.0 + _RIDGE - _dot(row, row)) ** 0.5)
            lower.append(row)
            found.append((self._sums[i] / units[n] - _dot(row, found)) / row[n])
        for n in reversed(range(len(free))):
            found[n] -= sum(lower[m][n] * found[m] for m in range(n + 1, len(free)))
            found[n] /= lower[n][n]
        return [weight / unit for weight, unit in zip(found, units, strict=True)]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=False))
