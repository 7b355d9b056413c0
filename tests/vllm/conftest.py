"""One installation that these tests share: a real NATS, a real router, and a node that runs two real vLLMs on the processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from vllm_world import A, B, World

from autopoiesis.runtime import embedded
from autopoiesis.runtime.bus import Bus

PYTHON = "AUTOPOIESIS_TEST_VLLM_PYTHON"
LOADING_S = 300.0
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TORCH_COMPILE_DISABLE": "1",
}
ARGUMENTS = (
    "--enforce-eager --max-model-len 4096 --max-num-seqs 4 --block-size 32 --num-gpu-blocks-override 300"
)
TOOLS = " --enable-auto-tool-choice --tool-call-parser hermes"


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The interpreter that has vLLM; without one these tests are skipped."""
    python = os.environ.get(PYTHON, "")
    if not python or not Path(python).exists():
        pytest.skip(f"{PYTHON} names no Python with vLLM; `make test-vllm` sets one up")
    return python


@pytest.fixture(scope="session")
def checkpoints(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two small models with random weights: name to folder."""
    script = Path(__file__).with_name("tiny_llama.py")
    folders = {}
    for seed, name in enumerate((A, B)):
        folder = tmp_path_factory.mktemp(name)
        subprocess.run([vllm_python, str(script), str(folder), "--seed", str(seed)], check=True)
        folders[name] = str(folder)
    return folders


@contextmanager
def installation(
    supervisor: embedded.Supervisor, nats: embedded.NatsServer, node: str, **worker: str
) -> Iterator[World]:
    """A router, and a node whose engines are vLLM's; `worker` is its environment, without the prefix."""
    port = embedded.free_port()
    shared = {"AUTOPOIESIS_BUS_URL": nats.url}
    router = supervisor.start(
        f"router-{node}",
        [sys.executable, "-m", "autopoiesis.router"],
        env={**shared, "AUTOPOIESIS_ROUTER_PORT": str(port), "AUTOPOIESIS_ROUTER_NO_REPLICA_WAIT_S": "120"},
        ready="notify",
    )
    process = supervisor.start(
        f"worker-{node}",
        ["nice", "-n", "19", sys.executable, "-m", "autopoiesis.worker"],
        env={
            **shared,
            "AUTOPOIESIS_WORKER_NODE": node,
            "AUTOPOIESIS_WORKER_ENGINE": "vllm",
            "AUTOPOIESIS_WORKER_MODEL": A,
            "AUTOPOIESIS_VLLM_DEVICES": "2xCPU",
            "AUTOPOIESIS_VLLM_ENV": json.dumps(ENVIRONMENT),
            **{f"AUTOPOIESIS_{name}": value for name, value in worker.items()},
        },
        ready="notify",
        timeout=LOADING_S,
        grace=60.0,
    )
    assert process.pid
    yield World(f"http://127.0.0.1:{port}", psutil.Process(process.pid), nats.url)
    process.stop()
    router.stop()


@pytest.fixture(scope="session")
def world(
    vllm_python: str,
    checkpoints: dict[str, str],
    supervisor: embedded.Supervisor,
    nats_server: embedded.NatsServer,
) -> Iterator[World]:
    with installation(
        supervisor,
        nats_server,
        "n1",
        WORKER_REPLICAS="2xCPU",
        VLLM_PYTHON=vllm_python,
        VLLM_ARGS=ARGUMENTS + TOOLS,
        VLLM_CHECKPOINTS=json.dumps(checkpoints),
        VLLM_SLEEPERS="1",  # which the processor cannot, so that they end
    ) as running:
        yield running


@pytest.fixture
async def bus(world: World) -> AsyncIterator[Bus]:
    connected = await Bus.connect(world.nats, name="test")
    yield connected
    await connected.close()


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=world.router, timeout=LOADING_S, trust_env=False) as client:
        yield client
