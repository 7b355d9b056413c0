"""Requests to attached servers, straight over HTTP: no bus, no second hop."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from autopoiesis.contracts.messages.infer import Failed, FailureCode, Finished, FinishReason, Generate
from autopoiesis.router.transports.attached import AttachedServer
from autopoiesis.router.transports.client import Call
from autopoiesis.router.transports.events import Event, decode_event
from autopoiesis.router.transports.port import Opening, Passage, Replies
from autopoiesis.router.upload import Upload
from autopoiesis.runtime.servers import protocol
from autopoiesis.runtime.servers.protocol import ServerError, Usage

KEY: Final = "router.attach_key"
DONE: Final = b"data: [DONE]\n\n"


_PLAIN: Final = b'"finish_reason":null'
_ODD: Final = re.compile(rb'"content":""|"text":""|"usage":\{|"error":[^n]|\r').search
"""An event in the middle of an answer, which is nearly every one, ends nothing, and brings a token unless it is odd: it needs no decoding."""


class DirectTransport:
    """Carries requests to `servers`, by replica name. `replies` must be set before the first send."""

    replies: Replies

    def __init__(self, servers: Iterable[AttachedServer], *, priorities: bool = False) -> None:
        """`priorities`: whether the servers take them."""
        self._priorities = priorities
        self.servers = {server.name: server for server in servers}
        self._exchanges: dict[str, _Exchange] = {}

    def reaches(self, replica: str) -> AttachedServer | None:
        """The server that `replica` stands for."""
        return self.servers.get(replica) or self.servers.get(replica.partition("/")[0])

    def send(
        self,
        server: AttachedServer,
        replica: str,
        generate: Generate,
        headers: dict[str, str],
        upload: Upload | None = None,
    ) -> None:
        server.sent[replica] = generate.nth
        exchange = self._exchanges[generate.request_id] = _Exchange(self, server, replica, generate)
        try:
            if upload is not None and upload.taken:
                raise ServerError(
                    "unavailable", "its server failed while it took the body, which is not kept"
                )
            body = upstream_body(generate, priority=self._priorities)
        except ServerError as error:
            exchange.fail(error)
            return
        if generate.endpoint == "relay":
            headers = headers | {"content-type": generate.content_type or "application/octet-stream"}
            method = "GET" if generate.method == "HEAD" else generate.method
            exchange.call = server.pool.post(
                generate.path, body, exchange, headers, method=method, upload=upload
            )
            return
        path = generate.path or protocol.PATHS[generate.endpoint]
        exchange.counts = generate.stream and generate.endpoint != "passthrough"
        exchange.call = server.pool.post(path, body, exchange, headers)

    def cancel(self, wire: str, reason: FailureCode) -> None:
        self.close(wire)

    def close(self, wire: str) -> None:
        exchange = self._exchanges.get(wire)
        if exchange is not None:
            exchange.end()
            if exchange.call is not None:
                exchange.call.cancel()

    def pause(self, wire: str) -> None:
        exchange = self._exchanges.get(wire)
        if exchange is not None and exchange.call is not None:
            exchange.call.pause()

    def resume(self, wire: str) -> None:
        exchange = self._exchanges.get(wire)
        if exchange is not None and exchange.call is not None:
            exchange.call.resume()

    def forget(self, wire: str) -> None:
        self._exchanges.pop(wire, None)


def upstream_body(generate: Generate, *, priority: bool = False) -> bytes:
    """The client's body; a stream is asked for its token counts as well. Raises ServerError.

    Bodies without options of their own, nearly all, are only spliced. With `priority` ours goes along, unless it is 0.
    """
    body = bytes(generate.body)
    if generate.endpoint == "relay":
        return body
    if priority and generate.priority and generate.endpoint != "passthrough" and b'"priority"' not in body:
        body = body.rstrip()[:-1] + b',"priority":%d}' % generate.priority
    if b'"simulate"' in body or (generate.stream and b'"stream_options"' in body):
        return protocol.upstream_body(body, stream=generate.stream and generate.endpoint != "passthrough")
    if not generate.stream or generate.endpoint == "passthrough":
        return body
    return body.rstrip()[:-1] + b',"stream_options":{"include_usage":true}}'


class _Exchange:
    """One request at one server: `client.Exchange`."""

    __slots__ = (
        "_began",
        "_done",
        "_endpoint",
        "_error",
        "_first",
        "_generate",
        "_kv",
        "_parts",
        "_prefill",
        "_reason",
        "_relays",
        "_replica",
        "_server",
        "_status",
        "_streams",
        "_tail",
        "_tokens",
        "_transport",
        "_type",
        "_usage",
        "_wants_usage",
        "call",
        "counts",
        "ended",
        "wire",
    )

    def __init__(
        self, transport: DirectTransport, server: AttachedServer, replica: str, generate: Generate
    ) -> None:
        self.wire = generate.request_id
        self._replica = replica
        self.call: Call | None = None
        self.counts = False
        """Its events are OpenAI's, and are read; else they are handed on unread."""
        self.ended = False
        self._transport = transport
        self._server = server
        self._generate = generate
        self._began = time.monotonic()
        self._first = 0.0
        self._status = 0
        self._streams = generate.stream
        self._relays = generate.endpoint == "relay"
        self._type = ""
        self._tail = b""
        self._parts: list[bytes] = []
        self._tokens = 0
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._error: ServerError | None = None
        self._done = False
        self._wants_usage = generate.stream and b'"include_usage"' in bytes(generate.body)
        self._prefill = server.prefill_tokens + generate.prompt_tokens
        self._kv = 0
        server.inflight += 1
        server.prefilling += 1
        server.prefill_tokens += generate.prompt_tokens

    # client.Exchange

    def head(self, status: int, content_type: str) -> None:
        self._status = status
        self._type = content_type
        if self._relays:
            self._transport.replies.on_reply(self.wire, Opening(status, content_type))
        elif status != 200 or not (self.counts or "event-stream" in content_type):
            self._streams = False  # whatever was asked for

    def data(self, data: bytes) -> None:
        if self._relays:
            self._transport.replies.on_reply(self.wire, Passage(data, 0))
            return
        if not self._streams:
            self._parts.append(data)
            return
        if self._tail:
            data = self._tail + data
        elif data.endswith(b"\n\n"):
            self._pass(data)
            return
        end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4)
        if end < 4:  # no whole event
            self._tail = data
            return
        self._tail = data[end:]
        self._pass(data[:end])

    def over(self) -> None:
        if self._relays:
            self._finished(None, None)
        elif self._status != 200:
            self.fail(protocol.failure(self._status, b"".join(self._parts), KEY), self._status)
        elif not self._streams:
            self._finish_whole(b"".join(self._parts))
        else:
            self._finish_stream()

    def broken(self, reason: str, *, connected: bool) -> None:
        server, replies = self._server, self._transport.replies
        self.end()
        if connected:
            message = f"the connection to replica {self._replica} broke: {reason}"
            replies.on_reply(self.wire, self._failed(ServerError("unavailable", message)))
        else:
            server.note(well=False)
            replies.on_gone(self.wire, self._replica, f"{server.url} does not answer: {reason}")

    # streams

    def _pass(self, events: bytes) -> None:
        """Hand on whole events, all but the counts that only we asked for and errors, which we tell ourselves."""
        tokens = events.count(b"data:")
        if self.counts and (not self._first or not tokens or events.count(_PLAIN) != tokens or _ODD(events)):
            events, tokens = self._read(events)
        if tokens and not self._first:
            self._first_token()
        self._tokens += tokens
        if tokens:
            self._kv += tokens
            self._server.kv_tokens += tokens
        if events:
            self._transport.replies.on_reply(self.wire, Passage(events, tokens))

    def _read(self, events: bytes) -> tuple[bytes, int]:
        """What of `events` is the client's, and how many of them bring tokens."""
        tokens, kept = 0, events
        if b"\r" in events:
            kept = events = events.replace(b"\r\n", b"\n")
        for block in events.split(b"\n\n"):
            if not block.startswith(b"data:"):
                continue
            data = block[5:].lstrip()
            if data == b"[DONE]":
                self._done = True
                continue
            try:
                event = decode_event(data)
            except msgspec.MsgspecError:
                continue  # not of OpenAI's form: the client's to read
            for choice in event.choices:
                tokens += choice.says
                if choice.finish_reason:
                    self._reason = protocol.known_reason(choice.finish_reason)
            if event.error and event.error != b"null":
                self._error = protocol.failure(500, data, KEY)
                return kept[: kept.index(block)], tokens
            if event.usage is not None:
                self._usage = event.usage
                if not event.choices and not self._wants_usage:
                    kept = kept.replace(block + b"\n\n", b"", 1)
        return kept, tokens

    def _first_token(self) -> None:
        server, prompt = self._server, self._generate.prompt_tokens
        self._first = time.monotonic()
        server.prefilling -= 1
        server.prefill_tokens -= prompt
        server.kv_tokens += prompt
        self._kv = prompt

    def _finish_stream(self) -> None:
        if self._error is not None:
            self.fail(self._error)
        elif self.counts and self._reason is None and not self._done:
            url = self._server.url
            self.fail(ServerError("unavailable", f"{url} ended the stream before its end was announced"))
        else:
            if self.counts and not self._done:
                self._transport.replies.on_reply(self.wire, Passage(DONE, 0))
            self._finished(self._usage, None)

    # ends

    def _finish_whole(self, body: bytes) -> None:
        if self._generate.endpoint == "passthrough" and "json" not in self._type:
            self._finished(None, None, content=body, content_type=self._type)
            return
        try:
            event = decode_event(body)
        except msgspec.MsgspecError as error:
            if self._generate.endpoint != "passthrough":
                self.fail(ServerError("internal", f"the server's answer is not OpenAI JSON: {error}"))
                return
            event = Event()
        for choice in event.choices:
            if choice.finish_reason:
                self._reason = protocol.known_reason(choice.finish_reason)
        self._finished(event.usage, msgspec.Raw(body))

    def _finished(
        self, usage: Usage | None, body: msgspec.Raw | None, *, content: bytes = b"", content_type: str = ""
    ) -> None:
        now = time.monotonic()
        if self._first and self._server.may_learn(now):
            pauses = max(0, self._tokens - 1)
            pause_s = (now - self._first) / pauses if pauses else 0.0
            self._server.learn(self._first - self._began, self._prefill, pause_s)
        self.end()
        finished = Finished(
            seq=0,
            finish_reason=self._reason or "stop",
            prompt_tokens=usage.prompt_tokens if usage else 0,
            output_tokens=usage.completion_tokens if usage else self._tokens,
            cached_tokens=usage.cached_tokens if usage else 0,
            body=body,
            content=content,
            content_type=content_type,
        )
        self._transport.replies.on_reply(self.wire, finished)

    def fail(self, error: ServerError, status: int = 0) -> None:
        self.end()
        self._transport.replies.on_reply(self.wire, self._failed(error, status))

    def _failed(self, error: ServerError, status: int = 0) -> Failed:
        return Failed(
            seq=0,
            code=error.code,
            message=str(error),
            param=error.param,
            output_tokens=self._tokens,
            status=status,
        )

    def end(self) -> None:
        """Count it no longer."""
        if self.ended:
            return
        self.ended = True
        server = self._server
        server.inflight -= 1
        if self._first:
            server.kv_tokens -= self._kv
        else:
            server.prefilling -= 1
            server.prefill_tokens -= self._generate.prompt_tokens
        self._transport.forget(self.wire)
