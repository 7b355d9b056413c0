"""One installation that most of these tests share: real servers, two worker processes, router and control plane."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from e2e_world import MODEL, until
from otlp_receiver import OtlpReceiver

from autopoiesis.cli.installation import Installation, Shape, Worker
from autopoiesis.cli.sections import SECTIONS
from autopoiesis.runtime.settings import Settings

NODES = {"a": "1xH100", "b": "2xL40S"}
PATIENCE = {
    "AUTOPOIESIS_ROUTER_SILENCE_S": "3",
    "AUTOPOIESIS_ROUTER_STALL_S": "5",
    "AUTOPOIESIS_ROUTER_NO_REPLICA_WAIT_S": "20",
}
"""Short enough that a stopped process is given up within seconds, long enough for a busy machine."""

LEARNING = {
    "observer": {
        "AUTOPOIESIS_OBSERVER_SNAPSHOT_EVERY_S": "0",
        "AUTOPOIESIS_OBSERVER_MIN_ARRIVALS": "20",
        "AUTOPOIESIS_OBSERVER_SETTLE_S": "1",
    },
    "synthesizer": {"AUTOPOIESIS_SYNTHESIZER_CYCLE_S": "2", "AUTOPOIESIS_SYNTHESIZER_MIN_GAIN": "1000"},
}
"""Snapshots when a test asks for one; cycles that are short and propose nothing."""


@pytest.fixture(scope="session")
def otlp() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory, otlp: OtlpReceiver) -> Iterator[Installation]:
    """Everything that `autopoiesis up` starts, started by this process so that tests can hurt single parts of it."""
    settings = Settings.load(*SECTIONS, env={}, flags={"scope": f"local/{MODEL}", "router.port": 0})
    shape = Shape(
        workers=tuple(Worker(node=node, replicas=replicas) for node, replicas in NODES.items()),
        env={
            **PATIENCE,
            "AUTOPOIESIS_TELEMETRY_OTLP_ENDPOINT": otlp.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        },
        service_env=LEARNING,
    )
    with Installation(
        tmp_path_factory.mktemp("installation"), settings, shape, progress=lambda what: None
    ) as running:
        running.start()
        yield running


@pytest.fixture
def router(installation: Installation) -> str:
    """URL of the router that came with the installation."""
    return installation.running.router


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60.0, limits=limits, trust_env=False) as client:
        yield client


@pytest.fixture
async def whole(installation: Installation, http: httpx.AsyncClient) -> AsyncIterator[Installation]:
    """The shared installation, with every replica ready before the test and again after it."""
    await until(lambda: _whole(installation, http), 60)
    yield installation
    await until(lambda: _whole(installation, http), 60)


async def _whole(installation: Installation, http: httpx.AsyncClient) -> bool:
    try:
        state = (await http.get(f"{installation.running.router}/admin/state")).json()
    except httpx.TransportError:
        return False
    ready = [row for row in state["fleet"] if row["state"] == "ready"]
    return len(ready) == 3 and bool(state["connected"])


@pytest.fixture
def data_dir(installation: Installation) -> Path:
    return installation.data_dir
