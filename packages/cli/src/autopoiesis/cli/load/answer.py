"""Reads one streamed OpenAI answer as its bytes arrive: when tokens came, how many, how it ended."""

import time
from typing import Any

import msgspec


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None

    @property
    def speaks(self) -> bool:
        if self.text:
            return True
        delta = self.delta
        return delta is not None and bool(delta.content or delta.reasoning_content or delta.tool_calls)


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct, gc=False):
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    error: Any = None


_events = msgspec.json.Decoder(_Event)


class Answer:
    """One answer in progress. Times are seconds on the monotonic clock."""

    __slots__ = (
        "_rest",
        "done",
        "error",
        "finish_reason",
        "first_token_at",
        "last_token_at",
        "output_tokens",
        "prompt_tokens",
        "status",
    )

    def __init__(self) -> None:
        self._rest = b""
        self.status = 0
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.output_tokens = 0
        """The server's count once it sent one, until then the number of events that held text."""
        self.prompt_tokens = 0
        self.finish_reason = ""
        self.error = ""
        self.done = False

    def on_status(self, status: int) -> None:
        self.status = status

    def on_body(self, data: bytes) -> None:
        if self.status != 200:
            self._rest += data
            return
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def close(self) -> None:
        """The body is complete: read what an error answer said."""
        if self.status != 200 and not self.error:
            self.error = _message(self._rest) or f"HTTP {self.status}"

    @property
    def finished(self) -> bool:
        return self.status == 200 and not self.error and (self.done or bool(self.finish_reason))

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.done = True
            return
        try:
            event = _events.decode(data)
        except msgspec.MsgspecError as error:
            self.error = self.error or f"an event of the stream is not an OpenAI chunk: {error}"
            return
        if event.error is not None:
            self.error = _said(event.error)
        for choice in event.choices:
            if choice.speaks:
                self.last_token_at = time.monotonic()
                if self.first_token_at is None:
                    self.first_token_at = self.last_token_at
                self.output_tokens += 1
            if choice.finish_reason:
                self.finish_reason = choice.finish_reason
        if event.usage is not None:
            self.output_tokens = event.usage.completion_tokens
            self.prompt_tokens = event.usage.prompt_tokens


def _message(body: bytes) -> str:
    """What an error body says: its message, or its first bytes where it has none."""
    try:
        said = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return body[:200].decode(errors="replace")
    return _said(said.get("error", said) if isinstance(said, dict) else said)


def _said(error: Any) -> str:
    """The message of an OpenAI error object."""
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)
