"""What tests of recorded windows share: a trace as the records that routers send, and a window as the observer stores it."""

from hashlib import sha256

from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.simulator.workload import Trace
from autopoiesis.store import BlobStore, Store


def records(trace: Trace, scope: str, start_unix_s: float) -> list[RequestRecord]:
    """All finished."""
    return [
        RequestRecord(
            request_id=f"{start_unix_s}-{row}",
            scope=scope,
            model=scope.partition("/")[2],
            arrival_unix_s=start_unix_s + float(trace.arrival[row]),
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


async def keep(
    store: Store,
    blobs: BlobStore,
    halves: tuple[bytes, bytes],
    scope: str,
    *,
    start_unix_s: float,
    half_s: float,
) -> SnapshotReady:
    """Store one window, the open half first, as the observer would."""
    open_, sealed = halves
    name = blobs.put(open_)
    ready = SnapshotReady(
        scope=scope,
        snapshot=name,
        sealed=sha256(sealed).hexdigest(),
        start_unix_s=start_unix_s,
        cut_unix_s=start_unix_s + half_s,
        end_unix_s=start_unix_s + 2 * half_s,
        arrivals=1000,
        sealed_arrivals=1000,
        cause="test",
    )
    async with store.begin() as unit:
        await unit.snapshots.add(ready, path=str(blobs.path(name)), sealed=sealed)
    return ready
