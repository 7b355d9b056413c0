"""One run of NVIDIA's AISimulate over a list of requests. `run.py` starts this file with an interpreter that has `aisimulate`.

    PYTHON aisimulate_peer.py REQUESTS.jsonl --replicas N --max-batched-tokens N --max-running N --kv-tokens N --model M --hardware H

Requests are lines as in Mooncake's traces. Prints one line of JSON: `seconds` is processor time of the compiled replay alone, all
threads, in a process that has replayed the first requests before, so that its kernel tables are loaded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import aisimulate
from aisimulate import _runtime
from aisimulate.predict import run_prediction

PAGE = 16
WARM_UP = 200


class Timed:
    """The package's own runtime, timed."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def run_replay_json(self, spec: str) -> str:
        began = time.process_time()
        report: str = _runtime.run_replay_json(spec)
        self.seconds = time.process_time() - began
        return report


def config(trace: Path, given: argparse.Namespace) -> Any:
    worker = {
        "parallelism": {"replicas": given.replicas},
        "scheduler": {"max_batched_tokens": given.max_batched_tokens, "max_sequences": given.max_running},
        "kv_cache": {
            "block_size": PAGE,
            "prefix_caching": False,
            "capacity": {"type": "fixed", "blocks": given.kv_tokens // PAGE},
        },
        "timing": {},
    }
    return aisimulate.CorePredictionConfig.model_validate(
        {
            "traffic": {
                "source": {"type": "trace", "paths": [str(trace)], "format": "mooncake", "block_size": 512},
                "load": {"type": "trace_timestamps"},
            },
            "engine": {
                "model": given.model,
                "hardware": given.hardware,
                "backend": "vllm",
                "workers": {"aggregated": worker},
            },
            "evaluation": {},
            "execution": {},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("trace", type=Path)
    for name in ("replicas", "max-batched-tokens", "max-running", "kv-tokens"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("model", "hardware"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    timed = Timed()
    factory = aisimulate.EngineReplayRunnerFactory(runtime=timed)
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first.jsonl"
        first.write_text("".join(given.trace.read_text().splitlines(keepends=True)[:WARM_UP]))
        run_prediction(config(first, given), stack="engine", runner_factory=factory)
    found = run_prediction(config(given.trace, given), stack="engine", runner_factory=factory).summary
    report = {name: found[name] for name in ("completed_requests", "mean_ttft_ms", "mean_e2e_latency_ms")}
    print(json.dumps({"version": aisimulate.__version__, "seconds": timed.seconds, **report}))


if __name__ == "__main__":
    main()
