"""Reads of a request body only what routing needs, and says which field is wrong.

The body itself travels on untouched: every other field is the engine's to check.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeVar

import msgspec

from autopoiesis.contracts.messages.infer import Endpoint
from autopoiesis.router.errors import BadRequestError
from autopoiesis.router.prompts import digest

COMPLETIONS_MAX_TOKENS: Final = 16
"""What OpenAI's text completions assume where `max_tokens` is absent."""

_ABSENT: Final = msgspec.Raw()
Limit = Annotated[int, msgspec.Meta(ge=1)]
"""A number of tokens or choices that a client asks for."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[msgspec.Raw] | None = None
    tool_calls: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _Format(msgspec.Struct):
    type: str


class _Common(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Limit | None = None
    n: Limit | None = None
    response_format: msgspec.Raw = _ABSENT
    structured_outputs: msgspec.Raw = _ABSENT
    guided_json: msgspec.Raw = _ABSENT
    guided_regex: msgspec.Raw = _ABSENT
    guided_choice: msgspec.Raw = _ABSENT
    guided_grammar: msgspec.Raw = _ABSENT

    @property
    def guided(self) -> bool:
        """A grammar steers the answer: an engine that took over in the middle would not know where in it."""
        by_grammar = (
            self.structured_outputs
            or self.guided_json
            or self.guided_regex
            or self.guided_choice
            or self.guided_grammar
        )
        return bool(by_grammar) or not _is_text(self.response_format)


class Chat(_Common, kw_only=True):
    """A chat request, as far as routing needs it."""

    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: Limit | None = None
    tools: msgspec.Raw = _ABSENT


class Completions(_Common, kw_only=True):
    """A text completion, as far as routing needs it."""

    prompt: str | list[str | int | list[int]]


class Intake(msgspec.Struct):
    """What the router knows of one request body."""

    endpoint: Endpoint
    model: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    """The client's limit; none if it set none."""
    max_tokens_param: str
    """The name by which the client set it."""
    n: int
    prompt: bytes
    """Canonical text (see `prompts`)."""
    prompt_bytes: int
    """Of the text alone."""
    modality: int = 0
    prompts: int = 1
    """Several only in text completions."""
    path: str = ""
    """HTTP path at the engine, of what is passed through; `query`, `method` and `content_type` of what is relayed."""
    query: str = ""
    method: str = "POST"
    content_type: str = ""
    generates: bool = True
    """Its answer is made of tokens, one after the other."""
    resumable: bool = False
    """A stream that another engine could go on with, from the tokens that the client has."""

    @property
    def operation(self) -> str:
        """OpenTelemetry's name of the operation; one for all that is passed through, for paths are the client's to choose."""
        return "text_completion" if self.endpoint == "completions" else self.endpoint

    @property
    def pings(self) -> bool:
        """Its answer is a stream of events, in which a comment harms nobody."""
        return self.stream and self.endpoint != "relay"

    @property
    def route(self) -> str:
        return _ROUTES.get(self.endpoint, "/{path}")


def _is_text(response_format: msgspec.Raw) -> bool:
    if not response_format or response_format == b"null":
        return True
    try:
        return msgspec.json.decode(response_format, type=_Format).type == "text"
    except msgspec.MsgspecError:
        return False


T = TypeVar("T")
_ROUTES: Final = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
_chat = msgspec.json.Decoder(Chat)
_completions = msgspec.json.Decoder(Completions)
_part = msgspec.json.Decoder(_Part)

_PATH: Final = re.compile(r" - at `\$\.?(.*)`$")
_MISSING: Final = re.compile(r"missing required field `(\w+)`")


