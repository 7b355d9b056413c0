"""Anthropic's messages API in terms of chat."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from autopoiesis.contracts.messages.infer import FinishReason, Generate
from autopoiesis.worker.dialects.reading import encoded, event, keep, objects, refuse, text
from autopoiesis.worker.dialects.said import Said, calls_of, text_of
from autopoiesis.worker.engines.base import Ended, Piece

_USED: Final = frozenset(
    {"messages", "system", "tools", "tool_choice", "stop_sequences", "metadata", "stream", "thinking"}
)
_STOPPED: Final[dict[FinishReason, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


class Messages:
    """`asking.Dialect`."""

    def chat(self, fields: dict[str, Any]) -> dict[str, Any]:
        body = keep(fields, _USED)
        system = fields.get("system")
        messages: list[dict[str, Any]] = []
        if system:
            messages.append({"role": "system", "content": _content(system, "system")})
        for path, message in objects(fields.get("messages"), "messages"):
            messages += _message(message, path)
        body["messages"] = messages
        if fields.get("stop_sequences"):
            body["stop"] = fields["stop_sequences"]
        if fields.get("tools"):
            body["tools"] = [_tool(tool) for _, tool in objects(fields["tools"], "tools")]
        choice = fields.get("tool_choice")
        if isinstance(choice, dict):
            kind = choice.get("type")
            named = {"type": "function", "function": {"name": choice.get("name")}}
            body["tool_choice"] = named if kind == "tool" else _CHOICES.get(str(kind), "auto")
        return body

    def voice(self, request: Generate, fields: dict[str, Any]) -> Speaker:
        return Speaker(request)


def _message(message: dict[str, Any], path: str) -> list[dict[str, Any]]:
    """One message of theirs; results of tools become messages of their own."""
    role = text(message.get("role"), f"{path}.role")
    content = message.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    parts, calls, results = [], [], []
    for place, part in objects(content, f"{path}.content"):
        kind = part.get("type")
        if kind == "tool_use":
            function = {"name": part.get("name"), "arguments": encoded(part.get("input") or {})}
            calls.append({"id": part.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            said = _content(part.get("content") or "", f"{place}.content")
            results.append({"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": said})
        elif kind not in {"thinking", "redacted_thinking"}:
            parts += _parts([part], place)
    found: list[dict[str, Any]] = list(results)
    if parts or calls:
        own: dict[str, Any] = {"role": role, "content": parts or None}
        found.append(own | {"tool_calls": calls} if calls else own)
    return found


def _content(content: Any, path: str) -> str | list[dict[str, Any]]:
    return content if isinstance(content, str) else _parts(content, path)


def _parts(content: Any, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for place, part in objects(content, path):
        if part.get("type") == "text":
            found.append({"type": "text", "text": text(part.get("text"), f"{place}.text")})
        elif part.get("type") == "image" and isinstance(part.get("source"), dict):
            source = part["source"]
            data = f"data:{source.get('media_type')};base64,{source.get('data')}"
            found.append({"type": "image_url", "image_url": {"url": source.get("url") or data}})
        else:
            raise refuse(f"{place}.type", f"{part.get('type')!r} means nothing to this engine")
    return found


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = {
        "name": tool.get("name"),
        "description": tool.get("description") or "",
        "parameters": tool.get("input_schema"),
    }
    return {"type": "function", "function": function}


class Speaker:
    """`asking.Voice`."""

    def __init__(self, request: Generate) -> None:
        self._request = request
        self._blocks = 0
        self._open: int | None = None
        """The tool call, or -1 for text, whose block is open."""

    def begin(self) -> str:
        usage = {"input_tokens": self._request.prompt_tokens, "output_tokens": 0}
        return event("message_start", {"message": self._head([], None, usage)})

    def piece(self, piece: Piece) -> str:
        out = ""
        said = text_of(piece)
        if said:
            out += self._block(-1, {"type": "text", "text": ""})
            out += self._delta({"type": "text_delta", "text": said})
        for index, call in calls_of(piece):
            out += self._block(index, {"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
            if call.arguments:
                out += self._delta({"type": "input_json_delta", "partial_json": call.arguments})
        return out

    def finish(self, said: Said, ended: Ended) -> str:
        delta = {"stop_reason": _STOPPED[ended.finish_reason], "stop_sequence": None}
        out = self._close()
        out += event("message_delta", {"delta": delta, "usage": _usage(ended)})
        return out + event("message_stop", {})

    def whole(self, said: Said, ended: Ended) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": said.text}] if said.text else []
        for call in said.calls.values():
            arguments = _arguments(call.arguments)
            content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments})
        return self._head(content, _STOPPED[ended.finish_reason], _usage(ended))

    def _head(
        self, content: list[dict[str, Any]], reason: str | None, usage: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "id": f"msg_{self._request.request_id}",
            "type": "message",
            "role": "assistant",
            "model": self._request.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": usage,
        }

    def _block(self, which: int, start: dict[str, Any]) -> str:
        if self._open == which:
            return ""
        out = self._close()
        self._open = which
        return out + event("content_block_start", {"index": self._blocks, "content_block": start})

    def _close(self) -> str:
        if self._open is None:
            return ""
        self._open = None
        self._blocks += 1
        return event("content_block_stop", {"index": self._blocks - 1})

    def _delta(self, delta: dict[str, Any]) -> str:
        return event("content_block_delta", {"index": self._blocks, "delta": delta})


def _arguments(given: str) -> Any:
    """The model's own JSON; what is none is shown as it is."""
    try:
        return msgspec.json.decode(given or "{}")
    except msgspec.DecodeError:
        return {"": given}


def _usage(ended: Ended) -> dict[str, Any]:
    return {
        "input_tokens": ended.prompt_tokens - ended.cached_tokens,
        "cache_read_input_tokens": ended.cached_tokens,
        "output_tokens": ended.output_tokens,
    }
