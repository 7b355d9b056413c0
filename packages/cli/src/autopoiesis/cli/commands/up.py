"""`autopoiesis up`: start everything on this machine and keep it running."""

import json
import signal
import threading
from typing import Annotated, Literal

from cyclopts import Parameter

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.installation import Installation, Shape, Worker
from autopoiesis.cli.output import console, print_json, progress, table
from autopoiesis.cli.sections import SECTIONS, UpSettings
from autopoiesis.router.settings import RouterSettings
from autopoiesis.runtime.settings import CONFIG_VARIABLE

LOOK_S = 1.0
"""Seconds between looks at which processes were restarted."""


def up(
    *,
    attach: Annotated[
        list[str] | None, Parameter(help="URL of an OpenAI-compatible server to serve; may repeat.")
    ] = None,
    replicas: Annotated[
        str | None,
        Parameter(help="Simulated fleet, '2xH100 + 4xL40S' by default; vLLM's replicas, one on each GPU."),
    ] = None,
    engine: Annotated[
        Literal["simulated", "vllm"] | None, Parameter(help="What serves on this machine.")
    ] = None,
    model: Annotated[str | None, Parameter(help="Model that this machine serves.")] = None,
    mode: Annotated[str | None, Parameter(help="off, advise or auto.")] = None,
    port: Annotated[int | None, Parameter(help="Port of the router; 0 takes a free one.")] = None,
    common: Common = COMMON,
) -> int:
    """Start the router, workers, control plane and, where none is configured, NATS and PostgreSQL."""
    given = {"mode": mode, "router.port": port, "worker.model": model, "worker.engine": engine}
    settings = common.settings(*SECTIONS, flags=given)
    configured = settings[UpSettings]
    workers = configured.workers
    attached = tuple(attach or ()) or settings[RouterSettings].attach
    if replicas or not (workers or attached):
        workers = (Worker(node="local", replicas=replicas or ""),)
    env = {CONFIG_VARIABLE: str(settings.file.absolute())} if settings.file else {}
    service_env: dict[str, dict[str, str]] = {}
    if port is not None:
        service_env["router"] = {"AUTOPOIESIS_ROUTER_PORT": str(port)}
    if attach:
        service_env.setdefault("router", {})["AUTOPOIESIS_ROUTER_ATTACH"] = json.dumps(attach)
    service_env["worker"] = {
        f"AUTOPOIESIS_WORKER_{name}": value
        for name, value in (("MODEL", model), ("ENGINE", engine))
        if value is not None
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shape = Shape(
        workers=workers,
        control_plane=configured.control_plane,
        planner=configured.planner and bool(workers),
        env=env,
        service_env=service_env,
    )
    installation = Installation(
        common.data, settings, shape, progress=lambda what: progress.print(f"starting {what}")
    )
    with installation:
        running = installation.start()
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):  # until here they interrupt the start
            signal.signal(number, lambda *_: stop.set())
        if common.json:
            print_json({"router": running.router, "observer": running.observer, "services": running.services})
        else:
            rows = [("router", running.router), ("observer", running.observer), ("nats", running.nats)]
            console.print(table("Autopoiesis is up", ("", ""), rows))
            console.print(
                f"mode {running.mode}, scope {running.scope}; logs in {common.data}/logs; Ctrl-C stops everything"
            )
        while not stop.wait(LOOK_S):
            installation.remember()
        progress.print("stopping")
    return 0
