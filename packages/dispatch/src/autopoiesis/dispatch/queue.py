"""Held requests of one model in the order of their priority."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from typing import Any

from autopoiesis.dispatch.ticket import Ticket

Entry = tuple[float, int, Ticket]
"""Key, arrival number, request: never compared beyond the number, which is unique."""


class HeldQueue:
    """Sorted by key, lower first, ties by arrival. A *pass* offers every request once, from a cursor that rotates: one
    that was cut short goes on where it stopped, one that was complete lets the next begin at the head.
    """

    __slots__ = ("_by_age", "_cursor", "_left", "entries", "prompt_tokens")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        """In order; read by others, changed here alone."""
        self._by_age: OrderedDict[int, Ticket] = OrderedDict()  # longest since keyed first
        self._cursor: tuple[float, int] | None = None  # what the pass offered last
        self._left = 0
        self.prompt_tokens = 0

    def __len__(self) -> int:
        return len(self.entries)

    def tickets(self) -> list[Ticket]:
        """All of them, in order."""
        return [entry[2] for entry in self.entries]

    def add(self, ticket: Ticket, key: float) -> None:
        ticket.key = key
        ticket.queued = True
        insort(self.entries, (key, ticket.seq, ticket))
        self._by_age[ticket.seq] = ticket
        self.prompt_tokens += ticket.prompt_tokens

    def remove(self, ticket: Ticket) -> None:
        del self.entries[self._position(ticket.key, ticket.seq)]
        del self._by_age[ticket.seq]
        ticket.queued = False
        self.prompt_tokens -= ticket.prompt_tokens

    def _position(self, key: float, seq: int) -> int:
        probe: Any = (key, seq)  # sorts just before the entry that begins with the same two
        return bisect_left(self.entries, probe)

    def age(self) -> Ticket:
        """The request whose key is oldest; it becomes the newest."""
        seq = next(iter(self._by_age))
        self._by_age.move_to_end(seq)
        return self._by_age[seq]

    def rekey(self, ticket: Ticket, key: float) -> None:
        if key != ticket.key:
            del self.entries[self._position(ticket.key, ticket.seq)]
            ticket.key = key
            insort(self.entries, (key, ticket.seq, ticket))

    def begin_pass(self) -> None:
        self._left = len(self.entries)

    @property
    def passing(self) -> bool:
        """Whether the pass was cut short."""
        return self._left > 0 and bool(self.entries)

    def next_in_pass(self) -> Ticket | None:
        """The next request to offer, none when all were."""
        entries = self.entries
        if self._left <= 0 or not entries:
            self._left = 0
            self._cursor = None
            return None
        self._left -= 1
        at = 0
        if self._cursor is not None:
            key, seq = self._cursor
            at = self._position(key, seq + 1)
            if at == len(entries):
                at = 0
        key, seq, ticket = entries[at]
        self._cursor = (key, seq)
        return ticket
