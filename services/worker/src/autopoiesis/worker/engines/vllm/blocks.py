"""Which of the router's prompt blocks left vLLM's prefix cache.

vLLM names blocks of tokens (`BlockStored`, `BlockRemoved`), routers name blocks of text. A request shows both sides: its
text blocks and its tokens. Text block i of n is taken to end at token share (i + 1) / n of the prompt and counts as gone with
the last token block before that point. A prompt ends with an incomplete text block, so this looks a little too far and may
report a block early, never late.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

REPORTED_S: Final = 1.0
"""Seconds for which heartbeats repeat an eviction."""
MOST_REPORTED: Final = 4096
MOST_WAITING: Final = 256
"""Prompts whose blocks have not all been announced yet; cached ones never are, so the oldest are forgotten."""

Hash = int | bytes
_Key = tuple[Hash | None, tuple[int, ...]]


class BlockLedger:
    """Fed with prompts and vLLM's events, in whatever order they come. `clock` gives seconds."""

    def __init__(self, block_tokens: int, clock: Callable[[], float]) -> None:
        self.evictions = 0
        """Text blocks that have left since start."""
        self._block_tokens = block_tokens
        self._clock = clock
        self._children: dict[_Key, Hash] = {}
        self._keys: dict[Hash, _Key] = {}
        self._ends: dict[Hash, set[int]] = {}
        self._held: dict[int, Hash] = {}
        self._waiting: OrderedDict[int, tuple[Sequence[int], tuple[int, ...]]] = OrderedDict()
        self._prompts = 0
        self._gone: deque[tuple[float, int]] = deque(maxlen=MOST_REPORTED)

    def prompt(self, token_ids: Sequence[int], text_blocks: tuple[int, ...]) -> None:
        """A request with these tokens and text blocks runs."""
        if not text_blocks or len(token_ids) < self._block_tokens:
            return
        if not self._place(token_ids, text_blocks):
            self._prompts += 1
            self._waiting[self._prompts] = (token_ids, text_blocks)
            if len(self._waiting) > MOST_WAITING:
                self._waiting.popitem(last=False)

    def stored(self, hashes: Sequence[Hash], parent: Hash | None, token_ids: Sequence[int]) -> None:
        size = self._block_tokens
        for i, name in enumerate(hashes):
            key = (parent, tuple(token_ids[i * size : (i + 1) * size]))
            self._children[key] = name
            self._keys[name] = key
            parent = name

    def settle(self) -> None:
        """Place the prompts whose blocks have been announced meanwhile; after each batch of events."""
        for number, (token_ids, text_blocks) in list(self._waiting.items()):
            if self._place(token_ids, text_blocks):
                del self._waiting[number]

    def removed(self, hashes: Iterable[Hash]) -> None:
        for name in hashes:
            key = self._keys.pop(name, None)
            if key is not None and self._children.get(key) == name:
                del self._children[key]
            for block in self._ends.pop(name, ()):
                del self._held[block]
                self._report(block)

    def cleared(self) -> None:
        """Everything left, or nobody knows what did."""
        for block in self._held:
            self._report(block)
        for table in (self._children, self._keys, self._ends, self._held):
            table.clear()
        self._waiting.clear()

    def recent(self) -> tuple[int, ...]:
        """What left within the last `REPORTED_S` seconds, oldest first."""
        horizon = self._clock() - REPORTED_S
        while self._gone and self._gone[0][0] < horizon:
            self._gone.popleft()
        return tuple(block for _, block in self._gone)

    def _place(self, token_ids: Sequence[int], text_blocks: tuple[int, ...]) -> bool:
        chain = self._chain(token_ids)
        whole = len(token_ids) // self._block_tokens
        for i, block in enumerate(text_blocks):
            end = -(-len(token_ids) * (i + 1) // len(text_blocks))
            last = min(max(end // self._block_tokens, 1), whole) - 1
            if last >= len(chain):
                return False
            self._hold(block, chain[last])
        return True

    def _chain(self, token_ids: Sequence[int]) -> list[Hash]:
        """Known blocks of this prompt from its start."""
        chain: list[Hash] = []
        parent: Hash | None = None
        size = self._block_tokens
        for start in range(0, len(token_ids) - size + 1, size):
            parent = self._children.get((parent, tuple(token_ids[start : start + size])))
            if parent is None:
                break
            chain.append(parent)
        return chain

    def _hold(self, block: int, name: Hash) -> None:
        before = self._held.get(block)
        if before == name:
            return
        if before is not None:
            self._ends[before].discard(block)
        self._held[block] = name
        self._ends.setdefault(name, set()).add(block)

    def _report(self, block: int) -> None:
        self.evictions += 1
        self._gone.append((self._clock(), block))
