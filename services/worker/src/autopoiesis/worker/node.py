"""All replicas of one machine: starts them, tells what the machine has, follows the planner, drains at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from autopoiesis.contracts.messages.fleet import DesiredState, NodeInventory
from autopoiesis.contracts.subjects import DESIRED, DESIRED_STATE, NODE, slug
from autopoiesis.runtime.bus import Bus, BusError, Received, Responders
from autopoiesis.simulator.hardware import GPUS
from autopoiesis.worker.engines.base import Engine
from autopoiesis.worker.hardware import Device
from autopoiesis.worker.layout import ReplicaSpec
from autopoiesis.worker.reconcile import DesiredStateError, check, next_step, supersedes
from autopoiesis.worker.serving import Place, ServedReplica

log = logging.getLogger(__name__)

INVENTORY_S: Final = 10.0
PLANNER_RETRY_S: Final = 5.0

EngineFactory = Callable[[ReplicaSpec, bool], Engine]
"""Makes the engine of a replica; the flag says that it was planned while the node runs, so that loading takes its time."""


class Node:
    """`gpus`: GPU type to count; `measured`: what one of a type reaches. `place` is that of every replica here, prices apart."""

    def __init__(
        self,
        bus: Bus,
        responders: Responders,
        place: Place,
        gpus: Mapping[str, int],
        make_engine: EngineFactory,
        *,
        drain_s: float,
        measured: Mapping[str, Device] | None = None,
        plannable: bool = True,
    ) -> None:
        self.replicas: dict[str, ServedReplica] = {}
        self._bus = bus
        self._responders = responders
        self._place = place
        self._gpus = dict(gpus)
        self._make_engine = make_engine
        self._drain_s = drain_s
        self._measured = dict(measured or {})
        self._plannable = plannable
        self._desired: DesiredState | None = None
        self._changed = asyncio.Event()
        self._resized = asyncio.Event()
        self._retiring: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, specs: list[ReplicaSpec]) -> None:
        """Serve `specs`; all of them listen when this returns."""
        for spec in specs:
            await self._serve(spec, planned=False)
        self._tasks.append(asyncio.create_task(self._tell_inventory(), name="inventory"))

    def follow_planner(self) -> None:
        """Take up `fleet.desired.<node>`, the last one kept and every later one, as soon as JetStream has it."""
        self._tasks.append(asyncio.create_task(self._watch_planner(), name="desired state"))
        self._tasks.append(asyncio.create_task(self._reconcile(), name="reconcile"))

    def resize(self, gpus: Mapping[str, int]) -> None:
        """GPUs came or were announced to go: tell so at once. What runs on them stays until the planner moves it."""
        self._gpus = dict(gpus)
        self._resized.set()
        self._changed.set()

    async def stop(self, deadline_s: float) -> None:
        """Drain every replica, all at once, for at most `deadline_s` seconds, then stop them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(
            *(self._retire(name, deadline_s) for name in self.replicas if name not in self._retiring)
        )
        await asyncio.gather(*self._retiring.values())

    def on_desired(self, item: Received[DesiredState]) -> None:
        desired = item.message
        try:
            if not supersedes(desired, self._desired):
                return
            check(desired, self._gpus)
        except DesiredStateError as error:
            log.error("node %s: %s", self._place.node, error)
            return
        self._desired = desired
        self._changed.set()

    async def _watch_planner(self) -> None:
        while True:
            try:
                await self._bus.ensure_streams((DESIRED,))
                await self._bus.watch_last(DESIRED_STATE, self.on_desired, node=slug(self._place.node))
                return
            except BusError as error:
                log.warning("node %s cannot follow the planner yet: %s", self._place.node, error)
            await asyncio.sleep(PLANNER_RETRY_S)

    async def _serve(self, spec: ReplicaSpec, *, planned: bool) -> None:
        price = GPUS[spec.gpu].price * spec.tp if spec.gpu in GPUS else 0.0
        served = ServedReplica(
            self._bus,
            self._responders,
            spec,
            replace(self._place, price=price),
            self._make_engine(spec, planned),
        )
        self.replicas[spec.name] = served
        await served.start()

    async def _retire(self, name: str, deadline_s: float) -> None:
        served = self.replicas[name]
        await served.drain(deadline_s)
        await served.stop()
        del self.replicas[name]
        self._retiring.pop(name, None)
        self._changed.set()

    async def _reconcile(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._desired is None:
                continue
            try:
                await self._approach(self._desired)
            except Exception:
                log.exception(
                    "node %s: approaching revision %d failed", self._place.node, self._desired.revision
                )

    async def _approach(self, desired: DesiredState) -> None:
        """Do what can be done now; whatever ends sets `_changed` for the rest."""
        running = {name: served.spec for name, served in self.replicas.items()}
        wanted = [ReplicaSpec.of(replica) for replica in desired.replicas]
        step = next_step(wanted, running, self._retiring, self._gpus)
        for name in step.retire:
            retire = self._retire(name, self._drain_s)
            self._retiring[name] = asyncio.create_task(retire, name=f"retire {name}")
        for spec in step.start:
            try:
                await self._serve(spec, planned=True)
            except ValueError as error:
                log.error("node %s: replica %s cannot run: %s", self._place.node, spec.name, error)
        if step.done:
            for served in self.replicas.values():
                served.lease_epoch = desired.lease_epoch

    def _inventory(self) -> NodeInventory:
        return NodeInventory(
            node=self._place.node,
            zone=self._place.zone,
            gpus=self._gpus,
            memory_bytes={kind: GPUS[kind].memory_bytes for kind in self._gpus if kind in GPUS}
            | {kind: device.memory_bytes for kind, device in self._measured.items()},
            measured_flops={kind: device.flops for kind, device in self._measured.items()},
            measured_bandwidth={kind: device.bandwidth for kind, device in self._measured.items()},
            plannable=self._plannable,
        )

    async def _tell_inventory(self) -> None:
        while True:
            self._resized.clear()
            try:
                await self._bus.publish(NODE, self._inventory(), node=slug(self._place.node))
            except BusError as error:
                log.debug("node %s: inventory not sent: %s", self._place.node, error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._resized.wait(), INVENTORY_S)
