"""The observer as a real process on real servers: nothing lost, nothing doubled, sealed halves denied."""

import asyncio
import sys
import time
from typing import Any

import asyncpg
import httpx
import msgspec
import pyarrow.compute as pc
import pytest

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.telemetry import RequestBatch, RequestRecord, StepBatch, StepRecord
from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.contracts.subjects import HEARTBEAT, REQUEST_TELEMETRY, SNAPSHOT, STEP_TELEMETRY, slug
from autopoiesis.observer.segments import SegmentLog
from autopoiesis.runtime.bus import Bus
from autopoiesis.simulator.workload.snapshot import read_snapshot
from autopoiesis.store import Store, provision

SCOPE = "local/Llama-3.1-8B"


def record(number, at, **fields):
    defaults = {
        "request_id": f"r{number}",
        "scope": SCOPE,
        "model": "Llama-3.1-8B",
        "arrival_unix_s": at,
        "stream": True,
        "prompt_bytes": 2000,
        "prompt_tokens": 500,
        "prompt_tokens_estimated": 500,
        "max_tokens": 300,
        "output_tokens": 100,
        "output_censored": False,
        "outcome": "finished",
        "klass": "interactive",
        "ttft_slo_s": 1.0,
        "tpot_slo_s": 0.06,
        "ttft_s": 0.3,
        "tpot_s": 0.02,
        "e2e_s": 2.3,
        "replica": "n0-0",
        "gpu": "H100",
    }
    return RequestRecord(**{**defaults, **fields})


@pytest.fixture
async def role_urls(database_url):
    return await provision(database_url, lambda role: f"password of {role}")


@pytest.fixture
def start(supervisor, nats_server, nats_url, role_urls, tmp_path):
    """Start the service; it restarts by itself when it dies, as in an installation."""
    children: list[Any] = []

    def started(**env):
        child = supervisor.start(
            f"observer-{tmp_path.name}-{len(children)}",
            [sys.executable, "-m", "autopoiesis.observer"],
            env={
                "AUTOPOIESIS_BUS_URL": nats_url,
                "AUTOPOIESIS_DATABASE_URL": role_urls["observer"],
                "AUTOPOIESIS_BLOBS_DIR": str(tmp_path / "blobs"),
                "AUTOPOIESIS_OBSERVER_DIR": str(tmp_path / "segments"),
                "AUTOPOIESIS_OBSERVER_SNAPSHOT_EVERY_S": "0",
                **{f"AUTOPOIESIS_OBSERVER_{key}": str(value) for key, value in env.items()},
            },
            ready="notify",
            restart=True,
        )
        children.append(child)
        return child

    yield started
    for child in children:
        child.stop()


@pytest.fixture
async def bus(nats_url):
    connected = await Bus.connect(nats_url, name="test")
    await connected.ensure_streams()
    yield connected
    await connected.close()


async def get(child, path):
    """JSON of the read API, none while the process is between two lives."""
    if not child.ready:
        return None
    async with httpx.AsyncClient() as client:
        try:
            answer = await client.get(child.ready["http"] + path, timeout=5)
        except httpx.TransportError:
            return None
    return answer.json()


async def arrivals(child):
    """Arrivals of the last quarter of an hour that it knows of."""
    found = await get(child, "/v1/windows?seconds=900&step_s=1")
    return sum(w["overall"]["arrivals"] for w in found or ())


def stored_bytes(folder):
    """Bytes of write-ahead and Parquet files together: grows with each write."""
    return sum(path.stat().st_size for path in folder.glob("requests/0*") if path.exists())


async def test_killed_in_the_middle_of_traffic_it_loses_and_doubles_nothing(start, bus, wait_for, tmp_path):
    child = start(SEGMENT_ROWS=60)
    began = time.time() - 300
    published = 0
    enough = asyncio.Event()

    async def publish():
        nonlocal published
        while not enough.is_set():
            first = published * 10
            records = tuple(record(n, began + n * 0.01) for n in range(first, first + 10))
            message = RequestBatch(router="router-a", incarnation="one", batch=published, records=records)
            await bus.publish_event(REQUEST_TELEMETRY, message, msg_id=f"a{published}", router="router-a")
            published += 1
            await asyncio.sleep(0.01)

    traffic = asyncio.create_task(publish())
    for _ in range(2):
        before, life = stored_bytes(tmp_path / "segments"), child.ready["pid"]
        await wait_for(lambda before=before: stored_bytes(tmp_path / "segments") > before, timeout=20)
        child.kill()
        await wait_for(lambda life=life: child.ready and child.ready["pid"] != life, timeout=30)
    enough.set()
    await traffic
    await bus.publish_event(  # a batch that was stored long ago comes once more
        REQUEST_TELEMETRY,
        RequestBatch(router="router-a", incarnation="one", batch=0, records=(record(0, began),)),
        msg_id="again",
        router="router-a",
    )
    total = published * 10

    async def all_seen():
        return await arrivals(child) >= total

    await wait_for(all_seen, timeout=30)
    child.stop()
    log = SegmentLog(tmp_path / "segments", "requests", RequestRecord, time_field="arrival_unix_s")
    stored = log.between(0, 1e12)["request_id"].to_pylist()
    segments = log.segments()
    log.close()
    assert segments
    assert sorted(map(str, stored)) == sorted(f"r{n}" for n in range(total))


