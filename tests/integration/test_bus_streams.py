"""Requests and their reply streams, between a router's and a worker's connection."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import msgspec
import pytest

from autopoiesis.contracts.codec import encode
from autopoiesis.contracts.messages.infer import Cancel, Chunk, Failed, Finished, Generate
from autopoiesis.contracts.subjects import CANCEL, GENERATE
from autopoiesis.runtime.bus import (
    Bus,
    DisconnectedError,
    NoRespondersError,
    PayloadTooLargeError,
    Received,
    ReplyError,
    RequestStreams,
    Responder,
    Responders,
    SequenceGapError,
    SlowReaderError,
    StalledError,
)


def request(request_id: str = "q1", body: bytes = b"{}") -> Generate:
    return Generate(
        request_id=request_id,
        router="r1",
        nth=1,
        model="m",
        endpoint="chat",
        body=msgspec.Raw(body),
        stream=True,
        prompt_tokens=3,
        max_tokens=5,
    )


@dataclass
class Worker:
    """Collects what arrives for replica `a`."""

    bus: Bus
    responders: Responders
    requests: asyncio.Queue[Received[Generate]] = field(default_factory=asyncio.Queue)
    cancels: asyncio.Queue[Cancel] = field(default_factory=asyncio.Queue)

    async def next(self, on_gone: Callable[[], None] | None = None) -> Responder:
        return self.responders.respond(await asyncio.wait_for(self.requests.get(), 30), on_gone)


@pytest.fixture
async def worker(connect: Callable[..., asyncio.Future[Bus]]) -> AsyncIterator[Worker]:
    bus = await connect("worker", inbox_prefix="_INBOX.worker")
    worker = Worker(bus, await Responders.start(bus, "w1", coalesce=0.0))
    await bus.subscribe(GENERATE, worker.requests.put_nowait, replica="a")
    await bus.subscribe(CANCEL, lambda cancel: worker.cancels.put_nowait(cancel.message), replica="a")
    await bus.flush()
    yield worker
    await worker.responders.close()


@pytest.fixture
async def router(connect: Callable[..., asyncio.Future[Bus]]) -> AsyncIterator[RequestStreams]:
    bus = await connect("router", inbox_prefix="_INBOX.router")
    streams = await RequestStreams.start(bus, "r1")
    await bus.flush()
    yield streams
    await streams.close()


async def test_chunks_arrive_in_order_with_a_typed_last_message(
    router: RequestStreams, worker: Worker
) -> None:
    stream = await router.open("a", request())
    responder = await worker.next()
    for word in ("one ", "two ", "three"):
        responder.write(word, token_ids=(len(word),))
        await responder.flush()
    await responder.finish("stop", prompt_tokens=3, output_tokens=3, cached_tokens=2)

    replies = [reply async for batch in stream for reply in batch]
    assert replies == [
        Chunk(seq=0, text="one ", tokens=1, token_ids=(4,)),
        Chunk(seq=1, text="two ", tokens=1, token_ids=(4,)),
        Chunk(seq=2, text="three", tokens=1, token_ids=(5,)),
        Finished(seq=3, finish_reason="stop", prompt_tokens=3, output_tokens=3, cached_tokens=2),
    ]
    assert await stream.next_batch() == []
    assert len(router) == len(worker.responders) == 0


async def test_tokens_written_together_travel_as_one_chunk(router: RequestStreams, worker: Worker) -> None:
    stream = await router.open("a", request())
    responder = await worker.next()
    for word in ("a", "b", "c"):
        responder.write(word)
    responder.write("other choice", index=1)
    first = [*await stream.next_batch()]
    while len(first) < 2:
        first += await stream.next_batch()
    assert first == [Chunk(seq=0, text="abc", tokens=3), Chunk(seq=1, text="other choice", tokens=1, index=1)]


async def test_a_reader_gets_all_waiting_chunks_at_once(
    router: RequestStreams, worker: Worker, wait_for: Callable[..., asyncio.Future[None]]
) -> None:
    stream = await router.open("a", request())
    responder = await worker.next()
    for _ in range(10):
        responder.write("x")
        await responder.flush()
    await responder.fail("overloaded", "queue full")
    await wait_for(lambda: stream.ended)
    batch = await stream.next_batch()
    assert len(batch) == 11
    assert batch[-1] == Failed(seq=10, code="overloaded", message="queue full")


async def test_many_streams_do_not_mix(router: RequestStreams, worker: Worker) -> None:
    async def answer() -> None:
        for _ in range(50):
            responder = await worker.next()
            responder.write(responder.request_id)
            await responder.finish("stop", prompt_tokens=1, output_tokens=1)

    async def ask(name: str) -> None:
        replies = [reply async for batch in await router.open("a", request(name)) for reply in batch]
        assert "".join(reply.text for reply in replies if isinstance(reply, Chunk)) == name

    async with asyncio.TaskGroup() as group:
        group.create_task(answer())
        for number in range(50):
            group.create_task(ask(f"q{number}"))


async def test_a_dead_worker_is_seen_at_once(router: RequestStreams) -> None:
    stream = await router.open("nobody", request(), stall_timeout=60.0)
    with pytest.raises(NoRespondersError, match="replica nobody"):
        await asyncio.wait_for(stream.next_batch(), 30)


async def test_a_worker_notices_that_its_router_has_gone(
    router: RequestStreams, worker: Worker, wait_for: Callable[..., asyncio.Future[None]]
) -> None:
    await router.open("a", request())
    gone = asyncio.Event()
    responder = await worker.next(gone.set)
    await router._bus.client.close()

    def told() -> bool:  # the first chunks may still meet the closing connection
        responder.write("to nobody")
        return gone.is_set()

    await wait_for(told)
    assert responder.gone
    await responder.finish("stop", prompt_tokens=1, output_tokens=1)  # says nothing, and does not fail
    assert len(worker.responders) == 0


async def test_a_queued_request_notices_a_gone_router_by_its_keep_alive(
    router: RequestStreams, connect: Callable[..., asyncio.Future[Bus]]
) -> None:
    bus = await connect("worker")
    responders = await Responders.start(bus, "w2", keepalive=0.05)
    requests: asyncio.Queue[Received[Generate]] = asyncio.Queue()
    await bus.subscribe(GENERATE, requests.put_nowait, replica="b")
    await bus.flush()
    await router.open("b", request())
    gone = asyncio.Event()
    responders.respond(await requests.get(), gone.set)
    await router._bus.client.close()
    await asyncio.wait_for(gone.wait(), 30)
    await responders.close()


async def test_silence_fails_the_stream(router: RequestStreams, worker: Worker) -> None:
    stream = await router.open("a", request(), stall_timeout=0.1)
    await worker.next()
    with pytest.raises(StalledError, match="replica a"):
        await asyncio.wait_for(stream.next_batch(), 30)
    assert len(router) == 0


async def test_time_in_which_this_process_stood_still_is_no_silence(
    connect: Callable[..., asyncio.Future[Bus]], worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await connect("router", inbox_prefix="_INBOX.router")
    streams = await RequestStreams.start(bus, "frozen", stall_timeout=60.0)
    stream = await streams.open("a", request())
    responder = await worker.next()
    monkeypatch.setattr(streams, "_ticked", asyncio.get_running_loop().time() - 3600.0)  # an hour of SIGSTOP
    streams._look()
    assert not stream.ended
    responder.write("still here")
    await responder.finish("stop", prompt_tokens=1, output_tokens=1)
    replies = [reply async for batch in stream for reply in batch]
    assert isinstance(replies[-1], Finished)


async def test_keep_alives_prevent_a_stall(
    router: RequestStreams, connect: Callable[..., asyncio.Future[Bus]]
) -> None:
    bus = await connect("worker")
    responders = await Responders.start(bus, "w2", keepalive=0.05)
    requests: asyncio.Queue[Received[Generate]] = asyncio.Queue()
    await bus.subscribe(GENERATE, requests.put_nowait, replica="b")
    await bus.flush()
    stream = await router.open("b", request(), stall_timeout=0.5)
    responder = responders.respond(await requests.get())
    seen = 0
    while seen < 12:  # twelve keep-alives outlast the stall time
        batch = await stream.next_batch()
        assert all(isinstance(reply, Chunk) and reply.text == "" for reply in batch)
        seen += len(batch)
    await responder.finish("stop", prompt_tokens=1, output_tokens=0)
    assert isinstance((await stream.next_batch())[-1], Finished)
    await responders.close()


async def test_a_gap_in_the_sequence_fails_the_stream(router: RequestStreams, worker: Worker) -> None:
    stream = await router.open("a", request())
    incoming = await worker.requests.get()
    await worker.bus.send(incoming.reply, encode(Chunk(seq=0, text="a")))
    await worker.bus.send(incoming.reply, encode(Chunk(seq=2, text="c")))
    assert await stream.next_batch() == [Chunk(seq=0, text="a")]
    with pytest.raises(SequenceGapError, match="reply 1 was lost, 2 arrived"):
        await asyncio.wait_for(stream.next_batch(), 30)


async def test_garbage_fails_the_stream_and_is_counted(router: RequestStreams, worker: Worker) -> None:
    stream = await router.open("a", request())
    incoming = await worker.requests.get()
    await worker.bus.send(incoming.reply, b'{"type":"chunk"}')
    with pytest.raises(ReplyError, match="seq"):
        await asyncio.wait_for(stream.next_batch(), 30)
    assert router._bus.faults["undecodable"] == 1


async def test_cancel_reaches_the_worker_once(router: RequestStreams, worker: Worker) -> None:
    stream = await router.open("a", request())
    await worker.next()
    await stream.cancel("deadline")
    await stream.cancel()
    assert await asyncio.wait_for(worker.cancels.get(), 30) == Cancel(request_id="q1", reason="deadline")
    await router._bus.flush()
    assert worker.cancels.empty()
    with pytest.raises(ReplyError, match="cancelled"):
        await stream.next_batch()


async def test_a_slow_reader_is_bounded(
    worker: Worker, connect: Callable[..., asyncio.Future[Bus]], wait_for: Callable[..., asyncio.Future[None]]
) -> None:
    bus = await connect("router")
    streams = await RequestStreams.start(bus, "slow", max_pending=4)
    await bus.flush()
    stream = await streams.open("a", request())
    responder = await worker.next()
    for _ in range(5):
        responder.write("x")
        await responder.flush()
    await wait_for(lambda: stream.ended)
    assert len(await stream.next_batch()) == 4
    with pytest.raises(SlowReaderError, match="4 chunks"):
        await stream.next_batch()


async def test_an_overfull_inbox_fails_the_streams_it_drops_from(
    worker: Worker, connect: Callable[..., asyncio.Future[Bus]], wait_for: Callable[..., asyncio.Future[None]]
) -> None:
    bus = await connect("router")
    streams = await RequestStreams.start(bus, "full", inbox_bytes=64)
    await bus.flush()
    stream = await streams.open("a", request())
    responder = await worker.next()
    responder.write("x" * 100)
    with pytest.raises(SequenceGapError, match="inbox is full"):
        await asyncio.wait_for(stream.next_batch(), 30)
    assert bus.faults["slow_consumer"] == 1


async def test_an_oversized_request_is_refused_before_it_is_sent(router: RequestStreams) -> None:
    with pytest.raises(PayloadTooLargeError) as caught:
        await router.open("a", request(body=b'"' + b"x" * 9_000_000 + b'"'))
    assert caught.value.limit == 8 * 1024 * 1024 < caught.value.size
    assert len(router) == 0


async def test_an_oversized_answer_ends_as_a_failure(router: RequestStreams, worker: Worker) -> None:
    stream = await router.open("a", request())
    responder = await worker.next()
    await responder.finish("stop", prompt_tokens=1, output_tokens=1, text="x" * 9_000_000)
    [last] = await asyncio.wait_for(stream.next_batch(), 30)
    assert isinstance(last, Failed)
    assert "8388608 bytes" in last.message


async def test_a_second_answer_is_a_programming_error(router: RequestStreams, worker: Worker) -> None:
    await router.open("a", request())
    responder = await worker.next()
    await responder.fail("internal", "broke")
    with pytest.raises(RuntimeError, match="already answered"):
        await responder.finish("stop", prompt_tokens=1, output_tokens=1)


async def test_a_disconnected_router_refuses_at_once(router: RequestStreams) -> None:
    await router._bus.client.close()
    with pytest.raises(DisconnectedError):
        await router.open("a", request())
    assert len(router) == 0
