"""`autopoiesis doctor`: what is wrong here, why, and what fixes it."""

import asyncio
import importlib.metadata
import json
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
from cyclopts import Parameter

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.installation import found
from autopoiesis.cli.output import console, print_json, table
from autopoiesis.cli.sections import SECTIONS, UpSettings
from autopoiesis.router.settings import RouterSettings
from autopoiesis.runtime.embedded.nats import find_nats_server
from autopoiesis.runtime.embedded.postgres import find_postgres
from autopoiesis.runtime.settings import BusSettings, Settings
from autopoiesis.store import Store, StoreError
from autopoiesis.synthesizer.settings import LlmSettings
from autopoiesis.worker.settings import WorkerSettings

NATS_PORT = 4222
MIN_NATS = (2, 11)
MIN_FREE_BYTES = 2 << 30
VERSIONS = ("nats-py", "msgspec", "fastapi", "uvicorn", "sqlalchemy", "asyncpg", "openai", "vllm", "torch")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `fix` is empty where all is well."""

    check: str
    ok: bool
    found: str
    fix: str = ""


def doctor(
    *,
    attach: Annotated[
        list[str] | None, Parameter(help="Also check this OpenAI-compatible server; may repeat.")
    ] = None,
    common: Common = COMMON,
) -> int:
    """Check versions, binaries, ports, NATS, PostgreSQL, disk and attached servers. Exits 1 if something is wrong."""
    settings = common.settings(*SECTIONS)
    router, worker, llm = settings[RouterSettings], settings[WorkerSettings], settings[LlmSettings]
    by_worker = [*worker.attach, *(url for item in settings[UpSettings].workers for url in item.attach)]
    findings = [
        *_machine(common),
        *_router_port(common, settings),
        _nats(common, settings),
        _database(common),
    ]
    findings += [
        _server(url, "router.attach_key", router.attach_key) for url in (*(attach or ()), *router.attach)
    ]
    findings += [_server(url, "worker.attach_key", worker.attach_key) for url in by_worker]
    if llm.configured:
        findings.append(_server(llm.base_url, "llm.key", llm.key, check="language model", model=llm.model))
    if common.json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [("ok" if f.ok else "[red]wrong[/red]", f.check, f.found, f.fix) for f in findings]
        console.print(table("doctor", ("", "check", "found", "what to do"), rows))
    return 0 if all(finding.ok for finding in findings) else 1


def _machine(common: Common) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        "Python", sys.version_info >= (3, 11), version, "" if sys.version_info >= (3, 11) else "install 3.11+"
    )
    packages = ", ".join(f"{name} {installed}" for name in VERSIONS if (installed := _installed(name)))
    yield Finding("packages", True, packages)
    yield _binary("nats-server binary", find_nats_server)
    yield _binary("PostgreSQL binaries", find_postgres)
    directory = common.data if common.data.exists() else common.data.absolute().parent
    free = shutil.disk_usage(directory).free
    enough = free >= MIN_FREE_BYTES
    yield Finding(
        "disk",
        enough,
        f"{free / 1e9:.1f} GB free",
        "" if enough else f"free space in {directory}, or use --data",
    )


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _binary(check: str, find: Callable[[], object]) -> Finding:
    try:
        find()
    except FileNotFoundError as error:
        return Finding(check, False, "missing", str(error))
    return Finding(check, True, "found")


def _router_port(common: Common, settings: Settings) -> Iterator[Finding]:
    running = found(common.data)
    if running is not None:
        yield Finding("installation", True, f"runs as process {running.pid}, router {running.router}")
        yield from _serving(running.router, common.admin_headers())
        return
    port = settings[RouterSettings].port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings[RouterSettings].host, port))
        except OSError as error:
            yield Finding(
                "router port",
                False,
                f"{port}: {error.strerror}",
                "stop what listens there, or set router.port",
            )
        else:
            yield Finding("router port", True, f"{port} is free")


def _serving(router: str, headers: dict[str, str]) -> Iterator[Finding]:
    """Whether the router that runs here can serve, and under the policy that it should."""
    try:
        with httpx.Client(timeout=5.0, headers=headers) as client:
            ready = client.get(f"{router}/ready")
            answer = client.get(f"{router}/admin/state")
            answer.raise_for_status()
    except httpx.HTTPError as error:
        yield Finding("router", False, f"{router}: {error}", "read logs/router.log in the data directory")
        return
    state = answer.json()
    fix = (
        "" if ready.is_success else "start what it waits for; logs/router.log in the data directory says more"
    )
    yield Finding("router", ready.is_success, "ready" if ready.is_success else ready.text, fix)
    states = [row["state"] for row in state["fleet"]]
    fix = "" if "ready" in states else "start a worker, or read its log: nothing can answer a request"
    yield Finding("replicas", "ready" in states, f"{states.count('ready')} of {len(states)} ready", fix)
    policy = state["policy"]
    bad = bool(policy["quarantined"])
    fix = (
        f"`autopoiesis policy show {policy['hash'][:12]}`, then `policy rollback` or `policy promote`"
        if bad
        else ""
    )
    words = f"{policy['title'] or policy['hash'][:12]} is active" + (
        ", and quarantined for its faults" if bad else ""
    )
    yield Finding("policy", not bad, words, fix)


def _nats(common: Common, settings: Settings) -> Finding:
    running = found(common.data)
    configured = settings[BusSettings].url
    url = configured or (running.nats if running else "")
    if not url:
        return Finding("NATS", True, "embedded when started")
    try:
        info = nats_info(url)
    except (OSError, ValueError) as error:
        return Finding("NATS", False, f"{url}: {error}", "start it, or set bus.url to a server that runs")
    version = tuple(int(part) for part in str(info["version"]).split(".")[:2])
    if version < MIN_NATS:
        return Finding("NATS", False, f"{url}: version {info['version']}", "use nats-server 2.11 or newer")
    if not info.get("jetstream"):
        return Finding("NATS", False, f"{url}: JetStream is off", "add `jetstream {}` to its configuration")
    return Finding(
        "NATS", True, f"{url}: {info['version']}, JetStream, payloads to {info['max_payload'] >> 20} MiB"
    )


def nats_info(url: str) -> dict[str, Any]:
    """What a NATS server says of itself on connecting. Raises OSError or ValueError."""
    parts = urlsplit(url.split(",", maxsplit=1)[0])
    with socket.create_connection(
        (parts.hostname or "127.0.0.1", parts.port or NATS_PORT), timeout=3.0
    ) as connection:
        line = connection.makefile("rb").readline()
    if not line.startswith(b"INFO "):
        raise ValueError("this is not a NATS server")
    info: dict[str, Any] = json.loads(line[5:])
    return info


def _database(common: Common) -> Finding:
    try:
        url = common.database_url()
    except RuntimeError:
        return Finding("PostgreSQL", True, "embedded when started")

    async def ping() -> None:
        async with await Store.open(url, pool_size=1):
            pass

    try:
        asyncio.run(ping())
    except StoreError as error:
        return Finding("PostgreSQL", False, str(error), "start it, or set database.url")
    return Finding("PostgreSQL", True, "reachable")


def _server(url: str, setting: str, key: str, *, check: str = "attached server", model: str = "") -> Finding:
    """Whether an OpenAI-compatible server answers, and lists `model` if one is named. `setting` is where its key belongs."""
    target = f"{url.rstrip('/').removesuffix('/v1')}/v1/models"
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(target, timeout=5.0, headers=headers)
        answer.raise_for_status()
        names = [str(item["id"]) for item in answer.json()["data"]]
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        refused = f"{'correct' if key else 'set'} {setting}"
        hint = refused if code in (401, 403) else "check that this is an OpenAI-compatible server"
        return Finding(check, False, f"{target}: HTTP {code}", hint)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        return Finding(check, False, f"{target}: {error}", "check the URL, and that the server has started")
    serves = f"{url} serves {', '.join(names) or 'nothing'}"
    if model and model not in names:
        return Finding(check, False, serves, f"name one of them in llm.model; it is {model!r}")
    return Finding(check, True, serves)