async def test_a_snapshot_is_cut_in_two_and_the_later_half_is_denied(
    start, bus, role_urls, wait_for, tmp_path
):
    child = start(MIN_ARRIVALS=50, SETTLE_S=1)
    beat = Heartbeat(
        node="n0",
        replica="n0-0",
        incarnation="i",
        beat=1,
        state="ready",
        model="Llama-3.1-8B",
        gpu="H100",
        max_running=256,
    )
    began = time.time() - 100
    steps = tuple(
        StepRecord(
            at_unix_s=began + n, duration_s=0.012, prefill_tokens=0, decode_sequences=8, kv_tokens=4000
        )
        for n in range(50)
    )
    await bus.publish(HEARTBEAT, beat, node="n0", replica="n0-0")
    batch = StepBatch(
        replica="n0-0", incarnation="i", batch=0, model="Llama-3.1-8B", gpu="H100", tp=1, records=steps
    )
    await bus.publish_event(STEP_TELEMETRY, batch, msg_id="s", replica="n0-0")
    records = tuple(record(n, began + n * 0.5, e2e_s=2.0) for n in range(190))
    message = RequestBatch(router="router-a", incarnation="one", batch=0, records=records)
    await bus.publish_event(REQUEST_TELEMETRY, message, msg_id="a", router="router-a")

    async def ready():
        return await arrivals(child) >= 190 and await get(child, "/v1/fleet")

    async def noted():
        return (tmp_path / "segments/fleet/0000000001.wal").stat().st_size

    await wait_for(ready, timeout=20)
    await wait_for(noted)
    async with httpx.AsyncClient(base_url=child.ready["http"]) as client:
        answer = await client.post(
            "/v1/snapshots", json={"start_unix_s": began, "cut_unix_s": began + 60, "end_unix_s": began + 95}
        )
        listed = (await client.get("/v1/snapshots")).json()
    assert answer.status_code == 201, answer.text
    snapshot = msgspec.json.decode(answer.content, type=SnapshotReady)
    assert (snapshot.arrivals, snapshot.sealed_arrivals) == (120, 70)
    assert [s["snapshot"] for s in listed] == [snapshot.snapshot]

    opened = read_snapshot(tmp_path / f"blobs/{snapshot.snapshot}.parquet")
    assert opened.name == snapshot.snapshot
    assert pc.max(opened.table["arrival_unix_s"]).as_py() < began + 60
    assert [b.replica for b in opened.info.fleet] == ["n0-0"]
    assert opened.info.step_scale["H100"] == pytest.approx(1.5, abs=1.0)

    async def announced():
        last = await bus.last(SNAPSHOT, scope=slug(SCOPE))
        return last and last.message == snapshot

    await wait_for(announced)

    async with Store(role_urls["evaluator"]) as store, store.begin() as unit:
        sealed = read_snapshot(await unit.snapshots.sealed(snapshot.sealed))
    assert sealed.name == snapshot.sealed
    assert pc.min(sealed.table["arrival_unix_s"]).as_py() >= began + 60
    assert [f.produced_tokens > 0 for f in sealed.info.in_flight] == [True] * 3  # arrived at 58.5, 59, 59.5 s
    for role in ("observer", "synthesizer"):
        connection = await asyncpg.connect(role_urls[role])
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT data FROM sealed.snapshots")
        await connection.close()


async def test_a_window_without_a_fleet_is_refused(start, bus, wait_for):
    child = start(MIN_ARRIVALS=50, SETTLE_S=1)
    began = time.time() - 100
    records = tuple(record(n, began + n * 0.5, e2e_s=2.0) for n in range(100))
    message = RequestBatch(router="router-a", incarnation="one", batch=0, records=records)
    await bus.publish_event(REQUEST_TELEMETRY, message, msg_id="a", router="router-a")

    async def stored():
        return await arrivals(child) >= 100

    await wait_for(stored, timeout=30)
    async with httpx.AsyncClient(base_url=child.ready["http"]) as client:
        answer = await client.post("/v1/snapshots", json={"start_unix_s": began, "end_unix_s": began + 60})
    assert answer.status_code == 409
    assert "cannot be replayed on the fleet" in answer.json()["error"]["message"]


async def test_too_few_arrivals_and_bad_requests_are_said_so(start, bus, wait_for):
    child = start()
    message = RequestBatch(router="r", incarnation="one", batch=0, records=(record(0, time.time() - 20),))
    await bus.publish_event(REQUEST_TELEMETRY, message, msg_id="a", router="r")

    async def seen():
        return await arrivals(child) == 1

    await wait_for(seen, timeout=20)
    async with httpx.AsyncClient(base_url=child.ready["http"]) as client:
        few = await client.post("/v1/snapshots")
        wrong = await client.post("/v1/snapshots", json={"scop": SCOPE})
        unknown = await client.get("/v1/windows?scope=nowhere/none")
        ready = await client.get("/ready")
        metrics = await client.get("/metrics")
    assert few.status_code == 409
    assert "observer.min_arrivals" in few.json()["error"]["message"]
    assert wrong.status_code == 400
    assert "scop" in wrong.json()["error"]["message"]
    assert unknown.status_code == 404
    assert SCOPE in unknown.json()["error"]["message"]
    assert ready.status_code == 200
    assert 'autopoiesis_observer_rows_total{kind="requests"} 1.0' in metrics.text
