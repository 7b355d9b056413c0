"""The latest arrivals of one scope as columns, bounded, for statistics on demand."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from autopoiesis.contracts.messages.telemetry import RequestRecord

ROW = np.dtype(
    [
        ("arrival_unix_s", "f8"),
        ("prompt_tokens", "i4"),
        ("output_tokens", "i4"),
        ("censored", "?"),
        ("klass", "i2"),
        ("finished", "?"),
        ("rejected", "?"),
        ("met", "?"),
        ("fallback", "?"),
        ("ttft_s", "f4"),
        ("tpot_s", "f4"),
        ("e2e_s", "f4"),
        ("epoch", "i8"),
    ]
)
"""One arrival; times not measured are NaN, `klass` indexes `RecentArrivals.classes`."""

Columns = npt.NDArray[Any]


class RecentArrivals:
    """A ring of the last `capacity` arrivals."""

    def __init__(self, capacity: int) -> None:
        self._rows = np.zeros(capacity, ROW)
        self._count = 0
        self._classes: dict[str, int] = {}

    @property
    def classes(self) -> list[str]:
        return list(self._classes)

    @property
    def total(self) -> int:
        """Arrivals ever added."""
        return self._count

    def extend(self, records: Iterable[RequestRecord]) -> None:
        for record in records:
            self._rows[self._count % len(self._rows)] = self._row(record)
            self._count += 1

    def between(self, start_unix_s: float, end_unix_s: float) -> Columns:
        """Arrivals with start <= time < end, by time."""
        rows = self._rows[: min(self._count, len(self._rows))]
        times = rows["arrival_unix_s"]
        rows = rows[(times >= start_unix_s) & (times < end_unix_s)]
        return rows[np.argsort(rows["arrival_unix_s"], kind="stable")]

    def _row(self, record: RequestRecord) -> tuple[Any, ...]:
        return (
            record.arrival_unix_s,
            record.prompt_tokens,
            record.output_tokens,
            record.output_censored,
            self._classes.setdefault(record.klass, len(self._classes)),
            record.outcome == "finished",
            record.outcome == "rejected",
            record.met,
            record.fallback,
            np.nan if record.ttft_s is None else record.ttft_s,
            np.nan if record.tpot_s is None else record.tpot_s,
            record.e2e_s,
            record.epoch,
        )
