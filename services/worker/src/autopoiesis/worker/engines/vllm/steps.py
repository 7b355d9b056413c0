"""From what vLLM's scheduler says after each step to the figures of heartbeats and step telemetry. Knows no vLLM."""

from __future__ import annotations

from typing import Final

from autopoiesis.contracts.messages.fleet import StepModel
from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.runtime.servers.estimate import StepEstimator

LEARN_S: Final = 0.02
"""Between two steps that the affine model learns from: thousands of alike ones in a second teach nothing."""
MEAN_WEIGHT: Final = 0.1


class StepWatch:
    """Takes every step; keeps one record per `sample_s` seconds. Times are seconds of one monotonic clock.

    vLLM plans a step while the last one runs, so a busy engine's step lasts from the end of the last one to its own end. The first
    step after a pause lasts from when vLLM scheduled what it began with; where that is not told it is passed over.
    """

    def __init__(self, *, chunk_tokens: int, kv_capacity_tokens: int, sample_s: float) -> None:
        self.mean_s = 0.0
        self._capacity = kv_capacity_tokens
        self._sample_s = sample_s
        self._estimator = StepEstimator(chunk_tokens)
        self._kept: list[StepRecord] = []
        self._ended_at: float | None = None
        self._learned_at = 0.0
        self._sampled_at = 0.0

    @property
    def model(self) -> StepModel | None:
        return self._estimator.model

    def step(
        self,
        now: float,
        unix_now: float,
        *,
        scheduled_at: float,
        prefill_tokens: int,
        decode_sequences: int,
        kv_share: float,
        goes_on: bool,
    ) -> None:
        """A step ended `now`. `goes_on`: requests remain, so the next one follows at once.

        `scheduled_at`: the last time by then that a request was scheduled whose first tokens this step gave; 0 where none was.
        """
        before, self._ended_at = self._ended_at, now if goes_on else None
        began = before or scheduled_at
        if not began:
            return
        duration = now - began
        kv_tokens = round(kv_share * self._capacity)
        weight = MEAN_WEIGHT if self.mean_s else 1.0
        self.mean_s += weight * (duration - self.mean_s)
        if now - self._learned_at >= LEARN_S:
            self._learned_at = now
            self._learn(duration, prefill_tokens, decode_sequences, kv_tokens)
        if now - self._sampled_at >= self._sample_s:
            self._sampled_at = now
            self._kept.append(
                StepRecord(
                    at_unix_s=unix_now,
                    duration_s=duration,
                    prefill_tokens=prefill_tokens,
                    decode_sequences=decode_sequences,
                    kv_tokens=kv_tokens,
                )
            )

    def take(self) -> tuple[StepRecord, ...]:
        kept, self._kept = self._kept, []
        return tuple(kept)

    def _learn(self, duration: float, prefill: int, sequences: int, kv_tokens: int) -> None:
        if prefill:
            self._estimator.first(duration, prefill_tokens=prefill, kv_tokens=kv_tokens, sequences=sequences)
        else:
            self._estimator.pause(duration, kv_tokens=kv_tokens, sequences=sequences)
