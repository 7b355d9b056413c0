"""The attached engine against a server that works, fails and goes away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
from openai_server import OpenAIServer

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.worker.engines import attached
from autopoiesis.worker.engines.attached import AttachedEngine
from autopoiesis.worker.engines.base import Broken, Ended, EngineStartError, Output, Piece

WaitFor = Callable[..., Awaitable[None]]


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer().running() as running:
        yield running


@pytest.fixture
async def engine(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AttachedEngine]:
    monkeypatch.setattr(attached, "PROBE_S", 0.02)
    running = AttachedEngine(server.url, api_key="sk-1", chunk_interval_s=0.0)
    await running.start()
    yield running
    await running.stop()


def request(name: str = "q1", *, stream: bool = True, **body: object) -> Generate:
    content = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": stream, **body}
    return Generate(
        request_id=name,
        router="r",
        nth=1,
        model="m",
        endpoint="chat",
        body=msgspec.Raw(msgspec.json.encode(content)),
        stream=stream,
        prompt_tokens=12,
        max_tokens=10,
    )


async def everything(outputs: AsyncIterator[Output]) -> tuple[list[Piece], Ended | Broken]:
    *pieces, end = [output async for output in outputs]
    assert not isinstance(end, Piece)
    return [piece for piece in pieces if isinstance(piece, Piece)], end


async def test_a_stream_passes_through(engine: AttachedEngine, server: OpenAIServer) -> None:
    pieces, end = await everything(engine.generate(request(temperature=0.5, simulate={"output_tokens": 2})))
    assert "".join(piece.text for piece in pieces) == "w0 w1 w2 "
    assert isinstance(end, Ended)
    assert (end.finish_reason, end.prompt_tokens, end.output_tokens) == ("length", 9, 3)
    assert server.bodies[0]["temperature"] == 0.5
    assert "simulate" not in server.bodies[0]
    assert server.headers[0]["authorization"] == "Bearer sk-1"
    assert engine.model == "served/model"


async def test_without_usage_our_own_count_stands(engine: AttachedEngine, server: OpenAIServer) -> None:
    server.usage = False
    _, end = await everything(engine.generate(request()))
    assert isinstance(end, Ended)
    assert (end.prompt_tokens, end.output_tokens) == (12, 3)


async def test_tool_calls_pass_through_as_they_are(engine: AttachedEngine, server: OpenAIServer) -> None:
    server.delta = {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}
    pieces, _ = await everything(engine.generate(request()))
    assert pieces[0].delta is not None
    assert msgspec.json.decode(pieces[0].delta) == server.delta


async def test_a_whole_answer_is_the_servers_own(engine: AttachedEngine) -> None:
    pieces, end = await everything(engine.generate(request(stream=False)))
    assert pieces == []
    assert isinstance(end, Ended)
    assert (end.prompt_tokens, end.output_tokens) == (9, 3)
    assert end.body is not None
    assert msgspec.json.decode(end.body)["id"] == "x"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "code"), [(400, "invalid_request"), (429, "overloaded"), (500, "internal")]
)
async def test_refusals_have_a_type(
    engine: AttachedEngine, server: OpenAIServer, status: int, code: str, stream: bool
) -> None:
    server.status, server.error = status, "because"
    _, end = await everything(engine.generate(request(stream=stream)))
    assert isinstance(end, Broken)
    assert (end.code, end.message, end.param) == (code, "because", "n")


async def test_a_cut_stream_is_a_typed_failure(engine: AttachedEngine, server: OpenAIServer) -> None:
    server.cut_after = 2
    pieces, end = await everything(engine.generate(request()))
    assert sum(piece.tokens for piece in pieces) == 2
    assert isinstance(end, Broken)
    assert end.code == "unavailable"
    assert end.output_tokens == 2
    assert server.url in end.message


@pytest.mark.parametrize("tokens_first", [0, 1])
async def test_cancel_closes_the_connection(
    engine: AttachedEngine, server: OpenAIServer, wait_for: WaitFor, tokens_first: int
) -> None:
    if not tokens_first:
        server.gate.clear()
    outputs = engine.generate(request())
    if tokens_first:
        server.tokens = 10**6
        await anext(outputs)
    await wait_for(lambda: server.open_streams == 1)
    server.gate.clear()
    engine.cancel("q1", "cancelled")
    _, end = await everything(outputs)
    assert isinstance(end, Broken)
    assert end.code == "cancelled"
    await wait_for(lambda: server.open_streams == 0)
    await asyncio.wait_for(engine.drain(), 30)
    await wait_for(lambda: engine.stats().running == 0)


async def test_a_cancel_before_anything_was_sent(engine: AttachedEngine, server: OpenAIServer) -> None:
    outputs = engine.generate(request())
    engine.cancel("q1", "cancelled")
    _, end = await everything(outputs)
    assert isinstance(end, Broken)
    await asyncio.wait_for(engine.drain(), 30)
    assert server.bodies == []


async def test_own_requests_count_where_metrics_say_less(
    engine: AttachedEngine, server: OpenAIServer, wait_for: WaitFor
) -> None:
    server.gate.clear()
    outputs = [engine.generate(request(f"q{i}")) for i in range(3)]
    assert engine.stats().running == 3
    assert engine.stats().queued_prefill_tokens == 36
    server.gate.set()
    for each in outputs:
        await everything(each)
    await wait_for(lambda: engine.stats().running == 0)


async def test_metrics_of_the_server_count(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.metrics = (
        "vllm:num_requests_running 5\nvllm:num_requests_waiting 2\nvllm:kv_cache_usage_perc 0.5\n"
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1\n'
    )
    engine = AttachedEngine(server.url)
    await engine.start()
    seen = engine.stats()
    assert (seen.running, seen.waiting, seen.kv_used_tokens, seen.kv_capacity_tokens) == (5, 2, 800, 1600)
    await engine.stop()


async def test_a_step_model_is_learned(engine: AttachedEngine, server: OpenAIServer) -> None:
    assert engine.stats().step_model is None
    for i in range(25):
        await everything(engine.generate(request(f"q{i}")))
    assert engine.stats().step_model is not None


async def test_health_is_followed(engine: AttachedEngine, server: OpenAIServer, wait_for: WaitFor) -> None:
    assert engine.stats().state == "ready"
    engine.changed.clear()
    server.health = 503
    await wait_for(lambda: engine.stats().state == "failed")
    assert engine.changed.is_set()
    server.health = 404
    await wait_for(lambda: engine.stats().state == "ready")


async def test_nobody_there_says_where_and_what_to_check_and_heals(
    free_port: int, monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor
) -> None:
    monkeypatch.setattr(attached, "PROBE_S", 0.02)
    engine = AttachedEngine(f"http://127.0.0.1:{free_port}")
    with pytest.raises(
        EngineStartError, match=f"answers at http://127.0.0.1:{free_port}; check that it runs"
    ):
        await engine.start()
    await wait_for(lambda: engine.stats().state == "failed")
    _, end = await everything(engine.generate(request()))
    assert isinstance(end, Broken)
    assert end.code == "unavailable"
    async with OpenAIServer().running(free_port):
        await wait_for(lambda: engine.stats().state == "ready")
        _, end = await everything(engine.generate(request("q2")))
        assert isinstance(end, Ended)
    await engine.stop()


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match=r"worker\.attach: 'localhost:8000' is no HTTP URL"):
        AttachedEngine("localhost:8000")
