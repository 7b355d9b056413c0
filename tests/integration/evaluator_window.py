"""A recorded window of real shape for the evaluator's tests: a mixed fleet, two classes, more load than round robin can take."""

from hashlib import sha256

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.simulator.workload.generate import BATCH, INTERACTIVE, poisson
from autopoiesis.simulator.workload.snapshot import SnapshotInfo, write_snapshot
from autopoiesis.store import BlobStore, Store

SCOPE = "local/Llama-3.1-8B"
MODEL = "Llama-3.1-8B"
WARM_UP_S = 4.0
KV_TOKENS = {"H100": 400_000, "L40S": 150_000}


def half(seed: int, *, seconds: float = 34.0, rate: float = 30.0) -> bytes:
    """One blob, two H100 and two L40S."""
    trace = poisson(rate, seconds, mix=(INTERACTIVE, BATCH), seed=seed)
    fleet = tuple(
        Heartbeat(
            node=f"n{number}",
            replica=f"r{number}",
            incarnation="1",
            beat=1,
            state="ready",
            model=MODEL,
            gpu=gpu,
            max_running=256,
            kv_capacity_tokens=KV_TOKENS[gpu],
        )
        for number, gpu in enumerate(["H100", "H100", "L40S", "L40S"])
    )
    start = 1000.0 * seed
    records = [
        RequestRecord(
            request_id=str(row),
            scope=SCOPE,
            model=MODEL,
            arrival_unix_s=start + float(trace.arrival[row]),
            stream=True,
            prompt_bytes=4 * int(trace.prompt_tokens[row]),
            prompt_tokens=int(trace.prompt_tokens[row]),
            prompt_tokens_estimated=int(trace.prompt_tokens[row]),
            max_tokens=4096,
            output_tokens=int(trace.output_tokens[row]),
            output_censored=False,
            outcome="finished",
            klass=trace.classes[int(trace.klass[row])],
        )
        for row in range(len(trace))
    ]
    info = SnapshotInfo(
        scope=SCOPE,
        start_unix_s=start,
        end_unix_s=start + seconds,
        fleet=fleet,
        scored_from_s=WARM_UP_S,
        step_error=0.05,
    )
    return write_snapshot(records, info)


async def keep_window(store: Store, blobs: BlobStore) -> SnapshotReady:
    """Store one window, as the observer would."""
    open_, sealed = half(1), half(2)
    name = blobs.put(open_)
    ready = SnapshotReady(
        scope=SCOPE,
        snapshot=name,
        sealed=sha256(sealed).hexdigest(),
        start_unix_s=1000.0,
        cut_unix_s=1034.0,
        end_unix_s=2034.0,
        arrivals=1000,
        sealed_arrivals=1000,
        cause="test",
    )
    async with store.begin() as unit:
        await unit.snapshots.add(ready, path=str(blobs.path(name)), sealed=sealed)
    return ready
