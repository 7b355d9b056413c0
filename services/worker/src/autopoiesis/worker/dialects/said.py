"""What an engine said in a chat, gathered from the pieces of its stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from autopoiesis.worker.engines.base import Piece


@dataclass(slots=True)
class Call:
    """A call of a tool that the model wants."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Said:
    """Text and tool calls of one choice, in order."""

    texts: list[str] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def hear(self, piece: Piece) -> None:
        self.texts.append(text_of(piece))
        for index, fragment in calls_of(piece):
            call = self.calls.setdefault(index, Call())
            call.id = call.id or fragment.id
            call.name += fragment.name
            call.arguments += fragment.arguments


def text_of(piece: Piece) -> str:
    return piece.text or str(_delta(piece).get("content") or "")


def calls_of(piece: Piece) -> list[tuple[int, Call]]:
    """Index and fragment of each tool call that this piece goes on with."""
    found = []
    for call in _delta(piece).get("tool_calls") or ():
        function = call.get("function") or {}
        fragment = Call(call.get("id") or "", function.get("name") or "", function.get("arguments") or "")
        found.append((int(call.get("index", 0)), fragment))
    return found


def _delta(piece: Piece) -> dict[str, Any]:
    if piece.delta is not None:
        return _objects.decode(piece.delta)
    if piece.choice is not None:
        return _objects.decode(piece.choice).get("delta") or {}
    return {}


_objects: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
