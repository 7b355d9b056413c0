"""Answers that are passed on as they came: where their events end, and what they say of tokens."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

import msgspec

from autopoiesis.runtime.servers.protocol import Details, Usage

_BREAK: Final = re.compile(rb"\r?\n\r?\n")
_DATA: Final = re.compile(rb"^data: ?(.*)$", re.MULTILINE)


class _Usage(msgspec.Struct):
    """Tokens as the APIs call them: OpenAI's completions and responses, Anthropic's messages."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: Details | None = None
    cache_read_input_tokens: int | None = None


class _Inner(msgspec.Struct):
    usage: _Usage | None = None


class _Answer(msgspec.Struct):
    type: str = ""
    usage: _Usage | None = None
    response: _Inner | None = None
    message: _Inner | None = None


_answers = msgspec.json.Decoder(_Answer)


class Tally:
    """Counts tokens in an answer whose form nobody here knows for certain; what cannot be read counts nothing."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.cached_tokens = 0

    def event(self, event: bytes) -> int:
        """Take in one server-sent event; how many tokens it brings, by its looks."""
        return sum(self.body(data) for data in _DATA.findall(event))

    def body(self, data: bytes) -> int:
        try:
            answer = _answers.decode(data)
        except msgspec.MsgspecError:
            return 0
        for holder in (answer, answer.response, answer.message):
            if holder is not None and holder.usage is not None:
                self._note(holder.usage)
        return int(answer.type.endswith("delta") and answer.usage is None)

    def usage(self, prompt_tokens: int, output_tokens: int) -> Usage:
        """What was said, else what was estimated and counted."""
        return Usage(
            prompt_tokens=self.prompt_tokens or prompt_tokens,
            completion_tokens=self.output_tokens or output_tokens,
            prompt_tokens_details=Details(self.cached_tokens),
        )

    def _note(self, usage: _Usage) -> None:
        details = usage.prompt_tokens_details or usage.input_tokens_details
        told = (details.cached_tokens or 0) if details else 0
        apart = usage.cache_read_input_tokens or 0  # Anthropic counts them beside the input
        self.cached_tokens = max(self.cached_tokens, told, apart)
        prompt = usage.prompt_tokens or usage.input_tokens or 0
        self.prompt_tokens = max(self.prompt_tokens, prompt + apart if prompt else 0)
        self.output_tokens = max(self.output_tokens, usage.completion_tokens or usage.output_tokens or 0)


async def events(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Whole server-sent events, each with the empty line that ends it; what is left at the end comes last."""
    rest = b""
    async for piece in pieces:
        rest += piece
        begin = 0
        for found in _BREAK.finditer(rest):
            yield rest[begin : found.end()]
            begin = found.end()
        rest = rest[begin:]
    if rest:
        yield rest
