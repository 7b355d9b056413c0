"""Prompts of a wanted length whose prefixes repeat as the trace says: deterministic words, nothing from anybody's data."""

import random
import zlib
from functools import cache
from typing import Final

_CORPUS_BYTES: Final = 1 << 16
_SYLLABLES: Final = (
    "ba",
    "co",
    "di",
    "fu",
    "ga",
    "ho",
    "ki",
    "lu",
    "me",
    "no",
    "pa",
    "re",
    "si",
    "to",
    "vu",
    "ze",
)


@cache
def _corpus(seed: int) -> str:
    rng = random.Random(seed)
    words = []
    size = 0
    while size < _CORPUS_BYTES:
        word = "".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) + " "
        words.append(word)
        size += len(word)
    return "".join(words)[:_CORPUS_BYTES]


def text(name: str, size: int, seed: int = 0) -> str:
    """`size` bytes (ASCII) that begin with `name`: two texts of one name share the shorter one's whole length, others nothing."""
    corpus = _corpus(seed)
    start = zlib.crc32(name.encode()) % _CORPUS_BYTES
    body = f"{name} "
    while len(body) < size:
        body += corpus[start : start + size - len(body)]
        start = 0
    return body[:size]
