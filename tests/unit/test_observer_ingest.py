"""Ingestion and the watch over one scope, with hand-made messages."""

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.observer import ingest as module
from autopoiesis.observer.ingest import Ingest
from autopoiesis.observer.observatory import Observatory, UnknownScopeError
from autopoiesis.observer.rows import EventRow, event_row
from autopoiesis.observer.segments import Batch, SegmentLog
from autopoiesis.observer.settings import ObserverSettings
from autopoiesis.observer.watch import ScopeWatch


def record(number, at, **fields):
    defaults = {
        "request_id": f"r{number}",
        "scope": "local/m",
        "model": "m",
        "arrival_unix_s": at,
        "stream": True,
        "prompt_bytes": 400,
        "prompt_tokens": 100,
        "prompt_tokens_estimated": 100,
        "max_tokens": 500,
        "output_tokens": 50,
        "output_censored": False,
        "outcome": "finished",
        "e2e_s": 1.0,
    }
    return RequestRecord(**{**defaults, **fields})


@dataclass
class Message:
    name: int
    acked: int = 0

    async def ack(self):
        self.acked += 1


@pytest.fixture
def log(tmp_path):
    opened = SegmentLog(tmp_path, "requests", RequestRecord, time_field="arrival_unix_s")
    yield opened
    opened.close()


def batch_of(message):
    return Batch(("router", "one", message.name), [record(message.name, float(message.name))])


async def test_messages_are_acknowledged_after_they_are_stored_and_told_once(log):
    told: list[RequestRecord] = []
    ingest = Ingest(log, batch_of, on_rows=told.extend)
    messages: list[Any] = [Message(1), Message(2), Message(1)]
    for message in messages:
        await ingest.take(message)
    running = asyncio.create_task(ingest.run())
    ingest.finish()
    await running
    assert [m.acked for m in messages] == [1, 1, 1]
    assert [r.request_id for r in told] == ["r1", "r2"]


async def test_a_full_disk_holds_acknowledgements_back_until_there_is_room(log, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    message: Any = Message(1)
    tries: list[int] = []
    append = log.append

    def full_twice(batches):
        tries.append(message.acked)
        if len(tries) < 3:
            raise OSError(28, "No space left on device")
        return append(batches)

    monkeypatch.setattr(log, "append", full_twice)
    await Ingest(log, batch_of).store([message])
    assert tries == [0, 0, 0]
    assert message.acked == 1
    assert log.between(0, 10).num_rows == 1


async def test_a_segment_that_cannot_be_closed_stays_open(log, monkeypatch):
    closed: list[Any] = []
    ingest = Ingest(log, batch_of, on_segment=closed.append)
    message: Any = Message(1)
    await ingest.store([message])

    def full():
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(log, "roll", full)
        await ingest._roll()
    assert closed == []
    assert log.between(0, 10).num_rows == 1


def test_an_event_is_named_by_its_content():
    def activation(epoch):
        return Activation(
            scope="local/m",
            kind="dispatch",
            epoch=epoch,
            hash="h",
            source="s",
            api=1,
            cause="c",
            at_unix_s=5.0,
        )

    first, again, other = (event_row("policy.promoted.x.dispatch", activation(e)) for e in (1, 1, 2))
    assert first.name == again.name != other.name
    assert (first.rows[0].topic, first.rows[0].epoch, first.rows[0].at_unix_s) == ("policy.promoted", 1, 5.0)


def test_the_observatory_tells_scopes_apart_and_hides_sources():
    observatory = Observatory(ObserverSettings(), lambda: 100.0)
    observatory.on_requests([record(1, 95.0), record(2, 96.0, scope="local/n")])
    assert observatory.scopes == ["local/m", "local/n"]
    assert sum(w.overall.arrivals for w in observatory.windows("local/m", 50.0, 10.0)) == 1
    with pytest.raises(UnknownScopeError, match="local/m, local/n"):
        observatory.windows("local/x", 50.0, 10.0)
    row = EventRow(
        at_unix_s=1.0, topic="policy.promoted", scope="local/m", kind="dispatch", epoch=3, hash="h",
        payload='{"epoch": 3, "source": "secret sauce"}',
    )  # fmt: skip
    observatory.on_events([row])
    assert observatory.history("local/m", 0.0) == [
        {"topic": "policy.promoted", "at_unix_s": 1.0, "event": {"epoch": 3}}
    ]
    assert observatory.history("local/n", 0.0) == []
    assert observatory.history(None, 2.0) == []


def test_a_window_ends_where_nearly_everything_has_ended():
    settings = ObserverSettings(settle_s=2.0, settle_most_s=30.0)
    watch = ScopeWatch("local/m", settings, lambda: 1000.0)
    assert watch.horizon_s() == 2.0
    watch.extend([record(n, 900.0 + n * 0.1, e2e_s=12.0 if n % 20 == 0 else 1.0) for n in range(400)])
    assert watch.horizon_s() == 12.0
    watch.extend([record(n, 950.0, e2e_s=500.0) for n in range(400)])
    assert watch.horizon_s() == 30.0


def test_drift_is_looked_for_in_blocks_that_have_settled():
    now = [0.0]
    settings = ObserverSettings(settle_s=5.0, drift_block_s=20.0, drift_block_arrivals=50)
    watch = ScopeWatch("local/m", settings, lambda: now[0])
    rng, found, number = np.random.default_rng(0), [], 0
    for second in range(400):
        now[0] = float(second)
        mean = 100 if second < 200 else 500
        for _ in range(10):
            number += 1
            watch.extend(
                [record(number, second + rng.random(), prompt_tokens=int(rng.exponential(mean)) + 1)]
            )
        found += watch.look()
    assert [d.feature for d in found] == ["prompt_tokens"]
    assert 200 < found[0].at_unix_s < 270
    assert found[0].after > 3 * found[0].before
    assert watch.drifts == found


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="open_share"):
        ObserverSettings(open_share=0.0)
    with pytest.raises(ValueError, match="settle_most_s"):
        ObserverSettings(settle_s=10.0, settle_most_s=5.0)
