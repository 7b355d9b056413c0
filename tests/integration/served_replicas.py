"""Replicas of real engines and a router, in this process."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from router_harness import running_router

from autopoiesis.contracts.messages.fleet import Role
from autopoiesis.runtime.bus import Bus, Responders
from autopoiesis.worker.engines.base import Engine
from autopoiesis.worker.layout import ReplicaSpec
from autopoiesis.worker.serving import Place, ServedReplica

MODEL = "llama-3.1-8b"
PATIENT: Any = {"suspect_after_s": 30.0, "silence_s": 30.0, "no_replica_wait_s": 30.0}
"""Nothing dies here, and heartbeats may be late on a busy machine."""


WaitFor = Callable[..., Awaitable[None]]


@asynccontextmanager
async def replicas(
    nats_url: str, roles: Mapping[str, Role] | None = None, /, **engines: Engine
) -> AsyncIterator[dict[str, ServedReplica]]:
    """Replicas by name, all of one worker; those without a role do everything."""
    served = {}
    async with AsyncExitStack() as stack:
        bus = await Bus.connect(nats_url, name="worker", inbox_prefix="_INBOX.worker")
        stack.push_async_callback(bus.close)
        responders = await Responders.start(bus, secrets.token_hex(4), coalesce=0.0, keepalive=5.0)
        stack.push_async_callback(responders.close)
        for name, engine in engines.items():
            role = (roles or {}).get(name, "mixed")
            spec = ReplicaSpec(name=name, model=engine.model, gpu="H100", role=role)
            replica = served[name] = ServedReplica(bus, responders, spec, Place(node="n"), engine)
            await replica.start()
            stack.push_async_callback(replica.stop)
        yield served


@dataclass
class Surface:
    url: str
    openai: openai.AsyncOpenAI
    http: httpx.AsyncClient


@asynccontextmanager
async def served(nats_url: str, engine: Engine, wait_for: WaitFor) -> AsyncIterator[Surface]:
    """A router and one replica of `engine` on the bus at `nats_url`."""
    async with (
        replicas(nats_url, **{f"r{secrets.token_hex(3)}": engine}),
        routed(nats_url, wait_for) as surface,
    ):
        yield surface


@asynccontextmanager
async def routed(nats_url: str, wait_for: WaitFor, **flags: Any) -> AsyncIterator[Surface]:
    """A router alone; `flags` are settings of its section."""
    async with running_router(nats_url, **PATIENT, **flags) as router:
        router.client.timeout = httpx.Timeout(
            90.0
        )  # every request takes several processes' turns on a busy machine
        await wait_for(router.ready)
        async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="k", max_retries=0) as client:
            yield Surface(router.url, client, router.client)
