"""Small integers for names, and tables that stay bounded however many names come by."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Numbering(dict[str, int]):
    """Name to number in order of first sight."""

    def __missing__(self, name: str) -> int:
        number = self[name] = len(self)
        return number


def replica_id(name: str) -> int:
    """0 <= id < 2**31, the same on every router."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") & 0x7FFF_FFFF


class Recent(Generic[T]):
    """Objects by name, made at first sight; beyond `limit` the longest unseen is dropped."""

    __slots__ = ("_by_name", "_last", "_limit", "_make", "_next")

    def __init__(self, limit: int, make: Callable[[int], T], first: int = 0) -> None:
        self._limit = limit
        self._make = make
        self._next = first
        self._by_name: OrderedDict[str, T] = OrderedDict()
        self._last: tuple[str, T] | None = None

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str) -> T:
        last = self._last
        if last is not None and last[0] == name:
            return last[1]
        by_name = self._by_name
        found = by_name.get(name)
        if found is not None:
            by_name.move_to_end(name)
        else:
            found = by_name[name] = self._make(self._next)
            self._next += 1
            if len(by_name) > self._limit:
                by_name.popitem(last=False)
        self._last = (name, found)
        return found
