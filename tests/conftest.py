"""Fixtures every test may use: real servers, a free port, waiting for conditions."""

import asyncio
import inspect
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from autopoiesis.runtime import embedded

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
"""Examples take as long as they take: a busy machine is no failure."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

Condition = Callable[[], object]
FAST_POSTGRES = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
}


@pytest.fixture(scope="session")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Supervisor]:
    """Supervisor of the servers that all tests of this process share."""
    with embedded.Supervisor(tmp_path_factory.mktemp("servers")) as shared:
        yield shared


@pytest.fixture(scope="session")
def nats_server(supervisor: embedded.Supervisor) -> embedded.NatsServer:
    return embedded.start_nats(supervisor, supervisor.data_dir / "nats")


@pytest.fixture(scope="session")
def postgres_server(supervisor: embedded.Supervisor) -> embedded.PostgresServer:
    return embedded.start_postgres(supervisor, supervisor.data_dir / "postgres", settings=FAST_POSTGRES)


@pytest.fixture
async def nats_url(nats_server: embedded.NatsServer) -> AsyncIterator[str]:
    """URL of a NATS server without streams; those a test creates are deleted after it."""
    import nats

    yield nats_server.url
    client = await nats.connect(nats_server.url)
    jetstream = client.jetstream()
    for stream in await jetstream.streams_info():
        assert stream.config.name
        await jetstream.delete_stream(stream.config.name)
    await client.close()


@pytest.fixture
async def database_url(postgres_server: embedded.PostgresServer) -> AsyncIterator[str]:
    """postgresql:// URL of a fresh, empty database, dropped after the test."""
    import asyncpg

    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(postgres_server.url)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
        yield f"{postgres_server.url.rpartition('/')[0]}/{name}"
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await connection.close()


@pytest.fixture
def free_port() -> int:
    return embedded.free_port()


@pytest.fixture
def wait_for() -> Callable[..., Awaitable[None]]:
    """`await wait_for(condition, timeout=30.0)`: poll until the (sync or async) condition is true; fails after `timeout` s."""

    async def wait(condition: Condition, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while True:
            outcome = condition()
            if inspect.isawaitable(outcome):
                outcome = await outcome
            if outcome:
                return
            if time.monotonic() > deadline:
                pytest.fail(f"not true within {timeout} s: {inspect.getsource(condition).strip()}")
            await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """`wait_until(condition, timeout=30.0)`: as `wait_for`, for tests that are not coroutines."""

    def wait(condition: Condition, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not true within {timeout} s: {inspect.getsource(condition).strip()}")
            time.sleep(0.005)

    return wait


@pytest.fixture
def repository() -> Path:
    return Path(__file__).parents[1]
