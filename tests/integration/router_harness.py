"""A router in this process, and a worker whose engine is the test's own coroutine."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
from prometheus_client import CollectorRegistry

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.infer import Cancel, Generate
from autopoiesis.contracts.subjects import CANCEL, GENERATE, HEARTBEAT, slug
from autopoiesis.router.app import serve
from autopoiesis.router.settings import RouterSettings
from autopoiesis.runtime.bus import Bus, Received, Responder, Responders
from autopoiesis.runtime.lifecycle import GRACE, Service
from autopoiesis.runtime.settings import Settings
from autopoiesis.runtime.telemetry import Telemetry

MODEL = "org/model-8b"
BEAT_S = 0.05
WORDS = [f"word{number} " for number in range(8)]


class TestService(Service):
    """Keeps what the service reports when it is ready."""

    __test__ = False
    info: asyncio.Future[dict[str, Any]]

    def ready(self, **info: Any) -> None:
        self.info.set_result(info)


@dataclass
class RunningRouter:
    url: str
    instance: str
    client: httpx.AsyncClient
    service: Service
    task: asyncio.Task[None]

    async def stop(self) -> None:
        """As on SIGTERM; returns when it is down."""
        self.service.stop()
        await self.task

    async def ready(self) -> bool:
        return (await self.client.get("/ready")).is_success

    async def state(self) -> Any:
        return (await self.client.get("/admin/state")).json()

    async def chat(self, content: str = "hello", **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=chat(content, **fields))


def chat(content: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


@asynccontextmanager
async def running_router(url: str, *, tracing: bool = False, **flags: Any) -> AsyncIterator[RunningRouter]:
    """A router on the bus at `url`; `flags` are settings of its section. `tracing`: somebody records its spans."""
    given = {"silence_s": 0.6, "suspect_after_s": 0.5, "telemetry_interval_s": 0.02, "no_replica_wait_s": 0.3, "drain_s": 5.0, "listen_s": 0.0} | flags  # fmt: skip
    settings = Settings.load(
        RouterSettings,
        env={},
        flags={"bus.url": url, "scope": f"local/{MODEL}", "router.port": 0}
        | {f"router.{key}": value for key, value in given.items()},
    )
    telemetry = Telemetry(CollectorRegistry(), [], tracing=tracing)
    info: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    stopping: asyncio.Future[Service] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run(settings, telemetry, info, stopping))
    waiting: list[asyncio.Future[Any]] = [task, info]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    address, instance = info.result()["http"], info.result()["router"]
    async with httpx.AsyncClient(base_url=address, timeout=20.0) as client:
        router = RunningRouter(address, instance, client, await stopping, task)
        try:
            yield router
        finally:
            await router.stop()


async def run(
    settings: Settings,
    telemetry: Telemetry,
    info: asyncio.Future[dict[str, Any]],
    started: asyncio.Future[Service],
) -> None:
    """What `run_service` does, without signals and exit codes."""
    async with asyncio.TaskGroup() as group:
        service = TestService("router", group, GRACE)
        service.info = info
        started.set_result(service)
        try:
            await serve(settings, service, telemetry, f"router-{secrets.token_hex(4)}")
        finally:
            await service.close()
            service.cancel_tasks()


Engine = Callable[["StubWorker", Generate, Responder], Awaitable[None]]


async def talk(worker: "StubWorker", request: Generate, responder: Responder) -> None:
    """Answers with eight words."""
    if request.stream:
        for word in WORDS:
            responder.write(word)
            await responder.flush()
        await responder.finish("stop", prompt_tokens=5, output_tokens=8)
    else:
        await responder.finish(
            "stop", prompt_tokens=5, output_tokens=8, text="".join(WORDS), first_token_s=0.001
        )


def slowly(seconds: float) -> Engine:
    """As `talk`, with time between words."""

    async def engine(worker: "StubWorker", request: Generate, responder: Responder) -> None:
        if not request.stream:
            await asyncio.sleep(8 * seconds)
        for word in WORDS if request.stream else ():
            responder.write(word)
            await responder.flush()
            await asyncio.sleep(seconds)
        await responder.finish(
            "stop", prompt_tokens=5, output_tokens=8, text="" if request.stream else "".join(WORDS)
        )

    return engine


async def half(worker: "StubWorker", request: Generate, responder: Responder) -> None:
    """Says one word and then nothing more, until it is cancelled."""
    if request.stream:
        responder.write(WORDS[0])
        await responder.flush()
    await asyncio.Event().wait()


@dataclass
class StubWorker:
    """Replicas of one worker process, all with the same engine."""

    bus: Bus
    responders: Responders
    replicas: tuple[str, ...]
    engine: Engine = talk
    requests: list[tuple[str, Generate, dict[str, str]]] = field(default_factory=list)
    cancels: list[Cancel] = field(default_factory=list)
    state: Any = "ready"
    beating: bool = True
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _received: dict[str, dict[str, int]] = field(default_factory=dict)
    _beat: int = 0
    _incarnation: str = field(default_factory=lambda: secrets.token_hex(4))

    async def start(self) -> None:
        for replica in self.replicas:
            await self.bus.subscribe(GENERATE, self._hear(replica), replica=slug(replica))
            await self.bus.subscribe(CANCEL, self._cancel, replica=slug(replica))
        await self.bus.flush()
        self._tasks["beats"] = asyncio.create_task(self._beats())

    @property
    def running(self) -> int:
        return sum(not task.done() for name, task in self._tasks.items() if name != "beats")

    async def kill(self) -> None:
        """Gone at once, without a word."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self.responders.close()
        await self.bus.close()

    def _hear(self, replica: str) -> Callable[[Received[Generate]], None]:
        def hear(item: Received[Generate]) -> None:
            request = item.message
            self._received.setdefault(replica, {})[request.router] = request.nth
            self.requests.append((replica, request, dict(item.headers)))
            responder = self.responders.respond(item)
            self._tasks[request.request_id] = asyncio.create_task(self._run(request, responder))

        return hear

    async def _run(self, request: Generate, responder: Responder) -> None:
        await self.engine(self, request, responder)

    def _cancel(self, item: Received[Cancel]) -> None:
        self.cancels.append(item.message)
        task = self._tasks.get(item.message.request_id)
        if task is not None:
            task.cancel()

    async def _beats(self) -> None:
        while True:
            if self.beating:
                await self.beat()
            await asyncio.sleep(BEAT_S)

    async def beat(self) -> None:
        self._beat += 1
        for replica in self.replicas:
            heartbeat = Heartbeat(
                node="n1",
                replica=replica,
                incarnation=self._incarnation,
                beat=self._beat,
                state=self.state,
                model=MODEL,
                gpu="H100",
                kv_capacity_tokens=100_000,
                max_running=64,
                received=self._received.get(replica, {}),
            )
            await self.bus.publish(HEARTBEAT, heartbeat, node="n1", replica=slug(replica))


@asynccontextmanager
async def stub_worker(url: str, *replicas: str, engine: Engine = talk) -> AsyncIterator[StubWorker]:
    bus = await Bus.connect(url, name="stub worker", inbox_prefix="_INBOX.worker")
    worker = StubWorker(
        bus, await Responders.start(bus, secrets.token_hex(4), coalesce=0.0), replicas, engine
    )
    await worker.start()
    try:
        yield worker
    finally:
        await worker.kill()


def data(stream: str) -> list[Any]:
    """The events of a stream, decoded; comments left out."""
    events = []
    for block in stream.split("\n\n"):
        if block and not block.startswith(":"):
            assert block.startswith("data: "), block
            events.append("[DONE]" if block == "data: [DONE]" else msgspec.json.decode(block[6:]))
    return events


def text(events: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for event in events
        if isinstance(event, dict)
        for choice in event.get("choices", ())
    )
