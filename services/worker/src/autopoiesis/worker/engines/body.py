"""What a simulated engine reads in an OpenAI request body."""

from __future__ import annotations

from typing import Final

import msgspec

BYTES_PER_TOKEN: Final = 4


class _Part(msgspec.Struct, gc=False):
    text: str = ""


class _Message(msgspec.Struct, gc=False):
    content: str | list[_Part] | None = None


class Simulate(msgspec.Struct, gc=False):
    """Engine extra: the length the answer shall have, which nobody before the engine reads."""

    output_tokens: int


class Body(msgspec.Struct, gc=False):
    messages: list[_Message] = []
    prompt: str | list[str | int | list[int]] | None = None
    simulate: Simulate | None = None
    ignore_eos: bool = False


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


def prompt_tokens(body: Body) -> int:
    """Tokens of the prompt: its UTF-8 bytes over four, rounded up; token ids count as they are. At least 1."""
    size = ids = 0
    for message in body.messages:
        size += _bytes(message.content)
    match body.prompt:
        case str(text):
            size += len(text.encode())
        case list(items):
            for item in items:
                if isinstance(item, str):
                    size += len(item.encode())
                else:
                    ids += len(item) if isinstance(item, list) else 1
        case None:
            pass
    return max(1, ids - (-size // BYTES_PER_TOKEN))


def _bytes(content: str | list[_Part] | None) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return len(content.encode())
    return sum(len(part.text.encode()) for part in content)
