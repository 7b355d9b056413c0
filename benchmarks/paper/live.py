"""A live run under the paper's elastic membership schedule (Section 7, SpotServe's case: 24 to 64 and back to 43 A100).

    python benchmarks/paper/live.py [--policy NAME|FILE] [--case MAF1|MAF2] [--bucket 6] [--rate 2.0] [--json FILE] [--picture FILE]

A real NATS server, router and planner process; eight simulated machines, whose GPUs come and go by the schedule, one bucket (3 s in
the paper) in `--bucket` seconds. Requests arrive at random with the lengths of the case's four phases. Prints every change of the
plan, and what requests saw. Needs the paper's figures beside the checkout, or in `--data`; skipped where they are not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

import httpx
from cases import DATA

from autopoiesis.contracts.messages.fleet import Heartbeat, PlanChanged
from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.contracts.subjects import HEARTBEAT, PLAN_CHANGED, PROMOTED, slug
from autopoiesis.policy import API_VERSION, library
from autopoiesis.policy.language import compile_policy
from autopoiesis.runtime.bus import Bus, Delivered, Received, Responders
from autopoiesis.runtime.embedded import Supervisor, free_port, start_nats
from autopoiesis.worker.app import simulated
from autopoiesis.worker.node import Node
from autopoiesis.worker.serving import Place
from autopoiesis.worker.settings import WorkerSettings

MODEL, GPU, SCOPE = "llama-3.1-70b", "A100-80", "live/llama"
MACHINE = 8
"""GPUs of one machine."""
PHASES = 4
SAMPLE_S = 0.5


@dataclass
class Run:
    """What was seen, times in seconds since the start."""

    started: float = field(default_factory=time.monotonic)
    beats: dict[str, Heartbeat] = field(default_factory=dict)
    plans: list[tuple[float, PlanChanged]] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)
    answers: list[dict[str, float]] = field(default_factory=list)
    gpus: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Some replica serves."""

    @property
    def now(self) -> float:
        return time.monotonic() - self.started

    def beat(self, item: Received[Heartbeat]) -> None:
        self.beats[item.message.replica] = item.message
        if item.message.state == "ready":
            self.ready.set()

    async def plan(self, item: Delivered[PlanChanged]) -> None:
        self.plans.append((self.now, item.message))

    def sample(self) -> None:
        serving = [beat for beat in self.beats.values() if beat.state == "ready"]
        held = sum(beat.running + beat.waiting for beat in serving)
        self.samples.append(
            {"at_s": self.now, "gpus": self.gpus, "serving_gpus": sum(b.tp for b in serving), "held": held}
        )


