"""The canonical text of a prompt: how long it is, and the keyed hashes of its blocks.

Two prompts that an engine would cache alike must begin alike here, so tools come first, then the messages in order. Text is
taken as it is; what is not text (images, audio, tool calls) enters as its digest and does not count as prompt bytes.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

BLOCK_BYTES: Final = 1024
"""UTF-8 bytes per hashed block: 256 tokens at the usual four bytes per token."""

MAX_BLOCKS: Final = 2048
"""Blocks that are hashed: half a million tokens, and no more than fits beside a body in one message of the bus."""

_MASK: Final = (1 << 63) - 1


def digest(data: bytes) -> bytes:
    """Sixteen hexadecimal digits that stand for content which is not text."""
    return blake2b(data, digest_size=8).hexdigest().encode()


def block_hashes(text: bytes, key: bytes) -> tuple[int, ...]:
    """Hashes of `text` up to the end of each full block, as 63-bit integers; of the first `MAX_BLOCKS` blocks.

    Equal hashes at one position mean equal text up to there. `key` (at most 64 bytes) is the
    installation's secret: without it nobody can test whether a guessed prompt was seen.
    """
    if len(text) < BLOCK_BYTES:
        return ()
    hashes = []
    so_far = blake2b(digest_size=8, key=key)
    blocks = memoryview(text)
    for end in range(BLOCK_BYTES, min(len(text), MAX_BLOCKS * BLOCK_BYTES) + 1, BLOCK_BYTES):
        so_far.update(blocks[end - BLOCK_BYTES : end])
        hashes.append(int.from_bytes(so_far.digest(), "big") & _MASK)
    return tuple(hashes)
