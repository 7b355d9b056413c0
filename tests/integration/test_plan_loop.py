"""The paper's claim on real servers: a plan policy is written, proven and promoted, and the planner runs it while requests flow."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from planned_window import MODEL, SCOPE, keep_window
from planner_world import Connect, World, planner_processes, simulated_nodes
from router_harness import RunningRouter, running_router

from autopoiesis.contracts.messages.policy import Activation, Judgement, Proposed
from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.evaluator.gates import gates
from autopoiesis.evaluator.guard import Guard
from autopoiesis.evaluator.jailed import MODULES as EVALUATOR_MODULES
from autopoiesis.evaluator.jailed import SIMULATOR, JailedSimulation
from autopoiesis.evaluator.judge import Judge
from autopoiesis.evaluator.metrics import Metrics
from autopoiesis.evaluator.promoter import Promoter
from autopoiesis.evaluator.replays import Replays
from autopoiesis.evaluator.settings import EvaluatorSettings
from autopoiesis.evaluator.shipped import initials, keep_shipped
from autopoiesis.policy.jail import Jail
from autopoiesis.policy.language import compile_policy
from autopoiesis.runtime.bus import Bus
from autopoiesis.store import BlobStore, Store, operations, promotion
from autopoiesis.synthesizer.cycle import Cycle
from autopoiesis.synthesizer.llm import Answer
from autopoiesis.synthesizer.replay import MODULES as SYNTHESIZER_MODULES
from autopoiesis.synthesizer.settings import SynthesizerSettings

WaitFor = Callable[..., Awaitable[None]]
ROUTER: dict[str, Any] = {"silence_s": 5.0, "suspect_after_s": 1.0, "no_replica_wait_s": 20.0}
SETTINGS = EvaluatorSettings(loads=(1.0,), seeds=1)
ANSWER = '''Three GPUs are idle while requests queue: one replica on each.
```python
"""One replica on every GPU."""
API = 1


def should_reschedule(ctx):
    return ctx.plan is None or sum(entry.count for entry in ctx.plan) != ctx.gpus[0].count


def schedule(ctx):
    return [Replicas(0, ctx.gpus[0].type, 1, ctx.gpus[0].count)]
```'''
FAULTY = """API = 1
def should_reschedule(ctx):
    return True
def schedule(ctx):
    return [Replicas(0, ctx.gpus[0].type, 1, 99)]
