"""One request through vLLM's own OpenAI application, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from autopoiesis.contracts.messages.infer import FailureCode, FinishReason, Generate
from autopoiesis.runtime.servers import protocol
from autopoiesis.runtime.servers.passing import Tally
from autopoiesis.worker.engines.base import Broken, Ended, Output, Piece
from autopoiesis.worker.engines.openai import pieces
from autopoiesis.worker.engines.vllm.asgi import App, Exchange
from autopoiesis.worker.engines.vllm.llm import ANSWERING

_ABORTED: Final = "abort"
_PREFILL_ONLY: Final[dict[str, msgspec.Raw]] = {
    "n": msgspec.Raw(b"1"),
    "tool_choice": msgspec.Raw(b'"none"'),
    "kv_transfer_params": msgspec.Raw(b'{"do_remote_decode":true,"do_remote_prefill":false}'),
}
"""One token has no room for a tool call; `tools` stays, the prompt is rendered from it."""
_NOT_FOR_ONE_TOKEN: Final = (
    "max_completion_tokens",
    "min_tokens",
    "response_format",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
)
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Computed(msgspec.Struct):
    kv_transfer_params: msgspec.Raw = msgspec.Raw(b"null")


class Answer:
    """Runs a request to its end; `say` gets its pieces and one `Ended` or `Broken`."""

    def __init__(self, request: Generate, say: Callable[[Output], None]) -> None:
        self._request = request
        self._say = say
        self._began = time.monotonic()
        self._first_token_s: float | None = None
        self._several = protocol.several_choices(bytes(request.body))
        self._reason: FinishReason | None = None
        self._usage = protocol.Usage()
        self._tally = Tally()
        self._produced = len(request.resume_token_ids)
        self._passing = request.endpoint == "passthrough"
        self._stream = request.stream and not request.prefill_only
        self._exchange: Exchange | None = None

    def abort(self) -> None:
        """The client has gone: vLLM frees what the request holds."""
        if self._exchange is not None:
            self._exchange.leave()

    async def run(self, app: App) -> None:
        """Never raises but when cancelled."""
        ANSWERING.set(self._request)
        try:
            request = self._request
            path = request.path if request.endpoint == "passthrough" else protocol.PATHS[request.endpoint]
            self._exchange = Exchange(
                path, self._body(), self._pass_event if self._passing else self._read_event
            )
            await self._exchange.run(app)
            self._say(self._end(self._exchange))
        except protocol.ServerError as error:
            self._break(error.code, str(error), error.param, error.status)
        except Exception as error:
            self._break("internal", f"{type(error).__name__}: {error}", None, 0)

    def _body(self) -> bytes:
        request = self._request
        if self._passing:
            return bytes(request.body)
        fields = _objects.decode(protocol.upstream_body(bytes(request.body), stream=self._stream))
        fields["priority"] = msgspec.Raw(b"%d" % request.priority)
        fields["request_id"] = msgspec.Raw(msgspec.json.encode(request.request_id))
        if self._stream:
            fields["return_token_ids"] = msgspec.Raw(b"true")
        fields.pop("kv_transfer_params", None)  # a client's could name any host
        if request.kv_transfer is not None:
            fields["kv_transfer_params"] = request.kv_transfer
        if request.prefill_only:
            self._compute_only(fields)
        return msgspec.json.encode(fields)

    def _compute_only(self, fields: dict[str, msgspec.Raw]) -> None:
        """Ask for one token and for the prompt's KV cache to be kept (vLLM docs, disaggregated prefilling)."""
        for name in (*_NOT_FOR_ONE_TOKEN, "stream", "stream_options"):
            fields.pop(name, None)
        tools = "tools" in fields
        fields |= {name: value for name, value in _PREFILL_ONLY.items() if tools or name != "tool_choice"}
        fields["max_tokens"] = msgspec.Raw(b"%d" % (1 + len(self._request.resume_token_ids)))

    def _pass_event(self, event: bytes) -> None:
        tokens = self._tally.event(event)
        self._note(tokens)
        self._say(Piece(event.decode(errors="replace"), tokens))

    def _read_event(self, event: bytes) -> None:
        data = event.removeprefix(b"data:").strip()
        if not event.startswith(b"data:") or data == protocol.DONE.encode():
            return
        read = protocol.read_event(data)
        self._take_in(read)
        for piece in pieces(read, several=self._several):
            self._note(piece.tokens)
            self._say(piece)

    def _take_in(self, event: protocol.Event) -> None:
        self._usage = event.usage or self._usage
        if any(choice.finish_reason == _ABORTED for choice in event.choices):
            raise protocol.ServerError("unavailable", "the engine gave the request up")
        self._reason = protocol.finish_reason(event) or self._reason

    def _note(self, tokens: int) -> None:
        if tokens and self._first_token_s is None:
            self._first_token_s = time.monotonic() - self._began
        self._produced += tokens

    def _end(self, exchange: Exchange) -> Ended:
        """Raises `ServerError` where it did not end well."""
        content = bytes(exchange.content)
        if exchange.left and not exchange.status:
            raise protocol.ServerError("cancelled", "the request was cancelled")
        if not 200 <= exchange.status < 300:
            raise protocol.failure(exchange.status, content)
        if self._passing:
            return self._passed(exchange, content)
        if not self._stream:
            self._take_in(protocol.read_event(content))
        if self._reason is None:
            code: FailureCode = "cancelled" if exchange.left else "unavailable"
            raise protocol.ServerError(code, "the engine's answer stops before its end")
        had = len(self._request.resume_token_ids)
        return Ended(
            finish_reason=self._reason,
            prompt_tokens=self._usage.prompt_tokens - had,
            output_tokens=self._usage.completion_tokens + had,
            cached_tokens=self._usage.cached_tokens,
            first_token_s=self._first_token_s or 0.0,
            body=None if self._request.stream or self._request.prefill_only else msgspec.Raw(content),
            kv_transfer=_kept(content) if self._request.prefill_only else None,
        )

    def _passed(self, exchange: Exchange, content: bytes) -> Ended:
        self._tally.body(content)
        usage = self._tally.usage(self._request.prompt_tokens, self._produced)
        json = exchange.content_type.startswith("application/json")
        return Ended(
            finish_reason="stop",
            prompt_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            first_token_s=self._first_token_s or 0.0,
            body=msgspec.Raw(content) if json else None,
            content=b"" if json else content,
            content_type="" if json else exchange.content_type,
        )

    def _break(self, code: FailureCode, message: str, param: str | None, status: int) -> None:
        self._say(
            Broken(
                code=code,
                message=message,
                param=param.removeprefix("body.") if param else None,
                output_tokens=self._produced,
                status=status,
            )
        )


def _kept(content: bytes) -> msgspec.Raw | None:
    """Where the KV cache is, in the words of vLLM's connector; none where it needs no words, as with shared storage."""
    kept = msgspec.json.decode(content, type=_Computed).kv_transfer_params
    return None if bytes(kept) == b"null" else kept
