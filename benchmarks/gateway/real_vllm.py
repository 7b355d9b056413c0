"""Real vLLM on this machine's processor, end to end: through us, and through vllm-router before vLLM's own API servers.

`python benchmarks/gateway/real_vllm.py --python .venv-vllm/bin/python [--json FILE] [--rounds 3] [--seconds 12]`

Two small Llamas with random weights behind each: in our worker's processes for `ours`, as vLLM's API servers for all others
(`ours-attached` is our router before the very servers that vllm-router has). Arguments, prompts and lengths of answers are the same,
the load is `load.py`'s, and contenders take turns; figures are medians over rounds. With `--concurrency` streams the engines'
batches are full; `alone` there is one stream at a time. Keys, per contender: `tokens_per_s`, `ttft_p50_s`, `ttft_p99_s`,
`tpot_p50_s`, `cpu_ms_per_request` (engines included) and `alone_ttft_p50_s`, `alone_tpot_p50_s`. Seven minutes; nothing else should
run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent))

import contenders
from contenders import Running, Skipped, Stage
from run import PEERS, Row, await_ready, cpu_s, load

from autopoiesis.runtime.embedded import free_port

MODEL: Final = "tiny"
ENGINES: Final = 2
LOADING_S: Final = 420.0
TINY_LLAMA: Final = Path(__file__).parents[2] / "tests" / "vllm" / "tiny_llama.py"
ENVIRONMENT: Final = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
ARGUMENTS: Final = (
    *("--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "8"),
    *("--block-size", "32", "--num-gpu-blocks-override", "600"),
)
FIGURES: Final = ("tokens_per_s", "ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "cpu_ms_per_request")
ALONE: Final = ("ttft_p50_s", "tpot_p50_s")


def servers(stage: Stage, python: str, checkpoint: Path) -> list[subprocess.Popen[str]]:
    """vLLM's own API servers; their URLs go to `stage.urls`. Raises Skipped where one does not come up."""
    ports = [free_port() for _ in range(ENGINES)]
    module = (python, "-m", "vllm.entrypoints.openai.api_server")  # the same as `vllm serve`
    names = ("--model", str(checkpoint), "--served-model-name", MODEL, "--host", "127.0.0.1")
    started = [
        stage.start(
            f"vllm-{port}", [*module, *names, "--port", str(port), *ARGUMENTS], {**os.environ, **ENVIRONMENT}
        )
        for port in ports
    ]
    stage.urls = [f"http://127.0.0.1:{port}" for port in ports]
    until = time.monotonic() + LOADING_S
    for url, process in zip(stage.urls, started, strict=True):
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > until:
                raise Skipped(f"vLLM's server does not come up: {_end_of_log(stage, process.args)}")
            time.sleep(0.5)
    return started


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _end_of_log(stage: Stage, argv: object) -> str:
    port = argv[argv.index("--port") + 1] if isinstance(argv, list) else ""
    return " ".join((stage.directory / f"vllm-{port}.log").read_text().split("\n")[-4:])


def ours(stage: Stage, python: str, checkpoint: Path) -> Running:
    """The whole path: router, NATS, a worker and its vLLM processes."""
    server, bus = contenders.nats(stage, "ours")
    settings = {
        "AUTOPOIESIS_BUS_URL": bus,
        "AUTOPOIESIS_WORKER_NODE": "here",
        "AUTOPOIESIS_WORKER_ENGINE": "vllm",
        "AUTOPOIESIS_WORKER_MODEL": MODEL,
        "AUTOPOIESIS_WORKER_REPLICAS": f"{ENGINES}xCPU",
        "AUTOPOIESIS_VLLM_DEVICES": f"{ENGINES}xCPU",
        "AUTOPOIESIS_VLLM_PYTHON": python,
        "AUTOPOIESIS_VLLM_CHECKPOINTS": json.dumps({MODEL: str(checkpoint)}),
        "AUTOPOIESIS_VLLM_ARGS": " ".join(ARGUMENTS),
        "AUTOPOIESIS_VLLM_ENV": json.dumps(ENVIRONMENT),
    }
    worker = stage.start("worker", [sys.executable, "-m", "autopoiesis.worker"], {**os.environ, **settings})
    patient = {"AUTOPOIESIS_ROUTER_NO_REPLICA_WAIT_S": str(LOADING_S)}
    running = contenders.router(stage, "ours", bus, patient)
    running.parts |= {"nats": server, "worker": worker}
    return running


