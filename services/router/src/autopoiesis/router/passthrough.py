"""Requests to endpoints that the router does not speak: which model, streamed or not, and where the prompt is.

Everything else, the path included, is the engine's to check.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final
from urllib.parse import parse_qs

import msgspec

from autopoiesis.router.errors import BadRequestError
from autopoiesis.router.intake import Intake, Limit, decode
from autopoiesis.router.prompts import digest

GENERATING: Final = frozenset({"/v1/responses", "/v1/messages"})
"""Paths whose requests make tokens: they get a limit and are recorded like chats."""

_LOCAL: Final = frozenset({"/v1/models", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
"""What this router answers itself, and what would change one replica alone."""

_METHODS: Final = frozenset({b"GET", b"HEAD", b"PUT", b"PATCH", b"DELETE"})
_BINARY: Final = ("multipart/", "audio/", "image/", "video/", "application/octet-stream")
_FORM_BYTES: Final = 1 << 20
"""How far into a form the field `model` is looked for."""
_FIELD: Final = re.compile(rb'name="?model"?\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,256})\r\n')

_SAFE: Final = re.compile(r"(?:/[A-Za-z0-9_\-][A-Za-z0-9_.\-]*)+")
_ABSENT: Final = msgspec.Raw()
_PROMPTS: Final = ("tools", "system", "instructions", "messages", "input")
_TEXT: Final = frozenset({"text", "input_text", "output_text"})
_IMAGE: Final = frozenset({"image", "image_url", "input_image"})


class Body(msgspec.Struct):
    """Any other request, as far as routing needs it."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    stream: bool | None = None
    max_tokens: Limit | None = None
    max_output_tokens: Limit | None = None
    tools: msgspec.Raw = _ABSENT
    system: msgspec.Raw = _ABSENT
    instructions: msgspec.Raw = _ABSENT
    messages: msgspec.Raw = _ABSENT
    input: msgspec.Raw = _ABSENT


_body = msgspec.json.Decoder(Body)


def passes(path: str, prefixes: Iterable[str]) -> bool:
    """Whether requests to `path` may reach an engine."""
    wanted = any(path.startswith(prefix) for prefix in prefixes)
    return wanted and path not in _LOCAL and _SAFE.fullmatch(path) is not None


def wanted(prefixes: Iterable[str], attached: bool, method: bytes, path: str) -> bool:
    """Whether a request is for an engine. Other methods than POST are only for servers `attached` to the router."""
    if method != b"POST" and not (attached and method in _METHODS and not path.startswith("/v1/models/")):
        return False
    return passes(path, prefixes)


def is_json(method: str, content_type: str) -> bool:
    """Whether its body is read. Clients forget the type of JSON, or call it a form; what has other types has them on purpose."""
    return method == "POST" and not content_type.lower().startswith(_BINARY)


def relay(method: str, path: str, query: str, content_type: str, body: bytes) -> Intake:
    """A request that is not a JSON POST. Its model is that of a form's field or of the query, where one is named."""
    named = parse_qs(query).get("model", [""])[0]
    field = _FIELD.search(body, 0, _FORM_BYTES) if "multipart/form-data" in content_type.lower() else None
    return Intake(
        endpoint="relay",
        path=path,
        query=f"?{query}" if query else "",
        method=method,
        content_type=content_type,
        model=field[1].decode(errors="replace") if field else named,
        stream=True,
        include_usage=False,
        max_tokens=None,
        max_tokens_param="max_tokens",
        n=1,
        prompt=b"",
        prompt_bytes=len(body),
        generates=False,
    )


def read(path: str, body: bytes) -> Intake:
    """Decode what routing needs. `model` is empty where the body names none. Raises BadRequestError naming the field."""
    fields = decode(_body, body)
    pieces: list[bytes] = []
    size = modality = 0
    for name in _PROMPTS:
        raw = getattr(fields, name)
        if raw:
            texts, text_bytes, kind = _prompt(_value(raw, name))
            pieces += texts
            size += text_bytes
            modality = max(modality, kind)
    newer = fields.max_output_tokens is not None
    return Intake(
        endpoint="passthrough",
        path=path,
        model=fields.model or "",
        stream=bool(fields.stream),
        include_usage=False,
        max_tokens=fields.max_output_tokens if newer else fields.max_tokens,
        max_tokens_param="max_output_tokens" if newer else "max_tokens",
        n=1,
        prompt=b"".join(pieces),
        prompt_bytes=size or len(body),
        modality=modality,
        generates=path in GENERATING,
    )


def _value(raw: msgspec.Raw, name: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequestError(f"invalid value for {name}: {error}", name, "invalid_value") from None


def _prompt(value: Any) -> tuple[list[bytes], int, int]:
    """Canonical pieces of one field, the bytes of text in them, and 1 where there is an image."""
    if isinstance(value, str):
        text = value.encode(errors="surrogatepass")
        return [text], len(text), 0
    if not isinstance(value, list):
        return [digest(msgspec.json.encode(value))], 0, 0
    pieces: list[bytes] = []
    size = modality = 0
    for item in value:
        content = item.get("content") if isinstance(item, dict) else item
        if isinstance(item, dict) and "role" in item:
            pieces.append(f"\x1e{item['role']}\x1f".encode(errors="surrogatepass"))
        for part in content if isinstance(content, list) else [content]:
            text = _text(part)
            pieces.append(text or digest(msgspec.json.encode(item if part is None else part)))
            size += len(text)
            if isinstance(part, dict) and part.get("type") in _IMAGE:
                modality = 1
    return pieces, size, modality


def _text(part: Any) -> bytes:
    if isinstance(part, dict) and part.get("type") in _TEXT:
        part = part.get("text")
    return part.encode(errors="surrogatepass") if isinstance(part, str) else b""
