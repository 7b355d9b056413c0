"""OpenAI's responses API in terms of chat. Nothing is stored, so answers cannot be continued by their id."""

from __future__ import annotations

import time
from typing import Any, Final

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.worker.dialects.reading import encoded, event, keep, objects, refuse, text
from autopoiesis.worker.dialects.said import Said, calls_of, text_of
from autopoiesis.worker.engines.base import Ended, Piece

_USED: Final = frozenset(
    [
        "input",
        "instructions",
        "max_output_tokens",
        "text",
        "tools",
        "tool_choice",
        "store",
        "metadata",
        "include",
        "background",
        "truncation",
        "reasoning",
        "previous_response_id",
        "conversation",
        "stream",
        "stream_options",
        "user",
        "service_tier",
        "prompt_cache_key",
        "safety_identifier",
    ]
)
_PARTS: Final = frozenset({"input_text", "output_text", "text"})


class Responses:
    """`asking.Dialect`."""

    def chat(self, fields: dict[str, Any]) -> dict[str, Any]:
        for name in ("previous_response_id", "conversation", "background"):
            if fields.get(name):
                raise refuse(name, "answers are not stored here; send the whole conversation as input")
        body = keep(fields, _USED)
        messages = (
            [{"role": "system", "content": fields["instructions"]}] if fields.get("instructions") else []
        )
        body["messages"] = messages + _messages(fields.get("input"))
        if fields.get("max_output_tokens") is not None:
            body["max_tokens"] = fields["max_output_tokens"]
        if fields.get("tools"):
            body["tools"] = [_tool(path, tool) for path, tool in objects(fields["tools"], "tools")]
        choice = fields.get("tool_choice")
        if isinstance(choice, dict):
            choice = {"type": "function", "function": {"name": choice.get("name")}}
        if choice is not None:
            body["tool_choice"] = choice
        shape = (fields.get("text") or {}).get("format") if isinstance(fields.get("text"), dict) else None
        if shape and shape.get("type") == "json_schema":
            schema = {key: value for key, value in shape.items() if key != "type"}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif shape and shape.get("type") != "text":
            body["response_format"] = shape
        return body

    def voice(self, request: Generate, fields: dict[str, Any]) -> Speaker:
        return Speaker(request, fields)


