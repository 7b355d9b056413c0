"""Prefix cache of one replica: block hashes with references, and an LRU queue of what nobody holds.

As in vLLM, freed blocks keep their content until they are needed again, a sequence's last blocks go first, and blocks without
a hash queue among the others.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

MOST_EVICTED: Final = 1024
"""Evicted hashes that are remembered for whoever wants to know."""


class PrefixCache:
    """Counts in KV blocks; each hash stands for `unit` blocks."""

    __slots__ = ("_held", "_idle", "_stamp", "evicted", "evictions", "idle_blocks", "unit")

    def __init__(self, unit: int) -> None:
        self.unit = unit
        self.idle_blocks = 0
        self.evictions = 0
        """Hashes that have left."""
        self.evicted: deque[int] = deque(maxlen=MOST_EVICTED)
        """The last of them, oldest first."""
        self._held: dict[int, int] = {}
        self._idle: OrderedDict[int | tuple[int], int] = OrderedDict()
        self._stamp = 0

    def __contains__(self, block: int) -> bool:
        return block in self._held or block in self._idle

    @property
    def held_blocks(self) -> int:
        """Blocks of hashes that some sequence holds."""
        return len(self._held) * self.unit

    def match(self, hashes: Sequence[int], limit: int) -> tuple[int, int]:
        """How many leading hashes are cached, at most `limit`, and how many of their blocks are idle."""
        held, idle = self._held, self._idle
        count = idle_blocks = 0
        for block in hashes[:limit]:
            if block in idle:
                idle_blocks += self.unit
            elif block not in held:
                break
            count += 1
        return count, idle_blocks

    def hold(self, block: int) -> None:
        """Take one reference on a hash, cached or new."""
        if self._idle.pop(block, 0):
            self.idle_blocks -= self.unit
        self._held[block] = self._held.get(block, 0) + 1

    def release(self, hashes: Sequence[int], anonymous: int) -> None:
        """A sequence ends: give back its `anonymous` blocks, then its hashes from the last to the first."""
        if anonymous:
            self._stamp += 1
            self._idle[(self._stamp,)] = anonymous
            self.idle_blocks += anonymous
        for block in reversed(hashes):
            references = self._held[block] - 1
            if references:
                self._held[block] = references
            else:
                del self._held[block]
                self._idle[block] = self.unit
                self.idle_blocks += self.unit

    def shrink(self, limit: int) -> None:
        """Reuse the oldest idle blocks until at most `limit` are left."""
        while self.idle_blocks > limit:
            block, blocks = self._idle.popitem(last=False)
            if isinstance(block, int):
                self.evictions += 1
                self.evicted.append(block)
            excess = self.idle_blocks - limit
            self.idle_blocks -= blocks
            if blocks > excess:
                self._stamp += 1
                rest = (self._stamp,)
                self._idle[rest] = blocks - excess
                self._idle.move_to_end(rest, last=False)
                self.idle_blocks += blocks - excess
