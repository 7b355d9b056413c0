"""Simulated nodes and planner processes on a real bus, and what they were heard to say."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from autopoiesis.contracts.messages.fleet import Heartbeat, PlanChanged, PlannerLease, PlanObserved
from autopoiesis.contracts.messages.policy import Activation, Faulted
from autopoiesis.contracts.subjects import (
    FAULTED,
    HEARTBEAT,
    PLAN_CHANGED,
    PLAN_OBSERVED,
    PLANNER_LEASE,
    PROMOTED,
    slug,
)
from autopoiesis.policy.language import compile_policy
from autopoiesis.runtime.bus import Bus, Delivered, Received, Responders
from autopoiesis.worker.app import plan_node
from autopoiesis.worker.node import Node
from autopoiesis.worker.serving import Place
from autopoiesis.worker.settings import VllmSettings, WorkerSettings

Connect = Callable[..., Awaitable[Bus]]
Spawn = Callable[[], Awaitable[asyncio.subprocess.Process]]


@dataclass
class World:
    """What was heard on the bus."""

    bus: Bus
    scope: str
    nodes: dict[str, Node] = field(default_factory=dict)
    beats: dict[str, Heartbeat] = field(default_factory=dict)
    plans: list[PlanChanged] = field(default_factory=list)
    steps: list[PlanObserved] = field(default_factory=list)
    faults: list[Faulted] = field(default_factory=list)

    async def listen(self) -> None:
        await self.bus.subscribe(HEARTBEAT, self._beat)
        await self.bus.consume(PLAN_CHANGED, "test-plans", self._plan)
        await self.bus.consume(PLAN_OBSERVED, "test-plan-steps", self._step)
        await self.bus.consume(FAULTED, "test-faults", self._fault)

    def _beat(self, item: Received[Heartbeat]) -> None:
        self.beats[item.message.replica] = item.message

    async def _plan(self, item: Delivered[PlanChanged]) -> None:
        self.plans.append(item.message)

    async def _step(self, item: Delivered[PlanObserved]) -> None:
        self.steps.append(item.message)

    async def _fault(self, item: Delivered[Faulted]) -> None:
        self.faults.append(item.message)

    def ready(self, model: str) -> list[str]:
        return sorted(
            name for name, beat in self.beats.items() if beat.model == model and beat.state == "ready"
        )

    async def activate(self, epoch: int, source: str) -> None:
        activation = Activation(
            scope=self.scope,
            kind="plan",
            epoch=epoch,
            hash=compile_policy(source, "plan").hash,
            source=source,
            api=1,
            cause="test",
            at_unix_s=time.time(),
        )
        await self.bus.publish_event(
            PROMOTED, activation, msg_id=f"{epoch}", scope=slug(self.scope), kind="plan"
        )

    async def lease(self) -> PlannerLease | None:
        found = await self.bus.last(PLANNER_LEASE, scope=slug(self.scope))
        return found.message if found else None


@asynccontextmanager
async def simulated_nodes(
    connect: Connect, scope: str, model: str, gpus: str, *, names: tuple[str, ...], serving: int
) -> AsyncIterator[World]:
    """Nodes with `gpus` each (such as `2xH100`), of which `serving` run a replica of `model` from the start."""
    bus = await connect("world")
    await bus.ensure_streams()
    made = World(bus, scope)
    await made.listen()
    responders = []
    for name in names:
        settings = WorkerSettings(node=name, model=model, replicas=gpus, load_bandwidth=0, drain_s=5.0)
        own = await connect(name, inbox_prefix="_INBOX.worker")
        responders.append(await Responders.start(own, name, coalesce=0))
        plan = await plan_node(settings, VllmSettings())
        node = Node(own, responders[-1], Place(node=name), plan.gpus, plan.make_engine, drain_s=5.0)
        await node.start(plan.specs[:serving])
        node.follow_planner()
        made.nodes[name] = node
    try:
        yield made
    finally:
        for node in made.nodes.values():
            await node.stop(0.0)
        for one in responders:
            await one.close()


@asynccontextmanager
async def planner_processes(nats_url: str, scope: str, **own: str) -> AsyncIterator[Spawn]:
    """Starts planner processes, `own` their settings; what still runs at the end is killed."""
    started: list[asyncio.subprocess.Process] = []
    given = {"STEP_S": "0.1", "COOLDOWN_S": "0", "LEASE_S": "1.5", "SILENCE_S": "20"} | own
    env = {"AUTOPOIESIS_BUS_URL": nats_url, "AUTOPOIESIS_SCOPE": scope} | {
        f"AUTOPOIESIS_PLANNER_{key}": value for key, value in given.items()
    }

    async def start() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "autopoiesis.router.planner", env={**os.environ, **env}
        )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()