def _messages(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for path, item in objects(given, "input"):
        kind = item.get("type", "message")
        if kind == "message":
            role = text(item.get("role"), f"{path}.role")
            messages.append({"role": role, "content": _content(item.get("content"), f"{path}.content")})
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            output = item.get("output")
            content = output if isinstance(output, str) else encoded(output)
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        elif kind != "reasoning":
            raise refuse(f"{path}.type", f"{kind!r} means nothing to this engine")
    return messages


def _content(content: Any, path: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for place, part in objects(content, path):
        if part.get("type") in _PARTS:
            parts.append({"type": "text", "text": text(part.get("text"), f"{place}.text")})
        elif part.get("type") == "input_image":
            parts.append({"type": "image_url", "image_url": {"url": part.get("image_url")}})
        else:
            raise refuse(f"{place}.type", f"{part.get('type')!r} means nothing to this engine")
    return parts


def _tool(path: str, tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise refuse(f"{path}.type", "this engine has no tools of its own, only functions of yours")
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


class Speaker:
    """`asking.Voice`."""

    def __init__(self, request: Generate, fields: dict[str, Any]) -> None:
        self._id = request.request_id
        self._model = request.model
        self._fields = fields
        self._created_unix_s = int(time.time())
        self._number = 0
        self._items: list[str] = []
        """Ids of output items that have begun."""
        self._open_calls: dict[int, int] = {}
        """Index of a tool call to the place of its item."""
        self._text_at: int | None = None

    def begin(self) -> str:
        started = self._response("in_progress")
        return self._event("response.created", response=started) + self._event(
            "response.in_progress", response=started
        )

    def piece(self, piece: Piece) -> str:
        out = ""
        said = text_of(piece)
        if said:
            if self._text_at is None:
                self._text_at, opening = self._open({**self._message(""), "content": []}, "in_progress")
                out += opening + self._event("response.content_part.added", **self._part(""))
            out += self._event(
                "response.output_text.delta", **self._place(), content_index=0, delta=said, logprobs=[]
            )
        for index, call in calls_of(piece):
            if index not in self._open_calls:
                item = {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": ""}
                self._open_calls[index], opening = self._open(item, "in_progress")
                out += opening
            at = self._open_calls[index]
            if call.arguments:
                out += self._event(
                    "response.function_call_arguments.delta",
                    item_id=self._items[at],
                    output_index=at,
                    delta=call.arguments,
                )
        return out

    def finish(self, said: Said, ended: Ended) -> str:
        out = ""
        output = self._output(said)
        if self._text_at is not None:
            out += self._event(
                "response.output_text.done", **self._place(), content_index=0, text=said.text, logprobs=[]
            )
            out += self._event("response.content_part.done", **self._part(said.text))
        for index, at in self._open_calls.items():
            arguments = said.calls[index].arguments
            out += self._event(
                "response.function_call_arguments.done",
                item_id=self._items[at],
                output_index=at,
                arguments=arguments,
            )
        for at, item in enumerate(output):
            out += self._event("response.output_item.done", output_index=at, item=item)
        whole = self._response(_status(ended), output, ended)
        return out + self._event(f"response.{whole['status']}", response=whole)

    def whole(self, said: Said, ended: Ended) -> dict[str, Any]:
        if said.text:
            self._text_at, _ = self._open({}, "")
        for index in said.calls:
            self._open_calls[index], _ = self._open({}, "")
        return self._response(_status(ended), self._output(said), ended)

    def _open(self, item: dict[str, Any], status: str) -> tuple[int, str]:
        at = len(self._items)
        self._items.append(f"item_{self._id}_{at}")
        shown = {"id": self._items[at], **item, "status": status}
        return at, self._event("response.output_item.added", output_index=at, item=shown)

    def _output(self, said: Said) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        if self._text_at is not None:
            found[self._text_at] = self._message(said.text)
        for index, at in self._open_calls.items():
            call = said.calls[index]
            fields = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
            found[at] = {"type": "function_call", **fields}
        return [{"id": self._items[at], **found[at], "status": "completed"} for at in sorted(found)]

    def _message(self, said: str) -> dict[str, Any]:
        return {"type": "message", "role": "assistant", "content": [_text_part(said)]}

    def _place(self) -> dict[str, Any]:
        assert self._text_at is not None
        return {"item_id": self._items[self._text_at], "output_index": self._text_at}

    def _part(self, said: str) -> dict[str, Any]:
        return {**self._place(), "content_index": 0, "part": _text_part(said)}

    def _event(self, kind: str, **fields: Any) -> str:
        number, self._number = self._number, self._number + 1
        return event(kind, {"sequence_number": number, **fields})

    def _response(
        self, status: str, output: list[dict[str, Any]] | None = None, ended: Ended | None = None
    ) -> dict[str, Any]:
        fields = self._fields
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._created_unix_s,
            "status": status,
            "model": self._model,
            "output": output or [],
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": fields.get("instructions"),
            "max_output_tokens": fields.get("max_output_tokens"),
            "metadata": fields.get("metadata") or {},
            "parallel_tool_calls": fields.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": fields.get("temperature"),
            "text": fields.get("text") or {"format": {"type": "text"}},
            "tool_choice": fields.get("tool_choice") or "auto",
            "tools": fields.get("tools") or [],
            "top_p": fields.get("top_p"),
            "usage": _usage(ended) if ended else None,
        }


def _text_part(said: str) -> dict[str, Any]:
    return {"type": "output_text", "text": said, "annotations": [], "logprobs": []}


def _status(ended: Ended) -> str:
    return "incomplete" if ended.finish_reason == "length" else "completed"


def _usage(ended: Ended) -> dict[str, Any]:
    return {
        "input_tokens": ended.prompt_tokens,
        "input_tokens_details": {"cached_tokens": ended.cached_tokens},
        "output_tokens": ended.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": ended.prompt_tokens + ended.output_tokens,
    }
