"""OpenAI answers as bytes: server-sent events for streams, one JSON object otherwise."""

from __future__ import annotations

from typing import Final

import msgspec

from autopoiesis.contracts.messages.infer import Chunk, Endpoint, Finished
from autopoiesis.router.errors import ApiError

PING: Final = b": ping\n\n"
DONE: Final = b"data: [DONE]\n\n"

_OBJECTS: Final = {
    "chat": ("chatcmpl-", "chat.completion.chunk", "chat.completion"),
    "completions": ("cmpl-", "text_completion", "text_completion"),
}

_json = msgspec.json.Encoder().encode


class Answer:
    """Encodes the answer to one request; keeps which choices have begun."""

    __slots__ = ("_begun", "_chat", "_choices", "_end", "_ended", "_head", "_object")

    def __init__(
        self,
        endpoint: Endpoint,
        request_id: str,
        model: str,
        created_unix_s: int,
        *,
        include_usage: bool = False,
    ) -> None:
        prefix, chunk, whole = _OBJECTS[endpoint]
        self._chat = endpoint == "chat"
        self._object = whole.encode()
        self._head = b'{"id":"%s%s","object":"%%s","created":%d,"model":%s,"choices":[' % (
            prefix.encode(),
            request_id.encode(),
            created_unix_s,
            _json(model).replace(b"%", b"%%"),
        )
        self._choices = b"data: " + self._head % chunk.encode()
        self._end = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._begun: list[int] = []
        self._ended: set[int] = set()

    def chunk(self, chunk: Chunk) -> bytes:
        """Events for one chunk; before the first one of a chat choice comes the event that names the role."""
        events = b""
        index = chunk.index
        if index not in self._begun:
            events = self._begin(chunk)
        if chunk.finish_reason is not None:
            self._ended.add(index)
        if chunk.choice is not None:
            return events + self._choices + bytes(chunk.choice) + self._end
        if chunk.delta is not None:
            events += self._choice(index, b'"delta":' + bytes(chunk.delta))
        elif chunk.text and self._chat:
            events += self._choice(index, b'"delta":{"content":' + _json(chunk.text) + b"}")
        elif chunk.text:
            events += self._choice(index, b'"text":' + _json(chunk.text))
        if chunk.finish_reason is not None:
            events += self._choice(index, self._nothing, _json(chunk.finish_reason))
        return events

    def finish(self, finished: Finished, *, include_usage: bool) -> bytes:
        """The events that end a stream well: reasons of choices that have none yet, usage where asked for, `[DONE]`."""
        events = []
        if not self._begun:
            events.append(self._begin(Chunk(seq=0)))
        reason = _json(finished.finish_reason)
        events += [
            self._choice(index, self._nothing, reason) for index in self._begun if index not in self._ended
        ]
        if include_usage:
            events.append(self._choices + b'],"usage":' + _usage(finished) + b"}\n\n")
        events.append(DONE)
        return b"".join(events)

    def whole(self, finished: Finished) -> bytes:
        """The body of an answer that is not streamed; an engine's own body goes out as it came."""
        if finished.body is not None:
            return bytes(finished.body)
        text = _json(finished.text)
        if self._chat:
            content = b'"message":{"role":"assistant","content":' + text + b',"refusal":null}'
        else:
            content = b'"text":' + text
        choice = b'{"index":0,%s,"logprobs":null,"finish_reason":%s}' % (
            content,
            _json(finished.finish_reason),
        )
        return self._head % self._object + choice + b'],"usage":' + _usage(finished) + b"}"

    @property
    def _nothing(self) -> bytes:
        return b'"delta":{}' if self._chat else b'"text":""'

    def _begin(self, chunk: Chunk) -> bytes:
        self._begun.append(chunk.index)
        own = chunk.choice if chunk.delta is None else chunk.delta
        if not self._chat or (own is not None and b'"role"' in bytes(own)):
            return b""
        return self._choice(chunk.index, b'"delta":{"role":"assistant","content":""}')

    def _choice(self, index: int, content: bytes, finish_reason: bytes = b"null") -> bytes:
        choice = b'{"index":%d,%s,"logprobs":null,"finish_reason":%s}' % (index, content, finish_reason)
        return self._choices + choice + self._end

    def error(self, failure: ApiError) -> bytes:
        """The event that ends a stream which failed after it began."""
        return error(failure)


class Verbatim:
    """The answer of an endpoint that is passed through: the engine's own words."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def chunk(self, chunk: Chunk) -> bytes:
        return chunk.text.encode()

    def finish(self, finished: Finished, *, include_usage: bool) -> bytes:
        return b""

    def whole(self, finished: Finished) -> bytes:
        if finished.body is not None:
            return bytes(finished.body)
        return finished.content or finished.text.encode()

    def error(self, failure: ApiError) -> bytes:
        """As the API of this path tells errors in streams: OpenAI's responses, Anthropic's messages, all others."""
        if self._path == "/v1/responses":
            fields = {"code": failure.code, "message": failure.message, "param": failure.param}
            return b"event: error\ndata: " + _json({"type": "error", **fields}) + b"\n\n"
        if self._path == "/v1/messages":
            what = {"type": "api_error", "message": failure.message}
            return b"event: error\ndata: " + _json({"type": "error", "error": what}) + b"\n\n"
        return error(failure)


def error(failure: ApiError) -> bytes:
    """OpenAI's event for a stream which failed after it began."""
    return b"data: " + failure.body() + b"\n\n"


def _usage(finished: Finished) -> bytes:
    prompt, output = finished.prompt_tokens, finished.output_tokens
    return (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d}}'
        % (prompt, output, prompt + output, finished.cached_tokens)
    )
