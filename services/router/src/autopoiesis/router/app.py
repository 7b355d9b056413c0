"""Wires one router: the only place that knows which parts there are."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import structlog
from fastapi import FastAPI

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.subjects import slug
from autopoiesis.dispatch import Dispatcher, DispatchSettings
from autopoiesis.dispatch.recording import Recorder
from autopoiesis.policy import library
from autopoiesis.router import passthrough
from autopoiesis.router.admission import Admission
from autopoiesis.router.auth import Doorkeeper
from autopoiesis.router.faults import FaultReports
from autopoiesis.router.fleet import Fleet
from autopoiesis.router.hedging import Hedging
from autopoiesis.router.http import admin, api
from autopoiesis.router.http.exchange import Desk
from autopoiesis.router.http.front import Front
from autopoiesis.router.identity import Identities
from autopoiesis.router.link import FLUSH_S, Link
from autopoiesis.router.metrics import Metrics
from autopoiesis.router.policies import Policies, compile_activation
from autopoiesis.router.prompts import BLOCK_BYTES
from autopoiesis.router.reporting import Reporting
from autopoiesis.router.serving import Patience, Serving
from autopoiesis.router.settings import RouterSettings
from autopoiesis.router.shipping import Shipper
from autopoiesis.router.status import Status
from autopoiesis.router.tracing import Tracing
from autopoiesis.router.transports.attached import AttachedServer
from autopoiesis.router.transports.both import Transports
from autopoiesis.router.transports.bus import BusTransport
from autopoiesis.router.transports.direct import DirectTransport
from autopoiesis.runtime.errors import OperatorError
from autopoiesis.runtime.lifecycle import Service
from autopoiesis.runtime.settings import BusSettings, General, Settings, SloSettings, TelemetrySettings
from autopoiesis.runtime.telemetry import Telemetry, configure

log = structlog.get_logger(__name__)

ENVELOPE_BYTES: Final = 64 * 1024
"""Kept free of the bus's payload limit for what `Generate` adds to a body."""


@dataclass(frozen=True, slots=True)
class Router:
    """The parts that live as long as the process."""

    serving: Serving
    policies: Policies
    admission: Admission
    reporting: Reporting
    shipper: Shipper
    faults: FaultReports
    link: Link
    attached: tuple[AttachedServer, ...]
    door: Doorkeeper
    desk: Desk
    app: FastAPI


async def main(settings: Settings, service: Service) -> None:
    """The process: telemetry around `serve`."""
    instance = f"{slug(settings[RouterSettings].name)}-{secrets.token_hex(4)}"
    gc.freeze()  # a full collection over all that was imported would stop every stream for some 25 ms
    gc.set_threshold(20_000, 20, 20)  # requests leave no cycles: looking for them seldom finds any
    telemetry = configure("router", settings[TelemetrySettings], instance=instance)
    try:
        await serve(settings, service, telemetry, instance)
    finally:
        telemetry.shutdown()


async def serve(settings: Settings, service: Service, telemetry: Telemetry, instance: str) -> None:
    """Serve until stopped, then drain. `instance` is unique. Raises OperatorError for settings that cannot be."""
    own = settings[RouterSettings]
    listening = listen_options(own)
    record = None
    if own.record:
        record = _open_record(Path(own.record))
        service.on_exit(partial(asyncio.to_thread, record.close))
    servers = attached_servers(own, instance)
    transport = Transports(BusTransport(), DirectTransport(servers, priorities=own.attach_priority))
    link = Link(instance, settings[General].scope, transport.bus, own.stall_s)
    await link.join(settings[BusSettings], service, needed=not servers)
    router = assemble(settings, link, transport, telemetry, instance, record.write if record else None)
    await start(router, settings, service)
    await asyncio.sleep(own.listen_s)
    wanted = partial(passthrough.wanted, own.passthrough, bool(own.attach))
    server = await service.serve(
        router.app,
        host=own.host,
        port=own.port,
        connection=partial(Front, desk=router.desk, wanted=wanted),
        interface="asgi3",
        proxy_headers=False,
        **listening,
    )
    service.ready(http=server.url, router=instance)
    await service.until_stopped()
    await drain(router, own.drain_s)


