"""One request through vLLM's own OpenAI application, called in this process without a socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import msgspec

from autopoiesis.contracts.messages.infer import FinishReason, Generate
from autopoiesis.runtime.servers import protocol
from autopoiesis.worker.engines.base import Broken, Ended, Output
from autopoiesis.worker.engines.openai import pieces
from autopoiesis.worker.engines.vllm.llm import ANSWERING

_OK: Final = 200
_ABORTED: Final = "abort"
_NO_BODY: Final = (b"", b"null")
_HEADERS: Final = [(b"content-type", b"application/json"), (b"host", b"engine")]

Asgi = Callable[..., Any]
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Answer:
    """Runs a request to its end; `say` gets its pieces and one `Ended` or `Broken`."""

    def __init__(self, request: Generate, say: Callable[[Output], None]) -> None:
        self._request = request
        self._say = say
        self._began = time.monotonic()
        self._first_token_s = 0.0
        self._status = 0
        self._content_type = ""
        self._buffer = bytearray()
        self._several = False
        self._reason: FinishReason | None = None
        self._usage = protocol.Usage()
        self._produced = len(request.resume_token_ids)
        self._left = asyncio.Event()
        self._asked = False

    def abort(self) -> None:
        """The client has gone: vLLM frees what the request holds."""
        self._left.set()

    async def run(self, app: Asgi) -> None:
        """Never raises but when cancelled."""
        ANSWERING.set(self._request)
        try:
            body = self._body()
            await app(self._scope(body not in _NO_BODY), lambda: self._receive(body), self._send)
            self._end()
        except protocol.ServerError as error:
            self._break(error)
        except Exception as error:
            self._say(
                Broken(
                    code="internal", message=f"{type(error).__name__}: {error}", output_tokens=self._produced
                )
            )

    def _body(self) -> bytes:
        request = self._request
        body = bytes(request.body)
        if request.endpoint == "passthrough":
            return body
        fields = _objects.decode(protocol.upstream_body(body, stream=request.stream))
        fields["priority"] = msgspec.Raw(b"%d" % request.priority)
        fields["request_id"] = msgspec.Raw(msgspec.json.encode(request.request_id))
        if request.stream:
            fields["return_token_ids"] = msgspec.Raw(b"true")
        self._several = bytes(fields.get("n", b"1")).strip() not in {b"1", b"null"}
        return msgspec.json.encode(fields)

    def _scope(self, has_body: bool) -> dict[str, Any]:
        request = self._request
        path = request.path if request.endpoint == "passthrough" else protocol.PATHS[request.endpoint]
        path, _, query = path.partition("?")
        return {
            "type": "http",
            # From 2.4 on Starlette notices a client that left only when it writes; vLLM shall stop at once.
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST" if has_body else "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": _HEADERS,
            "client": None,
            "server": None,
            "state": {},
        }

    async def _receive(self, body: bytes) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = {name.lower(): value for name, value in message.get("headers", ())}
            self._content_type = headers.get(b"content-type", b"").decode("latin-1")
        elif message["type"] == "http.response.body":
            self._buffer += message.get("body", b"")
            if self._request.stream and self._status == _OK and self._request.endpoint != "passthrough":
                self._read_events()

    def _read_events(self) -> None:
        *events, rest = bytes(self._buffer).split(b"\n\n")
        self._buffer = bytearray(rest)
        for event in events:
            data = event.removeprefix(b"data:").strip()
            if event.startswith(b"data:") and data != protocol.DONE.encode():
                self._on_event(protocol.read_event(data))

    def _on_event(self, event: protocol.Event) -> None:
        self._usage = event.usage or self._usage
        for choice in event.choices:
            if choice.finish_reason == _ABORTED:
                raise protocol.ServerError("unavailable", "the engine gave the request up")
        self._reason = protocol.finish_reason(event) or self._reason
        for piece in pieces(event, several=self._several):
            if not self._first_token_s:
                self._first_token_s = time.monotonic() - self._began
            self._produced += piece.tokens
            self._say(piece)

    def _end(self) -> None:
        request, content = self._request, bytes(self._buffer)
        if self._status != _OK and not (request.endpoint == "passthrough" and self._status < 300):
            if self._left.is_set():
                raise protocol.ServerError("cancelled", "the request was cancelled")
            raise protocol.failure(self._status, content)
        if request.endpoint == "passthrough":
            self._say(self._passed(content))
        elif request.stream:
            if self._reason is None:
                raise protocol.ServerError(
                    "cancelled" if self._left.is_set() else "unavailable",
                    "the engine ended the stream before its end was announced",
                )
            self._say(self._ended(self._reason, None))
        else:
            event = protocol.read_event(content)
            self._usage = event.usage or self._usage
            if any(choice.finish_reason == _ABORTED for choice in event.choices):
                raise protocol.ServerError("unavailable", "the engine gave the request up")
            self._say(self._ended(protocol.finish_reason(event) or "stop", msgspec.Raw(content)))

    def _ended(self, reason: FinishReason, body: msgspec.Raw | None) -> Ended:
        had = len(self._request.resume_token_ids)
        return Ended(
            finish_reason=reason,
            prompt_tokens=self._usage.prompt_tokens - had,
            output_tokens=self._usage.completion_tokens + had,
            cached_tokens=self._usage.cached_tokens,
            first_token_s=self._first_token_s,
            body=body,
        )

    def _passed(self, content: bytes) -> Ended:
        if self._content_type.startswith("application/json"):
            return Ended(finish_reason="stop", prompt_tokens=0, output_tokens=0, body=msgspec.Raw(content))
        return Ended(
            finish_reason="stop",
            prompt_tokens=0,
            output_tokens=0,
            content=content,
            content_type=self._content_type,
        )

    def _break(self, error: protocol.ServerError) -> None:
        status = self._status if self._status != _OK else 0
        self._say(
            Broken(
                code=error.code,
                message=str(error),
                param=error.param.removeprefix("body.") if error.param else None,
                output_tokens=self._produced,
                status=status,
            )
        )
