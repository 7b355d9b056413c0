"""Which batches are already on disk, so that a redelivered one is stored once."""

from bisect import bisect_right
from typing import Any

BatchName = tuple[str, str, int]
"""(sender, incarnation, batch number)."""


class Ledger:
    """Batch numbers seen per (sender, incarnation), kept as closed ranges: dense numbering costs one range."""

    def __init__(self) -> None:
        self._ranges: dict[tuple[str, str], list[list[int]]] = {}

    def __contains__(self, name: BatchName) -> bool:
        ranges = self._ranges.get(name[:2], [])
        at = bisect_right(ranges, name[2], key=lambda r: r[0]) - 1
        return at >= 0 and ranges[at][1] >= name[2]

    def add(self, name: BatchName) -> bool:
        """True where the batch is new."""
        if name in self:
            return False
        number = name[2]
        self.add_range(name[0], name[1], number, number)
        return True

    def add_range(self, sender: str, incarnation: str, first: int, last: int) -> None:
        """Mark `first` to `last`, both included, as seen."""
        ranges = self._ranges.setdefault((sender, incarnation), [])
        merged: list[list[int]] = []
        for low, high in sorted([*ranges, [first, last]]):
            if merged and low <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], high)
            else:
                merged.append([low, high])
        ranges[:] = merged

    def update(self, dumped: list[list[Any]]) -> None:
        """Take over what `dump` gave."""
        for sender, incarnation, first, last in dumped:
            self.add_range(sender, incarnation, first, last)

    def dump(self) -> list[list[Any]]:
        """Rows of [sender, incarnation, first, last], JSON-ready."""
        return [[*key, low, high] for key, ranges in sorted(self._ranges.items()) for low, high in ranges]
