"""Predicted time to first token and per output token on one replica, from the coefficients of its engine's steps.

An engine's step does at most `chunk_tokens` of work: one token per decoding sequence, the rest prompts, first come first
served. A prompt therefore waits for the prompts before it, sharing steps with the decodes; and where the batch or the KV
cache is full, for other sequences to end. With `R` sequences of `mean_output` tokens in steady state, one ends every
`mean_output * step / R` seconds.
"""

from __future__ import annotations

from typing import Final

from autopoiesis.contracts.messages.fleet import StepModel
from autopoiesis.dispatch.estimators import Correction

UNKNOWN: Final = StepModel(
    base_s=0.02, prefill_token_s=5e-5, kv_token_s=0.0, sequence_s=0.0, chunk_tokens=2048
)
"""Assumed of engines that do not tell; the correction learns the rest."""

MAX_PREFILL_SHARE: Final = 0.8


class Latency:
    """Coefficients of one replica, prepared so that a prediction is a handful of operations."""

    __slots__ = (
        "_batch_wait",
        "_decode_step",
        "_kv_release",
        "_kv_room",
        "_kv_token",
        "_lead",
        "_prefill_budget",
        "_prefill_token",
        "_queued",
        "_tpot_base",
        "_tpot_scale",
        "tpot_correction",
        "ttft_correction",
    )

    def __init__(self) -> None:
        self.ttft_correction = Correction()
        self.tpot_correction = Correction()
        self.update(UNKNOWN, 0, 0, 0, 0, 0, 0, 1.0, 0.0)

    def update(
        self,
        step: StepModel,
        running: int,
        waiting: int,
        queued_prefill: int,
        kv_used: int,
        kv_capacity: int,
        max_running: int,
        mean_output: float,
        prefill_rate: float,
    ) -> None:
        """Figures of the replica, tokens but for counts; `prefill_rate` is prompt tokens per s that come to it.

        `kv_used` leaves prompts out that are in `queued_prefill`. 0 for a capacity or limit means none is known.
        """
        decode_step = step.base_s + step.kv_token_s * kv_used + step.sequence_s * running
        busy = running > 0 or queued_prefill > 0
        release = mean_output * decode_step / (running or 1)
        short = running + waiting + 1 - max_running if max_running else 0
        self._batch_wait = short * release if short > 0 else 0.0
        self._lead = decode_step + (0.5 * decode_step if busy else 0.0) + self._batch_wait
        self._decode_step = decode_step
        budget, least = step.chunk_tokens - running, step.chunk_tokens // 8 or 1
        self._prefill_budget = max(least, budget)
        self._prefill_token = step.prefill_token_s
        self._queued = queued_prefill
        self._kv_room = kv_capacity - kv_used if kv_capacity else 1 << 62
        self._kv_release = release * running / kv_used if running and kv_used > 0 else 0.0
        sequences = running + waiting + 1
        if max_running and sequences > max_running:
            sequences = max_running
        kv_held = kv_used + queued_prefill + 0.5 * mean_output
        if kv_capacity and kv_held > kv_capacity:
            kv_held = float(kv_capacity)
        self._kv_token = step.kv_token_s
        self._tpot_base = step.base_s + step.sequence_s * sequences + step.kv_token_s * kv_held
        share = prefill_rate * step.prefill_token_s
        self._tpot_scale = 1.0 / (1.0 - min(MAX_PREFILL_SHARE, share))

    def raw_ttft(self, uncached: int) -> float:
        """Seconds from now to the first token of a prompt with `uncached` tokens to compute, before correction."""
        work = self._queued + uncached
        seconds = self._lead + work * self._prefill_token + (work // self._prefill_budget) * self._decode_step
        if work > self._kv_room:
            kv_wait = (work - self._kv_room) * self._kv_release
            if kv_wait > self._batch_wait:
                seconds += kv_wait - self._batch_wait
        return seconds

    def raw_tpot(self, prompt_tokens: int) -> float:
        """Seconds per output token with one more sequence of `prompt_tokens`, before correction."""
        return (self._tpot_base + self._kv_token * prompt_tokens) * self._tpot_scale

    def ttft(self, uncached: int) -> float:
        return self.raw_ttft(uncached) * self.ttft_correction.factor

    def tpot(self, prompt_tokens: int) -> float:
        return self.raw_tpot(prompt_tokens) * self.tpot_correction.factor
