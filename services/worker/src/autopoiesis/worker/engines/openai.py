"""What an OpenAI-compatible server's stream adds to an answer, in the worker's words."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from autopoiesis.runtime.servers.protocol import Choice, Event, known_reason
from autopoiesis.worker.engines.base import Piece

_PLAIN_DELTA: Final = frozenset({"role", "content"})


def pieces(event: Event, *, several: bool = False) -> list[Piece]:
    """What the choices of a stream event add to the answer. An event counts as its token ids, or as one token.

    `several`: the request asked for more than one choice, so that each says how it ended.
    """
    found = []
    for choice in event.choices:
        piece = _piece(choice)
        if piece is not None:
            found.append(piece)
        if several and choice.finish_reason:
            found.append(Piece(index=choice.index, finish_reason=known_reason(choice.finish_reason)))
    return found


def _piece(choice: Choice) -> Piece | None:
    ids = tuple(choice.token_ids or ())
    if choice.logprobs:
        return Piece("", len(ids) or 1, choice.index, token_ids=ids, choice=_whole(choice))
    said = {key: value for key, value in (choice.delta or {}).items() if value}
    if not _PLAIN_DELTA.issuperset(said):
        delta = msgspec.Raw(msgspec.json.encode(choice.delta))
        return Piece("", len(ids) or 1, choice.index, token_ids=ids, delta=delta)
    text = choice.text or str(said.get("content", ""))
    if not text and not ids:
        return None
    return Piece(text, len(ids) or 1, choice.index, token_ids=ids)


def _whole(choice: Choice) -> msgspec.Raw:
    fields: dict[str, Any] = {"index": choice.index}
    if choice.delta is not None:
        fields["delta"] = choice.delta
    else:
        fields["text"] = choice.text or ""
    fields |= {"logprobs": choice.logprobs, "finish_reason": None}  # how it ended is said apart
    return msgspec.Raw(msgspec.json.encode(fields))
