"""Everything that `up` and `demo` run on one machine: embedded servers where none are configured, then the services."""

import asyncio
import json
import os
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from autopoiesis.runtime.embedded import Supervisor, free_port, start_nats, start_postgres
from autopoiesis.runtime.settings import BusSettings, DatabaseSettings, General, Settings
from autopoiesis.store import Role, provision

RUN_FILE = "run.json"
KEYS_FILE = "keys.json"
"""API keys of the router, where `router.keys` names no other file."""
ROLE_OF: Mapping[str, Role] = {"observer": "observer", "synthesizer": "synthesizer", "evaluator": "evaluator"}

Progress = Callable[[str], None]


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """One worker process: a node and what runs on it."""

    node: str
    replicas: str = ""
    """For instance `2xH100 + 4xL40S`; empty for what section `worker` says."""
    attach: tuple[str, ...] = ()
    """URLs of OpenAI-compatible servers."""
    env: dict[str, str] = {}


class Running(msgspec.Struct, kw_only=True):
    """Where a running installation is found: `run.json` in its data directory."""

    pid: int
    scope: str
    mode: str
    router: str
    observer: str = ""
    nats: str = ""
    nats_monitor: str = ""
    database: str = ""
    """Of the operator's role."""
    services: dict[str, int] = {}
    """Name to process id of those that run."""
    restarts: dict[str, int] = {}
    """Name of every service to how often it had to be started again."""
    urls: dict[str, str] = msgspec.field(default_factory=dict)
    """Name to where it answers `/health` and `/metrics`, of those that do."""
    admin_token: str = ""
    """Of the router, where it wants one."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What to start, beside the servers. `env` is added to every service, `service_env` to one kind of them."""

    workers: tuple[Worker, ...]
    control_plane: bool = True
    planner: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    service_env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class Installation:
    """The processes of one machine and where they listen.

    Use as a context manager: whatever happens, nothing it started outlives it.
    """

    def __init__(
        self, data_dir: Path, settings: Settings, shape: Shape, *, progress: Progress = print
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.settings = settings
        self.shape = shape
        self.running = Running(
            pid=os.getpid(), scope=settings[General].scope, mode=settings[General].mode, router=""
        )
        self.role_urls: dict[Role, str] = {}
        self._progress = progress
        self.supervisor = Supervisor(self.data_dir)
        self._secrets = Secrets(self.data_dir / "secrets.json")
        self._remembered = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        (self.data_dir / RUN_FILE).unlink(missing_ok=True)
        self.supervisor.stop()

    def start(self) -> Running:
        """Start everything, side by side where it does not build on each other, and block until all of it is ready.

        Raises ChildFailedError with the log of what is not; whatever had started then stops.
        """
        with ThreadPoolExecutor(thread_name_prefix="start") as pool:
            try:
                self._start_all(pool)
            except BaseException:
                self.supervisor.stop()  # or the pool would wait for what is still starting
                raise
        self.remember()
        return self.running

    def pids(self) -> dict[str, int]:
        return {name: child.pid for name, child in self.supervisor.children.items() if child.pid is not None}

    def remember(self) -> None:
        """Write down what runs, for other commands; again whenever a process may have been restarted."""
        children = self.supervisor.children
        self.running.services = self.pids()
        self.running.restarts = {name: child.restarts for name, child in children.items()}
        for name, child in children.items():
            if child.ready and "http" in child.ready:
                self.running.urls[name] = child.ready["http"]
        written = msgspec.json.format(msgspec.json.encode(self.running))
        if written == self._remembered:
            return
        _write_privately(self.data_dir / RUN_FILE, written)
        self._remembered = written

    def _start_all(self, pool: ThreadPoolExecutor) -> None:
        self._start_nats()
        starting: list[Future[Any]] = [
            pool.submit(self._start_worker, worker) for worker in self.shape.workers
        ]
        starting.append(pool.submit(self._start_router))
        if self.shape.planner:
            starting.append(pool.submit(self._service, "router.planner", name="planner"))
        if self.shape.control_plane:
            self._start_database()
            starting.append(pool.submit(self._start_observer))
            starting += [pool.submit(self._service, name) for name in ("evaluator", "synthesizer")]
        for started in as_completed(starting):
            started.result()

    def _start_nats(self) -> None:
        bus = self.settings[BusSettings]
        if bus.url:
            self.running.nats = bus.url
            return
        self._progress("nats-server")
        nats = start_nats(self.supervisor, self.data_dir / "nats")
        self.running.nats, self.running.nats_monitor = nats.url, nats.monitor_url

    def _start_database(self) -> None:
        superuser: str = self.settings[DatabaseSettings].url
        if not superuser:
            self._progress("PostgreSQL")
            superuser = start_postgres(self.supervisor, self.data_dir / "postgres").url
        self._progress("database migrations and roles")
        self.role_urls = asyncio.run(provision(superuser, self._secrets))
        self.running.database = self.role_urls["operator"]

    def _start_router(self) -> None:
        self.running.router = self._service("router", env=self._door()).get("http", "")

    def _door(self) -> dict[str, str]:
        """Keys, certificate and admin token: files by absolute path, for the router runs in a directory of its own.

        Keys that `autopoiesis keys` made here count where none are configured; a router that wants keys wants a token too.
        """
        given = {setting.key: str(setting.value) for setting in self.settings if setting.value}
        files = {name: given.get(f"router.{name}", "") for name in ("keys", "tls_certificate", "tls_key")}
        made = self.data_dir / KEYS_FILE
        if made.exists():
            files["keys"] = files["keys"] or str(made)
        env = {
            f"AUTOPOIESIS_ROUTER_{name.upper()}": str(Path(file).absolute())
            for name, file in files.items()
            if file
        }
        if files["keys"]:
            self.running.admin_token = given.get("router.admin_token") or self._secrets("router_admin")
            env["AUTOPOIESIS_ROUTER_ADMIN_TOKEN"] = self.running.admin_token
        return env

    def _start_observer(self) -> None:
        self.running.observer = self._service("observer").get("http", "")

    def _start_worker(self, worker: Worker) -> None:
        env = {"AUTOPOIESIS_WORKER_NODE": worker.node, **worker.env}
        if worker.replicas:
            env["AUTOPOIESIS_WORKER_REPLICAS"] = worker.replicas
        if worker.attach:
            env["AUTOPOIESIS_WORKER_ENGINE"] = "attached"
            env["AUTOPOIESIS_WORKER_ATTACH"] = json.dumps(list(worker.attach))
        self._service("worker", name=f"worker-{worker.node}", env=env)

    def _service(
        self, service: str, *, name: str = "", env: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        name = name or service
        self._progress(name)
        variables = {
            "AUTOPOIESIS_SCOPE": self.running.scope,
            "AUTOPOIESIS_MODE": self.running.mode,
            "AUTOPOIESIS_BUS_URL": self.running.nats,
            "AUTOPOIESIS_BLOBS_DIR": str(self.data_dir / "blobs"),
            **self._installation_key(),
            **self._database(service),
            **self.shape.env,
            **self.shape.service_env.get(service, {}),
            **(env or {}),
        }
        child = self.supervisor.start(
            name,
            [sys.executable, "-m", f"autopoiesis.{service}"],
            env=variables | self._lasting_port(service, variables),
            cwd=self._working_directory(name),
            ready="notify",
            restart=True,
            timeout=60.0,
            layer=2 if service == "router" else 1,
        )
        return child.ready or {}

    def _lasting_port(self, service: str, variables: Mapping[str, str]) -> dict[str, str]:
        """A free port in place of 0: one that the service chose itself would be another after each restart."""
        variable = f"AUTOPOIESIS_{service.upper()}_PORT"
        configured = {setting.key: setting.value for setting in self.settings}.get(f"{service}.port")
        wanted = variables.get(variable, configured)
        return {variable: str(free_port())} if str(wanted) == "0" else {}

    def _installation_key(self) -> dict[str, str]:
        """A key of this installation's own, unless one is configured: the default is the same everywhere."""
        if self.settings.origin("installation_key") != "default":
            return {}
        return {"AUTOPOIESIS_INSTALLATION_KEY": self._secrets("installation_key")}

    def _database(self, service: str) -> dict[str, str]:
        role = ROLE_OF.get(service)
        if role is None:
            return {"AUTOPOIESIS_DATABASE_URL": ""}
        return {"AUTOPOIESIS_DATABASE_URL": self.role_urls[role]}

    def _working_directory(self, name: str) -> Path:
        directory = self.data_dir / "services" / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory


class Secrets:
    """Random secrets by name, made once and kept in a file that only we can read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}

    def __call__(self, name: str) -> str:
        with self._mutex:
            if name not in self._known:
                self._known[name] = secrets.token_urlsafe(24)
                _write_privately(self._path, json.dumps(self._known).encode())
            return self._known[name]


def _write_privately(path: Path, data: bytes) -> None:
    """Whole or not at all, whoever reads at the same time and however full the disk is; nobody else may read it."""
    fresh = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    fresh.replace(path)


def found(data_dir: Path) -> Running | None:
    """The installation that runs in `data_dir`, or None."""
    path = data_dir / RUN_FILE
    if not path.exists():
        return None
    running = msgspec.json.decode(path.read_bytes(), type=Running)
    try:
        os.kill(running.pid, 0)
    except ProcessLookupError:
        return None
    return running
