"""A recorded window with a planner at work: one replica of four, and more load than it can take."""

from recorded_window import keep, records

from autopoiesis.contracts.messages.fleet import (
    Heartbeat,
    ModelLoad,
    PlannedReplicas,
    PlanObserved,
    PlanRules,
)
from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.simulator.workload.generate import INTERACTIVE, poisson
from autopoiesis.simulator.workload.snapshot import SnapshotInfo, write_snapshot
from autopoiesis.store import BlobStore, Store

MODEL = "llama-3.1-8b"
SCOPE = f"local/{MODEL}"
GPU, GPUS = "L40S", 4
SECONDS, STEP_S = 60.0, 4.0
RATE = 9.0
RULES = PlanRules(step_s=STEP_S, window_s=10.0, cooldown_s=20.0)


def half(start: float, *, seed: int) -> bytes:
    trace = poisson(RATE, SECONDS, mix=(INTERACTIVE,), seed=seed)
    info = SnapshotInfo(
        scope=SCOPE,
        start_unix_s=start,
        end_unix_s=start + SECONDS,
        scored_from_s=2.0,
        fleet=(
            Heartbeat(
                node="n1",
                replica="r1",
                incarnation="1",
                beat=1,
                state="ready",
                model=MODEL,
                gpu=GPU,
                max_running=256,
                kv_capacity_tokens=150_000,
            ),
        ),
        planned=tuple(step(start, number) for number in range(int(SECONDS / STEP_S))),
        start_s=4.0,
    )
    return write_snapshot(records(trace, SCOPE, start), info)


def step(start: float, number: int) -> PlanObserved:
    return PlanObserved(
        scope=SCOPE,
        step=number,
        at_unix_s=start + number * STEP_S,
        policy="",
        epoch=0,
        gpus={GPU: GPUS},
        demand={MODEL: ModelLoad(concurrency=40, arrival_rate=RATE, prompt_tokens=500, output_tokens=200)},
        plan=(PlannedReplicas(model=MODEL, gpu=GPU, tp=1, count=1),),
        rules=RULES,
    )


async def keep_window(store: Store, blobs: BlobStore) -> SnapshotReady:
    """Store one window, as the observer would."""
    start = 5000.0
    halves = half(start, seed=1), half(start + SECONDS, seed=2)
    return await keep(store, blobs, halves, SCOPE, start_unix_s=start, half_s=SECONDS)
