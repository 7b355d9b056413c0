"""What an OpenAI-compatible server's stream adds to an answer, in the worker's words."""

from __future__ import annotations

from typing import Final

import msgspec

from autopoiesis.runtime.servers.protocol import Event
from autopoiesis.worker.engines.base import Piece

_PLAIN_DELTA: Final = frozenset({"role", "content"})


def pieces(event: Event) -> list[Piece]:
    """What the choices of a stream event add to the answer. One event with text counts as one token."""
    found = []
    for choice in event.choices:
        if choice.text:
            found.append(Piece(choice.text, 1, choice.index))
        elif choice.delta is not None:
            said = {key: value for key, value in choice.delta.items() if value}
            if not _PLAIN_DELTA.issuperset(said):
                found.append(Piece("", 1, choice.index, msgspec.Raw(msgspec.json.encode(choice.delta))))
            elif "content" in said:
                found.append(Piece(str(said["content"]), 1, choice.index))
    return found
