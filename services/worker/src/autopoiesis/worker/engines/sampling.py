"""Samples engine steps of the replica model by its counters, for calibration."""

from __future__ import annotations

from typing import Final, NamedTuple

from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.simulator.replica import Replica

SAMPLE_INTERVAL_S: Final = 0.5


class _Counters(NamedTuple):
    steps: int
    busy_s: float
    layer_tokens: int
    decode_tokens: int
    kv_tokens: int


class StepSampler:
    """Looks at a replica after each advance and keeps about two samples a second, of steps that were alike."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._last = self._counters()
        self._next = 0.0
        self._kept: list[StepRecord] = []

    def look(self, now: float, unix_now: float) -> None:
        if self._replica.steps == self._last.steps:
            return
        before, self._last = self._last, self._counters()
        steps = self._last.steps - before.steps
        decodes = self._last.decode_tokens - before.decode_tokens
        prefill = self._last.layer_tokens - before.layer_tokens - decodes
        if now < self._next or (prefill and steps > 1):
            return
        self._next = now + SAMPLE_INTERVAL_S
        self._kept.append(
            StepRecord(
                at_unix_s=unix_now,
                duration_s=(self._last.busy_s - before.busy_s) / steps,
                prefill_tokens=prefill,
                decode_sequences=round(decodes / steps),
                kv_tokens=round((self._last.kv_tokens - before.kv_tokens) / steps),
                steps=steps,
            )
        )

    def take(self) -> list[StepRecord]:
        kept, self._kept = self._kept, []
        return kept

    def _counters(self) -> _Counters:
        r = self._replica
        return _Counters(r.steps, r.busy_s, r.layer_tokens, sum(r.gaps.values()), r.kv_tokens_read)
