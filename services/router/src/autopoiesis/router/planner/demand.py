"""What is asked of each model: from the records of ended requests and from what replicas hold now."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autopoiesis.contracts.messages.telemetry import RequestRecord


@dataclass(frozen=True, slots=True)
class Load:
    """Of one model: `concurrency` requests at once, `arrival_rate` per second, mean lengths in tokens."""

    concurrency: int = 0
    arrival_rate: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0


class Demand:
    """A sliding window of `window_s` seconds over the records of all routers."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._since: float | None = None
        self._records: deque[tuple[float, RequestRecord]] = deque()
        self._lengths: dict[str, tuple[int, int]] = {}

    def on_records(self, records: Iterable[RequestRecord], now: float) -> None:
        if self._since is None:
            self._since = now
        self._records.extend((now, record) for record in records)

    def loads(self, held: Mapping[str, int], now: float) -> dict[str, Load]:
        """By model; `held` are the requests that replicas run or queue now.

        Concurrency is the larger of those and of arrivals x time in the system (Little): requests that wait in routers, or
        fail because nothing serves them, ask for room too. Lengths are those last seen where the window has none.
        """
        while self._records and now - self._records[0][0] > self._window_s:
            self._records.popleft()
        by_model: dict[str, list[RequestRecord]] = {name: [] for name in held}
        for _, record in self._records:
            by_model.setdefault(record.model, []).append(record)
        span = min(self._window_s, max(1.0, now - self._since)) if self._since is not None else self._window_s
        return {
            name: self._load(name, records, held.get(name, 0), span) for name, records in by_model.items()
        }

    def _load(self, name: str, records: list[RequestRecord], held: int, span: float) -> Load:
        finished = [record for record in records if record.outcome == "finished"]
        if finished:
            self._lengths[name] = (
                _mean(record.prompt_tokens for record in finished),
                _mean(record.output_tokens for record in finished),
            )
        elif records:
            self._lengths.setdefault(name, (_mean(record.prompt_tokens for record in records), 256))
        prompt, output = self._lengths.get(name, (0, 0))
        inside = math.ceil(sum(record.e2e_s for record in records) / span)
        return Load(max(held, inside), len(records) / span, prompt, output)


def _mean(values: Iterable[int]) -> int:
    listed = list(values)
    return max(1, round(sum(listed) / len(listed)))
