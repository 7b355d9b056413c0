"""What the router reads of OpenAI's events."""

from __future__ import annotations

import msgspec

from autopoiesis.runtime.servers.protocol import Usage


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None

    @property
    def says(self) -> bool:
        delta = self.delta
        if delta is None:
            return bool(self.text)
        return bool(delta.content or delta.reasoning_content or delta.tool_calls)


class Event(msgspec.Struct):
    """One of a stream, or the whole of another answer."""

    choices: list[_Choice] = []
    usage: Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


decode_event = msgspec.json.Decoder(Event).decode
"""Raises msgspec.MsgspecError for what is not of this form."""