def read(endpoint: Endpoint, body: bytes) -> Intake:
    """Decode and check the `body` of a chat or a text completion. Raises BadRequestError naming the field."""
    if endpoint == "chat":
        return _read_chat(decode(_chat, body))
    return _read_text(decode(_completions, body))


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Raises BadRequestError naming the field that is wrong."""
    try:
        if not body.isascii():
            body.decode()  # fields that are not read here would reach engines unchecked
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequestError(f"the request body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise BadRequestError("the request body is nested too deeply", code="invalid_json") from None


def _explain(error: str) -> BadRequestError:
    where = _PATH.search(error)
    path = where[1] if where else ""
    missing = _MISSING.search(error)
    if missing:
        path = f"{path}.{missing[1]}".lstrip(".")
        return BadRequestError(f"missing required parameter: {path}", path, "missing_required_parameter")
    what = _PATH.sub("", error)
    if not path:
        return BadRequestError(f"the request body must be a JSON object: {what}", None, "invalid_type")
    return BadRequestError(f"invalid value for {path}: {what}", path, "invalid_value")


def _read_chat(chat: Chat) -> Intake:
    modality = text_bytes = 0
    pieces: list[bytes] = []
    if chat.tools:
        pieces.append(bytes(chat.tools))
        text_bytes += len(chat.tools)
    for number, message in enumerate(chat.messages):
        pieces.append(f"\x1e{message.role}\x1f".encode())
        content = message.content
        if isinstance(content, str):
            text = content.encode()
            pieces.append(text)
            text_bytes += len(text)
        elif content is not None:
            for place, raw in enumerate(content):
                part = _read_part(raw, f"messages[{number}].content[{place}]")
                text = part.text.encode() if part.type == "text" else b""
                pieces.append(text or digest(bytes(raw)))
                text_bytes += len(text)
                modality = max(modality, _MODALITY.get(part.type, 0))
        if message.tool_calls:
            pieces.append(digest(bytes(message.tool_calls)))
    both = chat.max_completion_tokens is not None
    intake = _common("chat", chat, b"".join(pieces), text_bytes)
    intake.modality = modality
    if both:
        intake.max_tokens, intake.max_tokens_param = chat.max_completion_tokens, "max_completion_tokens"
    return intake


_MODALITY: Final = {"image_url": 1, "input_audio": 2}


def _read_part(raw: msgspec.Raw, path: str) -> _Part:
    try:
        return _part.decode(raw)
    except msgspec.ValidationError as error:
        inner = _explain(str(error))
        name = f"{path}.{inner.param}" if inner.param else path
        raise BadRequestError(f"{name}: {inner.message}", name, inner.code) from None


def _read_text(completions: Completions) -> Intake:
    """One prompt or several, each a text or token ids. The first one stands for all where prefixes count."""
    given = completions.prompt
    whole = isinstance(given, str) or all(isinstance(token, int) for token in given)
    prompts = [given] if whole else given
    if not given or not all(prompts):
        raise BadRequestError("invalid value for prompt: it is empty", "prompt", "invalid_value")
    if not all(isinstance(prompt, str | list) for prompt in prompts):
        message = "invalid value for prompt: token ids and prompts are mixed in one list"
        raise BadRequestError(message, "prompt", "invalid_value")
    texts = [_prompt_text(prompt) for prompt in prompts]
    size = sum(length for _, length in texts)
    intake = _common("completions", completions, texts[0][0], size)
    intake.prompts = len(texts)
    intake.resumable = intake.resumable and len(texts) == 1
    if intake.max_tokens is None:
        intake.max_tokens = COMPLETIONS_MAX_TOKENS
    return intake


def _prompt_text(prompt: object) -> tuple[bytes, int]:
    """Canonical text of one prompt, and its length in bytes of text; a token id counts as four."""
    if isinstance(prompt, str):
        text = prompt.encode()
        return text, len(text)
    assert isinstance(prompt, list)
    return ",".join(map(str, prompt)).encode(), 4 * len(prompt)


def _common(endpoint: Endpoint, body: _Common, prompt: bytes, prompt_bytes: int) -> Intake:
    options = body.stream_options
    choices = body.n or 1
    return Intake(
        endpoint=endpoint,
        model=body.model,
        stream=bool(body.stream),
        include_usage=options is not None and bool(options.include_usage),
        max_tokens=body.max_tokens,
        max_tokens_param="max_tokens",
        n=choices,
        prompt=prompt,
        prompt_bytes=prompt_bytes,
        resumable=bool(body.stream) and choices == 1 and not body.guided,
    )
