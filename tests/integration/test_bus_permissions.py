"""Every service can do its part, and no more, under the generated NATS permissions."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.contracts.subjects import GENERATE, PROMOTED, REGISTRY, Service, Subject, streams_of
from autopoiesis.runtime import embedded
from autopoiesis.runtime.bus import Bus, BusUnavailableError, Received, RequestStreams, Responders
from autopoiesis.runtime.settings import BusSettings, Secret

WaitFor = Callable[..., Awaitable[None]]
SERVICES: tuple[Service, ...] = get_args(Service)


@pytest.fixture
def guarded(
    own_supervisor: embedded.Supervisor, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> embedded.NatsServer:
    for service in SERVICES:
        monkeypatch.setenv(f"NATS_{service.upper()}_PASSWORD", f"{service}-password")
    users = (repository / "infra" / "nats" / "permissions.conf").read_text()
    return embedded.start_nats(
        own_supervisor, own_supervisor.data_dir / "nats", config=f"authorization {{\n{users}\n}}"
    )


@pytest.fixture
async def buses(guarded: embedded.NatsServer) -> AsyncIterator[dict[Service, Bus]]:
    opened = {}
    for service in SERVICES:
        own = BusSettings(url=guarded.url, user=service, password=Secret(f"{service}-password"))
        opened[service] = await Bus.open(own, service)
    yield opened
    for bus in opened.values():
        await bus.close()


def name(subject: Subject[Any]) -> str:
    return subject.at(**dict.fromkeys(subject.tokens, "x"))


async def handle(item: Received[Any]) -> None: ...


async def test_every_conversation_of_the_registry_is_allowed(buses: dict[Service, Bus]) -> None:
    for service, bus in buses.items():
        await bus.ensure_streams()
        assert {stream.name for stream in streams_of(service)}
    for subject in REGISTRY:
        for service in subject.listeners:
            bus = buses[service]
            match subject.delivery:
                case "core":
                    await bus.subscribe(subject, handle)
                case "last":
                    watch = await bus.watch_last(subject, lambda item: None)
                    assert watch.synced.is_set(), (subject.pattern, service)
                case _:
                    durable = f"{service}-{subject.pattern.partition('.{')[0].replace('.', '-')}"
                    consumer = await bus.consume(subject, durable, handle)
                    await asyncio.wait_for(consumer.created.wait(), 30)
        for service in (subject.owner, *subject.publishers):
            if subject.stream is None:
                await buses[service].send(name(subject), b"{}")
            else:
                await buses[service].client.jetstream().publish(name(subject), b"{}")
    for service, bus in buses.items():
        await bus.flush()
        assert bus.faults["permission"] == 0, service


async def test_a_request_and_its_answer_are_allowed(buses: dict[Service, Bus], wait_for: WaitFor) -> None:
    requests: asyncio.Queue[Received[Generate]] = asyncio.Queue()
    responders = await Responders.start(buses["worker"], "w")
    await buses["worker"].subscribe(GENERATE, requests.put_nowait, replica="a")
    await buses["worker"].flush()
    streams = await RequestStreams.start(buses["router"], "r")
    request = Generate(
        request_id="q",
        router="r",
        nth=1,
        model="m",
        endpoint="chat",
        body=msgspec.Raw(b"{}"),
        stream=True,
        prompt_tokens=1,
        max_tokens=1,
    )
    stream = await streams.open("a", request)
    answer = responders.respond(await asyncio.wait_for(requests.get(), 30))
    answer.write("word")
    await answer.finish("stop", prompt_tokens=1, output_tokens=1)
    assert len([reply async for batch in stream for reply in batch]) == 2

    gone = await streams.open("a", msgspec.structs.replace(request, request_id="q2"))
    answer = responders.respond(await asyncio.wait_for(requests.get(), 30))
    await buses["router"].close()
    assert not gone.ended

    def told() -> bool:
        answer.write("word")
        return answer.gone

    await wait_for(told)
    await responders.close()
    assert buses["worker"].faults["permission"] == buses["router"].faults["permission"] == 0


async def test_foreign_words_and_inboxes_are_refused(buses: dict[Service, Bus], wait_for: WaitFor) -> None:
    worker = buses["worker"]
    await worker.send(name(PROMOTED), b"{}")
    await wait_for(lambda: worker.faults["permission"] == 1)
    await worker.client.subscribe("_INBOX.router.>")
    await wait_for(lambda: worker.faults["permission"] == 2)


async def test_streams_of_others_cannot_be_touched(buses: dict[Service, Bus]) -> None:
    others = [stream for stream in streams_of("evaluator") if stream not in streams_of("worker")]
    with pytest.raises(BusUnavailableError, match=r"allow this user the \$JS\.API subjects"):
        await buses["worker"].ensure_streams(others[:1])