def assemble(
    settings: Settings,
    link: Link,
    transport: Transports,
    telemetry: Telemetry,
    instance: str,
    record: Callable[[bytes], object] | None = None,
) -> Router:
    """All parts of one router, not yet listening to anything. `record` takes a line for each event and its decisions."""
    own, scope = settings[RouterSettings], settings[General].scope
    if own.policy not in library.names("dispatch", every=True):
        known = ", ".join(library.names("dispatch", every=True))
        raise OperatorError(f"router.policy: no shipped policy {own.policy!r}; there are {known}")
    key = settings[General].installation_key.encode()[:64]
    dispatcher = Dispatcher(
        dispatch_settings(own),
        router=instance,
        policy=library.load(own.policy),
        seed=own.seed,
        compile=compile_activation,
    )
    fleet = Fleet()
    shipper = _shipper(own, link, instance, wanted=bool(settings[BusSettings].url))
    faults = FaultReports(link.report, scope=scope, service=instance)
    metrics = Metrics(telemetry.registry)
    listener = Reporting(metrics, Tracing(recording=telemetry.tracing), shipper, faults, fleet, scope=scope)
    decider = Recorder(dispatcher, lambda line: record(line + b"\n")) if record else dispatcher
    serving = Serving(
        decider,
        transport,
        listener,
        fleet,
        router=instance,
        patience=_patience(own),
        hedging=Hedging(own.hedge_share, own.hedge_after_s, own.hedge_quantile) if own.hedge_share else None,
    )
    transport.replies = serving
    policies = Policies(serving.activate, scope=scope, initial=own.policy)
    identities = Identities(settings[SloSettings].objectives, key)
    admission = Admission(
        own,
        identities,
        fleet,
        key=key,
        incarnation=instance.rpartition("-")[2],
        max_body_bytes=_max_body_bytes(own, link),
    )
    status = Status(
        dispatcher,
        serving,
        policies,
        admission,
        shipper,
        telemetry,
        listener.settle,
        lambda: expositions(transport.direct),
    )
    metrics.show(status.gauges)
    door = Doorkeeper(Path(own.keys) if own.keys else None)
    operator = admin.create(status, policies, own.admin_token, door)
    desk = Desk(serving, admission, door, metrics.invalid)
    app = api.create(status, operator, door, own.passthrough)
    servers = tuple(transport.direct.servers.values())
    return Router(serving, policies, admission, listener, shipper, faults, link, servers, door, desk, app)


async def start(router: Router, settings: Settings, service: Service) -> None:
    """Listen to the fleet and to activations, and start what runs beside requests."""
    serving, policies, link = router.serving, router.policies, router.link

    async def beat(heartbeat: Heartbeat) -> None:
        serving.beat(heartbeat)
        await link.announce(heartbeat)

    for server in router.attached:
        service.spawn(server.watch(beat), name=f"attached {server.url}")
    await link.listen(service, serving.beat, policies.hear, scopes(settings[General].scope))
    service.spawn(_sweep(serving), name="sweep")
    service.spawn(router.shipper.run(), name="telemetry")
    service.spawn(router.door.watch(), name="keys")


async def drain(router: Router, timeout_s: float) -> None:
    """Admit nothing more, let requests end for at most `timeout_s` seconds, end the rest, and ship telemetry."""
    router.admission.draining = True
    if not await router.serving.idle(timeout_s):
        log.warning("ending requests that still run", requests=router.serving.in_flight)
        router.serving.abandon("this router is shutting down")
    router.reporting.settle()
    await router.faults.flush(FLUSH_S)
    await router.shipper.flush(FLUSH_S)