class Machines:
    """The cluster: as many GPUs as the schedule says, packed onto machines in order."""

    def __init__(self, bus: Bus, responders: Responders, run: Run, *, load_s: float) -> None:
        self._bus, self._responders, self._run = bus, responders, run
        self._settings = WorkerSettings(node="live", load_base_s=load_s, load_bandwidth=0.0, drain_s=load_s)
        self._nodes: dict[int, Node] = {}

    async def resize(self, gpus: int) -> None:
        self._run.gpus = gpus
        for number in range(-(-64 // MACHINE)):
            mine = min(MACHINE, max(0, gpus - number * MACHINE))
            node = self._nodes.get(number)
            if node is None and mine:
                await self._start(number, mine)
            elif node is not None and mine:
                node.resize({GPU: mine})
            elif node is not None:
                del self._nodes[number]
                await node.stop(0.0)

    async def stop(self) -> None:
        await asyncio.gather(*(node.stop(0.0) for node in self._nodes.values()))

    async def _start(self, number: int, gpus: int) -> None:
        make = simulated(self._settings)
        place = Place(node=f"m{number}", preemptible=True)
        node = Node(self._bus, self._responders, place, {GPU: gpus}, make, drain_s=self._settings.drain_s)
        await node.start([])
        node.follow_planner()
        self._nodes[number] = node


@asynccontextmanager
async def installation(arguments: argparse.Namespace) -> AsyncIterator[tuple[Bus, str]]:
    """NATS, a router and a planner; the bus and the router's URL."""
    with tempfile.TemporaryDirectory() as folder, Supervisor(Path(folder)) as supervisor:
        nats = await asyncio.to_thread(start_nats, supervisor, Path(folder) / "nats")
        step = arguments.bucket / 3
        env = {
            "AUTOPOIESIS_BUS_URL": nats.url,
            "AUTOPOIESIS_SCOPE": SCOPE,
            "AUTOPOIESIS_ROUTER_PORT": str(free_port()),
            "AUTOPOIESIS_ROUTER_POLICY": "least_requests",
            "AUTOPOIESIS_ROUTER_NO_REPLICA_WAIT_S": "60",
            "AUTOPOIESIS_PLANNER_STEP_S": str(step),
            "AUTOPOIESIS_PLANNER_COOLDOWN_S": str(2 * arguments.bucket),
            "AUTOPOIESIS_PLANNER_SILENCE_S": "30",
            "AUTOPOIESIS_PLANNER_MODELS": json.dumps({MODEL: {"min_replicas": 1}}),
        }
        router = await _service(supervisor, "autopoiesis.router", env)
        await _service(supervisor, "autopoiesis.router.planner", env)
        bus = await Bus.connect(nats.url, name="live", inbox_prefix="_INBOX.worker")
        await bus.ensure_streams()
        try:
            yield bus, str(router["http"])
        finally:
            await bus.close()


async def _service(supervisor: Supervisor, module: str, env: dict[str, str]) -> dict[str, Any]:
    argv = [sys.executable, "-m", module]
    child = await asyncio.to_thread(supervisor.start, module, argv, env=env, ready="notify", timeout=60.0)
    return dict(child.ready or {})


async def activate(bus: Bus, source: str) -> None:
    policy = compile_policy(source, "plan")
    activation = Activation(
        scope=SCOPE,
        kind="plan",
        epoch=1,
        hash=policy.hash,
        source=policy.source,
        api=API_VERSION,
        cause="operator: live run",
        at_unix_s=time.time(),
    )
    await bus.publish_event(PROMOTED, activation, msg_id="1", scope=slug(SCOPE), kind="plan")


async def traffic(
    url: str, run: Run, phases: list[list[int]], arguments: argparse.Namespace, buckets: int
) -> None:
    """Requests by a seeded Poisson process until the schedule ends; waits for their answers."""
    draw = random.Random(arguments.seed)
    end = buckets * arguments.bucket
    async with httpx.AsyncClient(base_url=url, timeout=600.0) as client, asyncio.TaskGroup() as group:
        at = draw.expovariate(arguments.rate)
        while at < end:
            await asyncio.sleep(max(0.0, at - run.now))
            prompt, output = phases[min(PHASES - 1, int(at / end * PHASES))]
            group.create_task(_ask(client, run, prompt, output))
            at += draw.expovariate(arguments.rate)


async def _ask(client: httpx.AsyncClient, run: Run, prompt: int, output: int) -> None:
    at = run.now
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "word" * prompt}],
        "max_tokens": output,
        "simulate": {"output_tokens": output},
    }
    try:
        answer = await client.post("/v1/chat/completions", json=body)
        status = answer.status_code
    except httpx.HTTPError:
        status = 0
    run.answers.append({"at_s": at, "took_s": run.now - at, "status": status, "output_tokens": output})


async def live(
    arguments: argparse.Namespace, schedule: list[int], phases: list[list[int]], source: str
) -> Run:
    async with installation(arguments) as (bus, url):
        responders = await Responders.start(bus, "live", coalesce=0)
        run = Run()
        await bus.subscribe(HEARTBEAT, run.beat)
        await bus.consume(PLAN_CHANGED, "live", run.plan)
        machines = Machines(bus, responders, run, load_s=arguments.bucket)
        await machines.resize(schedule[0])
        await activate(bus, source)
        await run.ready.wait()
        run.started = time.monotonic()
        asking = asyncio.create_task(traffic(url, run, phases, arguments, len(schedule)))
        while (bucket := int(run.now / arguments.bucket)) < len(schedule):
            if schedule[bucket] != run.gpus:
                await machines.resize(schedule[bucket])
            run.sample()
            await asyncio.sleep(SAMPLE_S)
        await asking
        await machines.stop()
        await responders.close()
    return run