def started(stage: Stage, python: str, checkpoint: Path) -> list[Running]:
    """All contenders, ready. What cannot be had is skipped, and said to be."""
    whole = ours(stage, python, checkpoint)
    processes = servers(stage, python, checkpoint)
    found = []
    for name, start in {
        "ours": lambda stage: whole,
        "ours-attached": contenders.ours_direct,
        "vllm-router round_robin": contenders.vllm_router("round_robin"),
        "vllm-router cache_aware": contenders.vllm_router("cache_aware"),
    }.items():
        try:
            running = start(stage)
            running.name = name
            if running is not whole:
                running.parts |= {f"vllm-{number}": process for number, process in enumerate(processes)}
            await_ready(running, MODEL, LOADING_S)
            found.append(running)
        except Skipped as reason:
            print(f"skipped: {name}: {reason}", file=sys.stderr)
    return found


def turn(running: Running, concurrency: int, seconds: float, given: argparse.Namespace, seed: int) -> Row:
    """One contender's turn of one round. Raises Skipped where a request fails."""
    more = ["--prompt-tokens", str(given.prompt_tokens), "--output-tokens", str(given.output_tokens)]
    before = sum(cpu_s(process) for process in running.parts.values())
    row = load(
        running,
        *more,
        *("--seed", str(seed)),
        concurrency=concurrency,
        seconds=seconds,
        stream=True,
        model=MODEL,
    )
    if row["failed"] or not row["requests"]:
        raise Skipped(f"{row['failed']} of {row['requests']} requests failed")
    spent = sum(cpu_s(process) for process in running.parts.values()) - before
    row["tokens_per_s"] = row["requests"] * given.output_tokens / row["seconds"]
    row["cpu_ms_per_request"] = spent / row["requests"] * 1e3
    return row


def compare(contestants: list[Running], given: argparse.Namespace) -> dict[str, Row]:
    """Each round has prompts of its own, the same for all, so that no cache holds those of the round before."""
    samples: dict[str, dict[str, list[float]]] = {one.name: defaultdict(list) for one in contestants}
    left = list(contestants)
    for number in range(given.rounds + 1):  # the first warms up
        for one in list(left):
            try:
                full = turn(one, given.concurrency, given.seconds if number else 3.0, given, 2 * number)
                alone = turn(one, 1, given.seconds / 3, given, 2 * number + 1)
            except (Skipped, subprocess.SubprocessError) as reason:
                print(f"skipped: {one.name}: {reason}", file=sys.stderr)
                left.remove(one)
                continue
            if number:
                for key in FIGURES:
                    samples[one.name][key].append(full[key])
                for key in ALONE:
                    samples[one.name][f"alone_{key}"].append(alone[key])
    return {
        one.name: {key: statistics.median(values) for key, values in samples[one.name].items()}
        for one in left
    }


def show(rows: dict[str, Row]) -> None:
    keys = (*FIGURES, *(f"alone_{key}" for key in ALONE))
    print(f"{'':26}" + "".join(f"{key:>20}" for key in keys))
    for name, row in rows.items():
        print(f"{name:26}" + "".join(f"{row[key]:20.4g}" for key in keys))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", required=True, help="interpreter that has vLLM and the worker")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=64, help="of four bytes")
    parser.add_argument("--output-tokens", type=int, default=48)
    parser.add_argument("--peers", type=Path, default=PEERS)
    given = parser.parse_args()
    given.python = str(Path.cwd() / given.python)  # not resolved: a link is what makes it an environment's
    if not Path(given.python).exists():
        print(f"skipped: no interpreter {given.python}; `make test-vllm` sets one up")
        return 0
    with tempfile.TemporaryDirectory(prefix="real-vllm-") as directory:
        stage = Stage(Path(directory), given.peers)
        try:
            checkpoint = Path(directory) / "tiny"
            command = [given.python, str(TINY_LLAMA), str(checkpoint)]
            subprocess.run(command, check=True, capture_output=True)
            rows = compare(started(stage, given.python, checkpoint), given)
        finally:
            stage.stop()
    show(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
