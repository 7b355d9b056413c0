"""Buses, migrated databases, and servers a test may kill."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from autopoiesis.runtime import embedded
from autopoiesis.runtime.bus import Bus
from autopoiesis.store import migrate

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


@pytest.fixture(scope="session")
def migrated_template(postgres_server: embedded.PostgresServer) -> str:
    """Name of a database with our tables, to be copied: migrating takes much longer."""
    import asyncpg

    name = f"template_{uuid4().hex}"

    async def make() -> None:
        connection = await asyncpg.connect(postgres_server.url)
        await connection.execute(f'CREATE DATABASE "{name}"')
        await connection.close()
        await migrate(f"{postgres_server.url.rpartition('/')[0]}/{name}")

    asyncio.run(make())
    return name


@pytest.fixture
async def migrated_url(
    postgres_server: embedded.PostgresServer, migrated_template: str
) -> AsyncIterator[str]:
    """postgresql:// URL of a fresh database with our tables and nothing in them, dropped after the test."""
    import asyncpg

    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(postgres_server.url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{migrated_template}"')
        yield f"{postgres_server.url.rpartition('/')[0]}/{name}"
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await connection.close()