def summary(run: Run) -> dict[str, Any]:
    done = [answer for answer in run.answers if answer["status"] == 200]
    took = [answer["took_s"] / answer["output_tokens"] for answer in done]
    there = sum(sample["gpus"] for sample in run.samples)
    return {
        "requests": len(run.answers),
        "finished": len(done),
        "failed_by_status": Counter(answer["status"] for answer in run.answers if answer["status"] != 200),
        "seconds_per_token_mean": fmean(took) if took else None,
        "seconds_per_token_p95": quantiles(took, n=20)[-1] if len(took) > 1 else None,
        "tokens_per_s": sum(a["output_tokens"] for a in done) / max(s["at_s"] for s in run.samples),
        "plan_changes": len(run.plans),
        "gpus_serving_share": sum(sample["serving_gpus"] for sample in run.samples) / max(1, there),
    }


def picture(run: Run, path: Path, title: str) -> None:
    """GPUs there, GPUs that serve, requests held, and every plan change. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    at = [sample["at_s"] for sample in run.samples]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, height_ratios=(2, 1))
    top.step(at, [sample["gpus"] for sample in run.samples], where="post", label="GPUs there", color="0.6")
    top.step(
        at, [sample["serving_gpus"] for sample in run.samples], where="post", label="GPUs serving", color="C0"
    )
    for when, _ in run.plans:
        top.axvline(when, color="C3", lw=0.8, alpha=0.6)
    top.set(ylabel="A100-80", title=f"{title}: {len(run.plans)} plan changes (red)")
    top.legend(loc="upper right")
    bottom.fill_between(at, [sample["held"] for sample in run.samples], color="C1", alpha=0.5)
    bottom.set(xlabel="seconds", ylabel="requests in replicas")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="plan_full_migration", help="a shipped plan policy, or a file")
    parser.add_argument("--case", choices=("MAF1", "MAF2"), default="MAF1")
    parser.add_argument("--bucket", type=float, default=6.0, help="seconds of one bucket of the schedule")
    parser.add_argument("--buckets", type=int, default=40, help="how many of the 40 buckets to run")
    parser.add_argument("--rate", type=float, default=2.0, help="requests per second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    if not (arguments.data / "traces.json").exists():
        print(f"skipped: the paper's figures are not in {arguments.data}; name their folder with --data")
        return
    figures = json.loads((arguments.data / "traces.json").read_text())
    schedule = figures["spotserve_cluster_schedule_3s"][: arguments.buckets]
    shipped = arguments.policy in library.names("plan", every=True)
    source = library.source(arguments.policy) if shipped else Path(arguments.policy).read_text()
    run = asyncio.run(live(arguments, schedule, figures["spotserve_hidden_phases"][arguments.case], source))
    print(f"{'at s':>7}{'GPUs':>6}{'started':>9}{'stopped':>9}{'replicas':>10}{'decided in s':>14}")
    for when, plan in run.plans:
        counts = f"{len(plan.started):9d}{len(plan.stopped):9d}{len(plan.replicas):10d}"
        print(f"{when:7.1f}{sum(plan.gpus.values()):6d}{counts}{plan.decision_s:14.3f}")
    facts = summary(run)
    print("\n" + "\n".join(f"{name:24}{_shown(value)}" for name, value in facts.items()))
    if arguments.json:
        changes = [
            {"at_s": when, "gpus": plan.gpus, "started": plan.started, "stopped": plan.stopped}
            for when, plan in run.plans
        ]
        arguments.json.write_text(
            json.dumps({**facts, "policy": arguments.policy, "changes": changes}, indent=1) + "\n"
        )
    if arguments.picture:
        picture(run, arguments.picture, f"{arguments.policy}, {arguments.case}")


def _shown(value: object) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, int | float)
        else str(dict(value) if isinstance(value, Counter) else value)
    )


if __name__ == "__main__":
    main()
