"""One fleet behind 1, 2 and 4 routers, live: what it costs that each knows the others' requests only from heartbeats.

`python benchmarks/gateway/routers.py [--load 0.85] [--seconds 40] [--rounds 2] [--policies NAME …] [--json FILE]`

A real NATS server, four routers, and simulated engines in a worker process. The same Poisson arrivals go to the first router, to the
first two in turn by lot, or to all four; numbers of routers take turns. `--load` is a share of the capacity that the simulator finds
for this fleet. Prints per policy and number of routers, as medians over rounds: mean and 99th percentile of the seconds to the first
token, and `attainment`, the share of requests within objectives (2 s, 0.1 s per token). Eight minutes with two policies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import contenders
from contenders import Running, Stage
from load import quantile
from run import PEERS, await_ready

from autopoiesis.contracts.messages.telemetry import RequestBatch, RequestRecord
from autopoiesis.contracts.slo import met
from autopoiesis.contracts.subjects import REQUEST_TELEMETRY
from autopoiesis.runtime.bus import Bus, Received
from autopoiesis.simulator.api import SLO, Fleet, capacity
from autopoiesis.simulator.workload import Trace

MODEL: Final = "llama-3.1-8b"
FLEET: Final = "1xA100-80 + 3xL40S"
COUNTS: Final = (1, 2, 4)
OBJECTIVE: Final = SLO(ttft_s=2.0, tpot_s=0.1)
PROMPT, OUTPUT = (900.0, 0.8, 50, 6000), (120.0, 0.6, 5, 500)
"""Lognormal lengths in tokens: median, sigma, least, most."""
TOLD_S: Final = 30.0
ADMIN: Final = "benchmark"
Work = tuple[float, int, int]
"""Arrival in seconds, tokens of prompt and answer."""


def work(rate: float, seconds: float, seed: int) -> list[Work]:
    draw = random.Random(seed)

    def length(median: float, sigma: float, least: int, most: int) -> int:
        return round(min(most, max(least, median * draw.lognormvariate(0.0, sigma))))

    found, at = [], draw.expovariate(rate)
    while at < seconds:
        found.append((at, length(*PROMPT), length(*OUTPUT)))
        at += draw.expovariate(rate)
    return found


def full_rate(seed: int) -> float:
    """Requests per second at which the fleet just keeps up."""
    columns = np.array(work(10.0, 300.0, seed)).T
    trace = Trace.of("routers", columns[0], columns[1].astype(int), columns[2].astype(int))
    return capacity(Fleet.parse(FLEET, MODEL), trace)


class Records:
    """What routers tell of requests that ended."""

    def __init__(self) -> None:
        self.kept: list[RequestRecord] = []
        self._news = asyncio.Event()

    def hear(self, item: Received[RequestBatch]) -> None:
        self.kept += item.message.records
        self._news.set()

    async def all(self, count: int) -> list[RequestRecord]:
        """The next `count`; fewer where they do not come in time."""
        try:
            async with asyncio.timeout(TOLD_S):
                while len(self.kept) < count:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            print(f"{count - len(self.kept)} records are missing", file=sys.stderr)
        taken, self.kept = self.kept, []
        return taken


async def ask(client: httpx.AsyncClient, router: Running, number: int, prompt: int, output: int) -> None:
    """No two prompts begin alike."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"{number:08d}" + "word" * (prompt - 2)}],
        "max_tokens": output,
        "simulate": {"output_tokens": output},
    }
    headers = {"authorization": f"Bearer {router.key}"}
    await client.post(f"{router.url}/v1/chat/completions", json=body, headers=headers)


async def play(routers: list[Running], planned: list[Work], records: Records, seed: int) -> dict[str, float]:
    """One run: every request goes to one of `routers`, by lot."""
    draw, loop = random.Random(seed), asyncio.get_running_loop()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=120.0, limits=limits) as client, asyncio.TaskGroup() as group:
        began = loop.time()
        for number, (at, prompt, output) in enumerate(planned):
            await asyncio.sleep(began + at - loop.time())
            group.create_task(ask(client, draw.choice(routers), number, prompt, output))
    return figures(await records.all(len(planned)), len(planned))


def figures(records: list[RequestRecord], asked: int) -> dict[str, float]:
    firsts = [record.ttft_s for record in records if record.ttft_s is not None]
    good = sum(
        met(
            record.ttft_s,
            record.tpot_s,
            ttft_slo_s=OBJECTIVE.ttft_s,
            tpot_slo_s=OBJECTIVE.tpot_s,
            finished=record.outcome == "finished",
        )
        for record in records
    )
    mean = statistics.fmean(firsts) if firsts else 0.0
    return {"ttft_mean_s": mean, "ttft_p99_s": quantile(firsts, 0.99), "attainment": good / asked}


async def pin(routers: list[Running], policy: str) -> None:
    async with httpx.AsyncClient() as client:
        for router in routers:
            answer = await client.put(
                f"{router.url}/admin/policy/pin",
                json={"library": policy},
                headers={"authorization": f"Bearer {ADMIN}"},
            )
            answer.raise_for_status()


def started(stage: Stage) -> tuple[list[Running], str]:
    _, bus = contenders.nats(stage, "routers")
    worker = {
        "AUTOPOIESIS_BUS_URL": bus,
        "AUTOPOIESIS_WORKER_NODE": "here",
        "AUTOPOIESIS_WORKER_REPLICAS": FLEET,
        "AUTOPOIESIS_WORKER_MODEL": MODEL,
    }
    stage.start("worker", [sys.executable, "-m", "autopoiesis.worker"], {**os.environ, **worker})
    admin = {"AUTOPOIESIS_ROUTER_ADMIN_TOKEN": ADMIN}
    routers = [contenders.router(stage, f"router-{number}", bus, admin) for number in range(max(COUNTS))]
    for router in routers:
        await_ready(router, MODEL)
    return routers, bus


async def measure(routers: list[Running], url: str, given: argparse.Namespace) -> dict[str, Any]:
    rate = given.load * full_rate(given.seed)
    print(f"{rate:.1f} requests/s, {given.load:.0%} of capacity")
    bus, records = await Bus.connect(url, name="routers benchmark"), Records()
    await bus.subscribe(REQUEST_TELEMETRY, records.hear)
    samples: dict[str, dict[int, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for number in range(given.rounds):
        planned = work(rate, given.seconds, given.seed + number)
        for policy in given.policies:
            await pin(routers, policy)
            for count in COUNTS:
                records.kept.clear()
                samples[policy][count].append(await play(routers[:count], planned, records, given.seed))
    await bus.close()
    return {
        policy: {
            str(count): {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for count, runs in by_count.items()
        }
        for policy, by_count in samples.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--load", type=float, default=0.85)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", nargs="+", default=["least_predicted_ttft", "least_requests"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="routers-") as directory:
        stage = Stage(Path(directory), PEERS)
        try:
            routers, bus = started(stage)
            found = asyncio.run(measure(routers, bus, given))
        finally:
            stage.stop()
    print(f"{'':24}{'routers':>8}{'mean TTFT s':>13}{'p99 TTFT s':>12}{'attainment':>12}")
    for policy, by_count in found.items():
        for count, row in by_count.items():
            cells = f"{row['ttft_mean_s']:13.3f}{row['ttft_p99_s']:12.3f}{row['attainment']:12.3f}"
            print(f"{policy:24}{count:>8}{cells}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
