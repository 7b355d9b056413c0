"""The OpenAI protocol, seen from a client that passes answers on: request bodies, stream events, errors."""

from __future__ import annotations

from typing import Any, Final, cast, get_args

import msgspec

from autopoiesis.contracts.messages.infer import Endpoint, FailureCode, FinishReason

DONE: Final = "[DONE]"
PATHS: Final[dict[Endpoint, str]] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


class ServerError(Exception):
    """The server refused or failed the request; `code` is ours, the message its own words, `status` its HTTP status or 0."""

    def __init__(self, code: FailureCode, message: str, param: str | None = None, status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.status = status


class Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: Details | None = None

    @property
    def cached_tokens(self) -> int:
        return (self.prompt_tokens_details.cached_tokens or 0) if self.prompt_tokens_details else 0


class Choice(msgspec.Struct):
    index: int = 0
    delta: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None
    token_ids: list[int] | None = None
    """With vLLM's `return_token_ids`."""


class Event(msgspec.Struct):
    """A chunk of a stream, or a whole answer."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None


class _Wanted(msgspec.Struct):
    n: int | None = None
    prompt: Any = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model] = []


class _ErrorDetail(msgspec.Struct):
    message: str = ""
    param: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetail | str | None = None
    message: str = ""
    """Where the server puts it beside, not inside, `error`."""


_events = msgspec.json.Decoder(Event)
_error_bodies = msgspec.json.Decoder(_ErrorBody)
_wanted = msgspec.json.Decoder(_Wanted)
_models = msgspec.json.Decoder(_Models)
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])


def upstream_body(body: bytes, *, stream: bool) -> bytes:
    """The client's body as the server shall have it: ours removed, token counts asked for. Raises `ServerError`."""
    try:
        fields = _objects.decode(body)
    except msgspec.MsgspecError as error:
        raise ServerError("invalid_request", f"the body is not a JSON object: {error}") from error
    fields.pop("simulate", None)
    if stream:
        options = _object_or_none(fields.get("stream_options"))
        fields["stream_options"] = msgspec.Raw(msgspec.json.encode({**options, "include_usage": True}))
    return msgspec.json.encode(fields)


def several_choices(body: bytes) -> bool:
    """Whether the answer has more than one choice."""
    try:
        wanted = _wanted.decode(body)
    except msgspec.MsgspecError:
        return False
    prompts = wanted.prompt if isinstance(wanted.prompt, list) else ()
    return (wanted.n or 1) > 1 or (len(prompts) > 1 and not isinstance(prompts[0], int))


def _object_or_none(raw: msgspec.Raw | None) -> dict[str, Any]:
    value = msgspec.json.decode(raw) if raw is not None else None
    return value if isinstance(value, dict) else {}


def read_event(data: str | bytes) -> Event:
    """Raises `ServerError` where it is not an OpenAI answer, or is an error."""
    try:
        event = _events.decode(data)
    except msgspec.MsgspecError as error:
        raise ServerError("internal", f"the server's answer is not OpenAI JSON: {error}") from error
    if event.error is not None:
        raise failure(500, data if isinstance(data, bytes) else data.encode())
    return event


def known_reason(reason: str) -> FinishReason:
    """Servers have reasons of their own (`abort`, `repetition`); clients know OpenAI's."""
    return cast("FinishReason", reason) if reason in _REASONS else "stop"


_REASONS: Final = frozenset(get_args(FinishReason))


def finish_reason(event: Event) -> FinishReason | None:
    for choice in event.choices:
        if choice.finish_reason:
            return known_reason(choice.finish_reason)
    return None


def served_models(body: bytes) -> list[str]:
    """Names in the answer to `/v1/models`; none where it cannot be read."""
    try:
        return [model.id for model in _models.decode(body).data]
    except msgspec.MsgspecError:
        return []


def failure(status: int, body: bytes, key: str = "worker.attach_key") -> ServerError:
    """What an error answer means for the router. `key`: the setting that holds the server's API key."""
    message, param = f"HTTP {status}", None
    try:
        said = _error_bodies.decode(body)
        if isinstance(said.error, _ErrorDetail):
            message, param = said.error.message or said.message or message, said.error.param
        else:
            message = said.error or said.message or message
    except msgspec.MsgspecError:
        if body:
            message = f"HTTP {status}: {body[:200].decode(errors='replace')}"
    if status in {401, 403}:
        message += f" ({key} is missing or wrong)"
    return ServerError(_code(status), message, param, status)


def _code(status: int) -> FailureCode:
    if status in {401, 403}:
        return "unavailable"
    if status == 429:
        return "overloaded"
    if status in {502, 503, 504}:
        return "unavailable"
    return "invalid_request" if 400 <= status < 500 else "internal"
