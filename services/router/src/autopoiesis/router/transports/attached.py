"""One attached server as replicas, one for each model that it lists: its health, its load, and the heartbeats that say so to the dispatcher."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

import structlog

from autopoiesis.contracts.messages.fleet import Heartbeat, ReplicaState
from autopoiesis.router.transports.client import Pool
from autopoiesis.runtime.servers import protocol
from autopoiesis.runtime.servers.estimate import StepEstimator
from autopoiesis.runtime.servers.metrics import ServerLoad, parse

log = structlog.get_logger(__name__)

BEAT_S: Final = 0.25
PROBE_S: Final = 1.0
"""Between two looks at the server's health and metrics."""
PROBE_TIMEOUT_S: Final = 2.0
FAILED_PROBES: Final = 2
"""In a row, until the replica is called failed."""
LEARN_S: Final = 0.1
"""Least time between two requests from which the pace of a server is learned."""


class AttachedServer:
    """State follows the server's health; load comes from `/metrics`, and at least what this router has in flight counts."""

    def __init__(self, url: str, *, router: str, api_key: str = "", gpu: str = "unknown") -> None:
        """Raises ValueError for what is no HTTP URL."""
        self.url = url.rstrip("/").removesuffix("/v1")
        self.pool = Pool(self.url, api_key)
        self.name = urlsplit(self.url).netloc
        self.models: dict[str, str] = {}
        """What it serves, with the names of the replicas that stand for it: the first bears the server's own."""
        self.state: ReplicaState = "loading"
        self.exposition = ""
        """The last answer of `/metrics`."""
        self.inflight = 0
        self.prefilling = 0
        """Requests of ours without a first token; `prefill_tokens` are those of their prompts."""
        self.prefill_tokens = 0
        self.kv_tokens = 0
        """Held by requests of ours that have their first token."""
        self.sent: dict[str, int] = {}
        """Highest `Generate.nth` sent, by replica: own counts include every send."""
        self._router = router
        self._gpu = gpu
        self._incarnation = secrets.token_hex(6)
        self._beats = 0
        self._gone: list[tuple[str, str]] = []
        self._began = time.monotonic()
        self._failures = 0
        self._health = "/health"
        self._has_metrics = True
        self._load = ServerLoad()
        self._estimator = StepEstimator()
        self._learn_at = 0.0

    def heartbeats(self) -> list[Heartbeat]:
        """One for each model, and a last one for each that it lists no more."""
        self._beats += 1
        gone, self._gone = self._gone, []
        return [
            *(self._heartbeat(model, name, self.state) for model, name in self.models.items()),
            *(self._heartbeat(model, name, "stopped") for model, name in gone),
        ]

    def _heartbeat(self, model: str, name: str, state: ReplicaState) -> Heartbeat:
        """The load is the whole server's. Metrics lag, so whatever is in flight from here counts at least."""
        load = self._load
        total = max(self.inflight, (load.running or 0) + (load.waiting or 0))
        waiting = min(total, load.waiting or 0)
        return Heartbeat(
            node=self.name,
            replica=name,
            incarnation=self._incarnation,
            beat=self._beats,
            state=state,
            model=model,
            gpu=self._gpu,
            uptime_s=time.monotonic() - self._began,
            progress=0.0 if self.state == "loading" else 1.0,
            running=total - waiting,
            waiting=waiting,
            queued_prefill_tokens=self.prefill_tokens,
            kv_used_tokens=self.kv_tokens if load.kv_used_tokens is None else load.kv_used_tokens,
            kv_capacity_tokens=load.kv_capacity_tokens or 0,
            step_model=self._estimator.model,
            prefix_queries=load.prefix_queries or 0,
            prefix_hits=load.prefix_hits or 0,
            received={self._router: self.sent.get(name, 0)},
            via=self._router,
        )

    def may_learn(self, now: float) -> bool:
        """Whether to learn from a request that ends now: each costs more than routing it."""
        if now < self._learn_at:
            return False
        self._learn_at = now + LEARN_S
        return True

    def learn(self, first_s: float, prefill_tokens: int, pause_s: float) -> None:
        """What a request took: to its first token, with others' prompts before it, and between two of the next."""
        sequences = max(1, self.inflight - self.prefilling)
        kv_tokens = self.kv_tokens
        if first_s > 0:
            self._estimator.first(
                first_s, prefill_tokens=prefill_tokens, kv_tokens=kv_tokens, sequences=sequences
            )
        if pause_s > 0:
            self._estimator.pause(pause_s, kv_tokens=kv_tokens, sequences=sequences)

    async def watch(self, beat: Callable[[Heartbeat], Awaitable[None]]) -> None:
        """Look at the server, and tell `beat` of it, for ever."""
        await self.look()
        looking = asyncio.create_task(self._look_forever(), name=f"look at {self.url}")
        try:
            while True:
                for heartbeat in self.heartbeats():
                    await beat(heartbeat)
                await asyncio.sleep(BEAT_S)
        finally:
            looking.cancel()
            self.pool.close()

    async def look(self) -> None:
        """One look at health, models and metrics."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                well = await self._healthy()
                if well:
                    await self._name_models()
                if well and self._has_metrics:
                    await self._scrape()
        except (TimeoutError, OSError) as error:
            log.debug("attached server does not answer", url=self.url, error=repr(error))
            well = False
        self.note(well=well)

    def note(self, *, well: bool) -> None:
        """The server answered, or did not."""
        self._failures = 0 if well else self._failures + 1
        if well and self.models:
            self._become("ready")
        elif self._failures >= FAILED_PROBES:
            self._become("failed")

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(PROBE_S)
            await self.look()

    async def _healthy(self) -> bool:
        status, _ = await self.pool.get(self._health, PROBE_TIMEOUT_S)
        if status == 404 and self._health == "/health":
            self._health = "/v1/models"
            status, _ = await self.pool.get(self._health, PROBE_TIMEOUT_S)
        return status == 200

    async def _name_models(self) -> None:
        status, body = await self.pool.get("/v1/models", PROBE_TIMEOUT_S)
        served = protocol.served_models(body) if status == 200 else []
        if not served:
            return
        for model in [model for model in self.models if model not in served]:
            self._gone.append((model, self.models.pop(model)))
        for model in served:
            if model not in self.models:
                taken = self.name in self.models.values()
                self.models[model] = f"{self.name}/{model}" if taken else self.name

    async def _scrape(self) -> None:
        status, body = await self.pool.get("/metrics", PROBE_TIMEOUT_S)
        self._has_metrics = status != 404
        if status == 200:
            self.exposition = body.decode(errors="replace")
            self._load = parse(self.exposition)

    def _become(self, state: ReplicaState) -> None:
        if self.state != state:
            log.info("attached server", url=self.url, was=self.state, now=state)
            self.state = state
