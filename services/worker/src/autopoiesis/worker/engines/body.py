"""What a simulated engine reads in an OpenAI request body."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

import msgspec

BYTES_PER_TOKEN: Final = 4

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Texts = str | list[str | int | list[int]] | None


class _Part(msgspec.Struct, gc=False):
    text: str = ""


class _Message(msgspec.Struct, gc=False):
    content: str | list[_Part] | None = None


class Simulate(msgspec.Struct, gc=False):
    """Engine extra: the length the answer shall have, which nobody before the engine reads."""

    output_tokens: int


class Body(msgspec.Struct, gc=False):
    messages: list[_Message] = []
    prompt: _Texts = None
    n: _Count | None = None
    echo: bool | None = None
    simulate: Simulate | None = None
    ignore_eos: bool = False
    input: _Texts = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    encoding_format: str | None = None
    tokens: list[Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]] | None = None


class Prompt(NamedTuple):
    """One text of several, or token ids in place of it."""

    text: str
    tokens: int


_decoder = msgspec.json.Decoder(Body)


class BodyError(ValueError):
    """The body cannot be served; `param` is the field to blame."""

    def __init__(self, message: str, param: str | None) -> None:
        super().__init__(message)
        self.param = param


def read(body: bytes) -> Body:
    """Raises `BodyError` naming the field that is wrong."""
    try:
        parsed = _decoder.decode(body)
    except msgspec.ValidationError as error:
        path = str(error).rpartition("$.")[2].rstrip("`")
        raise BodyError(str(error), path.split("[")[0].split(".")[0] or None) from error
    except msgspec.DecodeError as error:
        raise BodyError(f"the body is not JSON: {error}", None) from error
    if parsed.simulate is not None and parsed.simulate.output_tokens < 1:
        raise BodyError(
            f"simulate.output_tokens = {parsed.simulate.output_tokens}: must be at least 1", "simulate"
        )
    return parsed


def prompts(body: Body) -> list[Prompt]:
    """What a chat or a text completion asks to be continued: one text, or several."""
    if body.messages or body.prompt is None:
        size = sum(_bytes(message.content) for message in body.messages)
        return [Prompt("", _tokens(size))]
    return texts(body.prompt)


def texts(given: _Texts) -> list[Prompt]:
    """Text, token ids, or a list of either. A prompt has one token per four bytes of UTF-8, and at least one."""
    if given is None:
        return []
    if isinstance(given, str):
        return [Prompt(given, _tokens(len(given.encode())))]
    if given and all(isinstance(item, int) for item in given):
        return [Prompt("", len(given))]
    found: list[Prompt] = []
    for item in given:
        if isinstance(item, int):
            raise BodyError("token ids and texts cannot be mixed in one list", "prompt")
        found += texts(item if isinstance(item, str) else list(item))
    return found


def _tokens(size: int) -> int:
    return max(1, -(-size // BYTES_PER_TOKEN))


def _bytes(content: str | list[_Part] | None) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return len(content.encode())
    return sum(len(part.text.encode()) for part in content)
