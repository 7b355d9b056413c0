"""Everything that is measured: how it is installed, and how it is started in front of mock engines."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil
from engines import MODEL

from autopoiesis.router import keys
from autopoiesis.runtime.embedded import free_port
from autopoiesis.runtime.embedded.nats import find_nats_server

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
COMPILED = REPOSITORY / ".venv-compiled/bin/python"
INSTALL_S = 900.0
LITELLM_KEY = "sk-benchmark-key-0123456789abcdef"


class Skipped(Exception):  # noqa: N818 - no error: the others are measured
    """Why a contender is left out."""


@dataclass
class Running:
    """A started contender. `parts`: what its path is made of, each with its process; `router` is one of them."""

    name: str
    url: str
    key: str
    parts: dict[str, subprocess.Popen[str]]
    peer: bool = False


@dataclass
class Stage:
    """Where processes are started, logged and ended."""

    directory: Path
    peers: Path
    urls: list[str] = field(default_factory=list)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    logs: list[IO[str]] = field(default_factory=list)

    def start(
        self, name: str, argv: list[str], env: Mapping[str, str] | None = None, *, pipe: bool = False
    ) -> subprocess.Popen[str]:
        log = (self.directory / f"{name}.log").open("w")
        self.logs.append(log)
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE if pipe else log, stderr=log, text=True, env=env, cwd=self.directory
        )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """End all of them, with what they started."""
        left = [child for process in self.processes for child in _children(process)]
        for process in reversed(self.processes):
            process.kill()
        for process in self.processes:
            process.wait()
        for child in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        for log in self.logs:
            log.close()

    def python(self, script: str, *arguments: str, pipe: bool = False) -> subprocess.Popen[str]:
        return self.start(Path(script).stem, [sys.executable, str(HERE / script), *arguments], pipe=pipe)


def _children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def installed(stage: Stage, package: str, program: str) -> str:
    """The program of a package in an environment of its own. Raises Skipped where PyPI's wheel does not install."""
    home = stage.peers / package.partition("[")[0]
    path = home / "bin" / program
    if not path.exists():
        print(f"installing {package} into {home}", file=sys.stderr)
        venv.create(home, with_pip=True)
        argv = [str(home / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", package]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        if done.returncode:
            raise Skipped(f"{package} does not install: {done.stderr.strip().splitlines()[-1:]}")
    return str(path)


def floor(stage: Stage) -> Running:
    port = free_port()
    process = stage.python("floor.py", "--port", str(port), *stage.urls)
    return Running("floor (copies bytes)", f"http://127.0.0.1:{port}", "", {"router": process})


def nats(stage: Stage, name: str) -> tuple[subprocess.Popen[str], str]:
    port, home = free_port(), stage.directory / f"{name}-nats"
    home.mkdir()
    config = home / "nats.conf"
    config.write_text(f'listen: 127.0.0.1:{port}\nmax_payload: 8MB\njetstream {{ store_dir: "{home}" }}\n')
    return stage.start(
        f"{name}-nats", [str(find_nats_server()), "-c", str(config)]
    ), f"nats://127.0.0.1:{port}"


def router(
    stage: Stage, name: str, bus: str, settings: Mapping[str, str], python: str = sys.executable
) -> Running:
    """Ours with policy, telemetry, metrics and API keys on."""
    port, file = free_port(), stage.directory / f"{name}-keys.json"
    key, text = keys.create("benchmark", scopes=("inference",))
    keys.save(file, [key])
    env = {
        "AUTOPOIESIS_BUS_URL": bus,
        "AUTOPOIESIS_ROUTER_PORT": str(port),
        "AUTOPOIESIS_ROUTER_POLICY": "least_predicted_ttft",
        "AUTOPOIESIS_ROUTER_KEYS": str(file),
        **settings,
    }
    process = stage.start(name, [python, "-m", "autopoiesis.router"], env)
    return Running(name, f"http://127.0.0.1:{port}", text, {"router": process})


def ours_direct(stage: Stage, name: str = "ours-direct", python: str = sys.executable) -> Running:
    bus_server, bus = nats(stage, name)
    running = router(stage, name, bus, {"AUTOPOIESIS_ROUTER_ATTACH": json.dumps(stage.urls)}, python)
    running.parts["nats"] = bus_server
    return running


def ours_over_nats(stage: Stage, name: str = "ours-over-nats", python: str = sys.executable) -> Running:
    bus_server, bus = nats(stage, name)
    worker = stage.python("worker.py", "--bus", bus, "--count", str(len(stage.urls)), pipe=True)
    assert worker.stdout is not None
    if worker.stdout.readline().strip() != "ready":
        raise Skipped("our mock worker did not start; see worker.log")
    running = router(stage, name, bus, {}, python)
    running.parts |= {"nats": bus_server, "worker": worker}
    return running


def is_compiled_current() -> bool:
    """Whether `make compiled` has made an environment of today's sources."""
    check = [sys.executable, str(REPOSITORY / "infra/compiled.py"), "--check"]
    return not subprocess.run(check, check=False).returncode


def compiled(name: str, start: Callable[[Stage, str, str], Running]) -> Callable[[Stage], Running]:
    """The same with compiled modules in the router."""

    def start_compiled(stage: Stage) -> Running:
        if not is_compiled_current():
            raise Skipped("no environment of today's sources (make compiled)")
        return start(stage, name, str(COMPILED))

    return start_compiled


def vllm_router(policy: str) -> Callable[[Stage], Running]:
    def start(stage: Stage) -> Running:
        port = free_port()
        program = installed(stage, "vllm-router", "vllm-router")
        argv = [program, *_rust(stage, port, policy)]
        return _peer(stage, f"vllm-router {policy}", port, argv)

    return start


def smg(policy: str) -> Callable[[Stage], Running]:
    def start(stage: Stage) -> Running:
        port = free_port()
        argv = [installed(stage, "smg", "smg"), "launch", *_rust(stage, port, policy)]
        return _peer(stage, f"smg {policy}", port, argv)

    return start


def sglang_router(policy: str) -> Callable[[Stage], Running]:
    def start(stage: Stage) -> Running:
        port = free_port()
        program = installed(stage, "sglang-router", "sglang-router")
        return _peer(stage, f"sglang-router {policy}", port, [program, "launch", *_rust(stage, port, policy)])

    return start


def litellm(stage: Stage) -> Running:
    port, config = free_port(), stage.directory / "litellm.json"
    served = [
        {
            "model_name": MODEL,
            "litellm_params": {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "none"},
        }
        for url in stage.urls
    ]
    config.write_text(
        json.dumps(
            {
                "model_list": served,
                "router_settings": {"routing_strategy": "simple-shuffle"},
                "general_settings": {"master_key": LITELLM_KEY},
            }
        )
    )
    program = installed(stage, "litellm[proxy]", "litellm")
    argv = [
        program,
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "1",
    ]
    return _peer(stage, "litellm", port, argv, LITELLM_KEY)


def _rust(stage: Stage, port: int, policy: str) -> list[str]:
    metrics = ["--prometheus-port", str(free_port()), "--log-level", "error"]
    return [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--worker-urls",
        *stage.urls,
        "--policy",
        policy,
        *metrics,
    ]


def _peer(stage: Stage, name: str, port: int, argv: list[str], key: str = "") -> Running:
    process = stage.start(name.replace(" ", "-"), argv)
    return Running(name, f"http://127.0.0.1:{port}", key, {"router": process}, peer=True)


ALL: Mapping[str, Callable[[Stage], Running]] = {
    "floor": floor,
    "ours-direct": ours_direct,
    "ours-direct-compiled": compiled("ours-direct-compiled", ours_direct),
    "ours-over-nats": ours_over_nats,
    "ours-over-nats-compiled": compiled("ours-over-nats-compiled", ours_over_nats),
    "vllm-router-round_robin": vllm_router("round_robin"),
    "vllm-router-cache_aware": vllm_router("cache_aware"),
    "sglang-router-round_robin": sglang_router("round_robin"),
    "smg-round_robin": smg("round_robin"),
    "smg-cache_aware": smg("cache_aware"),
    "litellm": litellm,
}
