"""Learns an affine step model of a server whose steps nobody shows, from what its requests took.

Recursive least squares of the relative error, with forgetting. A pause between tokens is one step; a first token takes the steps of the prompt.
"""

from __future__ import annotations

from typing import Final

from autopoiesis.contracts.messages.fleet import StepModel

_SCALES: Final = (1.0, 1e3, 1e5, 1e1)
"""Units of the features (steps, prefill tokens, KV tokens, sequences), so that they are of one size."""

_PRIOR: Final = 1e3
"""Initial variance of each coefficient."""

_FORGET: Final = 0.995
ENOUGH_PAUSES: Final = 20
ENOUGH_FIRSTS: Final = 5


class StepEstimator:
    """Feed it `pause` and `first`; `model` is none until both kinds have been seen often enough."""

    def __init__(self, chunk_tokens: int = 2048) -> None:
        self._chunk_tokens = chunk_tokens
        self._weights = [0.0] * 4
        self._covariance = [[_PRIOR if i == j else 0.0 for j in range(4)] for i in range(4)]
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
        base, prefill, kv, sequence = (
            max(0.0, weight / scale) for weight, scale in zip(self._weights, _SCALES, strict=True)
        )
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
        x = [value / scale / seconds for value, scale in zip(features, _SCALES, strict=True)]
        p = self._covariance
        px = [sum(row[j] * x[j] for j in range(4)) for row in p]
        denominator = _FORGET + sum(x[i] * px[i] for i in range(4))
        gain = [value / denominator for value in px]
        error = 1.0 - sum(w * value for w, value in zip(self._weights, x, strict=True))
        self._weights = [w + k * error for w, k in zip(self._weights, gain, strict=True)]
        self._covariance = [[(p[i][j] - gain[i] * px[j]) / _FORGET for j in range(4)] for i in range(4)]
        self._bound()

    def _bound(self) -> None:
        """Forgetting inflates what is never excited; keep every variance at most the prior's."""
        for i in range(4):
            if self._covariance[i][i] > _PRIOR:
                shrink = (_PRIOR / self._covariance[i][i]) ** 0.5
                for j in range(4):
                    self._covariance[i][j] *= shrink
                    self._covariance[j][i] *= shrink
