"""Schemathesis asks what the OpenAPI document allows, and some of what it forbids, of a router with a simulated engine."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served_replicas import MODEL, served

from autopoiesis.router.http.openapi import document
from autopoiesis.router.settings import RouterSettings
from autopoiesis.runtime import embedded
from autopoiesis.worker.engines.simulated import SimulatedEngine, SimulatedOptions

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n")
DEADLINE_S = 60.0


async def until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():  # noqa: ASYNC110 - a condition of the router, which tells nobody
            await asyncio.sleep(0.05)


class Background:
    """A router in a thread with an event loop of its own: schemathesis calls from this one."""

    def __init__(self, nats_url: str) -> None:
        self.url = ""
        self.error: BaseException | None = None
        self._nats_url = nats_url
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="router", daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(DEADLINE_S)
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.error = error
        finally:
            self._up.set()

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        engine = SimulatedEngine("r", MODEL, "H100", 1, SimulatedOptions())
        async with served(self._nats_url, engine, until) as surface:
            self.url = surface.url
            self._up.set()
            await self._over.wait()


@pytest.fixture(scope="module")
def background(nats_server: embedded.NatsServer) -> Iterator[Background]:
    running = Background(nats_server.url)
    running.start()
    yield running
    running.stop()


def described() -> Any:
    raw = document(RouterSettings().passthrough)
    for structure in raw["components"]["schemas"].values():
        fields = structure.get("properties", {})
        if (
            "model" in fields
        ):  # narrowed so that most requests get past the model's name, and answers are short
            fields |= {"model": {"enum": [MODEL, "other"]}}
            fields |= {name: {"enum": [1, 3]} for name in LIMITS}
            structure["required"] = [*structure.get("required", ()), "max_tokens"]
            for name in fields:
                if name.startswith(("guided", "structured")):
                    fields[name] = {"type": "null"}
    return schemathesis.openapi.from_dict(raw)


SCHEMA = described()
OPERATIONS = [(path, method) for path in SCHEMA for method in SCHEMA[path]]


def test_the_document_is_served(background: Background) -> None:
    raw = httpx.get(f"{background.url}/openapi.json").raise_for_status().json()
    assert set(raw["paths"]) == {path for path, _ in OPERATIONS}


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_operation(path: str, method: str, background: Background) -> None:
    statuses = set()

    @settings(max_examples=8, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=SCHEMA[path][method].as_strategy())
    def ask(case: Any) -> None:
        answer = case.call(base_url=background.url)
        case.validate_response(answer, checks=CHECKS)
        statuses.add(answer.status_code)

    ask()
    assert 200 in statuses or path not in {"/v1/chat/completions", "/v1/completions"}
