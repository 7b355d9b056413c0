"""Whatever is sent, the answer is good or says what is wrong: never a server's error."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.infer import Chunk, FailureCode, Finished, Generate
from autopoiesis.contracts.slo import STANDARD
from autopoiesis.dispatch import Dispatcher, DispatchSettings
from autopoiesis.dispatch import events as ev
from autopoiesis.policy import library
from autopoiesis.router.admission import Admission
from autopoiesis.router.auth import Doorkeeper
from autopoiesis.router.fleet import Fleet
from autopoiesis.router.flight import Flight
from autopoiesis.router.http.exchange import Desk, Exchange
from autopoiesis.router.identity import Identities
from autopoiesis.router.policies import compile_activation
from autopoiesis.router.serving import Patience, Serving
from autopoiesis.router.settings import RouterSettings

POLICY = library.load("least_requests")
PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/tokenize",
    "/v1/rerank",
)
FIELDS: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "hello"}],
    "prompt": "hello",
    "input": "hello",
}
LIMIT = 50_000


class Echo:
    """A transport whose replicas answer everything at once."""

    connected = True
    direct_ready = False
    serving: Serving

    def send(self, replica: str, generate: Generate, headers: dict[str, str], upload: object = None) -> None:
        msgspec.json.encode(generate)
        asyncio.get_running_loop().call_soon(self._answer, generate)

    def _answer(self, generate: Generate) -> None:
        if generate.stream:
            self.serving.on_reply(generate.request_id, Chunk(seq=0, text="hello", tokens=1))
        last = Finished(seq=1, finish_reason="stop", prompt_tokens=1, output_tokens=1, text="hello")
        self.serving.on_reply(generate.request_id, last)

    def cancel(self, wire: str, reason: FailureCode) -> None: ...

    def close(self, wire: str) -> None: ...

    def pause(self, wire: str) -> None: ...

    def resume(self, wire: str) -> None: ...


class Nobody:
    """A listener."""

    def begun(self, flight: Flight) -> None: ...

    def decided(self, seconds: float) -> None: ...

    def sent(self, flight: Flight) -> dict[str, str]:
        return {}

    def resumed(self, flight: Flight, reason: str) -> None: ...

    def hedged(self, flight: Flight, loser: Flight, result: str) -> None: ...

    def ended(self, flight: Flight, now: float) -> None: ...

    def fault(self, fault: ev.Fault) -> None:
        raise AssertionError(fault)

    def swapped(self, swapped: ev.Swapped) -> None: ...


class Client:
    """A connection that takes everything at once."""

    crowded = False

    def __init__(self) -> None:
        self.transport: Any = self
        self.written: list[bytes] = []
        self.over = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def hold(self) -> None: ...

    def release(self) -> None: ...

    def answered(self, *, close: bool) -> None:
        self.over.set()


async def post(path: str, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> tuple[int, bytes]:
    """Status and body of the answer of a router with one replica."""
    wire, fleet = Echo(), Fleet()
    dispatcher = Dispatcher(DispatchSettings(), router="r-1", policy=POLICY, compile=compile_activation)
    serving = Serving(dispatcher, wire, Nobody(), fleet, router="r-1", patience=Patience())
    wire.serving = serving
    serving.beat(
        Heartbeat(
            node="n",
            replica="a",
            incarnation="1",
            beat=1,
            state="ready",
            model="m",
            gpu="H100",
            kv_capacity_tokens=100_000,
            max_running=8,
        )
    )
    admission = Admission(
        RouterSettings(),
        Identities(STANDARD, b"k"),
        fleet,
        key=b"k",
        incarnation="1",
        max_body_bytes=LIMIT,
    )
    client = Client()
    desk = Desk(serving, admission, Doorkeeper(None), lambda status: None)
    exchange = Exchange(desk, client, b"POST", path, list(headers), chunked=False)
    exchange.begin()
    exchange.feed(body)
    exchange.complete()
    async with asyncio.timeout(30):
        await client.over.wait()
    assert serving.in_flight == 0
    head, _, answer = b"".join(client.written).partition(b"\r\n\r\n")
    return int(head.split()[1]), answer


def check(path: str, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> int:
    status, answer = asyncio.run(post(path, body, headers))
    assert status == 200 or 400 <= status < 500, answer
    if status != 200:
        error = json.loads(answer)["error"]
        assert error["message"]
        assert set(error) == {"message", "type", "param", "code"}
    return status


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["user", "text", "image_url", "data:image/png;base64,AAAA", "m"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "image_url", "url"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "model",
        "messages",
        "prompt",
        "input",
        "n",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "tools",
        "response_format",
        "system",
        "instructions",
        "stop",
        "simulate",
    ]
)


@settings(deadline=None)
@given(st.sampled_from(PATHS), st.dictionaries(NAMES, JSON, max_size=4))
@example("/v1/responses", {"input": [{"role": "\ud800", "content": [{"type": "text", "text": "\udfff"}]}]})
@example("/v1/messages", {"messages": 10**400})
@example("/v1/messages", {"system": 1e308, "messages": [None, [None]]})
@example("/v1/chat/completions", {"tools": 10**400, "stream": True})
def test_any_fields(path: str, fields: dict[str, Any]) -> None:
    check(path, json.dumps(FIELDS | fields).encode())


@settings(deadline=None)
@given(st.sampled_from(PATHS), st.binary(max_size=300))
@example("/v1/messages", b'{"model": "m", "messages": 1e999}')
@example("/v1/responses", b'{"model": "m", "input": [{"a": 1e999}]}')
@example("/v1/embeddings", b'{"model": "m", "user": "\xff"}')
def test_any_bytes(path: str, body: bytes) -> None:
    check(path, body)


@settings(deadline=None)
@given(st.sampled_from(PATHS), st.data())
def test_a_good_body_with_bytes_changed(path: str, data: st.DataObject) -> None:
    body = bytearray(json.dumps(FIELDS).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    check(path, bytes(body))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"x-slo-class", b"x-slo-ttft-ms", b"x-session-id", b"authorization", b"traceparent"]
            ),
            st.binary(max_size=40),
        ),
        max_size=4,
    )
)
def test_any_headers(headers: list[tuple[bytes, bytes]]) -> None:
    check("/v1/chat/completions", json.dumps(FIELDS).encode(), headers)


@pytest.mark.parametrize("path", PATHS)
def test_good_bodies_are_good(path: str) -> None:
    assert check(path, json.dumps(FIELDS).encode()) == 200
    assert check(path, json.dumps(FIELDS | {"stream": True}).encode()) == 200


@pytest.mark.parametrize("path", PATHS)
def test_deep_and_large_bodies(path: str) -> None:
    deep = b'{"model": "m", "messages": ' + b"[" * 20_000 + b"]" * 20_000 + b', "prompt": "x"}'
    assert check(path, deep) in {200, 400}
    assert check(path, json.dumps(FIELDS | {"user": "x" * LIMIT}).encode()) == 413


@pytest.mark.parametrize("field", ["max_tokens", "n"])
@pytest.mark.parametrize("value", [0, -1, 10**9, 10**30, 1.5, "3", True, [1]])
def test_absurd_limits_are_named(field: str, value: Any) -> None:
    body = json.dumps(FIELDS | {field: value}).encode()
    status, answer = asyncio.run(post("/v1/chat/completions", body))
    assert status == 400
    assert json.loads(answer)["error"]["param"] == field
