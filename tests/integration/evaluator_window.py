"""A recorded window of real shape for the evaluator's tests: a mixed fleet, two classes, more load than round robin can take."""

from recorded_window import keep, records

from autopoiesis.contracts.messages.fleet import Heartbeat
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
    info = SnapshotInfo(
        scope=SCOPE,
        start_unix_s=start,
        end_unix_s=start + seconds,
        fleet=fleet,
        scored_from_s=WARM_UP_S,
        step_error=0.05,
    )
    return write_snapshot(records(trace, SCOPE, start), info)


async def keep_window(store: Store, blobs: BlobStore) -> SnapshotReady:
    """Store one window, as the observer would."""
    return await keep(store, blobs, (half(1), half(2)), SCOPE, start_unix_s=1000.0, half_s=34.0)
