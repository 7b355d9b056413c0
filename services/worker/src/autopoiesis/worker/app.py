"""Wires one worker: the only place that knows which parts there are."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from autopoiesis.contracts.subjects import slug
from autopoiesis.runtime.bus import Bus, Responders
from autopoiesis.runtime.errors import OperatorError
from autopoiesis.runtime.lifecycle import Service
from autopoiesis.runtime.settings import BusSettings, Settings, TelemetrySettings
from autopoiesis.runtime.telemetry import configure
from autopoiesis.simulator.hardware import gpu
from autopoiesis.simulator.models import model
from autopoiesis.worker.engines.attached import AttachedEngine
from autopoiesis.worker.engines.base import Engine
from autopoiesis.worker.engines.perturbation import Noise
from autopoiesis.worker.engines.simulated import SimulatedEngine, SimulatedOptions
from autopoiesis.worker.layout import ReplicaSpec, gpus_used, parse_layout
from autopoiesis.worker.node import EngineFactory, Node
from autopoiesis.worker.serving import Place
from autopoiesis.worker.settings import WorkerSettings

WORKER_INBOX: Final = "_INBOX.worker"

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
        return SimulatedEngine(
            spec.name, spec.model, spec.gpu, spec.tp, replace(options, max_running=batch, load_s=load_s)
        )

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


def plan_node(settings: WorkerSettings) -> tuple[list[ReplicaSpec], EngineFactory]:
    """The replicas at start and how to make engines. Raises `ValueError` naming the setting that is wrong."""
    if settings.engine == "simulated":
        specs = parse_layout(settings.replicas, node=settings.node, model=settings.model)
        return specs, simulated(settings)
    chip = gpu(settings.attach_gpu).name if settings.attach_gpu else "unknown"
    specs = [
        ReplicaSpec(
            name=f"{settings.node}-attached-{i}", model=settings.model, gpu=chip, tp=settings.attach_tp
        )
        for i in range(len(settings.attach))
    ]
    return specs, attached(
        settings, {spec.name: url for spec, url in zip(specs, settings.attach, strict=True)}
    )


async def serve(bus: Bus, settings: WorkerSettings, service: Service) -> None:
    """Run the node on a connected bus until the service stops, then drain it. Raises `OperatorError` for bad settings."""
    try:
        specs, make_engine = plan_node(settings)
        responders = await Responders.start(bus, slug(settings.node), coalesce=0)
        place = Place(node=settings.node, zone=settings.zone, preemptible=settings.preemptible)
        node = Node(bus, responders, place, gpus_used(specs), make_engine, drain_s=settings.drain_s)
        await node.start(specs)
    except ValueError as error:
        raise OperatorError(str(error)) from error
    try:
        if settings.engine == "simulated":
            node.follow_planner()
        log.info("node %s serves %d replicas of %s", settings.node, len(specs), settings.model)
        service.ready(node=settings.node, replicas=[spec.name for spec in specs])
        await service.until_stopped()
    finally:
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
        await serve(bus, worker, service)
    finally:
        telemetry.shutdown()
