"""Recording what a dispatcher was told and what it ordered, and checking that it would order the same again.

A record is a JSON line `{"now", "event", "actions"}`; events and actions are tagged with their type. Fields that are
infinite have infinite defaults and are left out, because JSON has no infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from autopoiesis.dispatch.core import Dispatcher
from autopoiesis.dispatch.events import Action, Event


class Line(msgspec.Struct, frozen=True):
    now: float
    event: Event
    actions: list[Action]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a replay left the record. Counted from 1."""

    line: int
    now: float
    event: Event
    recorded: list[Action]
    replayed: list[Action]


_decoder = msgspec.json.Decoder(Line)


class Recorder:
    """A dispatcher that hands a line for every event to `sink`; in all else the one it wraps."""

    def __init__(self, dispatcher: Dispatcher, sink: Callable[[bytes], object]) -> None:
        self.dispatcher = dispatcher
        self._sink = sink

    def handle(self, now: float, event: Event) -> list[Action]:
        actions = self.dispatcher.handle(now, event)
        self._sink(encode(now, event, actions))
        return actions

    @property
    def next_wake(self) -> float:
        return self.dispatcher.next_wake


def encode(now: float, event: Event, actions: list[Action]) -> bytes:
    """One line, without line break. Raises ValueError where a time is infinite that must not be."""
    if not math.isfinite(now):
        raise ValueError(f"an event at {now!r} cannot be recorded; times are finite")
    line = {"now": now, "event": _plain(event), "actions": [_plain(action) for action in actions]}
    return msgspec.json.encode(line)


def _plain(message: Event | Action) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(message)
    return {name: value for name, value in fields.items() if value != math.inf}


def replay(lines: Iterable[bytes | str], dispatcher: Dispatcher) -> Difference | None:
    """Feed a record to a fresh dispatcher of the same settings, policy and seed; the first difference, none if it agrees.

    Raises ValueError naming the line where one cannot be read.
    """
    for number, text in enumerate(lines, start=1):
        try:
            line = _decoder.decode(text)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise ValueError(f"line {number} is not a record of a dispatcher: {error}") from error
        actions = dispatcher.handle(line.now, line.event)
        if actions != line.actions:
            return Difference(number, line.now, line.event, line.actions, actions)
    return None
