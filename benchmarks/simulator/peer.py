"""AISimulate beside ours: the same requests, the same fleet, in an interpreter that has it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from autopoiesis.simulator.api import Fleet, Trace

SCRIPT = Path(__file__).with_name("aisimulate_peer.py")
MODELS = {"Llama-3.1-8B": "meta-llama/Meta-Llama-3.1-8B"}
HARDWARE = {"H100": "h100_sxm"}
HASHED_TOKENS = 512


class PeerError(RuntimeError):
    """It cannot be run here; says why."""


@dataclass(frozen=True, slots=True)
class PeerRun:
    version: str
    rate: float
    """Requests per second of processor time."""
    ttft_s: float
    """Mean."""


class Peer:
    """`python` is an interpreter that can import `aisimulate`. Raises `PeerError` where there is none."""

    def __init__(self, python: str) -> None:
        if not python:
            raise PeerError("no interpreter given (--aisimulate PYTHON or AISIMULATE_PYTHON)")
        self._python = python
        self._call("-c", "import aisimulate")

    def run(self, trace: Trace, fleet: Fleet) -> PeerRun:
        """All of `trace` over a fleet of equal replicas without prefix cache."""
        spec = fleet.replicas[0]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "requests.jsonl"
            path.write_text(_lines(trace))
            printed = self._call(
                *(str(SCRIPT), str(path), "--replicas", str(len(fleet.replicas))),
                *("--max-batched-tokens", str(spec.config.max_batched_tokens)),
                *("--max-running", str(spec.config.max_running)),
                *("--kv-tokens", str(spec.config.kv_capacity_tokens)),
                *("--model", MODELS[spec.model], "--hardware", HARDWARE[spec.gpu]),
            )
        report = json.loads(printed.splitlines()[-1])
        if report["completed_requests"] != len(trace):
            raise PeerError(f"it completed {report['completed_requests']} of {len(trace)} requests")
        return PeerRun(report["version"], len(trace) / report["seconds"], report["mean_ttft_ms"] / 1000)

    def _call(self, *arguments: str) -> str:
        try:
            done = subprocess.run([self._python, *arguments], capture_output=True, text=True, check=False)
        except OSError as error:
            raise PeerError(f"{self._python} cannot be started: {error}") from error
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise PeerError(f"{self._python} {arguments[0]} failed: {last[0]}")
        return done.stdout


def _lines(trace: Trace) -> str:
    """As in Mooncake's traces, milliseconds and tokens; no two prompts share a block."""
    lines, block = [], 0
    rows = zip(
        trace.arrival.tolist(), trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True
    )
    for arrival, prompt, output in rows:
        blocks = -(-prompt // HASHED_TOKENS)
        line = {"timestamp": round(arrival * 1000), "input_length": prompt, "output_length": output}
        lines.append(json.dumps(line | {"hash_ids": list(range(block, block + blocks))}))
        block += blocks
    return "\n".join(lines) + "\n"