def listen_options(own: RouterSettings) -> dict[str, Any]:
    """What uvicorn needs for TLS. Raises OperatorError for an open door to the network, and for files that are not there."""
    if not (own.keys or own.anonymous or is_loopback(own.host)):
        raise OperatorError(
            f"router.host = {own.host}: anybody in reach could use every model. Make keys with `autopoiesis keys create` and "
            "set router.keys, or set router.anonymous = true where something in front checks who asks"
        )
    if not own.tls_certificate:
        if own.tls_key:
            raise OperatorError("router.tls_key is set without router.tls_certificate")
        return {}
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(own.tls_certificate, own.tls_key or None)
    except OSError as error:  # SSLError is one
        raise OperatorError(f"router.tls_certificate = {own.tls_certificate}: {error}") from error
    return {"ssl_certfile": own.tls_certificate, "ssl_keyfile": own.tls_key or None}


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def expositions(direct: DirectTransport) -> dict[str, str]:
    """What attached servers' own `/metrics` said last, by replica."""
    return {name: server.exposition for name, server in direct.servers.items()}


def scopes(scope: str) -> list[str]:
    """The scopes whose activations govern a router of `scope`: its own, and that of every model of its cluster."""
    cluster = scope.partition("/")[0]
    return sorted({scope, f"{cluster}/*"})


def dispatch_settings(own: RouterSettings) -> DispatchSettings:
    return DispatchSettings(
        hold_max_s=own.hold_max_s,
        max_reject_share=own.max_reject_share,
        max_queue=own.max_queue,
        admit_ttft_factor=own.admit_ttft_factor,
        no_replica_wait_s=own.no_replica_wait_s,
        suspect_after_s=own.suspect_after_s,
        max_attempts=own.max_attempts,
        block_bytes=BLOCK_BYTES,
    )


def _open_record(path: Path) -> BinaryIO:
    """A fresh file at `path`; the one that was there goes to `path`.1, for it may hold why the process ended."""
    try:
        if path.exists():
            path.replace(path.with_name(f"{path.name}.1"))
        return path.open("wb")
    except OSError as error:
        raise OperatorError(f"router.record: cannot write {path}: {error.strerror}") from error


def _patience(own: RouterSettings) -> Patience:
    return Patience(
        request_s=own.request_timeout_s,
        silence_s=own.silence_s,
        ping_s=own.ping_s,
        sweep_s=min(0.5, own.silence_s / 4.0, own.ping_s / 4.0),
        resumes=own.max_resumes,
    )


def attached_servers(own: RouterSettings, instance: str) -> list[AttachedServer]:
    """Raises OperatorError for URLs that are none, or name a server twice."""
    try:
        servers = [
            AttachedServer(url, router=instance, api_key=own.attach_key, gpu=own.attach_gpu)
            for url in own.attach
        ]
    except ValueError as error:
        raise OperatorError(f"router.attach: {error}") from error
    names = [server.name for server in servers]
    for name in names:
        if names.count(name) > 1:
            raise OperatorError(f"router.attach names {name} twice")
    return servers


def _max_body_bytes(own: RouterSettings, link: Link) -> int:
    """Bodies that go over the bus must fit into one message; attached servers set no such limit."""
    if own.attach or link.max_payload is None:
        return own.max_body_bytes
    return min(own.max_body_bytes, link.max_payload - ENVELOPE_BYTES)


def _shipper(own: RouterSettings, link: Link, instance: str, *, wanted: bool) -> Shipper:
    name, _, incarnation = instance.rpartition("-")
    return Shipper(
        link.ship,
        router=name,
        incarnation=incarnation,
        interval_s=own.telemetry_interval_s,
        capacity=own.telemetry_records,
        wanted=wanted,
    )


async def _sweep(serving: Serving) -> None:
    while True:
        await asyncio.sleep(serving.patience.sweep_s)
        serving.sweep()
