"""Text for engines that have no model: one short word per token, the same for the same request."""

from __future__ import annotations

import zlib
from itertools import accumulate
from typing import Final

_ONSETS: Final = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "st")
_RHYMES: Final = (
    "a",
    "an",
    "e",
    "el",
    "i",
    "in",
    "o",
    "or",
    "u",
    "un",
    "ay",
    "ow",
    "ee",
    "ark",
    "est",
    "ill",
)
WORDS: Final = tuple(f"{onset}{rhyme} " for rhyme in _RHYMES for onset in _ONSETS)

_CYCLES: Final = 3
_TEXT: Final = "".join(WORDS) * _CYCLES
_OFFSETS: Final = (0, *accumulate(len(word) for word in WORDS * _CYCLES))


def word_ids(request_id: str, start: int, count: int) -> tuple[int, ...]:
    """Token ids `start` to `start + count` of the answer to `request_id`: places in `WORDS`."""
    first = zlib.crc32(request_id.encode()) + start
    return tuple((first + i) % len(WORDS) for i in range(count))


def words(request_id: str, start: int, count: int) -> str:
    """Tokens `start` to `start + count` of the answer to `request_id`."""
    first = (zlib.crc32(request_id.encode()) + start) % len(WORDS)
    if count <= (_CYCLES - 1) * len(WORDS):
        return _TEXT[_OFFSETS[first] : _OFFSETS[first + count]]
    return "".join(WORDS[(first + i) % len(WORDS)] for i in range(count))
