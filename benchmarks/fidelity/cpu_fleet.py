"""Four real vLLMs of unequal speed on this machine's processor (`paced_worker`), behind the real router over a real NATS."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Self

import httpx
from cpu_engine import ARGUMENTS, ENVIRONMENT, EngineError, write_llama

from autopoiesis.cli.load.prompts import text
from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.telemetry import StepBatch, StepRecord
from autopoiesis.contracts.subjects import HEARTBEAT, STEP_TELEMETRY
from autopoiesis.runtime import embedded
from autopoiesis.runtime.bus import Bus, Received

MODEL: Final = "tiny"
PACES: Final = (1.0, 1.4, 2.0, 2.8)
"""Of the four replicas' steps."""
STEP_S, PROMPT_TOKEN_S, SEQUENCE_S = 0.025, 0.0002, 0.001
"""Seconds of a step, of each prompt token in it and of each decoding sequence, at pace 1."""
FLEET_RUNNING: Final = 8
"""Sequences in a batch."""
FLEET_ARGUMENTS: Final = (
    *(*ARGUMENTS, "--max-num-seqs", str(FLEET_RUNNING)),
    *("--worker-cls", "paced_worker.PacedWorker"),
)
NODE: Final = "pace-"
"""Names of nodes begin so and end with their pace."""
START_S: Final = 600.0
WORDS_BYTES: Final = 60_000
"""Of the load generator's language for the tokenizer, which then makes four bytes a token, as tokenizers make of English."""
PACED: Final = Path(__file__).parent / "paced"
"""A folder of its own: vLLM would take modules beside this one for libraries of the same names."""


class CpuFleet:
    """Started when entered. `beats` and `steps` by replica. The router writes its events to `record`, if there is one."""

    def __init__(self, python: str, record: Path | None = None) -> None:
        self.url = ""
        self.beats: dict[str, Heartbeat] = {}
        self.steps: dict[str, list[StepRecord]] = defaultdict(list)
        self._python = python
        self._record = record
        self._exits = AsyncExitStack()
        self._http: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        folder = Path(self._exits.enter_context(tempfile.TemporaryDirectory()))
        supervisor = self._exits.enter_context(embedded.Supervisor(folder / "data"))
        nats = await asyncio.to_thread(embedded.start_nats, supervisor, folder / "data" / "nats")
        port = embedded.free_port()
        self.url = f"http://127.0.0.1:{port}"
        bus = await Bus.connect(nats.url, name="benchmark")
        self._exits.push_async_callback(bus.close)
        await bus.subscribe(HEARTBEAT, self._on_beat)
        await bus.subscribe(STEP_TELEMETRY, self._on_steps)
        await asyncio.to_thread(
            supervisor.start,
            "router",
            [sys.executable, "-m", "autopoiesis.router"],
            env={
                "AUTOPOIESIS_BUS_URL": nats.url,
                "AUTOPOIESIS_ROUTER_PORT": str(port),
                "AUTOPOIESIS_ROUTER_RECORD": str(self._record.absolute()) if self._record else "",
            },
            ready="notify",
        )
        checkpoint = folder / "llama"
        words = folder / "words.txt"
        words.write_text(text("words", WORDS_BYTES))
        await asyncio.to_thread(write_llama, self._python, checkpoint, layers=2, hidden=64, words=words)
        async with asyncio.TaskGroup() as starting:
            for pace in PACES:
                starting.create_task(
                    asyncio.to_thread(self._start_worker, supervisor, nats.url, checkpoint, pace)
                )
        async with asyncio.timeout(START_S):
            while not self._ready(folder / "data" / "logs"):  # noqa: ASYNC110 - heartbeats come several times a second
                await asyncio.sleep(0.1)
        self._http = await self._exits.enter_async_context(
            httpx.AsyncClient(base_url=self.url, trust_env=False)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def pin(self, policy: str) -> None:
        """Have the router use a shipped policy from now on."""
        answer = await self._http.put("/admin/policy/pin", json={"library": policy})
        answer.raise_for_status()

    def pace(self, replica: str) -> float:
        return float(self.beats[replica].node.removeprefix(NODE))

    def _ready(self, logs: Path) -> bool:
        """Raises `EngineError`, with the end of its log, where one failed."""
        for beat in self.beats.values():
            if beat.state == "failed":
                log = (logs / f"worker-{beat.node}.log").read_text(errors="replace")
                raise EngineError(f"{beat.replica} does not start:\n{log[-2000:]}")
        return [beat.state for beat in self.beats.values()] == ["ready"] * len(PACES)

    def _start_worker(
        self, supervisor: embedded.Supervisor, nats_url: str, checkpoint: Path, pace: float
    ) -> None:
        seconds = " ".join(str(pace * part) for part in (STEP_S, PROMPT_TOKEN_S, SEQUENCE_S))
        paced = {"PACED_WORKER_SECONDS": seconds, "PYTHONPATH": str(PACED)}
        supervisor.start(
            f"worker-pace-{pace:g}",
            [sys.executable, "-m", "autopoiesis.worker"],
            env={
                "AUTOPOIESIS_BUS_URL": nats_url,
                "AUTOPOIESIS_WORKER_NODE": f"{NODE}{pace:g}",
                "AUTOPOIESIS_WORKER_ENGINE": "vllm",
                "AUTOPOIESIS_WORKER_MODEL": MODEL,
                "AUTOPOIESIS_WORKER_REPLICAS": "1xCPU",
                "AUTOPOIESIS_WORKER_CHUNK_INTERVAL_S": "0",
                "AUTOPOIESIS_VLLM_PYTHON": self._python,
                "AUTOPOIESIS_VLLM_DEVICES": "1xCPU",
                "AUTOPOIESIS_VLLM_ARGS": " ".join(FLEET_ARGUMENTS),
                "AUTOPOIESIS_VLLM_CHECKPOINTS": json.dumps({MODEL: str(checkpoint)}),
                "AUTOPOIESIS_VLLM_ENV": json.dumps(ENVIRONMENT | paced),
            },
            ready="notify",
            timeout=START_S,
        )

    def _on_beat(self, item: Received[Heartbeat]) -> None:
        self.beats[item.message.replica] = item.message

    def _on_steps(self, item: Received[StepBatch]) -> None:
        self.steps[item.message.replica] += item.message.records
