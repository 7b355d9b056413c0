"""The OpenAPI document, from the very structures that requests are read with; what those leave open is the engine's to say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from autopoiesis.router import intake, passthrough

ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "minLength": 1},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_JSON: Final = "application/json"
_WHY: Final = {
    400: "A field is wrong; `param` names it",
    401: "No valid API key",
    403: "The key is for something else",
    404: "No such model, or no such endpoint",
    405: "Wrong method",
    413: "The body is too large",
    429: "Too many requests, or rejected by the policy; see Retry-After",
    499: "The client left",
    502: "The engine failed",
    503: "Nothing can serve this now; see Retry-After",
    504: "The deadline passed",
}
_CHAT: Final = {"type": "object", "required": ["id", "object", "created", "model", "choices", "usage"]}
_ANY: Final = {"type": "object"}


def document(paths: Iterable[str]) -> dict[str, Any]:
    """`paths`: prefixes of what is passed through."""
    requests = [_shown(kind) for kind in (intake.Chat, intake.Completions, passthrough.Body)]
    _, components = msgspec.json.schema_components(requests, ref_template="#/components/schemas/{name}")
    prefixes = tuple(paths)
    operations = {
        "/v1/chat/completions": _ask("Chat completion", "Chat", _CHAT),
        "/v1/completions": _ask("Text completion", "Completions", _CHAT),
        **{
            path: _ask(about, "Body", _ANY)
            for path, about in _PASSED.items()
            if passthrough.passes(path, prefixes)
        },
        **_READ,
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Autopoiesis router",
            "version": "1",
            "description": "POST requests to further paths under "
            + (", ".join(prefixes) or "none")
            + " go to an engine of the model as they are.",
        },
        "paths": operations,
        "components": {
            "schemas": {**components, "Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _shown(kind: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The same structure where what is kept raw may be anything."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(kind):
        if field.required:
            fields.append((field.name, field.type))
        elif isinstance(field.default, msgspec.Raw):
            fields.append((field.name, Any, None))
        else:
            fields.append((field.name, field.type, field.default))
    return msgspec.defstruct(kind.__name__, fields, kw_only=True)


_PASSED: Final = {
    "/v1/embeddings": "Embeddings",
    "/v1/responses": "OpenAI's responses API",
    "/v1/messages": "Anthropic's messages API",
    "/tokenize": "Tokens of a text",
    "/detokenize": "Text of tokens",
}


def _ask(about: str, schema: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    content = {_JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    good = {_JSON: {"schema": answer}, "text/event-stream": {}}
    return {
        "post": {
            "summary": about,
            "requestBody": {"required": True, "content": content},
            "responses": {"200": {"description": "The answer, or its events", "content": good}, **_errors()},
        }
    }


def _errors(*statuses: int) -> dict[str, Any]:
    content = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": _WHY[status], "content": content} for status in statuses or _WHY}


def _get(about: str, answer: Mapping[str, Any], kind: str = _JSON, **more: Any) -> dict[str, Any]:
    good = {"200": {"description": about, "content": {kind: {"schema": answer}}}}
    return {"get": {"summary": about, "responses": {**good, **more.pop("responses", {})}, **more}}


_MODEL: Final = {"type": "object", "required": ["id", "object", "created", "owned_by"]}
_MODELS: Final = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"data": {"type": "array", "items": _MODEL}},
}
_NAME: Final = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_READY: Final = {
    "type": "object",
    "required": ["ready", "missing"],
    "properties": {"missing": {"type": "array", "items": {"type": "string"}}},
}
_NOT_READY: Final = {
    "503": {"description": "What is missing", "content": {_JSON: {"schema": _READY}}},
}
_READ: Final = {
    "/v1/models": _get("Models", _MODELS, responses=_errors(401, 403)),
    "/v1/models/{model}": _get("One model", _MODEL, parameters=[_NAME], responses=_errors(401, 403, 404)),
    "/health": _get("This process is alive", _ANY),
    "/ready": _get("It can serve", _READY, responses=_NOT_READY),
    "/metrics": _get("Prometheus metrics", {"type": "string"}, "text/plain"),
}
