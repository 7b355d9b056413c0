"""Wires one worker: the only place that knows which parts there are."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from autopoiesis.contracts.subjects import slug
from autopoiesis.runtime.bus import Bus, Responders
from autopoiesis.runtime.errors import OperatorError
from autopoiesis.runtime.lifecycle import Service
from autopoiesis.runtime.settings import BusSettings, Settings, TelemetrySettings
from autopoiesis.runtime.telemetry import configure
from autopoiesis.simulator.hardware import GPUS, gpu
from autopoiesis.simulator.models import model
from autopoiesis.worker.devices import CPU, DevicePool
from autopoiesis.worker.engines.attached import AttachedEngine
from autopoiesis.worker.engines.base import Engine
from autopoiesis.worker.engines.perturbation import Noise
from autopoiesis.worker.engines.simulated import SimulatedEngine, SimulatedOptions
from autopoiesis.worker.hardware import Device, ProbeError, probe
from autopoiesis.worker.layout import ReplicaSpec, gpus_used, parse_layout
from autopoiesis.worker.node import EngineFactory, Node
from autopoiesis.worker.programs import VllmFactory
from autopoiesis.worker.serving import Place
from autopoiesis.worker.settings import VllmSettings, WorkerSettings

WORKER_INBOX: Final = "_INBOX.worker"
SIMULATED_FLEET: Final = "2xH100 + 4xL40S"

log = logging.getLogger(__name__)


def simulated(settings: WorkerSettings) -> EngineFactory:
    options = SimulatedOptions(
        noise=Noise(
            run_sigma=settings.run_sigma, drift_sigma=settings.drift_sigma, drift_time_s=settings.drift_time_s
        ),
        seed=settings.seed,
        max_running=settings.max_running,
        chunk_tokens=settings.chunk_tokens,
        prefix_cache=settings.prefix_cache,
        chunk_interval_s=settings.chunk_interval_s,
    )

    def make(spec: ReplicaSpec, planned: bool) -> Engine:
        load_s = load_time(spec, settings) if planned else 0.0
        batch = spec.max_running or options.max_running
        chosen = replace(options, max_running=batch, load_s=load_s)
        return SimulatedEngine(spec.name, spec.model, spec.gpu, spec.tp, chosen, node=settings.node)

    return make


def load_time(spec: ReplicaSpec, settings: WorkerSettings) -> float:
    """Seconds until a planned replica is ready."""
    if not settings.load_bandwidth:
        return 0.0
    return settings.load_base_s + model(spec.model).weight_bytes / settings.load_bandwidth


def attached(settings: WorkerSettings, urls: dict[str, str]) -> EngineFactory:
    """`urls`: replica name to the server's URL."""

    def make(spec: ReplicaSpec, planned: bool) -> Engine:
        return AttachedEngine(
            urls[spec.name],
            model=settings.model,
            api_key=settings.attach_key,
            chunk_interval_s=settings.chunk_interval_s,
        )

    return make


async def _nothing() -> None: ...


@dataclass(frozen=True)
class NodePlan:
    """The replicas at start, how to make engines, and what the machine has."""

    specs: list[ReplicaSpec]
    make_engine: EngineFactory
    gpus: Mapping[str, int]
    measured: Mapping[str, Device] = field(default_factory=dict)
    close: Callable[[], Awaitable[None]] = _nothing
    """Ends engines that no replica has."""


async def plan_node(settings: WorkerSettings, vllm: VllmSettings) -> NodePlan:
    """Raises `ValueError` naming the setting that is wrong."""
    if settings.engine == "simulated":
        layout = settings.replicas or SIMULATED_FLEET
        specs = parse_layout(layout, node=settings.node, model=settings.model)
        return NodePlan(specs, simulated(settings), gpus_used(specs))
    if settings.engine == "vllm":
        return await plan_vllm(settings, vllm)
    return plan_attached(settings)


async def plan_vllm(settings: WorkerSettings, vllm: VllmSettings) -> NodePlan:
    """Devices come from `vllm.devices`, else from what the probe finds; what they reach always from the probe."""
    try:
        found = await probe(vllm.python or sys.executable)
    except ProbeError as error:
        if not vllm.devices:
            raise ValueError(f"{error}; say what this machine has in vllm.devices, such as 2xH100") from error
        log.warning("%s; nothing measured is published", error)
        found = []
    measured = {device.kind: device for device in found}
    kinds = [device.kind for device in found]
    if vllm.devices:
        known = (*GPUS, *measured, CPU)
        layout = parse_layout(vllm.devices, node="", model="", kinds=known, setting="vllm.devices")
        kinds = [spec.gpu for spec in layout]
    pool = DevicePool(kinds)
    wanted = settings.replicas or " + ".join(f"{count}x{kind}" for kind, count in pool.counts.items())
    specs = parse_layout(wanted, node=settings.node, model=settings.model, kinds=tuple(pool.counts))
    for kind, count in gpus_used(specs).items():
        if count > pool.counts[kind]:
            raise ValueError(f"worker.replicas needs {count} x {kind}; this machine has {pool.counts[kind]}")
    factory = VllmFactory(vllm, pool, chunk_interval_s=settings.chunk_interval_s)
    seen = {kind: device for kind, device in measured.items() if kind in pool.counts}
    return NodePlan(specs, factory, pool.counts, seen, factory.aclose)


def plan_attached(settings: WorkerSettings) -> NodePlan:
    chip = gpu(settings.attach_gpu).name if settings.attach_gpu else "unknown"
    specs = [
        ReplicaSpec(
            name=f"{settings.node}-attached-{i}", model=settings.model, gpu=chip, tp=settings.attach_tp
        )
        for i in range(len(settings.attach))
    ]
    urls = {spec.name: url for spec, url in zip(specs, settings.attach, strict=True)}
    return NodePlan(specs, attached(settings, urls), gpus_used(specs))


async def serve(bus: Bus, settings: WorkerSettings, vllm: VllmSettings, service: Service) -> None:
    """Run the node on a connected bus until the service stops, then drain it. Raises `OperatorError` for bad settings."""
    try:
        plan = await plan_node(settings, vllm)
        responders = await Responders.start(bus, slug(settings.node), coalesce=0)
        place = Place(node=settings.node, zone=settings.zone, preemptible=settings.preemptible)
        node = Node(
            bus,
            responders,
            place,
            plan.gpus,
            plan.make_engine,
            drain_s=settings.drain_s,
            measured=plan.measured,
            plannable=settings.engine != "attached",
        )
        await node.start(plan.specs)
    except ValueError as error:
        raise OperatorError(str(error)) from error
    try:
        if settings.engine != "attached":
            node.follow_planner()
        log.info("node %s serves %d replicas of %s", settings.node, len(plan.specs), settings.model)
        service.ready(node=settings.node, replicas=[spec.name for spec in plan.specs])
        await service.until_stopped()
    finally:
        await plan.close()
        await node.stop(settings.drain_s)
        await responders.close()


async def main(settings: Settings, service: Service) -> None:
    worker, bus_settings = settings[WorkerSettings], settings[BusSettings]
    telemetry = configure("worker", settings[TelemetrySettings], instance=worker.node)
    try:
        bus = await Bus.connect(
            bus_settings.url,
            name=f"worker {worker.node}",
            user=bus_settings.user,
            password=bus_settings.password,
            credentials=bus_settings.credentials,
            inbox_prefix=WORKER_INBOX,
            on_closed=lambda: service.fail("the connection to NATS closed for good"),
        )
        service.on_exit(bus.drain)
        await serve(bus, worker, settings[VllmSettings], service)
    finally:
        telemetry.shutdown()
