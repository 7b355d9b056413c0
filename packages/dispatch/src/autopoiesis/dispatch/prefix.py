"""Which prompt blocks each replica is believed to have cached: those this router has sent there lately and that have not been
reported gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice


class PrefixIndex:
    """Per replica the blocks it was sent, oldest first; per block the replicas that have it, as bits of an integer.

    Blocks of a prompt are entered from the last to the first, so the first is always the most recent: unless it was reported
    gone, where a block is known all before it are. One walk over the prompt's blocks answers for the whole fleet.
    """

    __slots__ = ("_blocks", "_holders")

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._blocks: dict[int, dict[int, None]] = {}

    def add(self, slot: int, blocks: Sequence[int], limit: int) -> None:
        """Replica number `slot` has just got a prompt of these blocks; it holds at most `limit`."""
        known = self._blocks.get(slot)
        if known is None:
            known = self._blocks[slot] = {}
        holders = self._holders
        bit = 1 << slot
        for block in reversed(blocks):
            if block in known:
                del known[block]
            else:
                holders[block] = holders.get(block, 0) | bit
            known[block] = None
        if len(known) > limit:
            # Somewhat more than needed, because finding the oldest passes over all that were removed before it.
            for oldest in list(islice(known, len(known) - limit + limit // 16)):
                del known[oldest]
                self._drop(oldest, bit)

    def evict(self, slot: int, blocks: Iterable[int]) -> None:
        """The replica no longer has these."""
        known = self._blocks.get(slot)
        if not known:
            return
        bit = 1 << slot
        for block in blocks:
            if block in known:
                del known[block]
                self._drop(block, bit)

    def forget(self, slot: int) -> None:
        """The replica is gone, and its cache with it."""
        for block in self._blocks.pop(slot, ()):
            self._drop(block, 1 << slot)

    def _drop(self, block: int, bit: int) -> None:
        left = self._holders[block] & ~bit
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]

    def hits(self, blocks: Sequence[int]) -> dict[int, int]:
        """By replica number, how many leading blocks it has; replicas with none are left out."""
        found: dict[int, int] = {}
        holders = self._holders
        having = -1
        for depth, block in enumerate(blocks):
            still = having & holders.get(block, 0)
            if depth and still != having:
                _assign(found, having & ~still, depth)
            having = still
            if not having:
                return found
        if blocks:
            _assign(found, having, len(blocks))
        return found

    def hits_of(self, slot: int, blocks: Sequence[int]) -> int:
        """How many leading blocks one replica has."""
        known = self._blocks.get(slot)
        if not known:
            return 0
        count = 0
        for block in blocks:
            if block not in known:
                break
            count += 1
        return count


def _assign(found: dict[int, int], slots: int, depth: int) -> None:
    while slots:
        lowest = slots & -slots
        found[lowest.bit_length() - 1] = depth
        slots ^= lowest