"""


class Scripted:
    """A language model with one thing to say."""

    name = "scripted"

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def worst_case(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, float]:
        return 1000, 0.0

    async def complete(
        self, messages: Sequence[Mapping[str, str]], *, timeout_s: float | None = None
    ) -> Answer:
        self.prompts.append("\n".join(message["content"] for message in messages))
        return Answer(ANSWER, self.name, 900, 100, 0.0, 0.1)


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with Jail([*EVALUATOR_MODULES, *SYNTHESIZER_MODULES], workers=2) as built:
        yield built


@pytest.fixture
async def store(migrated_url: str) -> AsyncIterator[Store]:
    async with await Store.open(migrated_url) as opened:
        await keep_shipped(opened)
        yield opened


@pytest.fixture
async def world(connect: Connect, wait_for: WaitFor) -> AsyncIterator[World]:
    """Two nodes with two L40S each; half of them serve."""
    async with simulated_nodes(connect, SCOPE, MODEL, "2xL40S", names=("n1", "n2"), serving=1) as made:
        await wait_for(lambda: len(made.ready(MODEL)) == 2)
        yield made


@pytest.fixture
async def promoting(store: Store, connect: Connect, wait_for: WaitFor) -> AsyncIterator[None]:
    own = await connect("evaluator")
    await own.ensure_streams()
    promoter = Promoter(store, own, Guard(store, SETTINGS, configured="auto"), poll_s=0.01)
    task = asyncio.create_task(promoter.run())
    await wait_for(lambda: promoter.leading)
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def traffic(router: RunningRouter) -> AsyncIterator[list[int]]:
    """Requests, four at a time, until the block ends; their status codes."""
    answers: list[int] = []
    ending = asyncio.Event()

    async def ask() -> None:
        while not ending.is_set():
            answer = await router.chat(model=MODEL, simulate={"output_tokens": 20})
            answers.append(answer.status_code)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(ask())
        yield answers
        ending.set()


async def synthesized(
    store: Store, blobs: BlobStore, jail: Jail, ready: SnapshotReady
) -> tuple[Proposed, str]:
    """The best that one cycle on the snapshot proposes, and the first prompt."""
    model = Scripted()
    own = SynthesizerSettings(plan_candidates=1, plan_loads=(1.0,), plan_cycle_s=60.0, calls=1, propose=1)
    cycle = Cycle(own, ready, "plan", store=store, blobs=blobs, jail=jail, model=model)  # type: ignore[arg-type]
    await cycle.run()
    async with store.begin() as unit:
        outgoing = await unit.outbox.waiting("synthesizer")
    return msgspec.json.decode(outgoing[0].payload, type=Proposed), model.prompts[0]


async def judged(store: Store, blobs: BlobStore, jail: Jail, proposed: Proposed) -> Judgement:
    replays = Replays(JailedSimulation(jail), store, blobs, SETTINGS)
    judge = Judge(
        store,
        gates(store, jail, replays, SETTINGS),
        first=initials(SETTINGS),
        configured="auto",
        simulator=SIMULATOR,
        metrics=Metrics(),
    )
    return await judge.judge(proposed)


@pytest.mark.usefixtures("promoting")
async def test_a_plan_policy_is_written_proven_promoted_and_runs_while_requests_flow(
    world: World, store: Store, jail: Jail, nats_url: str, tmp_path: Path, wait_for: WaitFor
) -> None:
    blobs = BlobStore(tmp_path)
    async with planner_processes(nats_url, SCOPE) as spawn, running_router(nats_url, **ROUTER) as router:
        await spawn()
        await wait_for(router.ready)
        await wait_for(lambda: world.steps, timeout=60)
        async with traffic(router) as answers:
            proposed, prompt = await synthesized(store, blobs, jail, await keep_window(store, blobs))
            judgement = await judged(store, blobs, jail, proposed)
            assert judgement.verdict == "promote", judgement.reason
            await wait_for(lambda: len(world.ready(MODEL)) == 4, timeout=60)
            seen = len(answers)
            await wait_for(lambda: len(answers) > seen + 20)
    assert "4 L40S; demand llama-3.1-8b 40 at once" in prompt
    assert "a replica that starts is ready after 4.0 s" in prompt
    assert (proposed.kind, proposed.origin) == ("plan", "llm")
    assert (judgement.kind, judgement.faults) == ("plan", 0)
    assert judgement.gain_low > 0
    assert judgement.incumbent == initials(SETTINGS)["plan"].hash
    assert judgement.best_baseline.startswith("plan_")
    assert set(answers) == {200}
    await wait_for(lambda: world.plans)
    (moved,) = world.plans
    in_force = {item.activation.kind: item.activation for item in await operations.in_force(store)}
    assert (moved.policy, moved.epoch) == (proposed.hash, in_force["plan"].epoch)
    assert (len(moved.started), moved.stopped) == (2, ())
    assert world.faults == []


@pytest.mark.usefixtures("promoting")
async def test_a_plan_policy_that_faults_is_taken_back(
    world: World, store: Store, bus: Bus, nats_url: str, wait_for: WaitFor
) -> None:
    keep, faulty = initials(SETTINGS)["plan"], compile_policy(FAULTY, "plan")
    async with planner_processes(nats_url, SCOPE) as spawn:
        await spawn()
        await wait_for(lambda: world.steps, timeout=60)
        async with store.begin() as unit:
            await unit.policies.add(
                hash=faulty.hash, kind="plan", api=1, source=faulty.source, origin="operator"
            )
            await promotion.promote(unit, SCOPE, "plan", keep.hash, expected=None, cause="test")
            await promotion.promote(unit, SCOPE, "plan", faulty.hash, expected=keep.hash, cause="test")

        async def taken_back() -> Activation | None:
            (standing,) = await operations.in_force(store)
            return standing.message if standing.message.hash == keep.hash else None

        await wait_for(taken_back, timeout=60)
        (standing,) = await operations.in_force(store)
        assert standing.message.cause.startswith("rollback: quarantined by planner-")
        epoch = standing.message.epoch
        await wait_for(lambda: world.steps[-1].epoch == epoch, timeout=60)
    assert [fault.strikes for fault in world.faults] == [1, 2, 3]
    assert len(world.ready(MODEL)) == 2
    assert world.plans == []
