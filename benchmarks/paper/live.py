"""A live run under the paper's elastic membership schedule (Section 7, SpotServe's case: 24 to 64 and back to 43 A100).

    python benchmarks/paper/live.py [--policy NAME|FILE] [--case MAF1|MAF2] [--bucket 6] [--rate 8] [--json FILE] [--picture FILE]

A real NATS server, router and planner process; eight simulated machines, whose GPUs come and go by the schedule, one bucket (3 s in
the paper) in `--bucket` seconds. Requests arrive at random with the lengths of the case's four phases. Prints every change of the
plan, and what requests saw. Needs the paper's figures beside the checkout, or in `--data`; skipped where they are not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

import httpx
import msgspec
from cases import DATA

from autopoiesis.cli.installation import Installation, Running, Shape
from autopoiesis.cli.sections import SECTIONS
from autopoiesis.contracts.messages.fleet import Heartbeat, PlanChanged
from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.contracts.messages.telemetry import RequestBatch, RequestRecord
from autopoiesis.contracts.slo import Objectives, SloClass, met
from autopoiesis.contracts.subjects import HEARTBEAT, PLAN_CHANGED, PROMOTED, REQUEST_TELEMETRY, slug
from autopoiesis.policy import API_VERSION, library
from autopoiesis.policy.language import compile_policy
from autopoiesis.runtime.bus import Bus, Delivered, Received, Responders
from autopoiesis.runtime.settings import Settings
from autopoiesis.worker.app import simulated
from autopoiesis.worker.layout import ReplicaSpec
from autopoiesis.worker.node import Node
from autopoiesis.worker.serving import Place
from autopoiesis.worker.settings import WorkerSettings

MODEL, GPU = "llama-3.1-70b", "A100-80"
SCOPE = f"live/{MODEL}"
ROUTING = "least_requests"
SLO = Objectives(
    classes={"interactive": SloClass(priority=0, ttft_s=2.0, tpot_s=0.06)}, default="interactive"
)
MACHINE = 8
"""GPUs of one machine."""
PHASES = 4
SAMPLE_S = 0.5
PATIENCE_S = 30.0
"""For the last records after the last answer."""


@dataclass
class Run:
    """What was seen, times in seconds since the start."""

    started: float = math.inf
    """By the monotonic clock; until then every time is below zero."""
    beats: dict[str, Heartbeat] = field(default_factory=dict)
    plans: list[tuple[float, PlanChanged]] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)
    answers: list[dict[str, float]] = field(default_factory=list)
    records: list[RequestRecord] = field(default_factory=list)
    """Of every request that ended, as routers tell of it."""
    heard: asyncio.Event = field(default_factory=asyncio.Event)
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

    def ended(self, item: Received[RequestBatch]) -> None:
        self.records += item.message.records
        self.heard.set()

    async def told(self) -> None:
        """Until routers have told of every request that was answered."""
        while len(self.records) < len(self.answers):
            self.heard.clear()
            await self.heard.wait()

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
        """Machines that are there from the beginning serve, with all their GPUs as one replica."""
        make = simulated(self._settings)
        place = Place(node=f"m{number}", preemptible=True)
        node = Node(self._bus, self._responders, place, {GPU: gpus}, make, drain_s=self._settings.drain_s)
        serving = (
            [ReplicaSpec(name=f"m{number}-first", model=MODEL, gpu=GPU, tp=MACHINE)]
            if self._run.now < 0
            else []
        )
        await node.start(serving)
        node.follow_planner()
        self._nodes[number] = node


@asynccontextmanager
async def installed(
    arguments: argparse.Namespace, control_plane: Mapping[str, Mapping[str, str]] | None = None
) -> AsyncIterator[tuple[Bus, Running]]:
    """NATS, a router and a planner; with `control_plane`, settings by service, also what writes policies, in mode auto."""
    settings = Settings.load(
        *SECTIONS, env={}, flags={"scope": SCOPE, "mode": "auto" if control_plane else "advise"}
    )
    objectives = {
        "AUTOPOIESIS_SLO_CLASSES": msgspec.json.encode(SLO.classes).decode(),
        "AUTOPOIESIS_SLO_DEFAULT": SLO.default,
    }
    planner = {
        "STEP_S": arguments.bucket / 3,
        "COOLDOWN_S": 2 * arguments.bucket,
        "WINDOW_S": 5 * arguments.bucket,
        "SILENCE_S": 30,
        "MODELS": json.dumps({MODEL: {"min_replicas": 1}}),
    }
    shape = Shape(
        workers=(),
        control_plane=control_plane is not None,
        planner=True,
        env=objectives,
        service_env={
            "router": {
                "AUTOPOIESIS_ROUTER_PORT": "0",
                "AUTOPOIESIS_ROUTER_POLICY": ROUTING,
                "AUTOPOIESIS_ROUTER_NO_REPLICA_WAIT_S": "60",
            },
            "router.planner": {f"AUTOPOIESIS_PLANNER_{key}": str(value) for key, value in planner.items()},
            **(control_plane or {}),
        },
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        Installation(Path(folder), settings, shape, progress=lambda what: None) as installation,
    ):
        running = await asyncio.to_thread(installation.start)
        bus = await Bus.connect(running.nats, name="live", inbox_prefix="_INBOX.worker")
        await bus.ensure_streams()
        try:
            yield bus, running
        finally:
            await bus.close()


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
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=url, timeout=600.0, limits=limits) as client,
        asyncio.TaskGroup() as group,
    ):
        at = draw.expovariate(arguments.rate)
        while at < end:
            await asyncio.sleep(max(0.0, at - run.now))
            prompt, output = lengths_at(at / end, phases)
            group.create_task(_ask(client, run, prompt, output))
            at += draw.expovariate(arguments.rate)


def lengths_at(share: float, phases: list[list[int]]) -> tuple[int, int]:
    """Prompt and output tokens of a request that arrives after that share of the run."""
    prompt, output = phases[min(PHASES - 1, int(share * PHASES))]
    return prompt, output


async def _ask(client: httpx.AsyncClient, run: Run, prompt: int, output: int) -> None:
    """Its prompt begins like no other: what prefix caches hold does not help."""
    at = run.now
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"{at:.6f} {'word' * prompt}"}],
        "max_tokens": output,
        "simulate": {"output_tokens": output},
    }
    try:
        answer = await client.post("/v1/chat/completions", json=body)
        status = answer.status_code
    except httpx.HTTPError:
        status = 0
    run.answers.append({"at_s": at, "took_s": run.now - at, "status": status, "output_tokens": output})


async def serve(
    arguments: argparse.Namespace,
    schedule: list[int],
    phases: list[list[int]],
    bus: Bus,
    url: str,
    *,
    run: Run | None = None,
) -> Run:
    """The whole schedule, under whatever plan policy is in force."""
    responders = await Responders.start(bus, "live", coalesce=0)
    run = run or Run()
    await bus.subscribe(HEARTBEAT, run.beat)
    await bus.subscribe(REQUEST_TELEMETRY, run.ended)
    await bus.consume(PLAN_CHANGED, "live", run.plan)
    machines = Machines(bus, responders, run, load_s=arguments.bucket)
    await machines.resize(schedule[0])
    await run.ready.wait()
    run.started = time.monotonic()
    asking = asyncio.create_task(traffic(url, run, phases, arguments, len(schedule)))
    while (bucket := int(run.now / arguments.bucket)) < len(schedule):
        if schedule[bucket] != run.gpus:
            await machines.resize(schedule[bucket])
        run.sample()
        await asyncio.sleep(SAMPLE_S)
    await asking
    try:
        await asyncio.wait_for(run.told(), PATIENCE_S)
    except TimeoutError:
        untold = len(run.answers) - len(run.records)
        print(f"routers told nothing of {untold} requests; they count as if they had missed their objectives")
    await machines.stop()
    await responders.close()
    return run


async def live(
    arguments: argparse.Namespace, schedule: list[int], phases: list[list[int]], source: str
) -> Run:
    async with installed(arguments) as (bus, running):
        await activate(bus, source)
        return await serve(arguments, schedule, phases, bus, running.router)


def summary(run: Run) -> dict[str, Any]:
    done = [answer for answer in run.answers if answer["status"] == 200]
    took = [answer["took_s"] / answer["output_tokens"] for answer in done]
    there = sum(sample["gpus"] for sample in run.samples)
    return {
        "requests": len(run.answers),
        "finished": len(done),
        "failed_by_status": Counter(answer["status"] for answer in run.answers if answer["status"] != 200),
        "goodput_per_s": sum(map(_met, run.records)) / max(s["at_s"] for s in run.samples),
        "attainment": sum(map(_met, run.records)) / max(1, len(run.answers)),
        "seconds_per_token_mean": fmean(took) if took else None,
        "seconds_per_token_p95": quantiles(took, n=20)[-1] if len(took) > 1 else None,
        "tokens_per_s": sum(a["output_tokens"] for a in done) / max(s["at_s"] for s in run.samples),
        "plan_changes": len(run.plans),
        "gpus_serving_share": sum(sample["serving_gpus"] for sample in run.samples) / max(1, there),
    }


def _met(record: RequestRecord) -> bool:
    return met(
        record.ttft_s,
        record.tpot_s,
        ttft_slo_s=record.ttft_slo_s,
        tpot_slo_s=record.tpot_slo_s,
        finished=record.outcome == "finished",
    )


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
    parser.add_argument("--rate", type=float, default=8.0, help="requests per second")
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
