"""Live attainment, counted per activation in short bins of time."""

import math
from collections import defaultdict
from collections.abc import Iterable

from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.evaluator.comparison import Bin

BIN_S = 2.0


class Attainment:
    """Bins of the last `keep_s` seconds, by scope, activation epoch and time of arrival.

    `now` is the newest arrival seen: the clock of the data, so that a late consumer judges as a punctual one would.
    """

    def __init__(self, *, keep_s: float) -> None:
        self.now = -math.inf
        self._keep_s = keep_s
        self._bins: defaultdict[tuple[str, int], defaultdict[int, Bin]] = defaultdict(
            lambda: defaultdict(Bin)
        )

    def add(self, records: Iterable[RequestRecord]) -> None:
        """Count arrivals. Those whose client left say nothing about the policy."""
        for record in records:
            self.now = max(self.now, record.arrival_unix_s)
            if record.outcome == "cancelled":
                continue
            item = self._bins[record.scope, record.epoch][math.floor(record.arrival_unix_s / BIN_S)]
            item.requests += 1
            item.met += record.met
            item.tokens += record.prompt_tokens + record.output_tokens
        self._forget()

    def between(self, scope: str, epoch: int, start_unix_s: float, end_unix_s: float) -> list[Bin]:
        """Bins that lie wholly in [start, end)."""
        bins: dict[int, Bin] = self._bins.get((scope, epoch)) or {}
        first, last = math.ceil(start_unix_s / BIN_S), math.floor(end_unix_s / BIN_S)
        return [item for number, item in sorted(bins.items()) if first <= number < last]

    def _forget(self) -> None:
        oldest = math.floor((self.now - self._keep_s) / BIN_S)
        for key, bins in list(self._bins.items()):
            for number in [number for number in bins if number < oldest]:
                del bins[number]
            if not bins:
                del self._bins[key]
