"""One real vLLM on the processor, driven directly: a small Llama with random weights, prompts of exact lengths, every time noted."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final, Self

import msgspec

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.simulator.calibrate import RequestSample
from autopoiesis.worker.engines.base import Broken, Ended, Piece
from autopoiesis.worker.engines.frames import Configure
from autopoiesis.worker.engines.process import ProcessEngine, Program

TINY_LLAMA: Final = Path(__file__).parents[2] / "tests" / "vllm" / "tiny_llama.py"
ENVIRONMENT: Final = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the model runs in the engine's process; else a second one spins for work
    "HF_HUB_OFFLINE": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
KV_TOKENS: Final = 32_768
MAX_RUNNING: Final = 16
CHUNK_TOKENS: Final = 512
BLOCK_TOKENS: Final = 32
ARGUMENTS: Final = (
    *("--enforce-eager", "--block-size", str(BLOCK_TOKENS)),
    *("--max-model-len", "4096", "--max-num-seqs", str(MAX_RUNNING)),
    *("--max-num-batched-tokens", str(CHUNK_TOKENS)),
    *("--num-gpu-blocks-override", str(KV_TOKENS // BLOCK_TOKENS)),
)
FIRST_WORD: Final = 10
"""Token ids below are special."""
LAST_WORD: Final = 250


class EngineError(Exception):
    """The engine did not answer a request as a benchmark needs it."""


@dataclass(frozen=True, slots=True)
class Work:
    """One request: seconds after the start, tokens."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int


def write_llama(python: str, folder: Path, *, layers: int, hidden: int, words: Path | None = None) -> Path:
    """A checkpoint with random weights; its tokenizer knows the `words` of a text file well."""
    command = [python, str(TINY_LLAMA), str(folder), "--layers", str(layers), "--hidden", str(hidden)]
    command += ["--words", str(words)] if words else []
    subprocess.run(command, check=True, capture_output=True)
    return folder


class CpuEngine:
    """A started engine. Steps gather in `steps`."""

    def __init__(self, python: str, checkpoint: Path) -> None:
        configure = Configure(
            replica="cpu", model="tiny", checkpoint=str(checkpoint), arguments=ARGUMENTS, block_reports=False
        )
        program = Program(
            argv=(python, "-m", "autopoiesis.worker.engines.vllm"), configure=configure, env=ENVIRONMENT
        )
        self.engine = ProcessEngine(program, chunk_interval_s=0.0)
        self.steps: list[StepRecord] = []
        self._numbers = count()

    async def __aenter__(self) -> Self:
        await self.engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.stop()

    async def play(self, work: Sequence[Work]) -> list[RequestSample]:
        """Open loop: each request at its time, whatever became of the others. Raises `EngineError` if one fails.

        No two prompts begin alike, so none hits the prefix cache.
        """
        began = time.monotonic() + 0.1
        self.steps.clear()
        tasks = [asyncio.create_task(self._run(item, began)) for item in work]
        samples = await asyncio.gather(*tasks)
        await asyncio.sleep(0.3)  # the last steps come with the next report
        self.steps += self.engine.steps()
        return samples

    async def _run(self, item: Work, began: float) -> RequestSample:
        await asyncio.sleep(began + item.arrival_s - time.monotonic())
        sent = time.monotonic()
        first = 0.0
        async for output in self.engine.generate(self._request(item)):
            match output:
                case Piece():
                    first = first or time.monotonic()
                case Broken():
                    raise EngineError(f"{output.code}: {output.message}")
                case Ended():
                    if output.output_tokens != item.output_tokens:
                        raise EngineError(f"{output.output_tokens} tokens instead of {item.output_tokens}")
        return RequestSample(
            arrival_s=sent - began,
            prompt_tokens=item.prompt_tokens,
            output_tokens=item.output_tokens,
            first_token_s=first - began,
            end_s=time.monotonic() - began,
        )

    def _request(self, item: Work) -> Generate:
        number = next(self._numbers)
        rng = random.Random(number)
        prompt = [rng.randint(FIRST_WORD, LAST_WORD) for _ in range(item.prompt_tokens)]
        body = {
            "model": "tiny",
            "prompt": prompt,
            "max_tokens": item.output_tokens,
            "ignore_eos": True,
            "temperature": 0.0,
            "stream": True,
        }
        return Generate(
            request_id=f"b{number}",
            router="benchmark",
            nth=1,
            model="tiny",
            endpoint="completions",
            body=msgspec.Raw(msgspec.json.encode(body)),
            stream=True,
            prompt_tokens=item.prompt_tokens,
            max_tokens=item.output_tokens,
        )
