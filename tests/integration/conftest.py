"""Buses, and servers a test may kill."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from autopoiesis.runtime import embedded
from autopoiesis.runtime.bus import Bus

Connect = Callable[..., Awaitable[Bus]]


@pytest.fixture
async def connect(nats_url: str) -> AsyncIterator[Connect]:
    """`await connect(name)`: a bus on this process's shared server, closed after the test without faults of permission."""
    opened: list[Bus] = []

    async def make(name: str = "test", url: str = nats_url, **options: object) -> Bus:
        bus = await Bus.connect(url, name=name, **options)  # type: ignore[arg-type]
        opened.append(bus)
        return bus

    yield make
    for bus in opened:
        await bus.close()
        assert bus.faults["permission"] == 0


@pytest.fixture
async def bus(connect: Connect) -> Bus:
    return await connect()


@pytest.fixture
def own_supervisor(tmp_path: Path) -> Iterator[embedded.Supervisor]:
    """A supervisor of this test alone."""
    with embedded.Supervisor(tmp_path / "data") as supervisor:
        yield supervisor


@pytest.fixture
def own_nats(own_supervisor: embedded.Supervisor) -> embedded.NatsServer:
    """A nats-server of this test alone, restarted by its supervisor when killed."""
    return embedded.start_nats(own_supervisor, own_supervisor.data_dir / "nats")
