"""Puts a request to an engine in the words that it knows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.worker.dialects import messages, responses
from autopoiesis.worker.dialects.said import Said
from autopoiesis.worker.engines.base import Broken, Ended, Engine, Output, Piece
from autopoiesis.worker.engines.body import BodyError


@runtime_checkable
class Knows(Protocol):
    """An engine with endpoints beyond chat and completions."""

    def knows(self, path: str) -> bool:
        """Whether `generate` answers requests that are passed through to `path`."""


class Voice(Protocol):
    """One answer in the words of a dialect; `stream` events are whole server-sent events."""

    def begin(self) -> str: ...

    def piece(self, piece: Piece) -> str: ...

    def finish(self, said: Said, ended: Ended) -> str: ...

    def whole(self, said: Said, ended: Ended) -> dict[str, Any]: ...


class Dialect(Protocol):
    def chat(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The chat request that means the same. Raises BodyError naming the field that has no equivalent."""

    def voice(self, request: Generate, fields: dict[str, Any]) -> Voice: ...


DIALECTS: Final[Mapping[str, Dialect]] = {
    "/v1/responses": responses.Responses(),
    "/v1/messages": messages.Messages(),
}


def ask(engine: Engine, request: Generate) -> AsyncIterator[Output]:
    """`engine.generate`, translated where the engine does not know the endpoint. Never raises."""
    if request.endpoint != "passthrough" or (isinstance(engine, Knows) and engine.knows(request.path)):
        return engine.generate(request)
    dialect = DIALECTS.get(request.path)
    if dialect is None:
        message = f"the engine of {request.model} has no endpoint {request.path}"
        return _refuse(Broken(code="invalid_request", message=message, status=404))
    try:
        fields = _fields(request)
        chat = dialect.chat(fields)
    except BodyError as error:
        return _refuse(Broken(code="invalid_request", message=str(error), param=error.param))
    body = msgspec.Raw(msgspec.json.encode(chat))
    asked = msgspec.structs.replace(request, endpoint="chat", path="", body=body, stream=True)
    outputs = engine.generate(asked)  # at once, so that the engine's figures include it
    return _translated(request.stream, dialect.voice(request, fields), outputs)


async def _translated(stream: bool, voice: Voice, outputs: AsyncIterator[Output]) -> AsyncIterator[Output]:
    said = Said()
    if stream:
        yield Piece(text=voice.begin())
    async for output in outputs:
        match output:
            case Piece():
                said.hear(output)
                text = voice.piece(output) if stream else ""
                if text:
                    yield Piece(text=text, tokens=output.tokens)
            case Ended():
                if stream:
                    yield Piece(text=voice.finish(said, output))
                    yield output
                else:
                    body = msgspec.Raw(msgspec.json.encode(voice.whole(said, output)))
                    yield msgspec.structs.replace(output, body=body)
            case Broken():
                yield output


async def _refuse(broken: Broken) -> AsyncIterator[Output]:
    yield broken


def _fields(request: Generate) -> dict[str, Any]:
    try:
        return _objects.decode(request.body)
    except msgspec.MsgspecError as error:
        raise BodyError(f"the body is not a JSON object: {error}", None) from error


_objects: Final[msgspec.json.Decoder[dict[str, Any]]] = msgspec.json.Decoder(dict[str, Any])
